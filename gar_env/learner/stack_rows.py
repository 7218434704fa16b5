"""Rows of a stack in blocks: what their next steps depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from gar_env.learner.update_rules import Memory, Tensors, UpdateRule, added, per_row
from gar_env.state import plain


@plain
class Rows(Mapping[str, Tensor]):
    """Stacked tensors by name, ``[R, ...]`` each, in blocks of rows.

    Args:
        blocks: One after the other, all with the same names.
    """

    state_fields = ("blocks",)

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

    def where(self, rows: Tensor, others: Rows) -> Rows:
        """These where ``rows``, bool ``[R]``, and others elsewhere."""
        found, at = [], 0
        for own, other in zip(self.blocks, others.blocks, strict=True):
            size = len(next(iter(own.values())))
            mask, at = rows[at : at + size], at + size
            found.append({name: torch.where(_like(mask, value), value, other[name]) for name, value in own.items()})
        return Rows(found)

    def dot(self, others: Rows) -> Tensor:
        """Row by row with others, ``[R]``."""
        pairs = zip(self.blocks, others.blocks, strict=True)
        return torch.cat(
            [added([(value * other[name]).flatten(1).sum(1) for name, value in own.items()]) for own, other in pairs]
        )


class Direction(Rows):
    """Where the rule goes from here, and what it will remember when it has gone.

    Args:
        blocks: As of :class:`Rows`.
        memories: One for each block.
    """

    def __init__(self, blocks: list[dict[str, Tensor]], memories: list[Memory]) -> None:
        super().__init__(blocks)
        self.memories = memories


def _like(rows: Tensor, value: Tensor) -> Tensor:
    return rows.view(-1, *(1,) * (value.ndim - 1))


def copied(generators: list[Generator]) -> list[Generator]:
    """Others that will draw the same."""
    found = [Generator(generator.device) for generator in generators]
    for copy, generator in zip(found, generators, strict=True):
        copy.set_state(generator.get_state())
    return found


@dataclass(eq=False)
class Block:
    """Some rows: all that their next steps depend on, and the update rule of these."""

    rule: UpdateRule
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    memory: Memory
    steps: Tensor
    generators: list[Generator]
    remembered: Memory

    def move(self, direction: Tensors, step_sizes: Tensor, live: Tensor | None) -> None:
        """See :meth:`gar_env.learner.LearnerStack.move`."""

        def where(moved: Tensor, before: Tensor) -> Tensor:
            return moved if live is None else torch.where(_like(live, moved), moved, before)

        for name, d in direction.items():
            before = self.parameters[name]
            self.parameters[name] = where((per_row(step_sizes, d) * d).add_(before), before)
        for kind, values in self.remembered.items():
            self.memory[kind] = {name: where(value, self.memory[kind][name]) for name, value in values.items()}
        self.steps = self.steps + (1 if live is None else live.long())

    @contextmanager
    def only(self, live: Tensor | None) -> Iterator[None]:
        """Inside, rows pass; statistics and random numbers of rows that are not live are put back, bool ``[R]``."""
        if live is None or bool(live.all()):
            yield
            return
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        states = [(self.generators[row], self.generators[row].get_state()) for row in (~live).nonzero().flatten()]
        try:
            yield
        finally:
            for name, before in buffers.items():
                self.buffers[name] = torch.where(_like(live, before), self.buffers[name], before)
            for generator, state in states:
                generator.set_state(state)

    def only_rows(self, rows: Tensor) -> Block:
        """Copies of these rows, int64 ``[k]``; their generators are the same."""

        def of(values: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: value[rows] for name, value in values.items()}

        generators = [self.generators[row] for row in rows.tolist()]
        memory = {kind: of(values) for kind, values in self.memory.items()}
        rule = self.rule.of_rows(rows.cpu())
        return Block(rule, of(self.parameters), of(self.buffers), memory, self.steps[rows], generators, {})

    def put(self, rows: Tensor, fresh: Block) -> None:
        """Runs of their own in the place of rows, int64 ``[k]``; tensors that others may hold are not written into."""

        def replace(into: dict[str, Tensor], values: dict[str, Tensor]) -> None:
            for name, value in values.items():
                into[name] = into[name].clone()
                into[name][rows] = value

        replace(self.parameters, fresh.parameters)
        replace(self.buffers, fresh.buffers)
        for kind, values in fresh.memory.items():
            replace(self.memory[kind], values)
        self.steps = self.steps.clone()
        self.steps[rows] = 0
        for row, generator in zip(rows.tolist(), fresh.generators, strict=True):
            self.generators[row] = generator
