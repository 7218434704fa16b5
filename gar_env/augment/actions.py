"""How a slot's choices of operations are written as one row of whole numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gar_env.augment.plan import Plan
from gar_env.augment.spaces import STRENGTHS, SearchSpace


class Choices(NamedTuple):
    """What ``n`` slots choose at ``p`` places.

    Args:
        num_operations: int64 ``[n]``, 1..p; places beyond it mean nothing.
        operations: int64 ``[n, p]``, numbers in the search space.
        keep: bool ``[n, p]``, whether they are applied.
        strengths: int64 ``[n, p]``, 0..30.
    """

    num_operations: Tensor
    operations: Tensor
    keep: Tensor
    strengths: Tensor

    @property
    def counted(self) -> Tensor:
        """bool ``[n, p]``: which places are among the first ``num_operations``."""
        return torch.arange(self.operations.shape[1], device=self.num_operations.device) < self.num_operations[:, None]

    @property
    def repeated(self) -> Tensor:
        """bool ``[n, p]``: which places name an operation that an earlier place that counts has named already."""
        same = self.operations[:, :, None] == self.operations[:, None, :]  # [n, p, earlier p]
        return (same.tril(-1) & self.counted[:, None, :]).any(2) & self.counted

    @property
    def applied(self) -> Tensor:
        """bool ``[n, p]``: kept, counted, and not repeated."""
        return self.keep & self.counted & ~self.repeated


@dataclass(frozen=True)
class ActionLayout:
    """The row ``(num_operations - 1, operation, keep, strength, operation, keep, strength, ...)``.

    An operation that an earlier place of the same slot has named (kept or not) is not applied again: sequences are
    without replacement, as the paper samples them, whatever an agent says.

    Args:
        space: What to choose from.
        places: The most operations that an image can get.

    Example:
        >>> from gar_env.augment import SPACES
        >>> ActionLayout(SPACES["ra"], 2).nvec
        (2, 14, 2, 31, 14, 2, 31)
    """

    space: SearchSpace
    places: int

    @property
    def nvec(self) -> tuple[int, ...]:
        """How many values each entry has."""
        return (self.places, *(len(self.space), 2, STRENGTHS) * self.places)

    @property
    def names(self) -> tuple[str, ...]:
        """What each entry is."""
        per_place = ((f"operation_{i}", f"keep_{i}", f"strength_{i}") for i in range(1, self.places + 1))
        return ("num_operations", *(name for place in per_place for name in place))

    def read(self, actions: Tensor) -> Choices:
        """int64 ``[n, 1 + 3 p]`` to choices."""
        rows = actions[:, 1:].unflatten(1, (self.places, 3))
        return Choices(actions[:, 0] + 1, rows[..., 0], rows[..., 1] > 0, rows[..., 2])

    def write(self, choices: Choices) -> Tensor:
        """Choices to int64 ``[n, 1 + 3 p]``."""
        rows = torch.stack([choices.operations, choices.keep.long(), choices.strengths], 2)
        return torch.cat([choices.num_operations[:, None] - 1, rows.flatten(1)], 1)

    def plan(self, actions: Tensor, *, height: int, width: int, generator: Generator) -> Plan:
        """What the actions do to images of that size; signs and places are drawn."""
        choices = self.read(actions)
        return Plan.choose(
            self.space,
            choices.operations,
            choices.strengths,
            choices.applied,
            height=height,
            width=width,
            generator=generator,
        )
