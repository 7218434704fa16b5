"""Alignment of gradients that are there anyway, one per row: tasks' updates, runs' gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gar_env.alignment.direction import Direction
from gar_env.errors import DirectionMismatchError


def align_rows(gradients: Mapping[str, Tensor], direction: Direction) -> Tensor:
    """Dot each row's gradient with one direction in parameter space.

    Args:
        gradients: ``{name: [n, *shape]}``.
        direction: ``{name: [*shape]}``, one for each of these names.

    Returns:
        ``[n]``.

    Raises:
        DirectionMismatchError: If names or shapes differ.

    Example:
        >>> rows = {"w": torch.tensor([[1.0, 2.0], [3.0, 0.0]])}
        >>> align_rows(rows, {"w": torch.tensor([1.0, 10.0])})
        tensor([21.,  3.])
    """
    odd = sorted(gradients.keys() ^ direction.keys())
    if odd:
        raise DirectionMismatchError(f"Row gradients and direction differ in {', '.join(odd)}. Pass the same names.")
    for name, g in gradients.items():
        if g.shape[1:] != direction[name].shape:
            raise DirectionMismatchError(
                f"{name} is {list(g.shape[1:])} in each row and {list(direction[name].shape)} in the direction."
            )
    return torch.stack([g.reshape(len(g), -1) @ direction[name].flatten() for name, g in gradients.items()]).sum(0)
