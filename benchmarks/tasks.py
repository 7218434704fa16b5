"""Adapting to N tasks at once, over one task after another.

    python benchmarks/tasks.py [--tasks 4 16 64] [--rounds 15]

One thread, one process. MAML's sine network, 5 inner steps on 10 points, 10 query points; CPU milliseconds of one
meta-gradient, and how many times less that is, round by round, than with learn2learn's MAML. learn2learn 0.2.0 does not
build on Python 3.11; its class of MAML, a page of Python, can be used from the source distribution: unpack it, and name
the folder in LEARN2LEARN. Without it the column is a loop over tasks with this package's own steps.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator

from agents.jobs.provenance import provenance
from agents.measures.timing import median_and_quartiles
from gar_env.data.tasks import SineTasks
from gar_env.learner.adaptation import AdaptationOptions, Adapter
from gar_env.networks import build_network

SECONDS, WARM_UP = 0.2, 2


def learn2learn_maml(folder: str) -> Any:
    """The class, from the files of the source distribution that it is made of; its package imports much more."""
    root = Path(folder) / "learn2learn"
    for name in ("learn2learn", "learn2learn.algorithms", "learn2learn.utils"):
        sys.modules[name] = types.ModuleType(name)
    for name, path in (
        ("learn2learn.utils", "utils/__init__.py"),
        ("learn2learn.algorithms.base_learner", "algorithms/base_learner.py"),
        ("learn2learn.algorithms.maml", "algorithms/maml.py"),
    ):
        spec = importlib.util.spec_from_file_location(name, root / path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parent, _, own = name.rpartition(".")
        setattr(sys.modules[parent], own, module)
    return sys.modules["learn2learn.algorithms.maml"].MAML


def contenders(n: int, algorithm: str, folder: str | None) -> dict[str, Callable[[], object]]:
    """A meta-gradient of n tasks, in several ways."""
    network = build_network("tanh-64-64", (1,), 1)
    tasks = SineTasks(10).draw(n, Generator().manual_seed(0), queries=10)
    generator = Generator()

    def ours(way: str) -> Callable[[], object]:
        options = AdaptationOptions(algorithm, inner_steps=5, inner_step_size=0.02, task_way=way)
        adapter = Adapter(network, options, "squared_error", fresh=False)
        return lambda: adapter.adapt(tasks, generator)

    found = {way: ours(way) for way in ("layers", "vmap", "one_by_one")}
    if folder:
        maml = learn2learn_maml(folder)(network, lr=0.02, first_order=algorithm == "fomaml")

        def theirs() -> None:
            total = torch.zeros(())
            for x, t, query, answers in zip(*tasks[:4], strict=True):
                learner = maml.clone()
                for _ in range(5):
                    learner.adapt(F.mse_loss(learner(x), t))
                total = total + F.mse_loss(learner(query), answers)
            maml.zero_grad()
            (total / n).backward()

        found["learn2learn"] = theirs
    return found


def seconds(call: Callable[[], object], count: int) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", nargs="*", type=int, default=[4, 16, 64])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    if args.rounds < 2 or min(args.tasks, default=0) < 1:
        parser.error("--rounds must be at least 2, for quartiles, and --tasks at least 1 each.")
    torch.set_num_threads(1)
    folder = os.environ.get("LEARN2LEARN")
    base = "learn2learn" if folder else "one_by_one"
    print(f"Sine, 64-64, 5 inner steps; {args.rounds} rounds; CPU ms, median; times {base} over it [quartiles]\n")
    print(f"| | tasks | layers | vmap | one by one | {base} | layers over {base} | vmap over {base} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for algorithm in ("maml", "fomaml"):
        for n in args.tasks:
            calls = contenders(n, algorithm, folder)
            counts = {name: max(1, int(SECONDS / seconds(call, 2))) for name, call in calls.items()}
            taken: dict[str, list[float]] = {name: [] for name in calls}
            for round_ in range(args.rounds + WARM_UP):
                for name, call in calls.items():
                    found = seconds(call, counts[name])
                    if round_ >= WARM_UP:
                        taken[name].append(1e3 * found)
            middle = {name: f"{median_and_quartiles(values)[0]:.2f}" for name, values in taken.items()}
            cells = [middle["layers"], middle["vmap"], middle["one_by_one"], middle[base]]
            for name in ("layers", "vmap"):
                ratio, low, high = median_and_quartiles([b / a for a, b in zip(taken[name], taken[base], strict=True)])
                cells.append(f"{ratio:.1f} [{low:.1f}, {high:.1f}]")
            print(f"| {algorithm} | {n} | {' | '.join(cells)} |", flush=True)
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
