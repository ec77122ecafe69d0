"""The panel of a page: its data are all of a policy, and cannot leave their element."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from search.records.record import SweepRecord
from search.report import panel
from search.report.panel import commands, panel_data

MakeSweep = Callable[..., SweepRecord]


def data(text: str) -> dict[str, object]:
    head, _, rest = text.partition(">")
    assert head == "<script type='application/json' id='policies'"
    assert rest.count("<") == 1
    loaded: dict[str, object] = json.loads(rest.removesuffix("</script>"))
    return loaded


def test_the_panel_holds_every_layer(make_sweep: MakeSweep) -> None:
    sweep = make_sweep("a </script><b>")
    loaded = data(panel_data([(sweep, sweep.trials[:3])]))
    layers, specs, policies = loaded["layers"], loaded["specs"], loaded["policies"]
    assert isinstance(layers, list)
    assert isinstance(specs, list)
    assert isinstance(policies, dict)
    assert list(policies) == ["0", "1", "2"]
    rows = [(layers[i], specs[weight], specs[activation]) for i, weight, activation in policies["2"]["codes"]]
    assert rows == [(name, str(choice.weight), str(choice.activation)) for name, choice in sweep.trials[2].policy.items()]
    keyed = data(panel_data([(sweep, sweep.trials[:1]), (sweep, sweep.trials[:1])], keyed=True))["policies"]
    assert list(keyed) == ["0:0", "1:0"]  # type: ignore[call-overload]


def test_the_data_are_bounded(make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep()
    monkeypatch.setattr(panel, "LARGEST", 13)
    assert len(data(panel_data([(sweep, sweep.trials)]))["policies"]) == 2  # type: ignore[arg-type]


def test_commands_are_for_a_shell(make_sweep: MakeSweep) -> None:
    sweep = replace(make_sweep("a b"), experiment='[task]\nname = "digits"\noptions = {network = "mlp; x"}\n')
    trial = sweep.trials[0]
    export, apply, show = (command for _, command in commands(sweep, trial))
    assert export == f"bitfront export 'a b' --pick {trial.policy.id} --out out/{trial.policy.id}"
    assert apply == f"bitfront apply out/{trial.policy.id}/policy.json --task digits --option 'network=mlp; x'"
    assert show == f"bitfront show 'a b' {trial.policy.id}"
    assert commands(replace(sweep, experiment="no TOML ["), trial)[1][1].endswith("--task TASK")
