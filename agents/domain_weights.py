"""Weights of sources by their mean alignment with a target: one number for each source, not for each example."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv
from torch import Tensor

from gar_env.errors import ConfigurationError, RewardError
from gar_env.registry import check_positive, shown
from gar_env.seeding import named_generator


class DomainWeights:
    r"""Multiplicative weights, ``w_s <- w_s exp(step_size * a_s)``, ``a_s`` the mean reward of draws from ``s``.

    Rewards are over their root mean square so far, so the step size has no unit. Sources that nothing was drawn from
    stay as they are. Drawn from are the weights, or with ``average`` their running mean over steps; ``floor`` of the
    draws is uniform.

    Args:
        num_choices: k, at least 2.
        step_size: Of the weights' logarithms.
        average: Decay of the running mean, in [0, 1); 0: none.
        floor: Share of the draws that are uniform, in [0, 1).
        seed: Of the draws.

    Raises:
        ConfigurationError: If an option is out of range.

    Source:
        Fan, Pagliardini & Jaggi (2024), "DoGE", without the average; Fan, Grangier & Ablin (2024), "Dynamic Gradient
        Alignment", with it. Both align gradients of whole sources, on a network beside the one that is trained or at
        some steps; here a source's alignment is the mean of its examples' rewards, at every step.
    """

    def __init__(
        self, num_choices: int, *, step_size: float = 0.1, average: float = 0.0, floor: float = 0.05, seed: int = 0
    ) -> None:
        if num_choices < 2:
            raise ConfigurationError(f"num_choices={num_choices}: a mixture needs at least 2.")
        check_positive("step_size", step_size)
        for name, share in (("average", average), ("floor", floor)):
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
                raise ConfigurationError(f"{name}={shown(share)} must be at least 0 and below 1.")
        self.step_size, self.average, self.floor = step_size, average, floor
        self.logarithms = torch.zeros(num_choices, dtype=torch.float64)
        self.weights = torch.full((num_choices,), 1 / num_choices, dtype=torch.float64)
        self.square, self.count = 0.0, 0
        self.generator = named_generator(seed, "policy")
        self._actions: Tensor | None = None

    def probabilities(self) -> Tensor:
        """Chance of each source, ``[k]``."""
        return (1 - self.floor) * self.weights + self.floor / len(self.weights)

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: If the environment has another number of choices, or pays late.
        """
        space: Any = env.single_action_space
        if not isinstance(space, Discrete) or int(space.n) != len(self.weights):
            raise ConfigurationError(f"There are {len(self.weights)} weights, and an action here is {space}.")
        if getattr(env.unwrapped, "reward_timing", "same_step") != "same_step":
            raise ConfigurationError("Weights of sources need reward_timing='same_step'.")
        self.num_envs = env.num_envs

    def act(self, observations: Any) -> Tensor:
        """int64 ``[n]``."""
        drawn = torch.multinomial(self.probabilities(), self.num_envs, replacement=True, generator=self.generator)
        self._actions = drawn
        return drawn

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """Move the weights by one step's rewards ``[n]``.

        Raises:
            RewardError: If one is not finite.
        """
        values = torch.as_tensor(rewards).detach().to("cpu", torch.float64)
        if self._actions is None or values.shape != self._actions.shape or not bool(values.isfinite().all()):
            raise RewardError(
                f"rewards are {shown(rewards)}; expected finite numbers, one for each of act()'s actions."
            )
        self.square += float(values.square().sum())
        self.count += len(values)
        size = max((self.square / self.count) ** 0.5, 1e-30)
        k = len(self.weights)
        counts = torch.bincount(self._actions, minlength=k)
        means = torch.zeros(k, dtype=torch.float64).index_add(0, self._actions, values / size) / counts.clamp_min(1)
        self.logarithms = torch.log_softmax(self.logarithms + self.step_size * means, 0)
        self.weights = self.average * self.weights + (1 - self.average) * self.logarithms.exp()

    def state_dict(self) -> dict[str, Any]:
        """All that its next draws depend on."""
        return {
            "logarithms": self.logarithms.clone(),
            "weights": self.weights.clone(),
            "size": [self.square, float(self.count)],
            "generator": self.generator.get_state(),
            "actions": None if self._actions is None else self._actions.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`, bit for bit."""
        self.logarithms, self.weights = state["logarithms"].clone(), state["weights"].clone()
        self.square, self.count = float(state["size"][0]), int(state["size"][1])
        self.generator.set_state(state["generator"])
        self._actions = state["actions"]
