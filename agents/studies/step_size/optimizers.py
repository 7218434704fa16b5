"""Optimizers that others wrote: hand-set, and without a learning rate. They are paid by nobody, and told nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from gar_env.errors import MissingExtraError

Parameters = Iterable[nn.Parameter]


def _of_package(module: str, name: str, parameters: Parameters, **options: Any) -> Any:
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise MissingExtraError(
            f"{name} is in the package {module}, which cannot be imported ({error}): pip install 'gar-env[stepsize]'."
        ) from error
    return kind(parameters, **options)


OPTIMIZERS: dict[str, Callable[[Parameters], Any]] = {
    "Adam, 0.001": partial(torch.optim.Adam, lr=0.001),
    "RMSprop, 0.001": partial(torch.optim.RMSprop, lr=0.001),
    "Prodigy": partial(_of_package, "prodigyopt", "Prodigy", lr=1.0),
    "D-Adaptation SGD": partial(_of_package, "dadaptation", "DAdaptSGD", lr=1.0),
    "Schedule-free AdamW, 0.0025": partial(_of_package, "schedulefree", "AdamWScheduleFree", lr=0.0025),
}
"""By name, with the learning rates that their authors or torch have for default."""
