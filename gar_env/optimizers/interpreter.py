"""Formulas at work: running means, random numbers that all rows share, and two ways to compute many rules at once.

Layout: ``[R, P]``, a row is a training run and holds all its parameters, filled up with zeros to whole vectors of 64:
an element is rounded alike whatever stands beside it. Rows of one rule and one seed follow each other: a slab.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from gar_env.errors import ConfigurationError
from gar_env.optimizers.draws import Draws
from gar_env.optimizers.formula import Call, Leaf, Node, walk
from gar_env.optimizers.functions import BINARY, MOMENTS, OPERANDS, UNARY, Moment
from gar_env.registry import check_choice, check_positive, shown

VECTOR = 64
"""Rows are whole multiples of it."""

WAYS = ("auto", "loop", "grouped")


@dataclass(frozen=True)
class Semantics:
    """What a formula leaves open.

    Args:
        betas: Decays of the running means of ``g``, ``g**2`` and ``g**3``, each at least 0 and below 1.
        epsilon: Added to the root of ``v`` in Adam and RMSProp.
        bias_correction: Whether running means are divided by ``1 - beta**t``.
    """

    betas: tuple[float, float, float] = (0.9, 0.999, 0.999)
    epsilon: float = 1e-8
    bias_correction: bool = True

    def __post_init__(self) -> None:
        check_positive("epsilon", self.epsilon)
        fits = isinstance(self.betas, tuple | list) and len(self.betas) == len(MOMENTS)
        if not fits or any(isinstance(b, bool) or not isinstance(b, int | float) or not 0 <= b < 1 for b in self.betas):
            raise ConfigurationError(f"betas={shown(self.betas)} must be three numbers, at least 0 and below 1 each.")


class Step(NamedTuple):
    """One node of a program.

    Args:
        node: What it computes.
        inputs: Numbers of the steps that it reads.
        draw: The number of its draw; -1 if it draws nothing.
        compute: From the moment and the inputs' values to its own.
    """

    node: Node
    inputs: tuple[int, ...]
    draw: int
    compute: Callable[[Moment, list[Tensor]], Tensor]


def program(node: Node) -> list[Step]:
    """A tree, each different subtree once; the last step is the result."""
    found, places, draws = [], {}, itertools.count()
    for one in walk(node):
        random, compute = _leaf(one) if isinstance(one, Leaf) else _call(one)
        inputs = () if isinstance(one, Leaf) else tuple(places[inner] for inner in one.inputs)
        places[one] = len(found)
        draw = next(draws) if random else -1
        found.append(Step(one, inputs, draw, partial(compute, draw)))
    return found


Computation = Callable[[int, Moment, list[Tensor]], Tensor]
"""From the number of a draw, the moment, and the inputs' values."""


def _leaf(node: Leaf) -> tuple[bool, Computation]:
    """Whether it draws, and how it is computed."""
    value = node.value
    if value is None:
        operand = OPERANDS[node.name]
        return operand.random, lambda draw, at, _: operand.compute(at, draw)
    if node.name == "w":
        return False, lambda _, at, __: at.w * value
    return False, lambda _, at, __: at.g.new_full((), value).expand_as(at.g)


def _call(node: Call) -> tuple[bool, Computation]:
    if node.name in BINARY:
        binary = BINARY[node.name].compute
        return False, lambda _, __, inputs: binary(*inputs)
    function = UNARY[node.name]
    constants = [] if node.constant is None else [node.constant]
    if not function.random:
        return False, lambda _, __, inputs: function.compute(*inputs, *constants)
    return True, lambda draw, at, inputs: function.compute(*inputs, *constants, at.uniform(draw))


def run(steps: Sequence[Step], at: Moment) -> Tensor:
    """The value of a program."""
    values: list[Tensor] = []
    for step in steps:
        values.append(step.compute(at, [values[i] for i in step.inputs]))
    return values[-1]


Memory = dict[str, Tensor]
"""``[R, P]`` by the name of the moment."""


def remember(g: Tensor, memory: Memory, semantics: Semantics) -> Memory:
    """The running means after ``g``, ``[R, P]``, not corrected; those that ``memory`` has."""
    found = {}
    for power, (name, beta) in enumerate(zip(MOMENTS, semantics.betas, strict=True), start=1):
        if name in memory:
            value = g if power == 1 else g.square() if power == 2 else g.square() * g
            found[name] = memory[name] * beta + (1 - beta) * value
    return found


@dataclass(frozen=True, eq=False)
class Slab:
    """Rows of one rule and one seed.

    Args:
        rows: Where they are.
        steps: The rule's program.
        memory: Running means that it reads.
        draws: Of the seed.
    """

    rows: slice
    steps: list[Step]
    memory: tuple[str, ...]
    draws: Draws


@dataclass(eq=False)
class Interpreter:
    """Updates of all rows, by their own rules.

    Args:
        slabs: One behind the other.
        semantics: What formulas leave open.
        total_steps: T of decays.
        way: ``"loop"``: rule by rule, in a CPU's caches. ``"grouped"``: one call for each function and depth, for a
            GPU. ``"auto"``: by device. Both give the same numbers, on a CPU bit for bit.
    """

    slabs: list[Slab]
    semantics: Semantics
    total_steps: int | None
    way: str = "auto"
    _plan: Plan | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_choice("way", self.way, WAYS)

    def remember(self, g: Tensor, memory: Memory) -> Memory:
        """:func:`remember`, of rows whose rules read it; of others it stays as it is."""
        if self._groups(g):
            return remember(g, memory, self.semantics)
        found = {name: torch.zeros_like(value) for name, value in memory.items()}
        for slab in self.slabs:
            own = {name: memory[name][slab.rows] for name in slab.memory}
            for name, value in remember(g[slab.rows], own, self.semantics).items():
                found[name][slab.rows] = value
        return found

    def updates(self, g: Tensor, w: Tensor, memory: Memory, taken: Tensor, ages: Tensor | None = None) -> Tensor:
        """``u`` in ``theta <- theta - step_size * u``, ``[R, P]``.

        Args:
            g: Gradients ``[R, P]``.
            w: Parameters ``[R, P]``.
            memory: Of :meth:`remember`, after this gradient.
            taken: int64 ``[R]``: how many steps each row has taken.
            ages: int64 ``[R, P]``: for how many of them each parameter had a gradient; by default all.

        Raises:
            ConfigurationError: If rows of one slab are at different steps.
        """
        counts = taken.tolist()
        for slab in self.slabs:
            if len(set(counts[slab.rows])) > 1:
                raise ConfigurationError(
                    f"Rows {slab.rows.start} to {slab.rows.stop - 1} follow one rule and are at different steps, which "
                    "decays and random numbers depend on. Move them together."
                )
        sizes = {slab.rows.stop - slab.rows.start for slab in self.slabs}
        left = {}
        for name, beta in zip(MOMENTS, self.semantics.betas, strict=True):
            if name in memory and self.semantics.bias_correction:
                counts_of = taken[:, None] if ages is None else ages
                left[name] = (1 - beta ** (counts_of + 1).double()).to(g)

        def means(rows: slice, names: Iterable[str]) -> Memory:
            return {name: memory[name][rows] / left[name][rows] if left else memory[name][rows] for name in names}

        if self._groups(g) and len(sizes) == 1 and len(set(counts)) == 1:
            return self._grouped(g, w, means(slice(None), memory), counts[0], sizes.pop())
        found = torch.empty(g.shape, dtype=g.dtype, device=g.device)
        for slab in self.slabs:
            rows = slab.rows
            at = self._moment(g[rows], w[rows], means(rows, slab.memory), counts[rows.start], slab.draws)
            found[rows] = run(slab.steps, at)
        return found

    def _groups(self, g: Tensor) -> bool:
        return self.way == "grouped" or (self.way == "auto" and g.device.type != "cpu")

    def _moment(self, g: Tensor, w: Tensor, means: Memory, step: int, draws: Draws) -> Moment:
        def drawn(kind: str, draw: int) -> Tensor:
            return draws.of(kind, step, draw).to(g.dtype)

        uniform, normal = (partial(drawn, kind) for kind in ("uniform", "normal"))
        return Moment(g, w, means, self.semantics.epsilon, step, self.total_steps, uniform, normal)

    def _grouped(self, g: Tensor, w: Tensor, means: Memory, step: int, size: int) -> Tensor:
        if self._plan is None:
            self._plan = Plan.of(self.slabs, g.device)
        plan, count = self._plan, len(self.slabs)
        shape = count, size, g.shape[1]
        g, w = g.view(shape), w.view(shape)
        means = {name: value.view(shape) for name, value in means.items()}
        registers = g.new_empty(plan.registers, *shape[1:])
        for group in plan.groups:
            own = {name: value[group.slabs] for name, value in means.items()}
            at = self._moment(g[group.slabs], w[group.slabs], own, step, group.draws)
            registers[group.out] = group.step.compute(at, [registers[places] for places in group.inputs])
        return registers[plan.results].view(-1, g.shape[2])


class Group(NamedTuple):
    """Nodes that are computed by one call: of one depth, one function, one draw."""

    step: Step
    slabs: Tensor
    inputs: list[Tensor]
    out: slice
    draws: Draws


class Plan(NamedTuple):
    """All nodes of all slabs, in groups."""

    groups: list[Group]
    registers: int
    results: Tensor

    @classmethod
    def of(cls, slabs: Sequence[Slab], device: torch.device) -> Plan:
        """For programs side by side."""
        kinds: dict[tuple, list[tuple[int, int]]] = {}
        for number, slab in enumerate(slabs):
            depths: list[int] = []
            for place, step in enumerate(slab.steps):
                depths.append(1 + max((depths[i] for i in step.inputs), default=-1))
                node = step.node
                what = (node.name, node.constant if isinstance(node, Call) else node.value)
                drawn = step.draw, slab.draws.base if step.draw >= 0 else 0
                kinds.setdefault((depths[-1], *what, *drawn), []).append((number, place))
        places, groups, start = {}, [], 0
        for members in (kinds[kind] for kind in sorted(kinds, key=lambda kind: (kind[0], repr(kind)))):
            places.update({member: start + i for i, member in enumerate(members)})
            number, place = members[0]
            step = slabs[number].steps[place]
            inputs = [
                torch.tensor([places[n, slabs[n].steps[p].inputs[i]] for n, p in members], device=device)
                for i in range(len(step.inputs))
            ]
            which = torch.tensor([n for n, _ in members], device=device)
            groups.append(Group(step, which, inputs, slice(start, start + len(members)), slabs[number].draws))
            start += len(members)
        results = torch.tensor([places[n, len(slab.steps) - 1] for n, slab in enumerate(slabs)], device=device)
        return cls(groups, start, results)


def filled(width: int) -> int:
    """The next whole number of vectors."""
    return -(-width // VECTOR) * VECTOR


def flat(tensors: Sequence[Tensor], rows: int) -> Tensor:
    """Tensors ``[R, ...]`` side by side, ``[R, P]``, filled up with zeros."""
    parts = [tensor.reshape(rows, -1) for tensor in tensors]
    width = sum(part.shape[1] for part in parts)
    missing = filled(width) - width
    return torch.cat([*parts, parts[0].new_zeros(rows, missing)], 1) if missing else torch.cat(parts, 1)
