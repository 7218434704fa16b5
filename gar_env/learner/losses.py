"""What is minimised, per example, and what counts as right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gar_env.data import Batch
from gar_env.errors import ConfigurationError
from gar_env.registry import Registry, shown


@dataclass(frozen=True)
class Loss(ABC):
    """Each example's loss, times its weight, as a function of the network's output.

    A class rather than a closure: what a tape keeps of it can be told.

    Args:
        targets: ``[n, ...]``.
        weights: ``[n]``, ``None`` if all are 1.
    """

    targets: Tensor
    weights: Tensor | None = None

    def __call__(self, outputs: Tensor) -> Tensor:
        """Outputs ``[n, ...]`` to ``w_i l_i``, ``[n]``.

        Raises:
            ConfigurationError: If the network's output does not fit these targets.
        """
        losses = self.each(outputs)
        return losses if self.weights is None else losses * self.weights

    @abstractmethod
    def each(self, outputs: Tensor) -> Tensor:
        """Outputs ``[n, ...]`` to ``l_i``, ``[n]``."""

    @abstractmethod
    def accuracy(self, outputs: Tensor) -> Tensor:
        """Outputs ``[n, ...]`` to what counts as right of each example, ``[n]``; its mean is the accuracy."""

    of_all: ClassVar[bool] = False
    """Whether :meth:`accuracy` needs all examples at once, as a share of their variance does."""


LOSSES: Registry[type[Loss]] = Registry("loss")
register_loss = LOSSES.register


@register_loss("cross_entropy")
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross entropy of logits ``[n, classes]`` with labels int64 ``[n]``; right is the largest logit."""

    def each(self, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        n = len(self.targets)
        low, top = map(int, self.targets.aminmax()) if n else (0, 0)
        if n == 0 or low < 0 or self.targets.is_floating_point():
            raise ConfigurationError(f"targets are {shown(self.targets)}, from {low} on; expected labels from 0.")
        if outputs.ndim != 2 or len(outputs) != n or outputs.shape[1] <= top:
            raise ConfigurationError(
                f"The network returned {list(outputs.shape)} for {n} examples with labels up to {top}; expected logits "
                f"[{n}, classes]. Build it for the data's number of classes."
            )
        return F.cross_entropy(outputs, self.targets, reduction="none")

    def accuracy(self, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return outputs.argmax(1) == self.targets


@register_loss("token_cross_entropy")
@dataclass(frozen=True)
class TokenCrossEntropy(Loss):
    """Mean over an example's tokens of the cross entropy of logits ``[n, T, vocabulary]`` with int64 ``[n, T]``.

    A target of -1 is no token: padding. Right is the share of tokens whose logit is the largest.
    """

    def each(self, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        if self.targets.ndim != 2 or outputs.ndim != 3 or outputs.shape[:2] != self.targets.shape:
            raise ConfigurationError(
                f"The network returned {list(outputs.shape)} for tokens {list(self.targets.shape)}; expected logits "
                f"{[*self.targets.shape, 'vocabulary']}."
            )
        return self.of_tokens(outputs).sum(1)

    def of_tokens(self, outputs: Tensor) -> Tensor:
        """Outputs ``[n, T, vocabulary]`` to each token's part of its example's ``l_i``, ``[n, T]``; 0 of padding."""
        losses = F.cross_entropy(outputs.transpose(1, 2), self.targets, reduction="none", ignore_index=-1)
        return losses / self._count()[:, None]

    def accuracy(self, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return (outputs.argmax(2) == self.targets).sum(1) / self._count()

    def _count(self) -> Tensor:
        return (self.targets >= 0).sum(1).clamp_min(1)


@register_loss("squared_error")
@dataclass(frozen=True)
class SquaredError(Loss):
    """Mean over an example's outputs of the squared error; float targets ``[n, k]``.

    Right is ``1 - error / variance`` with the variance of all targets; its mean is the share of it that is explained, R
    squared.
    """

    of_all = True

    def each(self, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        if outputs.shape != self.targets.shape or not self.targets.is_floating_point():
            raise ConfigurationError(
                f"The network returned {list(outputs.shape)} for targets {shown(self.targets)}; expected an output of "
                "the targets' shape."
            )
        return (outputs - self.targets).square().flatten(1).mean(1)

    def accuracy(self, outputs: Tensor) -> Tensor:
        """See :class:`Loss`."""
        variance = self.targets.flatten(1).var(0, correction=0).mean()
        return 1 - self.each(outputs) / variance.clamp_min(torch.finfo(outputs.dtype).tiny)


def losses_of(batch: Batch, weights: Tensor | None = None, loss: str = "cross_entropy") -> Loss:
    """The losses of a batch as a function of the network's output.

    Args:
        batch: ``n`` examples.
        weights: ``[n]``.
        loss: A registered name.
    """
    return LOSSES[loss](batch.targets, weights)


def measure(loss: str, answers: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Accuracy and mean loss over batches.

    Args:
        loss: A registered name.
        answers: The network's outputs, and targets, batch by batch.

    Returns:
        ``(accuracy, mean loss)``, the same however the examples are batched.
    """
    kind, right, total, n = LOSSES[loss], 0.0, 0.0, 0
    kept: list[tuple[Tensor, Tensor]] = []
    for outputs, targets in answers:
        own = kind(targets)
        total += float(own(outputs).sum())
        n += len(targets)
        if kind.of_all:
            kept.append((outputs, targets))
        else:
            right += float(own.accuracy(outputs).sum(dtype=torch.float64))
    if kind.of_all:
        outputs, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
        right = float(kind(targets).accuracy(outputs).sum(dtype=torch.float64))
    return right / n, total / n
