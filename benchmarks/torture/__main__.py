"""`python -m benchmarks.torture [--scale 1.0] [--only local,ray,disk,damage,server] [--seed 0]`: a table of attacks and faults.

At scale 1: 100 random kills of a local writer, 30 of a worker, node, GCS, agent or driver on Ray, 20 full disks (a small tmpfs: root on
Linux), 30 damaged files, 10 failures of a server.
Lost are trials that were said to be recorded and are not in the record; duplicated, trials that MLflow has twice; untidy, wrong tags of
the front, files left behind, errors without a sentence of ours, and waits beyond a minute.
"""

import argparse
import importlib
import random
import sys
from collections.abc import Callable
from typing import cast

ATTACKS = {"local": 100, "ray": 30, "disk": 20, "damage": 30, "server": 10}
Attack = Callable[[int, random.Random], dict[str, int] | None]


def main() -> None:
    """Run the attacks and print the table; the exit code is 1 where a figure is not zero."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", default=",".join(ATTACKS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    bad = 0
    print("attack | tries | lost | duplicated | untidy", flush=True)
    for name in arguments.only.split(","):
        tries = max(1, round(ATTACKS[name] * arguments.scale))
        attack = cast(Attack, importlib.import_module(f"benchmarks.torture.{name}").attack)
        faults = attack(tries, random.Random(arguments.seed))
        if faults is None:
            print(f"{name} | not tried: this machine does not allow it", flush=True)
            continue
        bad += sum(faults.values())
        print(f"{name} | {tries} | {faults['lost']} | {faults['duplicated']} | {faults['untidy']}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
