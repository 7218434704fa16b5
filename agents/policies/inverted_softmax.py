"""The paper's policy over splits: softmax over what *not* to draw."""

from __future__ import annotations

import torch
from gymnasium.spaces import Discrete
from torch import Generator, Tensor

from gar_env.errors import ConfigurationError


class InvertedSoftmax:
    r"""``p_i = (1 - softmax(s)_i) / (k - 1)`` over ``k`` choices, one learned logit each, no observation used.

    One logit can drive its own choice to zero while the others stay equal, which is what leaving out one split needs.
    No choice gets more than ``1 / (k - 1)``.

    Args:
        num_choices: ``k``, at least 2.
        device: Of logits and actions.

    Raises:
        ConfigurationError: If there are fewer than 2 choices.

    Example:
        >>> InvertedSoftmax(3).probabilities()
        tensor([0.3333, 0.3333, 0.3333])

    Source:
        Mueller, Biedenkapp & Hutter (2021), section 6.
    """

    def __init__(self, num_choices: int, device: torch.device | str = "cpu") -> None:
        if num_choices < 2:
            raise ConfigurationError(f"num_choices={num_choices}: a policy needs at least 2 choices.")
        self.logits = torch.zeros(num_choices, device=device, requires_grad=True)

    @property
    def action_space(self) -> Discrete:
        """Of one slot."""
        return Discrete(len(self.logits))

    def keep(self) -> Tensor:
        """``1 - softmax(s)_i``, ``[k]``: the paper's scale, ``1 - 1/k`` at the start; its sum is ``k - 1``."""
        return 1 - torch.softmax(self.logits.detach(), 0)

    def probabilities(self) -> Tensor:
        """Chance of each choice, ``[k]``."""
        return self.keep() / (len(self.logits) - 1)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Log chance of each choice for given logits, ``[k]``, differentiable; finite for any finite logits."""
        # log(1 - softmax_i) = log of the sum of the other exponentials, minus log of the sum of all.
        k = len(logits)
        others = logits.expand(k, k).masked_fill(torch.eye(k, dtype=torch.bool, device=logits.device), -torch.inf)
        return torch.logsumexp(others, 1) - torch.logsumexp(logits, 0) - torch.log(torch.tensor(k - 1.0))

    def log_probability(self, actions: Tensor, logits: Tensor) -> Tensor:
        """Of actions int64 ``[n]`` under given logits: ``[n]``, differentiable."""
        return self.log_probabilities(logits)[actions]

    def sample(self, n: int, generator: Generator) -> Tensor:
        """``n`` independent choices, int64 ``[n]``."""
        return torch.multinomial(self.probabilities().clamp_min(0), n, replacement=True, generator=generator)
