"""The main job on the embedded digits, in well under a minute: find the split with random labels."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from agents.files import check_writable
from agents.jobs.progress import step_progress
from agents.measures.figures import save
from agents.measures.intervals import share_of_gain, summarise
from agents.studies.split_run import SplitRun, run_split
from agents.studies.table1.figures import split_probabilities

NUM_ENVS = 128
ENV_OPTIONS = {"dataset": "digits", "network": "fc_bn", "inputs": "symmetric", "num_steps": 300}
AGENT_OPTIONS = {"normalise": "step", "step_size": 0.1}
ARMS = ("gar", "uniform", "oracle")


def run_demo(*, seeds: int, out: Path, console: Console) -> Path:
    """Train with each controller, print usage and accuracy, draw the probabilities.

    Args:
        seeds: Training runs per controller.
        out: Folder of the picture.
        console: Where to print.

    Returns:
        The picture.
    """
    console.print(
        f"Digits in 10 splits; the labels of split 0 are random. {seeds} training runs per controller, "
        f"{ENV_OPTIONS['num_steps']} steps of {NUM_ENVS} examples."
    )
    check_writable(out)  # before anything is computed
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are small: more threads only wait for each other
    runs: dict[str, list[SplitRun]] = {arm: [] for arm in ARMS}
    with step_progress(console) as bar:
        task = bar.add_task("", total=len(ARMS) * seeds * ENV_OPTIONS["num_steps"])
        for seed in range(seeds):
            for arm in ARMS:
                bar.update(task, description=arm)
                run = run_split(
                    arm,
                    seed,
                    num_envs=NUM_ENVS,
                    env_options=ENV_OPTIONS,
                    agent_options=AGENT_OPTIONS,
                    on_step=lambda: bar.advance(task),
                )
                runs[arm].append(run)
    torch.set_num_threads(threads)

    console.print(_usage_table(runs["gar"]))
    console.print(_accuracy_table(runs))
    share = share_of_gain(*([r.test_accuracy for r in runs[arm]] for arm in ("uniform", "gar", "oracle")))
    if share is not None:
        console.print("GAR gets {:.0%} [{:.0%}, {:.0%}] of the oracle's gain over uniform sampling.".format(*share))
    k = len(runs["gar"][0].split_names)
    accuracies = {arm: f"{summarise([r.test_accuracy for r in runs[arm]]).mean:.3f}" for arm in ARMS}
    figure = split_probabilities(
        [(run.keep / (k - 1)).numpy() for run in runs["gar"]], runs["gar"][0].corrupted, accuracies
    )
    path = save(figure, out / "split_probabilities.png")
    console.print(f"Split probabilities over training: {path}")
    return path


def _usage_table(runs: list[SplitRun]) -> Table:
    table = Table(title="Where the GAR controller drew from (share of draws, mean over runs)")
    table.add_column("split")
    table.add_column("whole run", justify="right")
    table.add_column("chance at the end", justify="right")
    table.add_column("")
    usage = torch.stack([run.usage for run in runs]).mean(0)
    final = torch.stack([run.keep[-1] / (run.keep.shape[1] - 1) for run in runs]).mean(0)
    for i, name in enumerate(runs[0].split_names):
        style = "bold red" if i in runs[0].corrupted else ""
        table.add_row(name, f"{usage[i]:.1%}", f"{final[i]:.1%}", "█" * round(150 * float(final[i])), style=style)
    return table


def _accuracy_table(runs: dict[str, list[SplitRun]]) -> Table:
    table = Table(title="Test accuracy (mean [95 % interval])")
    table.add_column("controller")
    table.add_column("accuracy", justify="right")
    table.add_column("knows the noisy split?")
    known = {"gar": "no, finds it", "uniform": "no", "oracle": "yes, never draws it"}
    for arm in ("uniform", "gar", "oracle"):
        summary = summarise([run.test_accuracy for run in runs[arm]])
        table.add_row(arm, summary.with_interval(), known[arm])
    return table
