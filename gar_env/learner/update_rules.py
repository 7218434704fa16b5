"""Update rules as pure functions of stacked tensors: row ``r`` of every tensor belongs to run ``r``, and to no other.

A rule turns gradients into directions; the step size is whoever's business it is. ``theta += step_size * direction``.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gar_env.errors import ConfigurationError
from gar_env.registry import Registry, shown

Tensors = Mapping[str, Tensor]
"""By parameter name, ``[R, ...]`` each."""

Memory = dict[str, dict[str, Tensor]]
"""What a rule remembers, by its own names and those of the parameters."""


class UpdateRule(ABC):
    """A rule without a step size.

    Example:
        >>> rule, gradient = Momentum(0.5), {"w": torch.tensor([[1.0], [2.0]])}
        >>> memory, steps = rule.start(gradient), torch.zeros(2, dtype=torch.int64)
        >>> direction, memory = rule.direction(gradient, memory, steps, gradient)
        >>> direction, memory = rule.direction(gradient, memory, steps + 1, gradient)
        >>> direction["w"].tolist()
        [[-1.5], [-3.0]]
    """

    remembers: tuple[str, ...] = ()
    """Names of what is kept of each parameter, of its shape, zeros at the start."""

    def start(self, parameters: Tensors) -> Memory:
        """The memory of runs that have not moved yet."""
        return {name: {key: torch.zeros_like(p) for key, p in parameters.items()} for name in self.remembers}

    @abstractmethod
    def direction(
        self, gradient: Tensors, memory: Memory, steps: Tensor, parameters: Tensors
    ) -> tuple[dict[str, Tensor], Memory]:
        """Where to go, and the memory after it; nothing is changed in place.

        Args:
            gradient: Of the mean loss, weight decay included if there is any.
            memory: Of :meth:`start`, or of the step before.
            steps: int64 ``[R]``, how many steps each run has taken.
            parameters: Where the runs are; more names than the gradient's may be among them.
        """

    def of_rows(self, rows: Tensor) -> UpdateRule:
        """The rule of some rows alone, int64 ``[k]``: another where it tells rows apart."""
        return self


RULES: Registry[type[UpdateRule]] = Registry("update rule")
register_update_rule = RULES.register


def build_rule(rule: str | UpdateRule) -> UpdateRule:
    """A rule by its registered name, with its defaults; one that is built already is returned as it is.

    Raises:
        ConfigurationError: If it is neither.
        UnknownNameError: If no rule is called so.
    """
    if isinstance(rule, UpdateRule):
        return rule
    if not isinstance(rule, str):
        raise ConfigurationError(f"rule={shown(rule)} must be an UpdateRule, or the name of one: {', '.join(RULES)}.")
    return RULES[rule]()


@register_update_rule("sgd")
@dataclass(frozen=True)
class SGD(UpdateRule):
    """Down the gradient."""

    def direction(
        self, gradient: Tensors, memory: Memory, steps: Tensor, parameters: Tensors
    ) -> tuple[dict[str, Tensor], Memory]:
        """See :meth:`UpdateRule.direction`."""
        return {name: -g for name, g in gradient.items()}, {}


@register_update_rule("momentum")
@dataclass(frozen=True)
class Momentum(UpdateRule):
    """``m <- momentum m + g``, then along ``-m``, or ``-(g + momentum m)``: torch's SGD.

    Args:
        momentum: At least 0, below 1.
        nesterov: Look one step ahead.

    Source:
        Sutskever, Martens, Dahl & Hinton (2013), equations 3 and 4, as in ``torch.optim.SGD``.
    """

    momentum: float = 0.9
    nesterov: bool = False
    remembers = ("mean",)

    def __post_init__(self) -> None:
        _check_decays(self, "momentum")

    def direction(
        self, gradient: Tensors, memory: Memory, steps: Tensor, parameters: Tensors
    ) -> tuple[dict[str, Tensor], Memory]:
        """See :meth:`UpdateRule.direction`."""
        mean = {name: memory["mean"][name] * self.momentum + g for name, g in gradient.items()}
        if self.nesterov:
            return {name: -(g + self.momentum * mean[name]) for name, g in gradient.items()}, {"mean": mean}
        return {name: -m for name, m in mean.items()}, {"mean": mean}


@register_update_rule("nesterov")
@dataclass(frozen=True)
class Nesterov(Momentum):
    """:class:`Momentum` that looks ahead."""

    nesterov: bool = True


@register_update_rule("rmsprop")
@dataclass(frozen=True)
class RMSprop(UpdateRule):
    """``v <- decay v + (1 - decay) g^2``, then along ``-g / (sqrt(v) + epsilon)``.

    Args:
        decay: At least 0, below 1.
        epsilon: Added to the root, above 0.
        corrected: Divide ``v`` by ``1 - decay^t``, so that the first steps are no longer than later ones.

    Source:
        Tieleman & Hinton (2012), lecture 6.5; ``torch.optim.RMSprop`` is ``decay=0.99, epsilon=1e-8,
        corrected=False``. The default is that of Daniel, Taylor & Nowozin (2016) as the public code of "Automated
        dynamic algorithm configuration" (Adriaensen et al., 2022) reads it.
    """

    decay: float = 0.9
    epsilon: float = 1e-6
    corrected: bool = True
    remembers = ("square",)

    def __post_init__(self) -> None:
        _check_decays(self, "decay")
        _check_epsilon(self.epsilon)

    def direction(
        self, gradient: Tensors, memory: Memory, steps: Tensor, parameters: Tensors
    ) -> tuple[dict[str, Tensor], Memory]:
        """See :meth:`UpdateRule.direction`."""
        square = {
            name: memory["square"][name] * self.decay + (1 - self.decay) * g.square() for name, g in gradient.items()
        }
        left = 1 - self.decay ** (steps + 1).double() if self.corrected else torch.ones_like(steps).double()
        return {name: -g / ((square[name] / per_row(left, g)).sqrt() + self.epsilon) for name, g in gradient.items()}, {
            "square": square
        }


@register_update_rule("adam")
@dataclass(frozen=True)
class Adam(UpdateRule):
    """``-(m / (1 - mean_decay^t)) / (sqrt(v / (1 - square_decay^t)) + epsilon)``.

    Args:
        mean_decay: Of ``m``, at least 0, below 1.
        square_decay: Of ``v``, likewise.
        epsilon: Added to the root, above 0.

    Source:
        Kingma & Ba (2015), algorithm 1.
    """

    mean_decay: float = 0.9
    square_decay: float = 0.999
    epsilon: float = 1e-8
    remembers = ("mean", "square")

    def __post_init__(self) -> None:
        _check_decays(self, "mean_decay", "square_decay")
        _check_epsilon(self.epsilon)

    def direction(
        self, gradient: Tensors, memory: Memory, steps: Tensor, parameters: Tensors
    ) -> tuple[dict[str, Tensor], Memory]:
        """See :meth:`UpdateRule.direction`."""
        a, b, t = self.mean_decay, self.square_decay, (steps + 1).double()
        mean = {name: memory["mean"][name] * a + (1 - a) * g for name, g in gradient.items()}
        square = {name: memory["square"][name] * b + (1 - b) * g.square() for name, g in gradient.items()}
        return {
            name: -(mean[name] / per_row(1 - a**t, g)) / ((square[name] / per_row(1 - b**t, g)).sqrt() + self.epsilon)
            for name, g in gradient.items()
        }, {"mean": mean, "square": square}


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """``[R]`` to ``[R, 1, ...]``, to be broadcast over a stacked tensor, in its type."""
    return values.to(like).view(-1, *(1,) * (like.ndim - 1))


def added(parts: list[Tensor]) -> Tensor:
    """One after the other: how a sum over a leading dimension is ordered depends on the size of the others."""
    return functools.reduce(torch.add, parts)


def _check_decays(rule: UpdateRule, *names: str) -> None:
    for name in names:
        value = getattr(rule, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ConfigurationError(f"{name}={shown(value)} must be at least 0 and below 1.")


def _check_epsilon(epsilon: float) -> None:
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < 1e37:
        raise ConfigurationError(f"epsilon={shown(epsilon)} must be above 0.")
