"""The ordinary softmax over choices, with a chance that each of them keeps."""

from __future__ import annotations

import torch
from gymnasium.spaces import Discrete
from torch import Generator, Tensor

from gar_env.errors import ConfigurationError
from gar_env.registry import shown


class Softmax:
    r"""``p_i = (1 - floor) softmax(s)_i + floor / k``: no choice is drawn less often than ``floor / k``.

    A choice that is never drawn is never paid, and so never comes back.

    Args:
        num_choices: k, at least 2.
        floor: Share of the draws that are uniform, in [0, 1).
        device: Of logits and actions.

    Raises:
        ConfigurationError: If there are fewer than 2 choices, or ``floor`` is out of range.

    Example:
        >>> Softmax(4, floor=0.1).probabilities()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def __init__(self, num_choices: int, *, floor: float = 0.1, device: torch.device | str = "cpu") -> None:
        if num_choices < 2:
            raise ConfigurationError(f"num_choices={num_choices}: a policy needs at least 2 choices.")
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor < 1:
            raise ConfigurationError(f"floor={shown(floor)} must be at least 0 and below 1.")
        self.floor = float(floor)
        self.logits = torch.zeros(num_choices, device=device, requires_grad=True)

    @property
    def action_space(self) -> Discrete:
        """Of one slot."""
        return Discrete(len(self.logits))

    def probabilities(self) -> Tensor:
        """Chance of each choice, ``[k]``."""
        return self._chances(self.logits.detach())

    def log_probability(self, actions: Tensor, logits: Tensor) -> Tensor:
        """Of actions int64 ``[n]`` under given logits: ``[n]``, differentiable."""
        chances = self._chances(logits)
        return (chances.log() if self.floor else torch.log_softmax(logits, 0))[actions]

    def sample(self, n: int, generator: Generator) -> Tensor:
        """``n`` independent choices, int64 ``[n]``."""
        return torch.multinomial(self.probabilities(), n, replacement=True, generator=generator)

    def _chances(self, logits: Tensor) -> Tensor:
        return (1 - self.floor) * torch.softmax(logits, 0) + self.floor / len(logits)
