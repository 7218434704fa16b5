"""Environments whose rows share one network: one learner, one fate, rewards at once or one step late."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from gymnasium.spaces import Space
from torch import Tensor

from gar_env.envs.config import SharedConfig
from gar_env.envs.configured import ConfiguredVectorEnv
from gar_env.envs.dashboard import Dashboard
from gar_env.envs.features import LAST_REWARD, PROGRESS, RUNNING, Feature, RunningSize
from gar_env.envs.outcome import Episode, Infos, Outcome
from gar_env.functional import own_surroundings
from gar_env.learner import Learner


class SharedNetworkEnv(ConfiguredVectorEnv):
    """Rows that share a network in training: they start and end together, and one episode is one training run.

    A subclass builds the learner (:meth:`build`), takes a step of it (:meth:`take`) and measures it
    (:meth:`evaluate`); this class runs episodes, ends those that diverge, and keeps what is seen and logged.

    Args:
        num_envs: How many rows.
        **options: Fields of :attr:`config_class`.

    Raises:
        ConfigurationError: If options contradict each other, or the signal needs what cannot be given.
        GarEnvError: Whatever building the data or the network raises.
    """

    @own_surroundings()
    def __init__(self, num_envs: int = 128, **options: Any) -> None:
        super().__init__(num_envs, **options)
        self.reward_timing = self.config.reward_timing
        self.signal = self.evaluator.signal
        self.dashboard = Dashboard(type(self).__name__, self.dashboard_shares) if self.render_mode else None
        self.load()
        self.prepare()
        self._open_first([0])

    rows_end_together = True

    # What a subclass fills in, and may look at

    config_class: ClassVar[Any] = SharedConfig

    dashboard_shares: ClassVar[str] = "draws"
    """What the shares on the dashboard are of."""

    learner: Learner
    """Of this episode."""

    last_reward: Tensor
    """``[n]``, of the last step that was paid, scaled to about 1 and squashed."""

    running_loss: Tensor
    """Scalar, over the last steps."""

    @abstractmethod
    def action(self) -> Space[Any]:
        """What one row chooses from: ``Discrete`` or ``MultiDiscrete``."""

    @abstractmethod
    def build(self, seed: int) -> Learner:
        """The learner of an episode; depends on ``seed`` alone."""

    @abstractmethod
    def take(self, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Take one step of training.

        Returns:
            Its loss, a scalar, and the rewards ``[n]``: of these actions, or with ``reward_timing="next_step"`` of
            those before; ``None`` if none are due yet.
        """

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """``test_accuracy`` and ``test_loss`` of the present network."""

    @property
    def guess(self) -> float:
        """The loss of a network that knows nothing: what is observed before the first step."""
        return 0.0

    def load(self) -> None:
        """Called once, before :meth:`prepare`: load the data."""

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns of an observation."""
        return (PROGRESS, LAST_REWARD)

    def columns(self) -> list[float | Tensor]:
        """The values of :attr:`features`: numbers, ``[n]`` or ``[n, k]``."""
        return [self.progress, self.last_reward]

    def open(self, seed: int) -> None:
        """Called when the learner of a new episode is there, before :meth:`begin`: make its data."""

    def begin(self) -> None:
        """Called when data and learner of a new episode are there."""

    def acted(self, actions: Tensor) -> None:
        """Called at each step with what was chosen, before :meth:`take`: count it."""

    def look(self) -> None:
        """Called at the start of an episode and after each step, before :meth:`columns`: see what comes next."""

    def last_step(self) -> dict[str, float]:
        """See :meth:`RowVectorEnv.last_step`; with the ``loss``."""
        return {"loss": float(self._last_loss), **super().last_step()}

    # One episode

    @own_surroundings()
    def start(self, rows: Tensor, seeds: list[int]) -> None:
        """See :meth:`RowVectorEnv.start`."""
        (seed,) = seeds
        self.learner = self.build(seed)
        self.evaluator.begin(self.learner, seed)
        self.steps = 0
        # The loss of a network that knows nothing is a fair value before the first step.
        self.running_loss = torch.tensor(self.guess, device=self.device)
        self._reward_size = RunningSize(self.device)
        self._return = torch.zeros((), device=self.device)
        self.last_reward = torch.zeros(self.num_envs, device=self.device)
        if self.dashboard:
            self.dashboard.clear()
        self.episode_seed = seed
        self.open(seed)
        self.begin()
        self.look()

    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """See :meth:`RowVectorEnv.advance`."""
        self.acted(actions)
        loss, rewards = self.take(actions)
        self.steps += 1

        finite = loss.isfinite() if rewards is None else loss.isfinite() & rewards.isfinite().all()
        diverged = not bool(finite) or self.learner.diverged
        ended = diverged or self.steps >= self.config.num_steps
        valid = rewards is not None
        if rewards is None:
            rewards = torch.zeros(self.num_envs, device=self.device)
        if diverged:
            rewards, valid = torch.full_like(rewards, self.config.divergence_reward), True
        else:
            self.running_loss = RUNNING * self.running_loss + (1 - RUNNING) * loss
            if valid:
                self.last_reward = torch.tanh(rewards / self._reward_size.of(rewards))
        if self.dashboard:
            self.dashboard.add(float(loss), float(rewards.mean()))
        self.look()
        accuracy = self.evaluate()["test_accuracy"] if ended and not diverged else math.nan
        self._last_loss = loss
        self._return = self._return + rewards.mean()
        if ended:
            values = {"steps": self.steps, "return": float(self._return), "diverged": float(diverged)}
            self.finished.append(Episode(None, {**values, "test_accuracy": accuracy, **self.metrics()}))
        infos = {
            "loss": (loss, True),
            "reward_valid": (valid, True),
            "diverged": (diverged, True),
            "test_accuracy": (accuracy, ended and not diverged),
        }
        return Outcome(rewards, ended, infos | self._error_infos())

    def blank_infos(self) -> Infos:
        """See :meth:`RowVectorEnv.blank_infos`."""
        return super().blank_infos() | dict.fromkeys(self._error_infos(), (math.nan, False))

    def _error_infos(self) -> dict[str, tuple[Any, Any]]:
        config = self.config
        rough = config.way == "finite_difference" or config.alignment_precision != "float32"
        return self.evaluator.infos() if rough else {}

    @property
    def progress(self) -> float:
        """Share of the episode's steps that are taken."""
        return self.steps / self.config.num_steps

    def render(self) -> tuple[Any, ...] | None:
        """One frame per slot, all the same object, since they share a network: a string or uint8 ``[h, w, 3]``.

        Gymnasium's ``RecordVideo`` tiles them; pass it ``record_first_only=True``.
        """
        self._check_open()
        if self.dashboard is None:
            return None
        frame = self.dashboard.ansi() if self.render_mode == "ansi" else self.dashboard.rgb_array()
        return (frame,) * self.num_envs
