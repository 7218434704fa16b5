"""A policy that turns down what is paid badly, each choice by itself, and crowns none."""

from __future__ import annotations

import torch
from gymnasium.spaces import Discrete
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid

from gar_env.errors import ConfigurationError
from gar_env.registry import shown

START = 2.0
"""Of every logit: a chance of 0.88 to be kept."""


class Keep:
    r"""``p_i = sigmoid(s_i) / sum_j sigmoid(s_j)``: what is drawn is kept with its own chance, else another is drawn.

    Learned as independent decisions to keep: :meth:`log_probability` is ``log sigmoid(s_i)``, without the sum over
    choices. So pay below 0 turns a choice down and leaves the others alike, any number of them; pay above 0 saturates.
    Pay it rewards that are not centred: ``Reinforce(..., normalise="size")``.

    Args:
        num_choices: k, at least 2.
        start: Of every logit.
        device: Of logits and actions.

    Raises:
        ConfigurationError: If there are fewer than 2 choices, or ``start`` is no finite number.

    Example:
        >>> Keep(4).probabilities()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def __init__(self, num_choices: int, *, start: float = START, device: torch.device | str = "cpu") -> None:
        if num_choices < 2:
            raise ConfigurationError(f"num_choices={num_choices}: a policy needs at least 2 choices.")
        if isinstance(start, bool) or not isinstance(start, int | float) or not abs(start) < 100:
            raise ConfigurationError(f"start={shown(start)} must be a number between -100 and 100.")
        self.logits = torch.full((num_choices,), float(start), device=device, requires_grad=True)

    @property
    def action_space(self) -> Discrete:
        """Of one slot."""
        return Discrete(len(self.logits))

    def keep(self) -> Tensor:
        """Chance of each choice to be kept once it is drawn, ``[k]``."""
        return torch.sigmoid(self.logits.detach())

    def probabilities(self) -> Tensor:
        """Chance of each choice, ``[k]``."""
        return torch.softmax(logsigmoid(self.logits.detach()), 0)

    def log_probability(self, actions: Tensor, logits: Tensor) -> Tensor:
        """Of actions int64 ``[n]`` to be kept, under given logits: ``[n]``, differentiable."""
        return logsigmoid(logits)[actions]

    def sample(self, n: int, generator: Generator) -> Tensor:
        """``n`` independent choices, int64 ``[n]``."""
        return torch.multinomial(self.probabilities(), n, replacement=True, generator=generator)
