"""What a pass is given, and what its loss returns: calls and checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gar_env.alignment.direction import trainable_parameters
from gar_env.errors import LossShapeError, UnsupportedLayerError

Losses = Callable[[Any], Tensor]
Inputs = Tensor | tuple | Mapping[str, Any]


def call(network: Callable[..., Any], inputs: tuple | Mapping[str, Any]) -> Any:
    """The network's output for positional or named inputs."""
    return network(**inputs) if isinstance(inputs, Mapping) else network(*inputs)


def lengths_of(inputs: tuple | Mapping[str, Any]) -> list[int]:
    """The first dimension of every tensor among the inputs."""
    values = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    return [len(x) for x in tree_leaves(values) if isinstance(x, Tensor) and x.ndim]


def rows_of(inputs: tuple | Mapping[str, Any]) -> int | None:
    """How many examples the inputs hold, if all tensors agree on it."""
    lengths = set(lengths_of(inputs))
    return lengths.pop() if len(lengths) == 1 else None


def check_parameters(network: nn.Module) -> None:
    """Refuse a network without anything to align.

    Raises:
        LossShapeError: If no parameter is trained.
        UnsupportedLayerError: If parameters are complex.
    """
    parameters = trainable_parameters(network)
    if not parameters:
        raise LossShapeError("The network has no trainable parameter, so its losses have no gradient to align.")
    numbers = [name for name, p in parameters.items() if p.is_complex()]
    if numbers:
        raise UnsupportedLayerError(f"Complex parameters are not supported: {', '.join(numbers)}. Freeze them.")


def check_losses(losses: Any, inputs: tuple | Mapping[str, Any], *, per_token: bool = False) -> None:
    """Refuse losses that are not one number per example.

    Args:
        losses: What the loss returned.
        inputs: Of the network.
        per_token: Whether more dimensions than the first are allowed.

    Raises:
        LossShapeError: With what was found and how to reduce it.
    """
    lengths = lengths_of(inputs)
    fits = isinstance(losses, Tensor) and losses.ndim >= 1 and (losses.ndim == 1 or per_token)
    if not fits or (lengths and len(losses) not in lengths):
        found = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise LossShapeError(
            f"loss must return one number per example, shape [{lengths[0] if lengths else 'n'}]; found {found}. Use "
            "reduction='none', and take the mean over every other dimension: losses.flatten(1).mean(1). For one entry "
            "per token, shape [n, T], pass way='forward' or way='finite_difference'."
        )
    if len(losses) == 0:
        raise LossShapeError("The batch is empty. Record at least one example.")
    if not losses.requires_grad:
        raise LossShapeError(
            "The losses depend on no trainable parameter. Call record outside torch.no_grad(), on a network with "
            "parameters that require gradients."
        )
