"""``gar-env``: the table of commands, and the small ones."""

from __future__ import annotations

import errno
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from agents.cli.augment import augment
from agents.cli.names import NAMES, PATTERNS
from agents.cli.plot import plot_run
from agents.cli.value import value
from agents.studies import STUDIES, Study, run_study
from gar_env import __version__
from gar_env.errors import ConfigurationError, GarEnvError
from gar_env.registry import shown


def demo(seeds: int = 5, out: Path = Path("runs/demo")) -> None:
    """Find the split with random labels on the embedded digits, in under a minute.

    Args:
        seeds: Training runs per controller.
        out: Folder of the picture.
    """
    if seeds < 1:
        raise ConfigurationError(f"seeds={seeds} must be at least 1.")
    from agents.studies.demo import run_demo

    run_demo(seeds=seeds, out=out, console=Console())


def plot(results: tyro.conf.Positional[Path], out: Path | None = None) -> None:
    """Draw figure 2 from a results file of reproduce table1, or what a run of the controller ola learned.

    Args:
        results: The .jsonl file, or the folder of a run.
        out: The PNG; beside the results file, or in the run's folder, by default.
    """
    if results.is_dir():
        return plot_run(results, out)
    from agents.studies.table1.figures import draw_figure2

    for path in draw_figure2(results, out):
        print(path)


def train(resume: Path | None = None) -> None:
    """Train any controller on any environment: gar-env train --help.

    Args:
        resume: Folder of a run to go on with.
    """
    # Its options depend on the environment and the controller; train_arguments reads them.
    run_train([] if resume is None else ["--resume", str(resume)])


def run_train(args: list[str]) -> None:
    """``gar-env train``: the command line as it was typed."""
    from agents.training.arguments import parse
    from agents.training.training import Interrupted, Training

    console = Console()
    config, resume, trust = parse(args)
    training = Training(config, console, resume=resume, trust=trust)
    try:
        finished = training.run()
    except Interrupted as interrupted:
        print(f"gar-env: {interrupted}", file=sys.stderr)
        sys.exit(130)
    whole = ("steps", "diverged")
    names = {name: training.in_words(name) for name in finished}
    width = max(map(len, names.values()), default=0) + 2
    for name, found in finished.items():
        text = "none" if math.isnan(found) else f"{found:.0f}" if name in whole else f"{found:.4f}"
        console.print(f"{names[name]:<{width}}{text}", highlight=False)
    for row in training.found[:5]:
        console.print("  ".join(f"{name} {value}" for name, value in row.items()), highlight=False, soft_wrap=True)
    kept = "configuration and found.csv" if training.found else "and configuration"
    comma = "," * bool(training.found)
    console.print(f"Metrics, checkpoint{comma} {kept}: {config.folder}", soft_wrap=True)
    if finished.get("diverged"):
        print(
            "gar-env: training diverged in its last episode: loss or parameters are no longer finite. Lower "
            "--env-options.step-size, or set --env-options.gradient-clip.",
            file=sys.stderr,
        )
        sys.exit(1)


def list_all() -> None:
    """All environments, controllers, rewards, networks, data sets, corruptions and image operations, by name."""
    console = Console(soft_wrap=True, highlight=False)
    width = max(map(len, NAMES)) + 1
    for title, names in NAMES.items():
        console.print(f"{title:<{width}}{', '.join((*names, *PATTERNS.get(title, ())))}")
    console.print("\nA name of another package is found as package.module:name.")


def check(id: tyro.conf.Positional[str], num_envs: int = 8, steps: int = 5) -> None:
    """Hold an environment against the contract that agents rely on.

    Args:
        id: A registered environment; package.module:Name-v0 imports the module first.
        num_envs: Slots to check it with.
        steps: Length of its episodes meanwhile.
    """
    import gymnasium

    from agents.training.config import env_options_of
    from gar_env.envs.checks import check_vector_env

    env_options_of(id)
    print(check_vector_env(gymnasium.make_vec(id, num_envs=num_envs, num_steps=steps)))
    print(f"{id} keeps the contract.")


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system calls a full disk, a used quota, and the largest size of a file."""

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "train": train,
    "list": list_all,
    "check": check,
    "augment": augment,
    "value": value,
    **STUDIES,
    "plot": plot,
}


def main(args: list[str] | None = None) -> None:
    """Entry point; errors of this package are printed as one message, without a traceback."""
    args = sys.argv[1:] if args is None else args
    if args[:1] in (["--version"], ["-V"]):
        return print(f"gar-env {__version__}")
    commands, prog = COMMANDS, "gar-env"
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if args and args[0] in groups:
        # tyro knows one level of subcommands by name; the second is a command line of its own.
        commands = {name.split()[1]: run for name, run in COMMANDS.items() if name.split()[0] == args[0]}
        prog, args = f"gar-env {args[0]}", args[1:]
    try:
        odd = [text for text in args if "\0" in text or any(0xD800 <= ord(letter) < 0xE000 for letter in text)]
        if odd:
            raise ConfigurationError(f"{shown(odd[0])} holds characters that no name or path can have.")
        if "--" in args:
            raise ConfigurationError("'--' ends no options here: every argument has a name. Leave it out.")
        if args[:1] == ["train"]:
            return run_train(args[1:])
        chosen = tyro.extras.subcommand_cli_from_dict(
            commands, prog=prog, args=args, description="Gymnasium environments of the inner training loop."
        )
        if isinstance(chosen, Study):
            run_study(chosen, Console())
    except GarEnvError as error:
        print(f"gar-env: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("gar-env: stopped.", file=sys.stderr)
        sys.exit(130)
    except OSError as error:  # a folder that cannot be written, a disk that is full
        where = f"{error.filename}: " if error.filename is not None else ""
        what = "There is no room left" if error.errno in FULL else "Check the path and its permissions"
        print(f"gar-env: {where}{error.strerror or error}. {what}.", file=sys.stderr)
        sys.exit(2)
