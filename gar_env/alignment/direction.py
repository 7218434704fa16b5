"""Directions in parameter space: one tensor per trainable parameter, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gar_env.errors import DirectionMismatchError
from gar_env.functional import structure_of
from gar_env.registry import shown

Direction = Mapping[str, Tensor]

RUN = 2**16
"""Entries that a CPU adds up at a time: in a single float32 sum of 38 million it loses 0.2 %. GPUs add in trees."""


def trainable_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a direction has an entry for, each once, by their first name."""
    return structure_of(network).trained


def gradient(network: nn.Module) -> dict[str, Tensor]:
    """The ``.grad`` of each trainable parameter, as a direction. Not copied: read it before the optimizer steps.

    A parameter that the loss did not use has the gradient zero.

    Raises:
        DirectionMismatchError: If it is no network.

    Example:
        >>> network = nn.Linear(2, 1, bias=False)
        >>> network(torch.tensor([[1.0, 2.0]])).sum().backward()
        >>> gradient(network)
        {'weight': tensor([[1., 2.]])}
    """
    if not isinstance(network, nn.Module):
        raise DirectionMismatchError(f"gradient takes a network, an nn.Module; found {shown(network)}.")
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trainable_parameters(network).items()
    }


def check_direction(direction: Direction, parameters: Mapping[str, Tensor]) -> None:
    """Refuse a direction that does not fit.

    Raises:
        DirectionMismatchError: If a parameter has no entry, an entry has no parameter, or shape or device differ.
    """
    if not isinstance(direction, Mapping):
        raise DirectionMismatchError(
            f"direction is {type(direction).__name__}; expected a tensor for each trainable parameter, by name. A "
            "reward signal finds in its evidence only what its needs name, such as Need.TAPE | Need.NEXT_GRADIENT."
        )
    missing = [name for name in parameters if name not in direction]
    if missing:
        raise DirectionMismatchError(
            f"direction has no tensor for {len(missing)} of {len(parameters)} trainable parameters: "
            f"{_some(missing)}.\nPass one per name in network.named_parameters()."
        )
    extra = [name for name in direction if name not in parameters]
    if extra:
        raise DirectionMismatchError(
            f"direction has {len(extra)} tensors that no trainable parameter is called by: {_some(extra)}.\n"
            "Leave out frozen parameters, and give a tied parameter once, by its first name."
        )
    for name, parameter in parameters.items():
        tensor = direction[name]
        if (
            not isinstance(tensor, Tensor)
            or tensor.is_nested
            or tensor.layout is not torch.strided
            or not tensor.is_floating_point()
        ):
            found = f"{tensor.dtype}, {tensor.layout}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise DirectionMismatchError(
                f"direction[{name!r}] is {found}; expected a dense tensor of real floating-point numbers, shaped like "
                f"the parameter: {list(parameter.shape)}."
            )
        if tensor.shape != parameter.shape or tensor.device != parameter.device:
            raise DirectionMismatchError(
                f"direction[{name!r}] is {list(tensor.shape)} on {tensor.device}; "
                f"the parameter is {list(parameter.shape)} on {parameter.device}. Pass it in that shape, there."
            )


def _some(names: list[Any]) -> str:
    listed = ", ".join(map(str, names[:20]))
    return listed + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def dot(a: Direction, b: Direction) -> Tensor:
    """Sum over all entries of both directions' product, a scalar."""
    return torch.stack([torch.sum(a[name] * b[name]) for name in a]).sum()


def norm(a: Direction) -> Tensor:
    """Euclidean length over all entries, a scalar."""
    pieces = [torch.linalg.vector_norm(piece) for t in a.values() for piece in _runs(t)]
    return torch.linalg.vector_norm(torch.stack(pieces))


def _runs(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.reshape(-1).split(RUN) if tensor.numel() > RUN and not tensor.is_cuda else (tensor,)
