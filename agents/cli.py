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
    recipe: Literal["paper", "best"] = "paper",
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
        recipe: paper is the closest reading of the paper, best is ours.
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
        if markdown:
            print(f"\n{table.title}\n\n{table.markdown()}")
        else:
            console.print(_rich(table))
    console.print(f"Results: {results.path}. Draw figure 2 with: gar-env plot {results.path}")


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


def _rich(table):
    from rich.table import Table

    drawn = Table(title=table.title)
    for name in table.header:
        drawn.add_column(name, no_wrap=True)
    for row in table:
        drawn.add_row(*row)
    return drawn


COMMANDS: dict[str, Callable[..., Any]] = {"demo": demo, "reproduce table1": reproduce_table1, "plot": plot}


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
        tyro.extras.subcommand_cli_from_dict(
            commands, prog=prog, args=args, description="Gymnasium environments of the inner training loop."
        )
    except GarEnvError as error:
        print(f"gar-env: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
