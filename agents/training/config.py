"""What ``gar-env train`` runs: one frozen dataclass, on the command line and in ``config.json``."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import gymnasium
from gymnasium.envs.registration import load_env_creator

import gar_env  # noqa: F401 - registers the environments
from agents.controllers import CONTROLLERS
from agents.files import read_regular
from agents.jobs.results import Row
from gar_env.envs import RowVectorEnv
from gar_env.errors import CheckpointError, ConfigurationError, GarEnvError, UnknownNameError, UntrustedNameError
from gar_env.registry import did_you_mean, import_module_of, shown

EnvOptions = TypeVar("EnvOptions")
AgentOptions = TypeVar("AgentOptions")

SET_HERE = {"autoreset_mode": "SameStep", "output": "numpy", "render_mode": None}
"""Options of an environment that a training run decides."""


@dataclass(frozen=True)
class TrainConfig(Generic[EnvOptions, AgentOptions]):
    """Train a controller while it trains a network.

    Args:
        env: A registered environment: gar-env list.
        agent: A registered controller: gar-env list.
        num_envs: Rows: the batch size, where rows are slots of a mini-batch; training runs, where each is one.
        episodes: Training runs, of num_steps each; the controller goes on learning from one to the next.
            A run that diverges ends early, and another one takes the steps that it left.
        seed: Of everything.
        out: Folder of the run; runs/train/ENV-AGENT-SEED by default.
        log_every: Environment steps between rows of progress.csv.
        checkpoint_every: Environment steps between checkpoints; one is written at the end in any case.
        tensorboard: Write TensorBoard logs too.
        threads: Of torch; the networks are small, and more threads mostly wait.
        env_options: Of the environment.
        agent_options: Of the controller.
    """

    env_options: EnvOptions
    agent_options: AgentOptions
    env: str = "GAR/DataSplit-v1"
    agent: str = "reinforce"
    num_envs: int = 128
    episodes: int = 1
    seed: int = 0
    out: Path | None = None
    log_every: int = 10
    checkpoint_every: int = 100
    tensorboard: bool = True
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("num_envs", "episodes", "log_every", "checkpoint_every", "threads"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 2**31:
                raise ConfigurationError(f"{name}={shown(value)} must be at least 1, and a whole number below 2**31.")
        if self.threads > (most := 4 * (os.cpu_count() or 1)):
            raise ConfigurationError(f"threads={self.threads} is more than four for each processor: at most {most}.")
        if not self.agent or not self.env:
            raise ConfigurationError("env and agent must be names: gar-env list shows them.")
        if not 0 <= self.seed < 2**32:
            raise ConfigurationError(f"seed={self.seed} must be at least 0 and below 2**32.")

    @property
    def folder(self) -> Path:
        """Where the run's files are."""
        name = f"{self.env.rpartition('/')[2].rpartition(':')[2]}-{self.agent.rpartition(':')[2]}-{self.seed}"
        return self.out or Path("runs/train") / name

    def as_json(self) -> Row:
        """All options as plain values, environment's and controller's included."""
        plain = dataclasses.asdict(self)  # pyright: ignore[reportArgumentType]
        return {**plain, "out": str(self.folder), "env_options": {**plain["env_options"], **SET_HERE}}


def make_env(config: TrainConfig[Any, Any]) -> gymnasium.vector.VectorEnv:
    """The environment of a run."""
    options = {f.name: getattr(config.env_options, f.name) for f in dataclasses.fields(config.env_options)}
    return gymnasium.make_vec(config.env, num_envs=config.num_envs, **{**options, **SET_HERE})


def env_options_of(env: str) -> type:
    """The options of an environment, as a dataclass.

    Args:
        env: A registered id; ``"package.module:Name-v0"`` imports the module first.

    Raises:
        UnknownNameError: If there is none of that id.
        ConfigurationError: If it is none of ours, or derived from one.
    """
    name = import_module_of("environment", env)
    if not name or name not in gymnasium.registry:
        known = row_environments()
        raise UnknownNameError(
            f"No environment is called {shown(name)}.{did_you_mean(name, known)}\nKnown: {', '.join(known)}."
        )
    kind = _vector_class(name)
    if not _is_ours(kind):
        raise ConfigurationError(
            f"{name} is no environment of ours (a subclass of gar_env.envs.RowVectorEnv with a config_class), which is "
            f"what gar-env train runs. Known: {', '.join(row_environments())}."
        )
    return kind.config_class


def row_environments() -> list[str]:
    """The ids of all registered environments of ours; Gymnasium's own are not even imported."""
    found = []
    for name, spec in gymnasium.registry.items():
        creator = spec.vector_entry_point
        if creator is None or (isinstance(creator, str) and creator.startswith("gymnasium.")):
            continue
        kind = _vector_class(name)
        if _is_ours(kind):
            found.append(name)
    return sorted(found)


def _is_ours(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, RowVectorEnv) and hasattr(kind, "config_class")


def _vector_class(name: str) -> Any:
    creator: Any = gymnasium.spec(name).vector_entry_point
    return load_env_creator(creator) if isinstance(creator, str) else creator


def config_of(folder: Path) -> TrainConfig[Any, Any]:
    """The configuration that a run's folder holds.

    Raises:
        CheckpointError: If there is none, or none that fits.
    """
    path = folder / "config.json"
    try:
        saved = json.loads(read_regular(path))
        saved.pop("provenance", None)
        env_options = _filled(env_options_of(saved["env"]), saved.pop("env_options"))
        agent_options = _filled(CONTROLLERS[saved["agent"]], saved.pop("agent_options"))
        return TrainConfig(env_options=env_options, agent_options=agent_options, **{**saved, "out": folder})
    except FileNotFoundError as error:
        raise CheckpointError(f"No run at {folder}: there is no {path}.") from error
    except (CheckpointError, UntrustedNameError):
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, GarEnvError) as error:
        raise CheckpointError(f"{path} does not fit this version's options: {type(error).__name__}: {error}") from error


def _filled(kind: Any, values: dict[str, Any]) -> Any:
    """A dataclass from JSON, where tuples have become lists."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
