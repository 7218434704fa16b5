"""A policy that looks: a softmax over choices whose logits are linear in what a row observes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import VectorEnv
from torch import Generator, Tensor

from gar_env.errors import ConfigurationError
from gar_env.registry import shown


class LinearSoftmax:
    r"""``p(a | x) ~ exp(w_a . x / scale + b_a)``, everything 0 at the start.

    Args:
        num_choices: k, at least 2.
        scales: What each of the d observed features is divided by, above 0.
        device: Of logits and actions.

    Raises:
        ConfigurationError: If there are fewer than 2 choices, or a scale is not above 0.

    Example:
        >>> policy = LinearSoftmax(3, scales=(1.0, 10.0))
        >>> policy.probabilities(torch.zeros(2, 2))[0]
        tensor([0.3333, 0.3333, 0.3333])

    Source:
        Williams (1992), for what :class:`agents.Reinforce` does with it.
    """

    observes = True

    def __init__(self, num_choices: int, scales: Sequence[float], device: torch.device | str = "cpu") -> None:
        self.scales = torch.tensor([*scales], dtype=torch.float32, device=device)
        if num_choices < 2 or not bool((self.scales > 0).all()):
            raise ConfigurationError(
                f"num_choices={num_choices} must be at least 2, and scales={tuple(scales)} above 0 each."
            )
        self.logits = torch.zeros(num_choices, len(self.scales) + 1, device=device, requires_grad=True)

    @property
    def action_space(self) -> Discrete:
        """Of one row."""
        return Discrete(len(self.logits))

    def check(self, env: VectorEnv) -> None:
        """Refuse an environment that shows something else.

        Raises:
            ConfigurationError: If it does not show d features.
        """
        shape = env.single_observation_space.shape
        if shape != (len(self.scales),):
            raise ConfigurationError(
                f"The policy has {len(self.scales)} scales, one for each feature that it looks at; the environment "
                f"shows {shown(shape)}. Build the policy for this environment."
            )

    def log_probabilities(self, logits: Tensor, seen: Tensor) -> Tensor:
        """Log chance of each choice, ``[n, k]``, of what is seen ``[n, d]``."""
        return torch.log_softmax((seen / self.scales) @ logits[:, :-1].T + logits[:, -1], 1)

    def probabilities(self, seen: Tensor) -> Tensor:
        """Chance of each choice, ``[n, k]``."""
        return self.log_probabilities(self.logits.detach(), seen).exp()

    def log_probability(self, actions: Tensor, logits: Tensor, seen: Tensor) -> Tensor:
        """Of actions int64 ``[n]`` under given logits: ``[n]``, differentiable."""
        return self.log_probabilities(logits, seen).gather(1, actions[:, None])[:, 0]

    def sample(self, n: int, generator: Generator, seen: Tensor) -> Tensor:
        """A choice for each row, int64 ``[n]``."""
        return torch.multinomial(self.probabilities(seen), 1, generator=generator)[:, 0]
