"""What environments that train networks have in common: options, a reward signal, spaces, and what a step tells."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from gymnasium.spaces import Space
from gymnasium.vector.utils import batch_space
from torch import Tensor

from gar_env.envs.config import RowConfig, config_from
from gar_env.envs.features import Feature, observation_box, observe
from gar_env.envs.outcome import Infos
from gar_env.envs.vector import RowVectorEnv
from gar_env.rewards import Evaluator, Need


class ConfiguredVectorEnv(RowVectorEnv):
    """Rows with options of a :class:`RowConfig`, paid by a reward signal.

    A subclass calls :meth:`_open_first` at the end of its own ``__init__``.

    Args:
        num_envs: How many rows.
        **options: Fields of :attr:`config_class`.

    Raises:
        ConfigurationError: If options contradict each other, or the signal needs what cannot be given.
    """

    left_out = (*RowVectorEnv.left_out, "observation_space")

    config_class: ClassVar[Any] = RowConfig
    """The options, for command lines and pages of documentation."""

    provides: ClassVar[Need] = ~(Need.RUN | Need.TASKS)
    """What signals may ask for; one that needs more is refused when the environment is made."""

    def __init__(self, num_envs: int, **options: Any) -> None:
        config = config_from(self.config_class, options)
        super().__init__(num_envs, **config.row_options)
        self.config: Any = config
        self.evaluator = Evaluator(config.reward, num_envs)
        self.evaluator.check_provided(type(self).__name__, self.provides)

    def _open_first(self, seeds: list[int]) -> None:
        """Start first episodes, so that a wrong option fails when the environment is made, not at reset; make spaces.

        Args:
            seeds: As :meth:`start` takes them.
        """
        self._made = tuple(vars(self))
        self.start(torch.ones(self.num_envs, dtype=torch.bool, device=self.device), seeds)
        self.single_action_space = self.action()
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.single_observation_space = observation_box(self.features)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    @abstractmethod
    def action(self) -> Space[Any]:
        """What one row chooses from."""

    @property
    @abstractmethod
    def features(self) -> tuple[Feature, ...]:
        """The columns of an observation."""

    @abstractmethod
    def columns(self) -> list[float | Tensor]:
        """The values of :attr:`features`: numbers, ``[n]`` or ``[n, k]``."""

    def prepare(self) -> None:
        """Called once, when options and data set are there: make what all episodes share."""

    def observe(self) -> Tensor:
        """See :meth:`RowVectorEnv.observe`."""
        return observe(self.features, self.columns(), self.num_envs, self.device)

    def blank_infos(self) -> Infos:
        """See :meth:`RowVectorEnv.blank_infos`."""
        return {
            "loss": (math.nan, False),
            "reward_valid": (False, False),
            "diverged": (False, False),
            "test_accuracy": (math.nan, False),
        }
