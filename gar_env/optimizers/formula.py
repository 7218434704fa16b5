"""Formulas of update rules: trees, read from text and written as text, in one form for all that are the same."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NoReturn

from gar_env.errors import ConfigurationError, FormulaError
from gar_env.optimizers.functions import BINARY, OPERANDS, SYMBOLS, UNARY
from gar_env.registry import did_you_mean, shown

GAMMA = "\N{GREEK SMALL LETTER GAMMA}"
HAT = "\N{COMBINING CIRCUMFLEX ACCENT}"
ALIASES = {
    **{"g²": "g2", "g³": "g3", f"m{HAT}": "m", f"v{HAT}": "v", GAMMA: "gamma", f"{GAMMA}{HAT}": "gamma"},
    **{"adam": "Adam", "rmsprop": "RMSProp"},
}
"""Other spellings of operands."""

MINUS, ATOM = 3, 5

DEEPEST, LONGEST = 100, 400
"""Formulas may be nested so often, and have so many numbers, names and symbols."""


@dataclass(frozen=True)
class Leaf:
    """An operand.

    Args:
        name: Registered; or ``"number"``, or ``"w"``: the parameters times a scale.
        value: Of the number, or the scale.
    """

    name: str
    value: float | None = None


@dataclass(frozen=True)
class Call:
    """A function of one or two trees.

    Args:
        name: Registered.
        inputs: One or two.
        constant: Of a unary function that takes one.
    """

    name: str
    inputs: tuple[Node, ...]
    constant: float | None = None


Node = Leaf | Call


def call(name: str, *inputs: Node, constant: float | None = None) -> Call:
    """A :class:`Call`, briefly."""
    return Call(name, inputs, constant)


def number(value: float) -> str:
    """As short as it can be read back: ``1``, ``0.1``, ``1e-3``."""
    text = f"{value:g}" if 0.01 <= abs(value) < 1e6 or value == 0 else f"{value:e}"
    if float(text) != value:
        text = repr(value)
    mantissa, e, power = text.partition("e")
    if not e:
        return text
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(power)}"


def write(node: Node, least: int = 0) -> str:
    """The formula of a tree; reading it gives the tree back.

    Args:
        node: The tree.
        least: What binds less tightly is put in parentheses.
    """
    if isinstance(node, Leaf):
        if node.value is None:
            return node.name
        tenths = [k for k in (1, 2) if node.value == 10.0**-k]  # 1e-1w, as smaller ones
        if node.name == "w":
            return f"1e-{tenths[0]}w" if tenths else f"{number(node.value)}w"
        return number(node.value)
    if node.name == "neg":
        text, own = f"-{write(node.inputs[0], MINUS)}", MINUS
    elif node.name in UNARY or not BINARY[node.name].symbol:
        inside = [write(one) for one in node.inputs]
        inside += [] if node.constant is None else [number(node.constant)]
        return f"{node.name}({', '.join(inside)})"
    else:
        symbol = BINARY[node.name].symbol
        own = SYMBOLS[symbol][1]
        left, right = node.inputs
        if symbol == "^":  # what is raised is an atom; the exponent goes as far as it can
            text = f"{write(left, ATOM)}^{write(right, MINUS)}"
        else:
            text = f"{write(left, own)} {symbol} {write(right, own + 1)}"
    return f"({text})" if own < least else text


TOKEN = re.compile(
    r"\s*(?:(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)(w?)|([^\W\d][\w\u0302²³]*)|(.))", re.IGNORECASE
)
"""A number, with or without w; a name; anything else."""


def read(text: str) -> Node:
    """The tree of a formula.

    Raises:
        FormulaError: If it cannot be read; the message shows the column.

    Example:
        >>> write(read("g*exp(sign(g) * sign(m))"))
        'g * exp(sign(g) * sign(m))'
        >>> read("g * expp(m)")
        Traceback (most recent call last):
        gar_env.errors.FormulaError: The formula cannot be read at column 5: no function is called 'expp'. Did you \
mean 'exp'?
          g * expp(m)
              ^
    """
    if not isinstance(text, str):
        raise FormulaError(f"A formula is text, such as 'g * exp(sign(g) * sign(m))'; found {shown(text)}.")
    return _Reader(text).formula()


class _Reader:
    """Recursive descent over the tokens of one formula."""

    def __init__(self, text: str) -> None:
        self.text, self.depth = text, 0
        self.tokens = [(found.group(0).strip(), found) for found in TOKEN.finditer(text) if found.group(0).strip()]
        self.at = 0

    def formula(self) -> Node:
        if len(self.tokens) > LONGEST:
            self.at = LONGEST
            self.refuse(f"it has more than {LONGEST} numbers, names and symbols.")
        node = self.sum()
        if self.at < len(self.tokens):
            self.refuse(f"{self.next!r} is too much, or an operator before it is missing.")
        return node

    @property
    def next(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def column(self, back: int = 0) -> int:
        at = self.at - back
        if at >= len(self.tokens):
            return len(self.text.rstrip())
        found = self.tokens[at][1]
        return found.start() + len(found.group(0)) - len(found.group(0).lstrip())

    def refuse(self, why: str, back: int = 0) -> NoReturn:
        column = self.column(back)
        low = max(0, column - 60)
        piece = self.text[low : column + 60].replace("\n", " ")
        raise FormulaError(
            f"The formula cannot be read at column {column + 1}: {why}\n  {piece}\n  {' ' * (column - low)}^"
        )

    def take(self, wanted: str) -> None:
        if self.next != wanted:
            self.refuse(f"expected {wanted!r}{f', found {self.next!r}' if self.next else ', and it ends'}.")
        self.at += 1

    def sum(self) -> Node:
        node = self.product()
        while self.next in ("+", "-"):
            symbol, self.at = self.next, self.at + 1
            node = call(SYMBOLS[symbol][0], node, self.product())
        return node

    def product(self) -> Node:
        node = self.signed()
        while self.next in ("*", "/"):
            symbol, self.at = self.next, self.at + 1
            node = call(SYMBOLS[symbol][0], node, self.signed())
        return node

    def signed(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            self.refuse(f"it is nested more than {DEEPEST} deep.")
        if self.next == "-":
            self.at += 1
            node: Node = call("neg", self.signed())
        else:
            node = self.atom()
            if self.next == "^":
                self.at += 1
                node = call("pow", node, self.signed())
        self.depth -= 1
        return node

    def atom(self) -> Node:
        if self.at >= len(self.tokens):
            self.refuse("it ends where an operand should be.")
        word, found = self.tokens[self.at]
        self.at += 1
        if word == "(":
            node = self.sum()
            self.take(")")
            return node
        if found.group(1):
            value = float(found.group(1))
            if not math.isfinite(value):
                self.refuse(f"{word} is too large.", 1)
            return Leaf("w" if found.group(2) else "number", value)
        if not found.group(3):
            self.refuse(f"{word!r} is no operand.", 1)
        if self.next == "(":
            return self.function(word)
        if word == "w":
            return Leaf("w", 1.0)
        name = ALIASES.get(word, word)
        if name not in OPERANDS:
            known = [*OPERANDS, "1", "2", "1e-3w"]
            self.refuse(f"no operand is called {word!r}.{did_you_mean(word, known)} Known: {', '.join(known)}.", 1)
        return Leaf(name)

    def function(self, name: str) -> Node:
        if name not in UNARY and name not in BINARY:
            known = [*UNARY, *(one for one in BINARY if not BINARY[one].symbol)]
            self.refuse(f"no function is called {name!r}.{did_you_mean(name, known)}", 1)
        self.at += 1
        first = self.sum()
        if name in BINARY:
            self.take(",")
            node = call(name, first, self.sum())
        elif UNARY[name].constants:
            self.take(",")
            text, found = self.tokens[self.at] if self.at < len(self.tokens) else ("", None)
            if found is None or not found.group(1) or found.group(2):
                self.refuse(f"{name} takes a number after its operand, such as {number(UNARY[name].constants[0])}.")
            constant = float(text)
            if not 0 < constant < (1 if UNARY[name].random else math.inf):
                self.refuse(f"{text} must be above 0{' and below 1' if UNARY[name].random else ''}.")
            self.at += 1
            node = call(name, first, constant=constant)
        else:
            node = call(name, first)
        self.take(")")
        return node


def walk(node: Node) -> list[Node]:
    """Each different subtree once, inputs before what reads them."""
    found: dict[Node, None] = {}

    def visit(one: Node) -> None:
        if one in found:
            return
        for inner in one.inputs if isinstance(one, Call) else ():
            visit(inner)
        found[one] = None

    visit(node)
    return list(found)


def check_tree(node: Node) -> None:
    """Refuse a tree that names what is not registered, or a function with another number of inputs.

    Raises:
        ConfigurationError: With what does not fit.
    """
    for one in walk(node):
        if isinstance(one, Leaf):
            if (one.name in ("number", "w")) != (one.value is not None):
                raise ConfigurationError(f"{shown(one)} is no operand: a number and w have a value, and no others.")
            if one.value is None:
                OPERANDS[one.name]
            elif not 0 <= one.value < math.inf:
                raise ConfigurationError(f"{shown(one)} must be finite and at least 0; a minus is the function neg.")
            continue
        count = 1 if one.name in UNARY else 2
        function = UNARY[one.name] if one.name in UNARY else BINARY[one.name]
        if len(one.inputs) != count or bool(function.constants) != (one.constant is not None):
            raise ConfigurationError(f"{one.name} takes {count} inputs{' and a constant' * bool(function.constants)}.")
