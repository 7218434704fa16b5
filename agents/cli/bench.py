"""``gar-env bench``: benchmarks of rewards and policies."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from agents.cli.tables import show


def bench_invariances(
    arms: tuple[str, ...] = ("gar", "nslr", "random", "uniform-augment"),
    seeds: int = 5,
    batch_size: int = 128,
    steps: int = 200,
    space: str = "wl",
    workers: int = os.cpu_count() or 1,
    out: Path = Path("runs/invariances"),
    markdown: bool = False,
) -> None:
    """Which policies find out that flips and large rotations lie? Arrows with a known answer, a minute or two.

    Run it again after an interruption: finished runs are kept, the rest goes on.

    Args:
        arms: Reward signals, learned by the online policy, and the fixed policies random and uniform-augment.
        seeds: Runs per arm.
        batch_size: Slots.
        steps: Environment steps, two SGD steps each.
        space: Of operations; at least one must be harmful.
        workers: Runs at a time, one thread each.
        out: Folder of the results file.
        markdown: Print the table as Markdown.
    """
    from agents.experiments.invariances import invariance_jobs, invariance_table
    from agents.experiments.results import ResultsFile
    from agents.experiments.runner import rows_of, run_jobs

    console = Console()
    jobs = invariance_jobs(seeds=seeds, arms=arms, num_envs=batch_size, steps=steps, space=space)
    results = ResultsFile(out / "invariances.jsonl")
    run_jobs(jobs, results, workers=workers, console=console)
    show(invariance_table(rows_of(results.rows, jobs)), console, markdown)
    console.print(f"Results: {results.path}", soft_wrap=True)
