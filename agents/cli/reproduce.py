"""``gar-env reproduce``: experiments of the paper, and of others' controllers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from agents.cli.tables import show


def reproduce_table1(
    dataset: str = "cifar10",
    recipe: Literal["paper", "best", "paper-derivative", "best-derivative"] = "paper",
    seeds: int = 10,
    networks: tuple[str, ...] = ("fc_bn", "fc", "cnn_bn"),
    arms: tuple[str, ...] = ("gar", "nslr", "uniform", "oracle"),
    batch_size: int = 1000,
    steps: int = 500,
    workers: int = os.cpu_count() or 1,
    out: Path = Path("runs/table1"),
    markdown: bool = False,
    download: bool = False,
) -> None:
    """The paper's table 1: three networks x {GAR, NSLR} x seeds, and uniform and oracle sampling for accuracy.

    Run it again after an interruption: finished runs are kept, the rest goes on.

    Args:
        dataset: cifar10 (torchvision's files), or the path of an .npz with x_train, y_train, x_test, y_test.
        recipe: paper is the closest reading of the paper, best is ours; derivative: see batch_norm of the environment.
        seeds: Runs per cell.
        networks: Rows of the table.
        arms: Controllers.
        batch_size: Slots.
        steps: SGD steps per run.
        workers: Runs at a time, one thread each.
        out: Folder of the results file, one per recipe.
        markdown: Print the tables as Markdown.
        download: Let torchvision fetch data that are not there.
    """
    from agents.experiments.results import ResultsFile, check_columns, reading
    from agents.experiments.runner import rows_of, run_jobs
    from agents.experiments.table1 import accuracy_table, auc_table, table1_jobs
    from gar_env.data import load_dataset

    console = Console()
    load_dataset(dataset, download=download)
    jobs = table1_jobs(
        recipe, dataset=dataset, seeds=seeds, networks=networks, arms=arms, num_envs=batch_size, steps=steps
    )
    results = ResultsFile(out / f"{recipe}.jsonl")
    run_jobs(jobs, results, workers=workers, console=console)
    columns = ("noisy_auc", "other_auc", "died", "test_accuracy")
    rows = check_columns(results.path, rows_of(results.rows, jobs), columns)
    with reading(results.path):
        for table in (auc_table(rows, recipe), accuracy_table(rows, recipe)):
            show(table, console, markdown)
    console.print(f"Results: {results.path}. Draw figure 2 with: gar-env plot {results.path}")


def reproduce_controllers(
    study: tyro.conf.Positional[Literal["splits", "weights"]],
    dataset: str = "digits",
    seeds: int = 5,
    arms: tuple[str, ...] = (),
    network: str = "fc_bn",
    corrupt: str | None = None,
    step_size: float | None = None,
    learning_rate: float | None = None,
    batch_size: int = 128,
    steps: int = 300,
    workers: int = os.cpu_count() or 1,
    out: Path = Path("runs/controllers"),
    markdown: bool = False,
    download: bool = False,
) -> None:
    """Stable-Baselines3's algorithms on data splits, or PPO on data weights, beside fixed baselines.

    Run it again after an interruption: finished runs are kept, the rest goes on.

    Args:
        study: splits: which are drawn from. weights: which wrong labels are dropped.
        dataset: digits, or the path of an .npz with x_train, y_train, x_test, y_test.
        seeds: Runs per controller.
        arms: Controllers; all of the study by default.
        network: What is trained.
        corrupt: What is wrong with the data; the environment's own by default. For weights: "asymmetric_noise(0.3)".
        step_size: Of its training; the environment's own by default.
        learning_rate: Of controllers that learn; their own by default.
        batch_size: Slots.
        steps: Environment steps per run.
        workers: Runs at a time, one thread each.
        out: Folder of the results file.
        markdown: Print the table as Markdown.
        download: Let torchvision fetch data that are not there.
    """
    from agents.experiments.controllers_study import COLUMNS, study_jobs, study_table
    from agents.experiments.results import ResultsFile, check_columns, reading
    from agents.experiments.runner import rows_of, run_jobs
    from gar_env.data import load_dataset

    console = Console()
    load_dataset(dataset, download=download)
    chosen = {"network": network, "corrupt": corrupt, "step_size": step_size}
    jobs = study_jobs(
        study,
        dataset=dataset,
        seeds=seeds,
        num_envs=batch_size,
        num_steps=steps,
        arms=arms or None,
        env_options={name: value for name, value in chosen.items() if value is not None},
        agent_options={} if learning_rate is None else {"learning_rate": learning_rate},
    )
    results = ResultsFile(out / f"{study}.jsonl")
    run_jobs(jobs, results, workers=workers, console=console)
    rows = check_columns(results.path, rows_of(results.rows, jobs), COLUMNS[study])
    with reading(results.path):
        show(study_table(rows, study), console, markdown)
    console.print(f"Results: {results.path}", soft_wrap=True)


def reproduce_table2(
    dataset: str = "cifar10",
    space: str = "wl",
    policies: tuple[str, ...] = (
        "none",
        "flip-crop",
        "flip-crop-cutout",
        "uniform-augment",
        "rand-augment",
        "trivial-augment",
        "ola",
    ),
    network: str = "wrn-28-10",
    epochs: int = 200,
    batch_size: int = 256,
    step_size: float = 0.1,
    subset: int | None = None,
    seeds: int = 5,
    rand_augment: tuple[int, int] | None = None,
    device: str | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
    workers: int | None = None,
    out: Path = Path("runs/table2"),
    markdown: bool = False,
    download: bool = False,
) -> None:
    """The paper's table 2: test accuracy with learned and fixed augmentation. Days on one GPU at full size.

    Run it again after an interruption: finished runs are kept, the others go on from their checkpoints.

    Args:
        dataset: cifar10 or cifar100 (torchvision's files), or the path of an .npz with x_train, y_train, x_test,
            y_test.
        space: wl, ra, ra-translate, ta-wide, some of one as "wl[rotate,color]", or a .json file.
        policies: none, flip-crop, flip-crop-cutout (what all the others do besides), uniform-augment, rand-augment,
            trivial-augment, ola; ola-untrained is what ola does before it has learned anything, with the same plain
            batches in between.
        network: wrn-28-10, wrn-16-2, cnn, ...
        epochs: Passes over the training data, in examples drawn.
        batch_size: Examples in an SGD step.
        step_size: Of SGD at the start; it goes down to 0 on a cosine.
        subset: Train on so many examples only.
        seeds: Runs per policy.
        rand_augment: Operations and strength of rand-augment; by default what its paper found for WRN-28-10, 3 at
            strength 5 for cifar10 and 2 at 14 for others.
        device: cpu or cuda; by default a GPU if there is one.
        precision: By default bfloat16 on a GPU, float32 on a CPU.
        workers: Runs at a time, one thread each; by default one per core, and one on a GPU.
        out: Folder of the results file, and of the runs' own.
        markdown: Print the table as Markdown.
        download: Let torchvision fetch data that are not there.
    """
    import torch

    from agents.experiments.results import ResultsFile, check_columns, reading
    from agents.experiments.runner import rows_of, run_jobs
    from agents.experiments.table2 import table2_jobs, table2_table
    from gar_env.data import load_dataset
    from gar_env.envs.options import check_device

    console = Console()
    load_dataset(dataset, download=download)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    on_gpu = device.startswith("cuda")
    jobs = table2_jobs(
        policies,
        seeds=seeds,
        dataset=dataset,
        space=space,
        network=network,
        epochs=epochs,
        batch_size=batch_size,
        step_size=step_size,
        subset=subset,
        rand_augment=rand_augment,
        device=device,
        precision=precision or ("bfloat16" if on_gpu else "float32"),
        out=out,
    )
    results = ResultsFile(out / "table2.jsonl")
    console.print(
        f"{len(jobs)} runs of {jobs[0].sgd_steps:,} SGD steps: {len(policies)} policies, {seeds} seeds, {network} on "
        f"{device}.",
        highlight=False,
    )
    run_jobs(
        jobs, results, workers=workers if workers is not None else 1 if on_gpu else os.cpu_count() or 1, console=console
    )
    rows = check_columns(results.path, rows_of(results.rows, jobs), ("test_accuracy", "operations", "seconds"))
    with reading(results.path):
        show(table2_table(rows), console, markdown)
    console.print(f"Results: {results.path}. Runs: {out}. Plots of what ola learned: gar-env plot RUN", soft_wrap=True)
