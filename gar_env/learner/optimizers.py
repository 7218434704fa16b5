"""Optimizers and step size schedules by name, from ``torch.optim``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch

from gar_env.errors import ConfigurationError, UnknownNameError
from gar_env.registry import check_choice, did_you_mean, shown

SCHEDULES = ("constant", "cosine", "linear")

_OPTIMIZERS = {
    name.lower(): thing
    for name, thing in vars(torch.optim).items()
    if inspect.isclass(thing) and issubclass(thing, torch.optim.Optimizer) and thing is not torch.optim.Optimizer
}


def optimizer_of(name: str) -> type[torch.optim.Optimizer]:
    """The class of ``torch.optim``, in any case.

    Raises:
        UnknownNameError: If there is none.
        ConfigurationError: If it needs more than a gradient.
    """
    kind = _OPTIMIZERS.get(name.lower()) if isinstance(name, str) else None
    if kind is None:
        raise UnknownNameError(
            f"No optimizer is called {shown(name)}.{did_you_mean(str(name).lower(), _OPTIMIZERS)}\n"
            f"Known: {', '.join(sorted(_OPTIMIZERS))}."
        )
    if kind in (torch.optim.LBFGS, torch.optim.SparseAdam):
        raise ConfigurationError(f"optimizer={name!r} needs more than one dense gradient a step. Choose another.")
    return kind


def build_optimizer(
    name: str,
    parameters: Iterable[torch.nn.Parameter],
    *,
    step_size: float,
    momentum: float | None,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """An optimizer of ``torch.optim`` by its name, in any case.

    Args:
        name: ``"sgd"`` (with Nesterov momentum), ``"adamw"``, ...
        parameters: What it moves.
        step_size: Its ``lr``.
        momentum: Its ``momentum``. Default: 0.9 for SGD, their own for others; refused where there is none.
        weight_decay: Its ``weight_decay``.

    Raises:
        UnknownNameError: If ``torch.optim`` has no such optimizer.
        ConfigurationError: If it needs more than a gradient, or has no such option.
    """
    kind = optimizer_of(name)
    accepted = inspect.signature(kind).parameters
    options: dict[str, Any] = {"lr": step_size}
    if "weight_decay" in accepted:
        options["weight_decay"] = weight_decay
    elif weight_decay:
        raise ConfigurationError(f"optimizer={name!r} has no weight decay. Pass weight_decay=0.")
    if kind is torch.optim.SGD:
        options["momentum"] = 0.9 if momentum is None else momentum
        options["nesterov"] = options["momentum"] > 0
    elif momentum is not None:
        if "momentum" not in accepted:
            raise ConfigurationError(f"optimizer={name!r} has no momentum option. Leave momentum out.")
        options["momentum"] = momentum
    try:
        return kind(parameters, **options)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"optimizer={name!r} cannot be built with {options}: {error}") from error


def check_schedule(name: str, *, warmup_steps: int, num_steps: int) -> None:
    """Refuse a schedule that :func:`step_size_factor` cannot follow.

    Raises:
        ConfigurationError: If the name is unknown, or the warm-up is longer than training.
    """
    check_choice("schedule", name, SCHEDULES)
    if not 0 <= warmup_steps <= num_steps:
        raise ConfigurationError(
            f"warmup_steps={warmup_steps} must be between 0 and the {num_steps} SGD steps of a run."
        )


def step_size_factor(step: int, name: str, *, warmup_steps: int, num_steps: int) -> float:
    """What the step size is multiplied by at one SGD step: a linear warm-up, then constant, or down to 0.

    Args:
        step: From 0.
        name: ``"constant"``, ``"cosine"`` (half of one) or ``"linear"``.
        warmup_steps: Steps from ``1 / warmup_steps`` of the step size up to all of it.
        num_steps: Steps in all; where it is 0.

    Example:
        >>> [round(step_size_factor(t, "cosine", warmup_steps=2, num_steps=6), 3) for t in (0, 1, 2, 4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if name == "constant":
        return 1.0
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    if name == "linear":
        return max(0.0, 1 - progress)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
