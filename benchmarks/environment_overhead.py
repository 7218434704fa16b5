"""Time of ``env.step`` over the bare SGD steps that it contains, in one process, interleaved.

    python benchmarks/environment_overhead.py [--network fc_bn] [--num-envs 1000] [--rounds 60] [--dataset PATH]

"bare" is the same number of SGD steps on batches of the same size: gather, normalise, forward, backward, optimizer.
Each round times one bare step and one step of every environment; the ratio is taken round by round, and its median
printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

import gar_env  # noqa: F401 - registers the environments
from agents.jobs.provenance import provenance
from gar_env.envs import DataSplitVectorEnv
from gar_env.networks import build_network

CASES = {
    "nslr, next_step, torch": ({"reward": "nslr", "reward_timing": "next_step", "output": "torch"}, 1),
    "nslr, next_step, numpy": ({"reward": "nslr", "reward_timing": "next_step"}, 1),
    "nslr, same_step, numpy": ({"reward": "nslr"}, 2),
    "gar, next_step, torch": ({"reward_timing": "next_step", "output": "torch"}, 1),
    "gar, next_step, numpy": ({"reward_timing": "next_step"}, 1),
    "gar, same_step, numpy": ({}, 2),
}


def bare_loop(env, num_envs: int) -> Callable[[int], None]:
    """The same training without an environment: a network, torch's SGD, uniform batches from the same tensors."""
    slots = env.unwrapped
    network = build_network(slots.config.network, slots.dataset.image_shape, len(slots.dataset.classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images, labels = slots.splits.inputs, slots.splits.targets

    def run(steps: int) -> None:
        for _ in range(steps):
            rows = torch.randint(len(labels), (num_envs,))
            loss = F.cross_entropy(network(slots.normalise(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--network", default="fc_bn")
    parser.add_argument("--num-envs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--dataset", default="digits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    envs = {
        name: DataSplitVectorEnv(
            args.num_envs,
            dataset=args.dataset,
            network=args.network,
            num_steps=10 * args.rounds,
            **options,
        )
        for name, (options, _) in CASES.items()
    }
    for env in envs.values():
        env.reset(seed=0)
    bare = bare_loop(next(iter(envs.values())), args.num_envs)
    actions = np.random.default_rng(0).integers(10, size=args.num_envs)
    ratios: dict[str, list[float]] = {name: [] for name in envs}
    seconds = []
    for round_ in range(args.rounds + 3):
        one = timed(lambda: bare(1))
        for name, env in envs.items():
            ratio = timed(lambda env=env: env.step(actions)) / (one * CASES[name][1])
            if round_ >= 3:  # the first rounds allocate
                ratios[name].append(ratio)
        seconds.append(one)
    machine = provenance()
    print(f"{args.network}, {args.dataset}, n = {args.num_envs}, {args.rounds} rounds, one thread")
    print(f"{machine['machine']}, torch {machine['torch']}, commit {machine['commit']}")
    print(f"bare SGD step: median {1e3 * statistics.median(seconds[3:]):.2f} ms")
    for name, values in ratios.items():
        low, middle, high = statistics.quantiles(values, n=4)
        steps = CASES[name][1]
        unit = f"{steps} SGD step{'s'[: steps - 1]}"
        print(f"{name:<24} env.step / {unit:<12} {middle:.3f}  (quartiles {low:.3f} {high:.3f})")


if __name__ == "__main__":
    main()
