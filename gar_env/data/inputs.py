"""Inputs in memory, some of them replaced: the data set's own array, and the rows that a corruption changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Inputs:
    """Read as a tensor is: ``inputs[rows]`` is a new tensor. The originals are shared, not copied.

    Args:
        original: ``[n, ...]``.
        replaced: ``[m, ...]``, what stands in for some of them.
        place: int64 ``[n]``, the row in ``replaced`` of each input, or -1; ``None`` if nothing is replaced.

    Example:
        >>> inputs = Inputs(torch.zeros(3, 1, 1, 1, dtype=torch.uint8))
        >>> inputs = inputs.replacing(torch.tensor([1]), torch.full((1, 1, 1, 1), 7, dtype=torch.uint8))
        >>> inputs[torch.tensor([0, 1])].flatten().tolist()
        [0, 7]
    """

    original: Tensor
    replaced: Tensor | None = None
    place: Tensor | None = None

    def __len__(self) -> int:
        return len(self.original)

    def __getitem__(self, rows: Any) -> Tensor:
        inputs = self.original[rows]
        if self.place is None or self.replaced is None:
            return inputs if isinstance(rows, Tensor) else inputs.clone()
        places = self.place[rows]
        there = (places >= 0).view(*places.shape, *(1,) * (inputs.ndim - places.ndim))
        # Not by a mask: that would wait for the device.
        return torch.where(there, self.replaced[places.clamp_min(0)], inputs)

    def replacing(self, rows: Tensor, inputs: Tensor) -> Inputs:
        """With other inputs at ``rows``, int64 ``[k]``."""
        before = 0 if self.replaced is None else len(self.replaced)
        place = torch.full((len(self),), -1) if self.place is None else self.place.clone()
        place[rows] = torch.arange(before, before + len(rows))
        replaced = inputs if self.replaced is None else torch.cat([self.replaced, inputs])
        return replace(self, replaced=replaced, place=place)

    def all(self) -> Tensor:
        """A copy of everything, ``[n, ...]``."""
        return self[torch.arange(len(self), device=self.original.device)]

    def to(self, device: torch.device | str) -> Inputs:
        """The same on ``device``."""
        moved = {name: value.to(device) for name, value in vars(self).items() if value is not None}
        return replace(self, **moved)
