"""The strings that a controller writes: groups of two operands, two unary functions and a binary one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator

from gar_env.errors import ConfigurationError
from gar_env.optimizers.formula import Call, Leaf, Node, call, number, read, walk, write
from gar_env.optimizers.functions import BINARY, OPERANDS, UNARY
from gar_env.optimizers.rule import Rule
from gar_env.registry import shown

NUMBERS = (1.0, 2.0)
SCALES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of the parameters as operands."""

SIGNS = ("sign(g)", "sign(m)")
"""Operands too, so that a function may be applied to them."""

KINDS = ("operand", "operand", "unary", "unary", "binary")
"""What stands at each place of a group."""

MOST_GROUPS = 10


@dataclass(frozen=True)
class Grammar:
    """Strings of a fixed length, each a rule.

    A group is ``(operand, operand, unary, unary, binary)``: the unary functions are applied to the operands, and the
    binary one to both. Its result is an operand of later groups; the last one's is the update.

    Args:
        groups: How many, at least 1.
        decays: Whether decays and annealed noise are among the operands.

    Raises:
        ConfigurationError: If ``groups`` is out of range.

    Example:
        >>> grammar = Grammar(groups=2)
        >>> tokens = Rule("PowerSign").encode(grammar)
        >>> len(tokens), len(grammar.vocabulary), str(grammar.decode(tokens))
        (10, 36, 'exp(sign(g) * sign(m)) * g')

    Source:
        Bello, Zoph, Vasudevan & Le (2017), section 3.1.
    """

    groups: int = 2
    decays: bool = False

    def __post_init__(self) -> None:
        if type(self.groups) is not int or not 1 <= self.groups <= MOST_GROUPS:
            raise ConfigurationError(f"groups={shown(self.groups)} must be a whole number from 1 to {MOST_GROUPS}.")

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Those of every group, as they are written."""
        names = [name for name in OPERANDS if self.decays or not OPERANDS[name].scheduled]
        return (*names, *SIGNS, *map(number, NUMBERS), *(write(Leaf("w", scale)) for scale in SCALES))

    @cached_property
    def unary(self) -> tuple[str, ...]:
        """Unary functions, with ``x`` for what they are applied to."""
        found = ["x"]
        for name in UNARY:
            constants = UNARY[name].constants
            found += [f"{name}(x, {number(c)})" for c in constants] if constants else [f"{name}(x)"]
        return tuple(found)

    @cached_property
    def binary(self) -> tuple[str, ...]:
        """Names of binary functions."""
        return tuple(BINARY)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All tokens: operands, results of groups but the last, unary and binary functions."""
        results = tuple(f"group{i + 1}" for i in range(self.groups - 1))
        return (*self.operands, *results, *self.unary, *self.binary)

    @property
    def length(self) -> int:
        """Tokens of a string."""
        return len(KINDS) * self.groups

    def choices(self, place: int) -> range:
        """The tokens that may stand at a place of the string.

        Args:
            place: From 0.
        """
        group, within = divmod(place, len(KINDS))
        kind, first = KINDS[within], len(self.operands)
        if kind == "operand":
            return range(first + group)  # results of earlier groups come behind
        first += self.groups - 1
        if kind == "unary":
            return range(first, first + len(self.unary))
        return range(first + len(self.unary), len(self.vocabulary))

    @cached_property
    def firsts(self) -> tuple[int, ...]:
        """The number of the first token that may stand at each place."""
        return tuple(self.choices(place).start for place in range(self.length))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many tokens there are to choose from at each place."""
        return tuple(len(self.choices(place)) for place in range(self.length))

    def kind(self, place: int) -> str:
        """``"operand"``, ``"unary"`` or ``"binary"``."""
        return KINDS[place % len(KINDS)]

    def random(self, generator: Generator) -> list[int]:
        """A string, each token uniform among those that may stand there."""
        return [
            self.choices(i).start + int(torch.randint(n, (), generator=generator)) for i, n in enumerate(self.sizes)
        ]

    def decode(self, tokens: Sequence[int]) -> Rule:
        """The rule that a string says.

        Args:
            tokens: Numbers of tokens in the vocabulary, :attr:`length` of them.

        Raises:
            ConfigurationError: If there are more or fewer, or one cannot stand where it does.
        """
        if len(tokens) != self.length:
            raise ConfigurationError(
                f"There are {len(tokens)} tokens; a string of {self.groups} groups has {self.length}."
            )
        for place, token in enumerate(tokens):
            if token not in self.choices(place):
                name = self.vocabulary[token] if 0 <= token < len(self.vocabulary) else "no token"
                raise ConfigurationError(
                    f"Token {token} ({name}) stands at place {place}; expected {self.described(place)}."
                )
        results: list[Node] = []
        for start in range(0, self.length, len(KINDS)):
            a, b, f, h, join = (int(token) for token in tokens[start : start + len(KINDS)])
            sides = [self._applied(unary, self._operand(side, results)) for side, unary in ((a, f), (b, h))]
            results.append(call(self.vocabulary[join], *sides))
        return Rule(results[-1])  # pyright: ignore[reportArgumentType]

    def described(self, place: int) -> str:
        """What may stand at a place, for messages."""
        choices = self.choices(place)
        article = "an operand" if self.kind(place) == "operand" else f"a {self.kind(place)} function"
        return f"{article}, {choices.start} to {choices.stop - 1}: {', '.join(self.vocabulary[i] for i in choices)}"

    def encode(self, rule: Rule) -> list[int]:
        """A string for a rule, ``left(1, 1)`` in front where it needs fewer groups; as short as this finds.

        Raises:
            ConfigurationError: If it needs more groups, or has something that the grammar lacks.
        """
        groups: list[tuple[int, int, int, int, int]] = []
        tree = min([*_shapes(rule.canonical.tree), rule.tree], key=self._size)
        self._check_known(tree)
        seen: dict[Node, int] = {}
        self._group(tree if _is_group(tree) else call("left", tree, Leaf("number", 1.0)), groups, seen)
        if len(groups) > self.groups:
            raise ConfigurationError(
                f"{rule} needs {len(groups)} groups, and the grammar has {self.groups}. Use groups={len(groups)}."
            )
        missing, first = self.groups - len(groups), len(self.operands)
        tokens: list[int] = []
        one, identity = self.operands.index("1"), self.choices(2).start
        tokens += missing * [one, one, identity, identity, self.choices(4).start + self.binary.index("left")]
        for group in groups:
            tokens += [token + missing if i < 2 and token >= first else token for i, token in enumerate(group)]
        return tokens

    def _group(self, node: Node, groups: list[tuple[int, int, int, int, int]], seen: dict[Node, int]) -> int:
        """Write a binary call as a group, after those that it reads; its number."""
        if node in seen:
            return seen[node]
        assert isinstance(node, Call)
        (a, f), (b, h) = (self._side(one, groups, seen) for one in node.inputs)
        groups.append((a, b, f, h, self.choices(4).start + self.binary.index(node.name)))
        seen[node] = len(groups) - 1
        return seen[node]

    def _side(self, node: Node, groups: list, seen: dict[Node, int]) -> tuple[int, int]:
        """The operand of one side, and the function that is applied to it."""
        unary = "x"
        if isinstance(node, Call) and node.name in UNARY and write(node) not in self.operands:
            unary = _named(node.name, node.constant)
            node = node.inputs[0]
        function = self.choices(2).start + self.unary.index(unary)
        if write(node) in self.operands:
            return self.operands.index(write(node)), function
        inner = node if _is_group(node) else call("left", node, Leaf("number", 1.0))
        return len(self.operands) + self._group(inner, groups, seen), function

    def _size(self, tree: Node) -> int:
        """Groups that it takes."""
        needed: set[Node] = set()
        for one in walk(tree):
            inside = one.inputs[0] if isinstance(one, Call) and one.name in UNARY else None
            if _is_group(one):
                needed.add(one)
            elif inside in needed or inside is None or write(one) in self.operands:
                continue
            elif isinstance(inside, Call) and write(inside) not in self.operands:
                needed.add(inside)  # a function of a function: the inner one is a group by itself
        return len(needed) + (not _is_group(tree))

    def _check_known(self, tree: Node) -> None:
        for one in walk(tree):
            if isinstance(one, Leaf) and write(one) not in self.operands:
                raise ConfigurationError(
                    f"{write(one)} is not in the grammar. Its operands: {', '.join(self.operands)}."
                    + (" Decays: decays=True." if one.value is None else "")
                )
            if isinstance(one, Call) and one.name in UNARY and _named(one.name, one.constant) not in self.unary:
                known = ", ".join(text for text in self.unary if text.startswith(one.name))
                raise ConfigurationError(f"{_named(one.name, one.constant)} is not in the grammar, which has {known}.")

    def _operand(self, token: int, results: list[Node]) -> Node:
        at = token - len(self.operands)
        return read(self.operands[token]) if at < 0 else results[at]

    def _applied(self, token: int, node: Node) -> Node:
        text = self.vocabulary[token]
        if text == "x":
            return node
        name, _, rest = text[:-1].partition("(x")
        return call(name, node, constant=float(rest[1:]) if rest else None)


def _named(name: str, constant: float | None) -> str:
    return f"{name}(x)" if constant is None else f"{name}(x, {number(constant)})"


def _is_group(node: Node) -> bool:
    return isinstance(node, Call) and node.name in BINARY


def _shapes(node: Node) -> list[Node]:
    """Trees of the same function in which a minus in front of a group stands inside of it."""
    if isinstance(node, Leaf):
        return [node]
    found: list[Node] = []
    if len(node.inputs) == 1:
        found = [Call(node.name, (one,), node.constant) for one in _shapes(node.inputs[0])]
    else:
        lefts, rights = (_shapes(one)[:4] for one in node.inputs)
        found = [call(node.name, a, b) for a in lefts for b in rights]
    inside = node.inputs[0]
    if node.name == "neg" and isinstance(inside, Call):
        for one in _shapes(inside):
            assert isinstance(one, Call)
            a = one.inputs[0]
            if one.name in ("mul", "div"):
                found.append(call(one.name, call("neg", a), one.inputs[1]))
            if one.name == "mul":
                found.append(call("mul", a, call("neg", one.inputs[1])))
            if one.name == "sub":
                found.append(call("sub", one.inputs[1], a))
            if one.name == "add":
                found.append(call("sub", call("neg", a), one.inputs[1]))
            if one.name in UNARY and UNARY[one.name].odd:
                found.append(Call(one.name, (call("neg", a),), one.constant))
    return found
