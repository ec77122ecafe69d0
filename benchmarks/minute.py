"""One policy of EfficientNet-Lite0 within a minute: calibration, sensitivities from gradients, one solve per budget, the test images.

Weights per channel, activations `int8:tensor:mse`. Calibration takes the first images of the sample, the test the last 300. Seconds are
processor time of the whole process on one thread, imports and calibration in it; those of a budget count one test pass, not the others'.
Those of the float network are one test pass alone: what the clock of this machine is worth.

Run: python -m benchmarks.minute [--bits 4.4 4.0 3.7] [--examples 64] [--widths 2 3 4 5 6 8] [--how mse:weighted:gptq] [--data DATA]
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from quant_core.spec.size import average_bits
from search.config.experiment import Experiment
from search.searchers.solvers.ranking import best
from search.sweeps.context import SweepContext, open_context

SAMPLE, TEST = 600, 300


def opened(examples: int, weights: Sequence[str], data: str) -> SweepContext:
    """Return EfficientNet-Lite0, calibrated on the first images; its test split is the last `TEST` ones."""
    options = {"calib_size": examples, "valid_size": SAMPLE - TEST - examples, "test_size": TEST, "batch_size": 16}
    return open_context(
        Experiment.model_validate(
            {
                "task": {"name": "efficientnet_lite0", "options": options | ({"path": data} if data else {})},
                "space": {"weight": list(weights), "activation": "int8:tensor:mse"},
                "device": {"name": "counts", "objectives": ["loss"]},
                "evaluate": {"sensitivity": "gradient", "cache_mib": 2048},
            }
        )
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minute", description=__doc__)
    parser.add_argument("--bits", nargs="+", type=float, default=[4.4, 4.0, 3.7], help="budgets: true bits per weight, scales counted")
    parser.add_argument("--examples", type=int, default=64, help="images of calibration, at most 300")
    parser.add_argument("--widths", nargs="+", type=int, default=[2, 3, 4, 5, 6, 8], help="bits that a layer may have")
    parser.add_argument("--how", default="mse:weighted:gptq", help="clipping and rounding of weights")
    parser.add_argument("--data", default="", help="folder of imagenet_sample; default: BITFRONT_DATA")
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    context = opened(parsed.examples, [f"int{bits}:channel:{parsed.how}" for bits in parsed.widths], parsed.data)
    print(f"calibrated: {time.process_time():.0f} s", flush=True)
    rises = context.sensitivity()
    searched = time.process_time()
    figures = context.evaluator.float_metrics("test")
    one_pass = time.process_time() - searched
    print(f"sensitivities: {searched:.0f} s\n\n| true bits | top-1 % | cross-entropy | seconds |\n|---|---|---|---|")
    print(f"| float | {100 * figures['accuracy']:.1f} | {figures['loss']:.3f} | {one_pass:.1f} |", flush=True)
    problem, space, layers = context.problem({"error_valid": 0.0}), context.setup.space, context.setup.layers
    weights = sum(layer.weights for layer in layers)
    for bits in parsed.bits:
        begun = time.process_time()
        limited = replace(problem, limits={"weight_bytes": bits / 8 * weights})
        point = best(limited, [row - row.min() for row in rises])
        if point is None:
            print(f"| {bits:g} | no policy of these formats | | |")
            continue
        policy = space.policy(point)
        figures = context.evaluator.metrics(policy, "test", "ptq")
        taken = searched + time.process_time() - begun
        true = average_bits(layers, policy)["bits_weight_avg"]
        print(f"| {true:.2f} | {100 * figures['accuracy']:.1f} | {figures['loss']:.3f} | {taken:.0f} |", flush=True)


if __name__ == "__main__":
    main()
