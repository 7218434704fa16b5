"""What is minimised, per example."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gar_env.data import Batch
from gar_env.errors import ConfigurationError
from gar_env.registry import shown


@dataclass(frozen=True)
class CrossEntropy:
    """Each example's cross entropy; a class rather than a closure, so that tapes can be pickled."""

    targets: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits ``[n, classes]`` to losses ``[n]``.

        Raises:
            ConfigurationError: If the network's output is no logits for these targets.
        """
        n = len(self.targets)
        low, top = map(int, self.targets.aminmax()) if n else (0, 0)
        if n == 0 or low < 0 or self.targets.is_floating_point():
            raise ConfigurationError(f"targets are {shown(self.targets)}, from {low} on; expected labels from 0.")
        if logits.ndim != 2 or len(logits) != n or logits.shape[1] <= top:
            raise ConfigurationError(
                f"The network returned {list(logits.shape)} for {n} examples with labels up to {top}; expected logits "
                f"[{n}, classes]. Build it for the data's number of classes."
            )
        return F.cross_entropy(logits, self.targets, reduction="none")


@dataclass(frozen=True)
class WeightedCrossEntropy(CrossEntropy):
    """Each example's cross entropy times its weight.

    Args:
        targets: int64 ``[n]``.
        weights: ``[n]``.
    """

    weights: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits ``[n, classes]`` to ``w_i l_i``, ``[n]``."""
        return super().__call__(logits) * self.weights


def losses_of(batch: Batch, weights: Tensor | None) -> CrossEntropy:
    """The losses of a batch as a function of the logits; ``weights`` is ``[n]``."""
    return CrossEntropy(batch.targets) if weights is None else WeightedCrossEntropy(batch.targets, weights)
