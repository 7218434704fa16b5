"""Time of a step through the Stable-Baselines3 adapter over the same step of the bare environment, interleaved.

    python benchmarks/sb3_overhead.py [--num-envs 1000] [--rounds 200] [--dataset PATH]

Two environments with one seed get the same actions; each round times a step of both, first one first, then the other.
Steps that end an episode are apart: there the adapter writes a dict for every row, and both start a new network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch

import gar_env  # noqa: F401 - registers the environments
from agents.jobs.provenance import provenance
from agents.sb3 import make_sb3_env

LENGTH = 20


def timed(call: Callable[[Any], object], actions: np.ndarray) -> float:
    """Seconds."""
    start = time.perf_counter()
    call(actions)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--num-envs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--dataset", default="digits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    machine = provenance()
    print(f"fc_bn, {args.dataset}, n = {args.num_envs}, {args.rounds} rounds, one thread")
    print(f"{machine['machine']}, torch {machine['torch']}, commit {machine['commit']}")
    for name in ("GAR/DataSplit-v1", "GAR/DataWeight-v1"):
        options = {"num_steps": LENGTH, "dataset": args.dataset, "reward": "gar", "reference": "policy"}
        bare = gymnasium.make_vec(name, num_envs=args.num_envs, autoreset_mode="SameStep", **options)
        adapted = make_sb3_env(name, args.num_envs, **options)
        choices = int(adapted.action_space.n)  # pyright: ignore[reportAttributeAccessIssue]
        bare.reset(seed=0)
        adapted.seed(0)
        adapted.reset()
        calls = (bare.step, adapted.step)
        generator = np.random.default_rng(0)
        ratios: dict[bool, list[float]] = {False: [], True: []}
        extra = []
        for round_ in range(args.rounds + LENGTH):
            actions = generator.integers(choices, size=args.num_envs)
            order = (0, 1) if round_ % 2 else (1, 0)
            seconds = {which: timed(calls[which], actions) for which in order}
            if round_ >= LENGTH:  # the first episode allocates
                ends = (round_ + 1) % LENGTH == 0
                ratios[ends].append(seconds[1] / seconds[0])
                if not ends:
                    extra.append(1e3 * (seconds[1] - seconds[0]))
        for ends, label in ((False, "step"), (True, "step that ends an episode")):
            low, middle, high = statistics.quantiles(ratios[ends], n=4)
            print(f"{name:<18} {label:<26} {middle:.3f}  (quartiles {low:.3f} {high:.3f}, {len(ratios[ends])} steps)")
        print(f"{name:<18} median difference of a step {statistics.median(extra):.2f} ms")


if __name__ == "__main__":
    main()
