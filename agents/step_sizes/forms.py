"""What a learned controller can be: functions from statistics and a few weights to the logarithm of a step size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from gar_env.registry import Registry

Seen = Mapping[str, Tensor]
"""Features by name, ``[R]`` each: :data:`gar_env.envs.STEP_SIZE_FEATURES`."""

RISE = 0.7
"""Largest of the log step size in one step of ``multiply``: a factor of two."""

BIAS = -4.605170185988091  # log 0.01


class Form(ABC):
    """A family of controllers; one of them is a list of weights, the bias last."""

    features: ClassVar[tuple[str, ...]]
    """What the weights, but for the bias, belong to."""

    start: ClassVar[tuple[float, ...]]
    """Weights before anything is learned."""

    deviations: ClassVar[tuple[float, ...]]
    """How far from them the first samples are."""

    reads: ClassVar[tuple[str, ...]] = ()
    """What it needs beside its features."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the weights."""
        return (*cls.features, "bias")

    @classmethod
    def weighed(cls, weights: Tensor, seen: Seen) -> Tensor:
        """``weights . features + bias``, ``[R]``, of weights ``[R, d]``."""
        found = weights[:, -1]
        for place, name in enumerate(cls.features):
            found = found + weights[:, place] * seen[name]
        return found

    @classmethod
    @abstractmethod
    def log_step_size(cls, weights: Tensor, seen: Seen) -> Tensor:
        """The step sizes' logarithms, ``[R]``.

        Args:
            weights: ``[R, d]``.
            seen: What it :attr:`reads`, and its features; ``log_step_size`` is that of the last step.
        """


FORMS: Registry[type[Form]] = Registry("form of controller")
register_form = FORMS.register

PAPER = ("predicted_change", "predicted_change_uncertainty", "disagreement", "disagreement_uncertainty")
DIRECTION = ("direction_change", "direction_change_uncertainty", "disagreement", "disagreement_uncertainty")


@register_form("constant")
class Constant(Form):
    """``log eta = b``: one learned step size for everything. What the others have to be better than."""

    features = ()
    start, deviations = (BIAS,), (1.5,)

    @classmethod
    def log_step_size(cls, weights: Tensor, seen: Seen) -> Tensor:
        """See :class:`Form`."""
        return cls.weighed(weights, seen)


@register_form("absolute")
class Absolute(Form):
    """``log eta_t = theta . phi_t + b``, with the paper's four features.

    The predicted change is that of the last step size, so its own past moves the controller.

    Source:
        Daniel, Taylor & Nowozin (2016); the bias is that of "Automated dynamic algorithm configuration" (Adriaensen et
        al., 2022).
    """

    features = PAPER
    start, deviations = (0.0, 0.0, 0.0, 0.0, BIAS), (0.1, 0.1, 0.1, 0.1, 1.5)

    @classmethod
    def log_step_size(cls, weights: Tensor, seen: Seen) -> Tensor:
        """See :class:`Form`."""
        return cls.weighed(weights, seen)


@register_form("direction")
class Direction(Absolute):
    """:class:`Absolute` with the predicted change per unit of step size, which forgets what the step size was.

    With weights -1/2 and 1/2 of change and disagreement it does not depend on the scale of parameters, inputs or loss.
    """

    features = DIRECTION


@register_form("multiply")
class Multiply(Form):
    """``log eta_t = log eta_{t-1} + clip(theta . phi_t + b, -0.7, 0.7)``: at most about twice or half the last one.

    It starts from the run's own initial step size, which all other forms forget.
    """

    features = PAPER
    reads = ("log_step_size",)
    start, deviations = (0.0,) * 5, (0.1, 0.1, 0.1, 0.1, 0.3)
    fall: ClassVar[float] = RISE

    @classmethod
    def log_step_size(cls, weights: Tensor, seen: Seen) -> Tensor:
        """See :class:`Form`."""
        return seen["log_step_size"] + cls.weighed(weights, seen).clamp(-cls.fall, RISE)


@register_form("multiply-fast")
class MultiplyFast(Multiply):
    """:class:`Multiply` that may fall by a factor of twenty at once: a step that is too large does its damage now."""

    fall = 3.0


@register_form("relative")
class Relative(Form):
    """``log eta_t = (disagreement - direction_change) / 2 + theta . phi_t + b``: without a scale by construction.

    The step at which the predicted changes spread as far as the losses do, times what is learned from two features that
    have no scale either: neither rescaled parameters, inputs or losses nor the update rule's own scaling change what a
    weight means. Ours; see the documentation for what it was chosen on.
    """

    features = ("coherence", "relative_disagreement")
    reads = ("direction_change", "disagreement")
    start, deviations = (0.0, 0.0, -2.3), (0.1, 0.1, 1.0)

    @classmethod
    def log_step_size(cls, weights: Tensor, seen: Seen) -> Tensor:
        """See :class:`Form`."""
        return (seen["disagreement"] - seen["direction_change"]) / 2 + cls.weighed(weights, seen)
