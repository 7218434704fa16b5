"""Random numbers of update rules: the same for all that train side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.seeding import named_generator


class Draws:
    """Random numbers of steps: the k-th draw of a step depends on seed, step and k alone, and so is the same for all.

    Always drawn on the CPU, one number a parameter; of the last step they are kept.

    Args:
        seed: Of a training run.
        count: P, without filling.
        width: P, filled.
        device: Where they are wanted.
    """

    def __init__(self, seed: int, count: int, width: int, device: torch.device) -> None:
        self.base = named_generator(seed, "update rule").initial_seed()
        self.count, self.width, self.device = count, width, device
        self.generator = torch.Generator()
        self._kept: tuple[int, dict[tuple[str, int], Tensor]] = (-1, {})

    def of(self, kind: str, step: int, draw: int) -> Tensor:
        """``"uniform"`` or ``"normal"``, ``[P]``; zeros where a row is filled up."""
        if self._kept[0] != step:
            self._kept = step, {}
        kept = self._kept[1]
        if (kind, draw) not in kept:
            self.generator.manual_seed((self.base + 1_000_003 * step + 2 * draw + (kind == "normal")) % 2**63)
            numbers = torch.zeros(self.width)
            numbers[: self.count] = (torch.rand if kind == "uniform" else torch.randn)(
                self.count, generator=self.generator
            )
            kept[kind, draw] = numbers.to(self.device)
        return kept[kind, draw]
