"""What an option may be: types, autoreset modes, devices."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args, get_origin, get_type_hints

import torch
from gymnasium.vector import AutoresetMode

from gar_env.errors import ConfigurationError, DeviceError
from gar_env.registry import shown

LARGEST_INT, LARGEST_FLOAT = 2**31, 1e37
"""What torch and NumPy can hold, with room to compute."""


def check_types(config: Any) -> None:
    """Hold each option against its annotation, as dataclasses do not.

    Raises:
        ConfigurationError: If an option has another type, or is a number that is NaN or infinite.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if get_origin(hint) is tuple:
            kind = get_args(hint)[0]
            kinds = (int, float) if kind is float else (kind,)
            fits = isinstance(value, tuple | list)
            if not fits or any(type(item) not in kinds or not abs(item) < LARGEST_INT for item in value):
                raise ConfigurationError(f"{field.name}={shown(value)} must be a tuple of {kind.__name__}.")
            continue
        kinds = get_args(hint) or (hint,)
        plain = [kind for kind in kinds if isinstance(kind, type)]
        if len(plain) < len(kinds) and callable(value):
            continue  # a network builder
        # bool is an int and an int is a fair float, but 2.5 steps or num_steps=True are mistakes.
        fits = type(value) in plain or (type(value) is int and float in plain) or _is_object_of(value, plain)
        names = " or ".join("None" if kind is type(None) else kind.__name__ for kind in plain)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise ConfigurationError(f"{field.name}={shown(value)} must be {names}{', finite' if fits else ''}.")
        largest = (LARGEST_INT if float not in plain else 2**63) if type(value) is int else LARGEST_FLOAT
        if isinstance(value, int | float) and abs(value) >= largest:
            raise ConfigurationError(f"{field.name}={shown(value)} must be {names}, below {largest:g} in size.")


def _is_object_of(value: Any, kinds: list[type]) -> bool:
    """Whether it is of a class of ours, or of a subclass."""
    return any(isinstance(value, kind) for kind in kinds if kind.__module__.startswith("gar_env"))


def parse_autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """``AutoresetMode`` from itself or from a string in any spelling: ``"NextStep"``, ``"next_step"``.

    Raises:
        ConfigurationError: If it is none of the three.
    """
    if isinstance(mode, AutoresetMode):
        return mode
    spelled = {known.value.lower(): known for known in AutoresetMode}
    found = spelled.get(str(mode).replace("_", "").lower())
    if found is None:
        raise ConfigurationError(
            f"autoreset_mode={shown(mode)} is unknown. Choose one of {', '.join(m.value for m in AutoresetMode)}."
        )
    return found


def check_device(device: str) -> torch.device:
    """The device, if it is there.

    Raises:
        DeviceError: If torch cannot put a tensor on it.
    """
    try:
        found = torch.device(device)
        if found.type not in ("cpu", "cuda"):
            raise RuntimeError("Only the CPU and CUDA devices are supported.")
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise DeviceError(
            f"device={shown(device)} is not there: {str(error).splitlines()[0][:200]} Available: {', '.join(there)}."
        ) from error
    return found
