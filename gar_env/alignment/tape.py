"""A tape: what is kept of one recorded pass, until the direction is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gar_env.alignment.direction import Direction, trainable_parameters
from gar_env.errors import LossShapeError, StaleTapeError

Losses = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Tape(ABC):
    """One recorded pass over ``n`` examples: forward, and backward of the mean loss.

    Args:
        network: The recorded network; its parameters may move on before the tape is read.
        losses: Each example's loss at the recorded parameters, detached, ``[n]``.
        batch_gradient: A copy of the mean loss's gradient, for the conservation check.
    """

    network: nn.Module
    losses: Tensor
    batch_gradient: dict[str, Tensor]

    why_lost: ClassVar[str]
    """What to think of, and to do, when the parts do not add up to the batch gradient."""

    @property
    def n(self) -> int:
        """How many examples were recorded."""
        return len(self.losses)

    @abstractmethod
    def entries(self, direction: Direction) -> dict[tuple[str, ...], Tensor]:
        """Each example's alignment ``[n]``, in parts: ``{names of the parameters a part covers: [n]}``.

        Together the parts cover every trainable parameter once; ``align`` adds them up and checks each.
        """


def backward_of_mean(network: nn.Module, losses: Tensor) -> dict[str, Tensor]:
    """Backpropagate the mean of ``losses``; add to ``.grad`` as usual; return a copy of this pass's part alone."""
    parameters = trainable_parameters(network)
    earlier = {name: p.grad for name, p in parameters.items()}
    for p in parameters.values():
        p.grad = None
    fresh = {}
    try:
        losses.mean().backward()
        for name, p in parameters.items():
            # A copy: optimizers with Nesterov momentum write into .grad, and then the check would compare with that.
            fresh[name] = torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
    finally:
        for name, p in parameters.items():
            before = earlier[name]
            if before is not None:
                p.grad = before if name not in fresh else before.add_(fresh[name])
    return fresh


class Kept:
    """A tensor that must not be overwritten until it is read: its version is watched.

    Args:
        tensor: Kept as it is, detached, not copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()
        self.version = tensor._version

    @property
    def stale(self) -> bool:
        """Whether somebody wrote into the tensor since."""
        return self.tensor._version != self.version

    def __getstate__(self) -> dict[str, Any]:
        return {"tensor": self.tensor, "stale": self.stale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A loaded tensor counts its versions anew; without this every loaded tape would look overwritten.
        self.tensor = state["tensor"]
        self.version = -1 if state["stale"] else self.tensor._version


def keep(tree: Any) -> Any:
    """The same arguments with every tensor :class:`Kept`."""
    return tree_map(lambda leaf: Kept(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def unkept(tree: Any, label: str) -> Any:
    """The tensors of :func:`keep` again.

    Raises:
        StaleTapeError: If one was overwritten; ``label`` says whose it was.
    """

    def read(leaf: Any) -> Any:
        if not isinstance(leaf, Kept):
            return leaf
        if leaf.stale:
            raise StaleTapeError(
                f"The input of {label} was overwritten in place after it was recorded. Keep each batch in its own "
                "tensor until its rewards are computed."
            )
        return leaf.tensor

    return tree_map(read, tree)


def sum_per_example(products: Tensor) -> Tensor:
    """``[n, ...]`` to ``[n]``."""
    return products.reshape(len(products), -1).sum(1)


def check_losses(losses: Tensor, inputs: tuple) -> None:
    """Refuse losses that are not one number per example.

    Raises:
        LossShapeError: With what was found and how to reduce it.
    """
    expected = next((len(x) for x in inputs if isinstance(x, Tensor) and x.ndim), None)
    if not isinstance(losses, Tensor) or losses.ndim != 1 or (expected is not None and len(losses) != expected):
        found = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise LossShapeError(
            f"loss must return one number per example, shape [{'n' if expected is None else expected}]; found {found}. "
            "Use reduction='none', and take the mean over every other dimension: losses.flatten(1).mean(1)."
        )
    if not losses.requires_grad:
        raise LossShapeError(
            "The losses depend on no trainable parameter. Call record outside torch.no_grad(), on a network with "
            "parameters that require gradients."
        )
