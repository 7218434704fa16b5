"""Which examples each run sees, and in which order: its own part of the data, epoch by epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.seeding import named_generator

BLOCK = 64
"""Batches that are laid out at a time: one random draw per batch and row would cost more than small networks do."""


class RunBatches:
    """Batches of R runs. What row ``r`` sees in step ``k`` depends on its seed and ``k`` alone, and is no other state.

    A run has a random part of the data, and goes through it in epochs, each in an order of its own; a batch may hold
    the end of one epoch and the beginning of the next.

    Args:
        rows: R.
        examples: How many there are.
        size: Of a batch.
        device: Of the indices.
    """

    def __init__(self, rows: int, examples: int, size: int, device: torch.device) -> None:
        self.examples, self.size, self.device = examples, size, device
        self._seeds = [0] * rows
        self._generator = torch.Generator()
        self._parts: list[Tensor] = [torch.empty(0, dtype=torch.int64)] * rows
        self._blocks = torch.zeros(rows, BLOCK, size, dtype=torch.int64, device=device)
        self._rows = torch.arange(rows, device=device)
        self._laid = torch.full((rows,), -1, device=device)  # the number of each row's block
        self._epochs: list[tuple[int, Tensor] | None] = [None] * rows  # the last order that was drawn

    def start(self, row: int, seed: int, share: float, *, first: int = 0) -> None:
        """A run begins.

        Args:
            row: Where.
            seed: Its own.
            share: Of the examples that it may see, in (0, 1].
            first: The number of the first example.
        """
        own = named_generator(seed, "batches")
        self._seeds[row], self._laid[row], self._epochs[row] = own.initial_seed(), -1, None
        count = round(share * self.examples)
        self._parts[row] = first + torch.randperm(self.examples, generator=own)[:count]

    def part(self, row: int) -> Tensor:
        """The examples that a run may see, int64 ``[m]``, in no order, on the CPU."""
        return self._parts[row]

    def of(self, steps: Tensor, rows: Tensor) -> Tensor:
        """The examples of each row's next batch, int64 ``[R, size]``; of rows that are not asked for, anything.

        Args:
            steps: int64 ``[R]``: how many batches each row has had.
            rows: bool ``[R]``.
        """
        blocks = steps // BLOCK
        for row in (rows & (self._laid != blocks)).nonzero().flatten().tolist():
            self._blocks[row] = self._lay(row, int(blocks[row]))
            self._laid[row] = blocks[row]
        return self._blocks[self._rows, steps - blocks * BLOCK]

    def _lay(self, row: int, block: int) -> Tensor:
        """A block of one row, ``[BLOCK, size]``."""
        part = self._parts[row]
        at, end, found = block * BLOCK * self.size, (block + 1) * BLOCK * self.size, []
        while at < end:
            epoch, place = divmod(at, len(part))
            some = self._order(row, epoch)[place : place + end - at]
            found.append(some)
            at += len(some)
        return part[torch.cat(found)].view(BLOCK, self.size).to(self.device)

    def _order(self, row: int, epoch: int) -> Tensor:
        kept = self._epochs[row]
        if kept is None or kept[0] != epoch:
            # One generator, seeded anew: making one takes longer than an epoch of few examples.
            self._generator.manual_seed((self._seeds[row] + 1 + epoch) % 2**63)
            kept = self._epochs[row] = epoch, torch.randperm(len(self._parts[row]), generator=self._generator)
        return kept[1]
