"""What each token of a sequence did: the sequence's alignment, token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gar_env.learner import Repeat
from gar_env.learner.losses import TokenCrossEntropy

LENGTH = 5e-4
"""Of the step in parameter space, each way: between rounding and curvature."""


@torch.no_grad()
def token_alignment(repeat: Repeat, direction: Mapping[str, Tensor]) -> Tensor:
    r"""``r_ij = < grad l_ij(theta_t), d >``, ``l_ij`` token j's part of sequence i's mean loss: rows sum to its GAR.

    By a central difference of two forward passes over the paid batch at ``theta_t``, in its precision: on float32
    off by some thousandths of the rewards' length. Weights of examples multiply.

    Args:
        repeat: The step that is paid, of a network of tokens.
        direction: The gradient that pays, by parameter name.

    Returns:
        float32 ``[n, T]``; 0 of padding, and along a gradient that vanished. NaN along one that is not finite.
    """
    length = torch.stack([g.square().sum() for g in direction.values()]).sum().sqrt()
    paid = repeat.paid
    loss = TokenCrossEntropy(paid.batch.targets)
    if not 0 < float(length) < math.inf:
        vanished = float(length) == 0
        return torch.full(paid.batch.targets.shape, 0.0 if vanished else math.nan, device=paid.losses.device)
    epsilon = LENGTH / length
    moved = [
        {n: p + way * epsilon * direction[n] if n in direction else p for n, p in repeat.before.items()}
        for way in (1, -1)
    ]
    above, below = (loss.of_tokens(repeat.outputs(parameters).float()) for parameters in moved)
    change = (above - below) / (2 * epsilon)
    return change if paid.weights is None else change * paid.weights[:, None]
