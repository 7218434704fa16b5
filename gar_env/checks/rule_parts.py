"""Parts of update rules must be pure, elementwise, and what they say of signs and sides."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.errors import ConformanceError, UnknownNameError
from gar_env.optimizers.formula import Call, Leaf, call
from gar_env.optimizers.functions import BINARY, OPERANDS, UNARY, Moment
from gar_env.optimizers.interpreter import program, run

ROWS, WIDTH = 3, 128


def check_rule_part(name: str) -> None:
    """Hold an operand or a function of update rules against what interpreters rely on.

    Its value has the shape and type of the gradient; nothing that it is given changes; an element does not depend on
    the others, nor a row on who stands beside it; and ``odd``, ``even`` and ``commutes`` hold where they are claimed.

    Args:
        name: Registered.

    Raises:
        ConformanceError: With what does not hold.
        UnknownNameError: If nothing is called so.

    Example:
        >>> check_rule_part("clip")
    """
    if name in OPERANDS:
        tree: Leaf | Call = Leaf(name)
    elif name in UNARY:
        constants = UNARY[name].constants
        tree = call(name, Leaf("g"), constant=constants[0] if constants else None)
    elif name in BINARY:
        tree = call(name, Leaf("g"), Leaf("m"))
    else:
        known = ", ".join([*OPERANDS, *UNARY, *BINARY])
        raise UnknownNameError(f"No part of update rules is called {name!r}. Known: {known}.")
    for dtype in (torch.float32, torch.float64):
        at = _moment(dtype)
        before = [at.g.clone(), at.w.clone(), *(value.clone() for value in at.means.values())]
        value = _value(tree, at)
        if value.shape != at.g.shape or value.dtype != dtype:
            raise ConformanceError(
                f"{name}: of {dtype} {list(at.g.shape)} it is {value.dtype} {list(value.shape)}; expected the same."
            )
        if not _same(value, _value(tree, at)):
            raise ConformanceError(f"{name}: the same numbers give others the second time.")
        if any(not torch.equal(a, b) for a, b in zip(before, [at.g, at.w, *at.means.values()], strict=True)):
            raise ConformanceError(f"{name}: it changes what it is given. Return a new tensor.")
        if not _same(value[1:2], _value(tree, _part(at, slice(1, 2)))):
            raise ConformanceError(f"{name}: a row is another one alone, so rows lean on each other.")
        other = _part(at, slice(None))
        other.g[:, 0] += 100
        if not _same(value[:, 1:], _value(tree, other)[:, 1:]):
            raise ConformanceError(f"{name}: an element depends on others. Only what is elementwise can be batched.")
    if name in UNARY:
        _check_signs(name, tree, _moment(torch.float64))
    if name in BINARY and BINARY[name].commutes:
        at = _moment(torch.float64)
        if not _same(_value(tree, at), _value(call(name, Leaf("m"), Leaf("g")), at)):
            raise ConformanceError(f"{name}: it is said to commute, and does not.")


def _check_signs(name: str, tree: Leaf | Call, at: Moment) -> None:
    function, minus = UNARY[name], _part(at, slice(None))
    minus.g.neg_()
    value, other = _value(tree, at), _value(tree, minus)
    if function.odd and not _same(other, -value):
        raise ConformanceError(f"{name}: it is said to be odd, f(-x) = -f(x), and is not.")
    if function.even and not _same(other, value):
        raise ConformanceError(f"{name}: it is said to be even, f(-x) = f(x), and is not.")


def _value(tree: Leaf | Call, at: Moment) -> Tensor:
    return run(program(tree), at)


def _moment(dtype: torch.dtype) -> Moment:
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    means = {name: numbers(ROWS, WIDTH) for name in ("m", "v", "gamma")}
    means["v"] = means["v"].square()
    uniform = torch.rand(WIDTH, generator=generator)
    normal = numbers(WIDTH)
    return Moment(numbers(ROWS, WIDTH), numbers(ROWS, WIDTH), means, 1e-8, 2, 10, lambda _: uniform, lambda _: normal)


def _part(at: Moment, rows: slice) -> Moment:
    """Copies of some rows."""
    means = {name: value[rows].clone() for name, value in at.means.items()}
    more = at.epsilon, at.step, at.total_steps, at.uniform, at.normal
    return Moment(at.g[rows].clone(), at.w[rows].clone(), means, *more)


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
