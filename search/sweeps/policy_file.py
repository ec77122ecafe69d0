"""A policy in a file: what `bitfront solve` and `bitfront export` write, read for a network, and judged as a trial of a sweep would be."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hw_models.table import cost_policy
from quant_core.spec.kv_cache import kv_cost
from quant_core.spec.layer import Layer
from quant_core.spec.policy import Policy
from quant_core.util.errors import InputError
from quant_core.util.reading import read_json
from quant_core.util.text import listed
from search.records.record import TrialRecord
from search.sweeps.context import SweepContext

NO_NUMBER = -1
"""The number of a policy that no trial of the sweep evaluated."""


def read_policy_file(path: Path, layers: Sequence[Layer]) -> Policy:
    """Return the policy of a file, in network order.

    Raises:
        InputError: the file cannot be read, or its policy is for another network.
    """
    try:
        policy = Policy.from_json(read_json(path))
    except InputError as error:
        raise InputError(f"cannot read the policy {path}: {error}") from None
    names = [layer.name for layer in layers]
    if sorted(policy) != sorted(names):
        missing, extra = sorted(set(names) - set(policy)), sorted(set(policy) - set(names))
        lacks, has = listed(missing) or "nothing", listed(extra) or "nothing"
        raise InputError(f"{path} is for another network: it lacks {lacks} and has {has} beside it.")
    return policy.with_layers({name: policy[name] for name in names})


def trial_of(policy: Policy, origin: str, context: SweepContext) -> TrialRecord:
    """Evaluate a policy as a trial of a sweep is evaluated, on validation, and cost it; nothing is recorded."""
    setup = context.setup
    result = context.evaluator(policy, "ptq")
    result = replace(result, cost=cost_policy(setup.device, setup.layers, policy) | kv_cost(setup.heads, policy.kv))
    return TrialRecord(NO_NUMBER, origin, (), policy, result, -1, -1)
