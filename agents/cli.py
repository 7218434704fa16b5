"""``gar-env``: the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gar_env.errors import ConfigurationError, GarEnvError

try:
    import tyro
    from rich.console import Console
except ImportError as error:
    sys.exit(f"gar-env: the command line needs extra packages ({error}): pip install 'gar-env[cli]'.")


def demo(seeds: int = 5, out: Path = Path("runs/demo")) -> None:
    """Find the split with random labels on the embedded digits, in under a minute.

    Args:
        seeds: Training runs per controller.
        out: Folder of the picture.
    """
    if seeds < 1:
        raise ConfigurationError(f"seeds={seeds} must be at least 1.")
    from agents.experiments.demo import run_demo

    run_demo(seeds=seeds, out=out, console=Console())


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
    """
    from agents.experiments.results import ResultsFile
    from agents.experiments.runner import rows_of, run_jobs
    from agents.experiments.table1 import accuracy_table, auc_table, table1_jobs

    console = Console()
    jobs = table1_jobs(
        recipe, dataset=dataset, seeds=seeds, networks=networks, arms=arms, num_envs=batch_size, steps=steps
    )
    results = ResultsFile(out / f"{recipe}.jsonl")
    run_jobs(jobs, results, workers=workers, console=console)
    rows = rows_of(results.rows, jobs)
    for table in (auc_table(rows, recipe), accuracy_table(rows, recipe)):
        _show(table, console, markdown)
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
    """
    from agents.experiments.controllers_study import study_jobs, study_table
    from agents.experiments.results import ResultsFile
    from agents.experiments.runner import rows_of, run_jobs

    console = Console()
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
    table = study_table(rows_of(results.rows, jobs), study)
    _show(table, console, markdown)
    console.print(f"Results: {results.path}", soft_wrap=True)


def plot(results: tyro.conf.Positional[Path], out: Path | None = None) -> None:
    """Draw figure 2 from a results file of reproduce table1.

    Args:
        results: The .jsonl file.
        out: The PNG; beside the results file by default.
    """
    from agents.experiments.results import read_rows
    from agents.plots import figure2, save

    rows = read_rows(results)
    recipes = sorted({row.get("recipe", "") for row in rows})
    if recipes == [""] or (out and len(recipes) > 1):
        raise ConfigurationError(
            f"{results} holds the recipes {', '.join(recipes) or 'none'}; "
            + ("leave out --out: each gets a figure." if len(recipes) > 1 else "it is no file of reproduce table1.")
        )
    for recipe in recipes:
        print(save(figure2(rows, recipe), out or results.with_name(f"figure2_{recipe}.png")))


def train(resume: Path | None = None) -> None:
    """Train any controller on any environment: gar-env train --help.

    Args:
        resume: Folder of a run to go on with.
    """
    # Its options depend on the environment and the controller; train_arguments reads them.
    run_train([] if resume is None else ["--resume", str(resume)])


def run_train(args: list[str]) -> None:
    """``gar-env train``: the command line as it was typed."""
    from agents.experiments.train_arguments import parse
    from agents.experiments.training import Interrupted, Training

    console = Console()
    config, resume = parse(args)
    training = Training(config, console, resume=resume)
    try:
        finished = training.run()
    except Interrupted as interrupted:
        print(f"gar-env: {interrupted}", file=sys.stderr)
        sys.exit(130)
    shown = {"steps": "{:.0f}", "diverged": "{:.0f}"}
    for name, value in finished.items():
        console.print(f"{name:<16}{shown.get(name, '{:.4f}').format(value)}", highlight=False)
    console.print(f"Metrics, checkpoint and configuration: {config.folder}", soft_wrap=True)


def list_all() -> None:
    """All environments, controllers, rewards, networks, data sets and corruptions, by name."""
    from agents.controllers import CONTROLLERS
    from agents.experiments.train_config import slot_environments
    from gar_env.data import CORRUPTIONS, DATASETS
    from gar_env.networks import NETWORKS
    from gar_env.rewards import REWARDS

    console = Console(soft_wrap=True, highlight=False)
    for title, names in (
        ("environments", slot_environments()),
        ("controllers", CONTROLLERS),
        ("rewards", REWARDS),
        ("networks", [*NETWORKS, "wrn-d-k"]),
        ("data sets", [*DATASETS, "FILE.npz", "IMAGE_FOLDER"]),
        ("corruptions", CORRUPTIONS),
    ):
        console.print(f"{title:<14}{', '.join(names)}")
    console.print("\nA name of another package is found as package.module:name.")


def check(id: tyro.conf.Positional[str], num_envs: int = 8, steps: int = 5) -> None:
    """Hold an environment against the contract that agents rely on.

    Args:
        id: A registered environment; package.module:Name-v0 imports the module first.
        num_envs: Slots to check it with.
        steps: Length of its episodes meanwhile.
    """
    import gymnasium

    from agents.experiments.train_config import env_options_of
    from gar_env.envs.checks import check_vector_env

    env_options_of(id)
    print(check_vector_env(gymnasium.make_vec(id, num_envs=num_envs, num_steps=steps)))
    print(f"{id} keeps the contract.")


def _show(table: Any, console: Console, markdown: bool) -> None:
    """A table for the eye on a terminal, as Markdown elsewhere, where nothing may be cut to a width."""
    from rich.table import Table

    if markdown or not console.is_terminal:
        print(f"\n{table.title}\n\n{table.markdown()}")
        return
    drawn = Table(title=table.title)
    for name in table.header:
        drawn.add_column(name)
    for row in table:
        drawn.add_row(*row)
    console.print(drawn)


COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "train": train,
    "list": list_all,
    "check": check,
    "reproduce table1": reproduce_table1,
    "reproduce controllers": reproduce_controllers,
    "plot": plot,
}


def main(args: list[str] | None = None) -> None:
    """Entry point; errors of this package are printed as one message, without a traceback."""
    args = sys.argv[1:] if args is None else args
    commands, prog = COMMANDS, "gar-env"
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if args and args[0] in groups:
        # tyro knows one level of subcommands by name; the second is a command line of its own.
        commands = {name.split()[1]: run for name, run in COMMANDS.items() if name.split()[0] == args[0]}
        prog, args = f"gar-env {args[0]}", args[1:]
    try:
        if args[:1] == ["train"]:
            return run_train(args[1:])
        tyro.extras.subcommand_cli_from_dict(
            commands, prog=prog, args=args, description="Gymnasium environments of the inner training loop."
        )
    except GarEnvError as error:
        print(f"gar-env: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a folder that cannot be written, a disk that is full
        if error.filename is None:
            raise
        print(f"gar-env: {error.filename}: {error.strerror}. Check the path and its permissions.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
