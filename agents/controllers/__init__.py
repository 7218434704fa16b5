"""Controllers by name, as ``gar-env train --agent`` knows them."""

from agents.controllers import augmentation, native, optimizer_search, stable_baselines, step_size
from agents.controllers.registry import CONTROLLERS, ControllerOptions, register_controller

__all__ = [
    "CONTROLLERS",
    "ControllerOptions",
    "augmentation",
    "native",
    "optimizer_search",
    "register_controller",
    "stable_baselines",
    "step_size",
]
