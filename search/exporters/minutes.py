"""What a compression does with its minutes: trials, searcher, examples, sensitivities, reconstruction, from what a look measured."""

import math
from dataclasses import dataclass, replace

MOST_TRIALS = 200
"""More trials widen a front by half a percent of its hypervolume (docs/searchers.md)."""
WANTED = 60
"""Trials that come before more validation examples than `SURE`: the default of a sweep."""
SURE = 256
"""Validation examples that come before more trials than `FEW`: below, half a point cannot be shown (docs/selection.md)."""
FEW = 12
"""Proposals, beside the uniform policies, from which on a search pays: below, they are optima of the sensitivities."""
LEAST, LEAST_CALIB = 64, 32
"""Fewest examples to validate and to calibrate on, where there are so many."""
FRONT = 12
"""Members of a front, for the time that the test split takes."""
PASSES = (30.0, 10.0)
"""Forward passes that sensitivities may spend."""
MEASURED_ONE_BY_ONE = 64
"""Choices up to which sensitivities measure every one where they may spend the most (`search.evaluation.adaptive`)."""
SENSITIVITIES, LADDER, TEST = 0.3, 0.2, 0.15
"""Most shares of the time."""
STEPS = (500, 100)
"""Of reconstruction, per block: the default, and those of the figures in docs/reconstruct.md."""
STEP_EXAMPLES, STEP_COST, BLOCK_PASSES = 16, 3.0, 16.0
"""Examples of a step; forward and backward pass in forward passes; and the passes of a reconstruction over the calibration examples."""
WHOLE_STEPS = 80
"""Steps of a block that the last stage of a reconstruction takes as long as: 60 steps with one more forward pass."""
LAYER_STEP_S = 0.006
"""Seconds that a layer takes for a step beside them: 500 steps of the 9 layers of digits took 27 s, almost all of it this."""
MOST_RECONSTRUCTED = 4
OVERHEAD_S = 0.1
"""Seconds in which a trial is proposed and recorded."""


@dataclass(frozen=True)
class Costs:
    """What was measured on a few examples, and what there is.

    Attributes:
        float_s, trial_s: seconds that the float network, and a quantized one, take for a validation example.
        first_s: seconds that a weight format takes when it is first used.
        open_s: seconds to open the sweep.
        baselines: uniform policies, with which every sweep begins.
        size: policies of the space.
        choices: choices beside the widest ones, over all layers.
        formats: of weights.
        layers: of the network.
        few_bits: some layer may have weights of 4 bits or fewer.
        calib, valid, test: examples there are.
    """

    float_s: float
    trial_s: float
    first_s: float = 0.0
    open_s: float = 0.0
    baselines: int = 1
    size: int = 1_000_000
    choices: int = 0
    formats: int = 1
    layers: int = 0
    few_bits: bool = False
    calib: int = 0
    valid: int = 0
    test: int = 0


@dataclass(frozen=True)
class Chosen:
    """What a compression does.

    Attributes:
        trials: at most, uniform policies included.
        searcher: that proposes the others.
        passes: that sensitivities may spend; 0: none are measured.
        calib, valid, test: examples; 0: all.
        steps, reconstructed: steps per block, and how many policies are reconstructed; 0: none.
        widest: layers have the widest of their integer formats alone.
        words: all of it, and why, in a line.
    """

    trials: int
    searcher: str
    passes: float
    calib: int = 0
    valid: int = 0
    test: int = 0
    steps: int = 0
    reconstructed: int = 0
    widest: bool = False
    words: str = ""


def plan(seconds: float, costs: Costs) -> Chosen:
    """Return the plan that fits into a time. Equal numbers give equal plans.

    Args:
        seconds: that are left; infinitely many: no limit.
        costs: as measured.
    """
    if math.isinf(seconds):
        rung = (STEPS[0], MOST_RECONSTRUCTED) if costs.few_bits else (0, 0)
        return _told(Chosen(min(MOST_TRIALS, costs.size), "auto", PASSES[0], 0, 0, 0, *rung), costs, "no limit of time")
    whole = max(0.0, seconds - costs.open_s)
    passes, calib = _sensitivities(whole * SENSITIVITIES, costs)
    left = whole - costs.first_s * costs.formats
    chosen = _searched(left, whole, costs, passes, calib) if passes else None
    if chosen is None:
        chosen = _uniform(left - whole * TEST, whole, costs, min(calib, LEAST_CALIB))
    return _told(chosen, costs, f"{seconds:.0f} s left, {1000 * costs.trial_s:.3g} ms per example and trial")


def _sensitivities(seconds: float, costs: Costs) -> tuple[float, int]:
    """Return the passes of the sensitivities and the calibration examples; no passes where the fewest do not fit."""
    for passes in PASSES:
        calib = min(costs.calib, _floor(seconds / _sensitivities_s(passes, 1, costs)))
        if calib >= min(LEAST_CALIB, costs.calib):
            return passes, calib
    return 0.0, min(costs.calib, LEAST_CALIB)


def _sensitivities_s(passes: float, calib: int, costs: Costs) -> float:
    """Return the seconds of sensitivities: of every choice where there are few, else of `passes`, beside the float network."""
    every = costs.choices <= MEASURED_ONE_BY_ONE and passes == PASSES[0]
    return (2.0 + (costs.choices if every else passes)) * calib * costs.trial_s


def _searched(left: float, whole: float, costs: Costs, passes: float, calib: int) -> Chosen | None:
    """Return the plan of a search; None where there is no time for more than uniform policies."""
    rung = _rung(whole * LADDER, costs, calib)
    search_s = left - _sensitivities_s(passes, calib, costs) - whole * TEST - rung[1] * _rung_s(rung[0], costs, calib)
    valid = _valid(search_s, costs)
    trials = _trials(search_s, costs, valid)
    if trials <= costs.baselines:
        return None
    searcher = "auto" if trials - costs.baselines >= FEW else "ilp"
    return Chosen(trials, searcher, passes, calib, valid, _test(whole, costs, valid), *rung)


def _uniform(seconds: float, whole: float, costs: Costs, calib: int) -> Chosen:
    """Return the plan of uniform policies alone; where not all of them fit, of the widest formats."""
    valid = min(costs.valid, SURE, max(LEAST, _examples(seconds, costs, costs.baselines + 1)))
    trials = min(_trials(seconds, costs, valid), costs.baselines)
    return Chosen(trials, "uniform", 0.0, calib, valid, _test(whole, costs, valid), widest=trials < costs.baselines)


def _valid(seconds: float, costs: Costs) -> int:
    """Return the validation examples: as many as `WANTED` trials leave, or `SURE` in fewer trials, or what `FEW` trials leave.

    Examples that take no longer than a trial does without any come before more trials, and up to `SURE` those that take half as long in
    any case.
    """
    most, few = _examples(seconds, costs, WANTED), _examples(seconds, costs, costs.baselines + FEW)
    free = _floor(OVERHEAD_S / costs.trial_s)
    return min(costs.valid, max(most, min(max(SURE, free), few), LEAST, min(SURE, free // 2)))


def _examples(seconds: float, costs: Costs, trials: int) -> int:
    return _floor((seconds / trials - OVERHEAD_S) / costs.trial_s)


def _trials(seconds: float, costs: Costs, valid: int) -> int:
    return max(1, min(MOST_TRIALS, costs.size, _floor(seconds / (OVERHEAD_S + valid * costs.trial_s)) - 1))  # one for the float network


def _test(whole: float, costs: Costs, valid: int) -> int:
    return min(costs.test, max(valid, _floor(whole * TEST / FRONT / costs.trial_s)))


def _rung(seconds: float, costs: Costs, calib: int) -> tuple[int, int]:
    """Return the steps of reconstruction and how many policies fit."""
    for steps in STEPS if costs.few_bits else ():
        count = min(MOST_RECONSTRUCTED, _floor(seconds / _rung_s(steps, costs, calib)))
        if count:
            return steps, count
    return 0, 0


def _rung_s(steps: int, costs: Costs, calib: int) -> float:
    """Return the seconds of one reconstruction."""
    per_step = STEP_EXAMPLES * STEP_COST * costs.float_s + LAYER_STEP_S * costs.layers
    return (steps + WHOLE_STEPS) * per_step + BLOCK_PASSES * calib * costs.float_s if steps else 0.0


def _floor(value: float) -> int:
    return max(0, math.floor(min(value, 1e12)))


def _told(chosen: Chosen, costs: Costs, why: str) -> Chosen:
    """Return the plan with its line, and 0 for splits that are used whole."""
    by = {"uniform": ", uniform policies alone", "ilp": " of optima of the sensitivities"}.get(chosen.searcher, f" by {chosen.searcher}")
    most = "" if chosen.searcher == "uniform" else "at most "
    count = f"{chosen.trials} trial{'' if chosen.trials == 1 else 's'}"
    parts = [f"plan ({why}): {most}{count}{by}{' in the widest formats' if chosen.widest else ''}"]
    if chosen.passes and chosen.calib:
        parts.append(f"sensitivities on {chosen.calib} calibration examples")
    if chosen.reconstructed:
        parts.append(f"the {chosen.reconstructed} nearest to the front reconstructed in {chosen.steps} steps per block")
    parts.append(f"judged on {chosen.valid or 'all'} validation and {chosen.test or 'all'} test examples")
    splits = (chosen.calib, costs.calib), (chosen.valid, costs.valid), (chosen.test, costs.test)
    calib, valid, test = (0 if used >= there else used for used, there in splits)
    return replace(chosen, words="; ".join(parts), calib=calib, valid=valid, test=test)
