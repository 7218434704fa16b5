"""``gar-env bench``: benchmarks of rewards and policies."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Literal

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
    from agents.experiments.results import ResultsFile, check_columns, reading
    from agents.experiments.runner import rows_of, run_jobs

    console = Console()
    jobs = invariance_jobs(seeds=seeds, arms=arms, num_envs=batch_size, steps=steps, space=space)
    results = ResultsFile(out / "invariances.jsonl")
    run_jobs(jobs, results, workers=workers, console=console)
    columns = ("score", "score_by_quarter", "lies_per_example", "operations_per_example", "test_accuracy")
    rows = check_columns(results.path, rows_of(results.rows, jobs), columns)
    with reading(results.path):
        show(invariance_table(rows), console, markdown)
    console.print(f"Results: {results.path}", soft_wrap=True)


def bench_rewards(
    signals: tuple[str, ...] = (),
    env: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
    seeds: int = 5,
    batch_sizes: tuple[int, ...] = (64, 256),
    fidelity_batch_sizes: tuple[int, ...] = (16, 64, 256, 1024),
    dataset: str = "digits",
    network: str = "fc_bn",
    cost_networks: tuple[str, ...] = (),
    steps: int = 200,
    workers: int = os.cpu_count() or 1,
    engine: Literal["local", "ray"] = "local",
    out: Path = Path("runs/rewards"),
    markdown: bool = False,
    download: bool = False,
) -> None:
    """Which reward signal is worth its cost? Outcome on six tasks, fidelity, noise, time and memory of each.

    Run it again after an interruption: finished runs are kept, the rest goes on. Runs of other options never count.

    Args:
        signals: By name, package.module:name for your own; all of ours by default. random is always among them.
        env: Only tasks of these: GAR/DataSplit-v0, GAR/DataWeight-v0, GAR/Augment-v0.
        tasks: noisy, trivial, redundant, hard, labels, arrows; all by default.
        seeds: Runs per signal, task and batch size.
        batch_sizes: Slots, for outcomes and costs. Signals that cost a training step per example are run up to 64.
        fidelity_batch_sizes: Slots, for fidelity.
        dataset: digits, cifar10 (torchvision's files), or the path of an .npz with x_train, y_train, x_test, y_test.
        network: Of all runs.
        cost_networks: What costs are measured on; network by default.
        steps: Environment steps of a run.
        workers: Runs at a time, one thread each. Costs are measured last, one at a time.
        engine: ray runs all but the costs on the Ray cluster of RAY_ADDRESS, or on one that it starts.
        out: Folder of results, tables and plots.
        markdown: Print the tables as Markdown.
        download: Let torchvision fetch data that are not there.
    """
    from agents.experiments.results import ResultsFile, reading
    from agents.experiments.rewards.jobs import RewardBench, tasks_of
    from agents.experiments.rewards.tables import all_tables
    from agents.experiments.runner import JobsFailedError, rows_with, run_jobs
    from agents.files import write_whole
    from agents.plots import save
    from agents.plots.rewards import all_figures
    from gar_env.data import load_dataset

    console = Console()
    load_dataset(dataset, download=download)
    bench = RewardBench(
        signals=signals,
        tasks=tasks_of(tasks, env),
        seeds=seeds,
        batch_sizes=batch_sizes,
        fidelity_batch_sizes=fidelity_batch_sizes,
        dataset=dataset,
        network=network,
        cost_networks=cost_networks,
        steps=steps,
    )
    parallel, costs = bench.parallel_jobs(), bench.cost_jobs()
    wanted = [job.identity for job in (*parallel, *costs)]
    failed: list[str] = []
    with closing(ResultsFile(out / "rewards.jsonl")) as results:
        try:
            run_jobs(parallel, results, workers=workers, console=console, engine=engine)
        except JobsFailedError as error:
            failed.append(str(error))
        try:
            run_jobs(costs, results, workers=1, console=console)
        except JobsFailedError as error:
            failed.append(str(error))
        rows = rows_with(results.rows, wanted)
    with reading(results.path):
        tables, figures = all_tables(rows), all_figures(rows)
    for name, table in tables.items():
        show(table, console, markdown)
        write_whole(out / f"{name}.csv", table.csv().encode())
        write_whole(out / f"{name}.md", f"{table.title}\n\n{table.markdown()}\n".encode())
    pictures = [save(figure, out / f"{name}.png") for name, figure in figures.items()]
    console.print(f"Results: {results.path}. Tables as .csv and .md, and {len(pictures)} plots: {out}", soft_wrap=True)
    if failed:
        raise JobsFailedError("\n".join(failed))
