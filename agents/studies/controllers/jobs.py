"""Do controllers that others wrote learn here? Stable-Baselines3's algorithms on data splits, and PPO on data weights.

Two studies, each one training run of the network per controller and seed:

- ``splits``: ``GAR/DataSplit-v0`` on ten splits, one with random labels. How often is it drawn from, at first and at
  last? Uniform sampling draws from it with 0.10.
- ``weights``: ``GAR/DataWeight-v0`` with 40 % symmetric label noise, or what ``corrupt`` says. Which examples are
  dropped, and what is the network's test accuracy? Beside keeping all, dropping at random, small-loss selection (told
  the share of noise) and an oracle (told the wrong labels).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

import gar_env  # noqa: F401 - registers the environments
from agents.controllers import CONTROLLERS
from agents.jobs.provenance import data_fingerprint, fingerprint, provenance
from agents.jobs.results import Row
from agents.measures.intervals import summarise
from agents.measures.tables import Table
from agents.training.loops import start_session
from gar_env.data import parse_shares
from gar_env.envs import DataSplitVectorEnv, DataWeightVectorEnv
from gar_env.errors import ConfigurationError
from gar_env.registry import check_choice

Study = Literal["splits", "weights"]
SPLITS_ARMS = ("uniform", "reinforce", "sb3-ppo", "sb3-a2c", "sb3-dqn", "sb3-maskable-ppo", "sb3-ppo late", "oracle")
WEIGHTS_ARMS = ("keep-all", "random-drop", "small-loss", "sb3-ppo", "sb3-ppo heldout", "oracle")

# DQN acts greedily, so nearly all slots draw from one split; a reference drawn like the actions would come from that
# split alone, and a noisy split agrees with itself (share of noisy draws 0.3 at the end instead of 0.04).
PER_ARM: dict[str, dict[str, Any]] = {
    "sb3-dqn": {"reference": "uniform"},
    "sb3-ppo late": {"reward_timing": "next_step"},
    # Paid by clean examples, a tenth of the data, which is not trained on: it is told something that sb3-ppo is not.
    "sb3-ppo heldout": {"reference": "heldout"},
}


@dataclass(frozen=True)
class ControllerJob:
    """One controller for one seed; see :class:`~agents.jobs.job.Job`.

    Args:
        study: Which.
        arm: A registered controller, and a word: "sb3-ppo late" has rewards one step late, "sb3-ppo heldout" is paid by
            clean examples.
        seed: Of environment and controller.
        dataset: Name or path.
        num_envs: Batch size.
        num_steps: Of the training run.
        env_options: More options of the environment.
        agent_options: Options of controllers that learn.
    """

    study: Study
    arm: str
    seed: int
    dataset: str
    num_envs: int
    num_steps: int
    env_options: dict[str, Any] = field(default_factory=dict)
    agent_options: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Of the environment."""
        return self.num_steps

    @property
    def options(self) -> dict[str, Any]:
        """Of the environment."""
        own = PER_ARM.get(self.arm, {})
        return {"dataset": self.dataset, "num_steps": self.num_steps, **own, **self.env_options}

    @property
    def identity(self) -> Row:
        """The run, and a fingerprint of all that could change its result."""
        env = {**self.options, "dataset": data_fingerprint(self.dataset)}
        agent = dataclasses.asdict(self._controller())  # pyright: ignore[reportArgumentType]
        return {
            "study": self.study,
            "arm": self.arm,
            "seed": self.seed,
            "config": fingerprint([env, agent, self.num_envs]),
        }

    def _controller(self) -> Any:
        name = self.arm.split()[0]
        if name in ("random-drop", "small-loss") and "corrupt" in self.env_options:
            options = {"drop_share": sum(share for _, share in parse_shares(self.env_options["corrupt"]))}
        else:
            options = self.agent_options if name.startswith("sb3-") else {}
            options = {"policy": "inverted"} if name == "reinforce" else options  # the paper's
        return CONTROLLERS[name](**options)

    def _make_env(self) -> Any:
        """Of the first versions: the paper's reward, weights without a price of dropping."""
        kind = DataSplitVectorEnv if self.study == "splits" else DataWeightVectorEnv
        return kind(self.num_envs, autoreset_mode="SameStep", **self.options)

    def try_options(self) -> None:
        """Make environment and controller, and let go of them.

        Raises:
            GarEnvError: Whatever making them raises.
        """
        env = self._make_env()
        self._controller().build(env, self.seed)
        env.close()

    def run(self, on_step: Callable[[], None]) -> Row:
        """Train one network with one controller."""
        env = self._make_env()
        slots: Any = env.unwrapped
        assert isinstance(slots, (DataSplitVectorEnv, DataWeightVectorEnv))
        session = start_session(env, self._controller().build, self.seed)
        watch = Watch(slots, on_step)
        session.run(self.num_steps, watch)
        finished = watch.finished
        measured = _splits_row(watch, slots) if self.study == "splits" else weights_row(watch)
        env.close()
        return {**measured, "test_accuracy": finished["test_accuracy"], **provenance()}


class Watch:
    """Counts of decisions after each step of the first episode; see :class:`~agents.training.loops.Hooks`."""

    def __init__(self, slots: Any, on_step: Callable[[], None]) -> None:
        self.slots, self.tell = slots, on_step
        self.counts: list[torch.Tensor] = []
        self.finished: dict[str, float] = {}

    def on_step(self) -> None:
        """After each step."""
        if self.finished:
            return  # the episode is over; SB3 finishes its rollout in the next
        self.tell()
        if self.slots.finished:
            self.finished = self.slots.finished[-1].values
        else:
            self.counts.append(self.slots.decisions.clone().double())

    def at_rest(self) -> None:
        """Nothing to save."""

    def window(self, start: float, end: float) -> torch.Tensor:
        """Decisions in a share of the run, but for its last step, after which the environment has moved on."""
        first, last = int(start * len(self.counts)), int(end * len(self.counts))
        last = max(last, first + 1)
        return self.counts[last - 1] - (self.counts[first - 1] if first else 0)


def _splits_row(watch: Watch, slots: Any) -> Row:
    def noisy(start: float, end: float) -> float:
        drawn = watch.window(start, end)
        return float(drawn[list(slots.corrupted_splits)].sum() / drawn.sum())

    return {"first_tenth": noisy(0, 0.1), "last_tenth": noisy(0.9, 1), "whole_run": noisy(0, 1)}


def weights_row(watch: Watch) -> Row:
    """Precision and recall of dropping, and the share of clean examples dropped, over all and the last quarter.

    ``None`` where there is nothing to take a share of, as in a run that diverged at once.
    """
    row = {}
    for name, start in (("", 0.0), ("_late", 0.75)):
        (kept_good, good), (kept_bad, bad) = watch.window(start, 1).tolist() if watch.counts else ((0, 0), (0, 0))
        row[f"precision{name}"] = bad / (good + bad) if good + bad else None
        row[f"recall{name}"] = bad / (kept_bad + bad) if kept_bad + bad else None
        row[f"false_alarms{name}"] = good / (kept_good + good) if kept_good + good else None
    return row


def controller_jobs(
    study: Study,
    *,
    dataset: str,
    seeds: int,
    num_envs: int,
    num_steps: int,
    arms: Sequence[str] | None = None,
    env_options: dict[str, Any] | None = None,
    agent_options: dict[str, Any] | None = None,
) -> list[ControllerJob]:
    """All runs of a study, one seed after the other; arguments as in :class:`ControllerJob`.

    Raises:
        ConfigurationError: If there are no seeds, or a controller is not part of the study.
    """
    known = SPLITS_ARMS if study == "splits" else WEIGHTS_ARMS
    if seeds < 1 or num_steps < 11:
        raise ConfigurationError(
            f"seeds={seeds} must be at least 1, steps={num_steps} at least 11: tenths are compared."
        )
    for arm in arms or ():
        check_choice("arms", arm, known)
    jobs = [
        ControllerJob(study, arm, seed, dataset, num_envs, num_steps, env_options or {}, agent_options or {})
        for seed in range(seeds)
        for arm in arms or known
    ]
    for job in jobs[: len(arms or known)]:
        job.try_options()  # a wrong one is said once and now, not by every worker
    return jobs


COLUMNS = {
    "splits": ("first_tenth", "last_tenth", "whole_run", "test_accuracy"),
    "weights": ("precision", "recall", "precision_late", "recall_late", "test_accuracy"),
}
"""What a row of each study is read for."""


def controllers_table(rows: Sequence[Row], study: Study) -> Table:
    """Means over seeds with 95 % bootstrap intervals."""
    if study == "splits":
        title = "Share of draws from the noisy split (uniform: 0.10)"
        header = ["first tenth", "last tenth", "whole run"]
    else:
        title = "Dropping examples with wrong labels"
        header = ["precision", "recall", "precision, last quarter", "recall, last quarter"]
    table = Table(title, ["controller", *header, "test accuracy", "seeds"])
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        cells = [_cell([row[column] for row in own]) for column in COLUMNS[study]]
        table.append([arm, *cells, str(len(own))])
    return table


def _cell(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return ""
    return summarise(there).with_interval()
