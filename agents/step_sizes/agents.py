"""Step-size controllers in ``GAR/StepSize-v0`` that do not change: fixed weights, and schedules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents.step_sizes.controller import StepSizeController
from agents.step_sizes.forms import FORMS
from agents.step_sizes.schedules import SCHEDULES
from gar_env.errors import ConfigurationError


class StepSizes:
    """What all have in common: they say step sizes, and the environment's ``absolute`` action takes them."""

    features: tuple[str, ...] = ()

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: If the environment takes other actions, or does not show what is needed.
        """
        runs: Any = env.unwrapped
        config: Any = getattr(runs, "config", None)
        action = getattr(config, "action", None)
        if action != "absolute":
            found = type(runs).__name__ if action is None else f"{type(runs).__name__} with action={action!r}"
            raise ConfigurationError(
                f"This controller says step sizes, which GAR/StepSize-v0 takes with action='absolute'; found {found}."
            )
        names = list(runs.observation_names)
        missing = [feature for feature in self.features if feature not in names]
        if missing:
            raise ConfigurationError(
                f"This controller needs {', '.join(self.features)}; the environment does not show "
                f"{', '.join(missing)}. Make it with observed={','.join(self.features)!r}, or observed='all'."
            )
        self.places = {feature: names.index(feature) for feature in self.features}
        self.low, self.high = math.log(config.min_step_size), math.log(config.max_step_size)
        self.num_envs = env.num_envs
        self._resets_next = env.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP

    def seen(self, observations: Any) -> dict[str, Tensor]:
        """Features by name, ``[R]`` each."""
        self.check_begun()
        table = torch.as_tensor(observations, dtype=torch.float32)
        return {feature: table[:, place] for feature, place in self.places.items()}

    def check_begun(self) -> None:
        """Refuse to go on before :meth:`begin`.

        Raises:
            ConfigurationError: If it was not called.
        """
        if not hasattr(self, "places"):
            raise ConfigurationError("Call begin(env) first: it says how many runs there are, and what they show.")

    def actions(self, log_step_sizes: Tensor) -> np.ndarray:
        """For the environment, float32 ``[R, 1]``."""
        places = (log_step_sizes.double() - self.low) / (self.high - self.low)
        return (2 * places - 1).clamp(-1, 1).float()[:, None].cpu().numpy()


class Controlled(StepSizes):
    """A controller with weights that stay as they are.

    Args:
        controller: With the form, and weights for all rows.
    """

    def __init__(self, controller: StepSizeController) -> None:
        self.controller, self.form = controller, FORMS[controller.form]
        self.features = tuple(dict.fromkeys((*self.form.features, *self.form.reads)))
        self.weights = torch.tensor([controller.weights])

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: As :meth:`StepSizes.begin`, or if means are discounted at another rate.
        """
        super().begin(env)
        runs: Any = env.unwrapped
        if self.features and runs.config.decay != self.controller.decay:
            raise ConfigurationError(
                f"The controller was learned with decay={self.controller.decay}; the environment has "
                f"decay={runs.config.decay}. Make it with the same."
            )

    def act(self, observations: Any) -> np.ndarray:
        """See :class:`agents.Agent`."""
        low, high = math.log(self.controller.min_step_size), math.log(self.controller.max_step_size)
        found = self.form.log_step_size(self.weights, self.seen(observations)).clamp(low, high)
        return self.actions(found.expand(self.num_envs))

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing changes."""


class Scheduled(StepSizes):
    """A schedule: factors of each run's own initial step size, by time alone. It is told how long runs are.

    Args:
        schedule: A registered name: ``"constant"``, ``"exponential"``, ``"waterfall"``, ``"power"``, ``"cosine"``,
            ``"warmup-cosine"``.
    """

    features = ("progress",)

    def __init__(self, schedule: str) -> None:
        self.schedule = SCHEDULES[schedule]

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`."""
        super().begin(env)
        self.runs: Any = env.unwrapped

    def act(self, observations: Any) -> np.ndarray:
        """See :class:`agents.Agent`."""
        factors = self.schedule(self.seen(observations)["progress"])
        initial = torch.tensor([instance.step_size for instance in self.runs.instances])
        return self.actions((initial * factors).clamp_min(1e-30).log())

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing changes."""
