"""The command line of ``gar-env train``: typed, and as wide as the chosen environment and controller need."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import tyro

from agents.controllers import CONTROLLERS
from agents.training.config import (
    SET_HERE,
    AgentOptions,
    EnvOptions,
    TrainConfig,
    config_of,
    env_options_of,
)
from gar_env.errors import ConfigurationError
from gar_env.registry import known_names_only, shown, trusted_names

BY_NAME = ("dataset", "network", "reward", "instances", "rule", "tasks", "target")
"""Options that may be objects in code; on a command line they are named."""


class Parsed(NamedTuple):
    """What was asked for.

    Args:
        config: What to run.
        resume: Whether it is the run of a folder, to be gone on with.
        trust: Whether the folder's files are trusted, or a controller may be pickled.
    """

    config: TrainConfig[Any, Any]
    resume: bool
    trust: bool


def parse(args: list[str]) -> Parsed:
    """Read a command line.

    Args:
        args: ``--env``, ``--agent``, options of both; or ``--resume FOLDER`` alone; each with ``--trust`` or without.

    Raises:
        ConfigurationError: If ``--resume`` comes with other options, or options do not fit.
        CheckpointError: If there is nothing to resume.
        UnknownNameError: If there is no such environment or controller.
    """
    first = argparse.ArgumentParser(prog="gar-env train", add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--env", "--agent", "--resume"):
        first.add_argument(name)
    trust, args = "--trust" in args, [arg for arg in args if arg != "--trust"]
    try:
        chosen, others = first.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise ConfigurationError(f"{error}. See gar-env train --help.") from error
    if chosen.resume is not None:
        if others or chosen.env or chosen.agent or sum(a.startswith("--resume") for a in args) > 1:
            raise ConfigurationError(
                "--resume goes on with exactly the run that its folder holds. Leave the other options out."
            )
        folder = Path(chosen.resume)
        with trusted_names() if trust else known_names_only():
            config = config_of(folder.parent if folder.name == "checkpoint.gar" else folder)
        return Parsed(config, resume=True, trust=trust)
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    env, agent = chosen.env or defaults["env"], chosen.agent or defaults["agent"]
    env_kind, agent_kind = env_options_of(env), CONTROLLERS[agent]
    if not dataclasses.is_dataclass(agent_kind) or not callable(getattr(agent_kind, "build", None)):
        raise ConfigurationError(
            f"The controller {shown(agent)} is registered with {shown(agent_kind)}; expected a dataclass of options "
            "that has a method build(env, seed)."
        )
    kind: Any = _Typed[_for_command_line(env_kind), _for_command_line(agent_kind)]
    parsed: Any = tyro.cli(
        kind,
        args=args,
        prog="gar-env train",
        description=f"{_HELP}\n\nBelow: the options of {env} and {agent}.",
    )
    # Built after tyro is done: what does not fit is said in our own words.
    chosen_options = {f.name: getattr(parsed, f.name) for f in dataclasses.fields(parsed)}
    for name, own in (("env_options", env_kind), ("agent_options", agent_kind)):
        typed = chosen_options[name]
        chosen_options[name] = own(**{f.name: getattr(typed, f.name) for f in dataclasses.fields(typed)})
    return Parsed(TrainConfig(**chosen_options), resume=False, trust=trust)


@dataclass(frozen=True)
class _Typed(TrainConfig[EnvOptions, AgentOptions]):
    """What was typed, unchecked."""

    __doc__ = TrainConfig.__doc__

    def __post_init__(self) -> None:
        pass


_HELP = (
    "Train a controller while it trains a network. Choose with --env and --agent (gar-env list), then add their "
    "options. gar-env train --resume FOLDER goes on with a run that was stopped. Its files are data: names in them "
    "import no module, and nothing in them is executed. With --trust names may, and a controller of your own that has "
    "no state_dict() is pickled."
)


def _for_command_line(kind: Any) -> Any:
    """An environment's options as a dataclass of plain types, without what a run decides."""
    fields, hints = [], get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in SET_HERE:
            continue
        hint = (str | None if field.default is None else str) if field.name in BY_NAME else hints[field.name]
        if field.default_factory is not dataclasses.MISSING:
            default = dataclasses.field(default_factory=field.default_factory)
        else:
            default = dataclasses.field(default=field.default)
        fields.append((field.name, hint, default))
    plain = dataclasses.make_dataclass(kind.__name__, fields, frozen=True, namespace={"__module__": __name__})
    plain.__doc__ = _all_arguments(kind)
    return plain


def _all_arguments(kind: type) -> str:
    """The descriptions of all options, inherited ones first, in one docstring."""
    entries = []
    for layer in reversed(kind.__mro__):
        text = inspect.cleandoc(layer.__dict__.get("__doc__") or "")
        if dataclasses.is_dataclass(layer) and "Args:\n" in text:
            entries.append(text.partition("Args:\n")[2].partition("\n\n")[0])
    # Documentation markup does not belong on a terminal.
    entries = [re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "") for text in entries]
    return f"{inspect.cleandoc(kind.__doc__ or '').splitlines()[0]}\n\nArgs:\n" + "\n".join(entries)
