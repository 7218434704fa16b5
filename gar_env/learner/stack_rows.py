"""Rows of a stack in blocks: what their next steps depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gar_env.learner.update_rules import Memory, Tensors, per_row


class Rows(Mapping[str, Tensor]):
    """Stacked tensors by name, ``[R, ...]`` each, in blocks of rows.

    Args:
        blocks: One after the other, all with the same names.
    """

    def __init__(self, blocks: list[dict[str, Tensor]]) -> None:
        self.blocks = blocks

    def __getitem__(self, name: str) -> Tensor:
        """All rows; a copy if there are several blocks."""
        parts = [block[name] for block in self.blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.blocks[0])

    def __len__(self) -> int:
        """How many names."""
        return len(self.blocks[0])


@dataclass(eq=False)
class Block:
    """Some rows: all that their next steps depend on."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    memory: Memory
    steps: Tensor
    generators: list[Generator]
    remembered: Memory

    def move(self, direction: Tensors, step_sizes: Tensor, live: Tensor | None) -> None:
        """See :meth:`gar_env.learner.LearnerStack.move`."""

        def where(moved: Tensor, before: Tensor) -> Tensor:
            return moved if live is None else torch.where(live.view(-1, *(1,) * (moved.ndim - 1)), moved, before)

        for name, d in direction.items():
            before = self.parameters[name]
            self.parameters[name] = where((per_row(step_sizes, d) * d).add_(before), before)
        for kind, values in self.remembered.items():
            self.memory[kind] = {name: where(value, self.memory[kind][name]) for name, value in values.items()}
        self.steps = self.steps + (1 if live is None else live.long())

    def put(self, row: int, fresh: Block) -> None:
        """A run of its own in the place of one row; tensors that others may hold are not written into."""

        def replace(into: dict[str, Tensor], values: dict[str, Tensor]) -> None:
            for name, value in values.items():
                into[name] = into[name].clone()
                into[name][row] = value[0]

        replace(self.parameters, fresh.parameters)
        replace(self.buffers, fresh.buffers)
        for kind, values in fresh.memory.items():
            replace(self.memory[kind], values)
        self.steps = self.steps.clone()
        self.steps[row] = 0
        self.generators[row] = fresh.generators[0]
