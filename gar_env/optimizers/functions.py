"""What update rules are made of: operands, unary and binary functions, one line of algebra each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gar_env.errors import ConfigurationError
from gar_env.registry import Registry, shown

DELTA = 1e-8
"""Added where a function has no value at 0."""


@dataclass(eq=False)
class Moment:
    """What operands read in one step: tensors ``[..., P]``, in which the last axis is that of the parameters.

    Args:
        g: Gradient.
        w: Parameters.
        means: Running means of ``g`` (``"m"``), ``g**2`` (``"v"``) and ``g**3`` (``"gamma"``), bias-corrected if the
            semantics say so; those that the rule reads.
        epsilon: Added to roots of ``v``.
        step: How many steps have been taken.
        total_steps: T of decays; ``None`` if nobody said.
        uniform: The k-th draw of this step, uniform in [0, 1), ``[P]``: the same for all rows.
        normal: Likewise, standard normal.
    """

    g: Tensor
    w: Tensor
    means: Mapping[str, Tensor]
    epsilon: float
    step: int
    total_steps: int | None
    uniform: Callable[[int], Tensor]
    normal: Callable[[int], Tensor]

    @property
    def progress(self) -> float:
        """``t / T`` in [0, 1]; rules with decays are refused where nobody says T: :meth:`Rule.check_horizon`."""
        assert self.total_steps is not None
        return min(self.step / self.total_steps, 1.0)


@dataclass(frozen=True)
class Operand:
    """A leaf of a rule.

    Args:
        compute: From the moment, and the number of its draw where it is random.
        memory: Which of ``"m"``, ``"v"``, ``"gamma"`` it reads.
        random: Whether it draws.
        decays: Whether it needs a horizon.
        scheduled: Whether it changes with time by itself: a grammar has it with ``decays=True`` alone.
    """

    compute: Callable[[Moment, int], Tensor]
    memory: tuple[str, ...] = ()
    random: bool = False
    decays: bool = False
    scheduled: bool = False


@dataclass(frozen=True)
class Function:
    """An inner node of a rule.

    Args:
        compute: From one tensor (unary) or two (binary), after them the constant where there is one, or the draw.
        constants: Those that a grammar offers; none if it takes none.
        random: Whether it draws uniform numbers.
        commutes: Whether the sides of a binary function may change places.
        odd: Whether ``f(-x) = -f(x)``.
        even: Whether ``f(-x) = f(x)``.
        symbol: Of a binary function, between its sides; a name in front if there is none.
    """

    compute: Callable[..., Tensor]
    constants: tuple[float, ...] = ()
    random: bool = False
    commutes: bool = False
    odd: bool = False
    even: bool = False
    symbol: str = ""


OPERANDS: Registry[Operand] = Registry("operand")
UNARY: Registry[Function] = Registry("unary function")
BINARY: Registry[Function] = Registry("binary function")


MOMENTS = ("m", "v", "gamma")
"""Running means that operands may read."""

SYMBOLS = {"+": ("add", 1), "-": ("sub", 1), "*": ("mul", 2), "/": ("div", 2), "^": ("pow", 4)}
"""Binary functions between their sides: name, and how tightly they bind. A minus in front binds with 3."""


def register_operand(
    name: str,
    *,
    memory: tuple[str, ...] = (),
    random: bool = False,
    decays: bool = False,
    scheduled: bool = False,
) -> Callable[[Callable[[Moment, int], Tensor]], Callable[[Moment, int], Tensor]]:
    """Decorator: a leaf by its name in formulas, from the :class:`Moment` and the number of its draw."""

    def decorate(compute: Callable[[Moment, int], Tensor]) -> Callable[[Moment, int], Tensor]:
        odd = sorted(set(memory) - set(MOMENTS))
        if odd:
            raise ConfigurationError(f"memory={memory} has {odd[0]!r}; running means are {', '.join(MOMENTS)}.")
        OPERANDS.register(_word(name))(Operand(compute, memory, random, decays, scheduled or decays))
        return compute

    return decorate


def register_unary(
    name: str, *, constants: tuple[float, ...] = (), random: bool = False, odd: bool = False, even: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: a function of one tensor by its name, with constants that it may be given."""

    def decorate(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if any(not 0 < c < (1 if random else math.inf) for c in constants):
            raise ConfigurationError(f"constants={constants} must be above 0{', and below 1' * random}.")
        UNARY.register(_word(name))(Function(compute, constants, random, odd=odd, even=even))
        return compute

    return decorate


def register_binary(
    name: str, *, symbol: str = "", commutes: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator: a function of two tensors by its name, written with one of ``+ - * / ^`` or as ``name(x, y)``."""

    def decorate(compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if symbol and SYMBOLS.get(symbol, ("",))[0] != name:
            raise ConfigurationError(
                f"symbol={symbol!r} is another function's, or none of {' '.join(SYMBOLS)}. Leave it out: it is written "
                f"{name}(x, y) then."
            )
        BINARY.register(_word(name))(Function(compute, commutes=commutes, symbol=symbol))
        return compute

    return decorate


def _word(name: str) -> str:
    if not name.isidentifier():
        raise ConfigurationError(f"{shown(name)} is no name for a formula: letters, digits and _, a letter first.")
    return name


# Operands

register_operand("g")(lambda at, _: at.g)
register_operand("g2")(lambda at, _: at.g.square())
register_operand("g3")(lambda at, _: at.g.square() * at.g)
register_operand("m", memory=("m",))(lambda at, _: at.means["m"])
register_operand("v", memory=("v",))(lambda at, _: at.means["v"])
register_operand("gamma", memory=("gamma",))(lambda at, _: at.means["gamma"])


@register_operand("noise", random=True)
def noise(at: Moment, draw: int) -> Tensor:
    """Normal, with a standard deviation of 0.01."""
    return (0.01 * at.normal(draw)).expand_as(at.g)


@register_operand("Adam", memory=("m", "v"))
def adam(at: Moment, _: int) -> Tensor:
    """Kingma & Ba (2015)."""
    return at.means["m"] / (at.means["v"].sqrt() + at.epsilon)


@register_operand("RMSProp", memory=("v",))
def rmsprop(at: Moment, _: int) -> Tensor:
    """Tieleman & Hinton (2012)."""
    return at.g / (at.means["v"].sqrt() + at.epsilon)


@register_operand("linear_decay", decays=True)
def linear_decay(at: Moment, _: int) -> Tensor:
    """``1 - t / T``."""
    return at.g.new_full((), 1 - at.progress).expand_as(at.g)


@register_operand("cosine_decay", decays=True)
def cosine_decay(at: Moment, _: int) -> Tensor:
    """``(1 + cos(pi t / T)) / 2``: the paper's cyclical decay with half a period."""
    return at.g.new_full((), (1 + math.cos(math.pi * at.progress)) / 2).expand_as(at.g)


@register_operand("restart_decay", decays=True)
def restart_decay(at: Moment, _: int) -> Tensor:
    """``(1 + cos(pi (n t mod T) / T)) / 2`` with ``n = 4`` restarts."""
    return at.g.new_full((), (1 + math.cos(math.pi * (4 * at.progress % 1))) / 2).expand_as(at.g)


@register_operand("annealed_noise", random=True, scheduled=True)
def annealed_noise(at: Moment, draw: int) -> Tensor:
    """Normal, with a variance of ``(1 + t)^-0.55``."""
    return ((1 + at.step) ** -0.275 * at.normal(draw)).expand_as(at.g)


# Unary functions

register_unary("neg", odd=True)(lambda x: -x)
register_unary("exp")(torch.exp)
register_unary("log", even=True)(lambda x: (x.abs() + DELTA).log())
register_unary("sqrt", even=True)(lambda x: x.abs().sqrt())
register_unary("clip", constants=(1e-5, 1e-4, 1e-3), odd=True)(lambda x, c: x.clamp(-c, c))
register_unary("drop", constants=(0.1, 0.3, 0.5), random=True, odd=True)(
    lambda x, p, uniform: x * (uniform >= p).to(x.dtype) / (1 - p)
)
register_unary("sign", odd=True)(torch.sign)

# Binary functions

register_binary("add", symbol="+", commutes=True)(torch.add)
register_binary("sub", symbol="-")(torch.sub)
register_binary("mul", symbol="*", commutes=True)(torch.mul)
register_binary("div", symbol="/")(lambda x, y: x / (y + DELTA))
register_binary("pow", symbol="^")(lambda x, y: (x.abs() + DELTA) ** y)
register_binary("left")(lambda x, y: x)
