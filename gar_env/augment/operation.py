"""What an image operation is, twice: as Pillow does one image, and as tensors do a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gar_env.registry import Registry

Kernel = Callable[..., Tensor]
"""``(images uint8 [m, channels, height, width], parameters [m, ...])`` to new images; with a third argument, int64
``[m, 2]``, for operations that happen at a place."""

Parameters = Callable[[Sequence[float], int, int], Tensor]
"""``(values, height, width)`` to one row of parameters per value, on the CPU."""


def plain_values(values: Sequence[float], height: int, width: int) -> Tensor:
    """float32 ``[k]``: what a kernel is given unless its operation says otherwise."""
    return torch.tensor(values, dtype=torch.float32)


@dataclass(frozen=True)
class Operation:
    """One image operation.

    Args:
        name: As it is registered.
        pillow: ``(image, value)`` to a new Pillow image, or ``(image, value, (x, y))`` for one that happens at a place:
            the reference, in mode ``L`` or ``RGB``.
        kernel: The same for a batch of tensors, equal in every bit. Operations with one kernel are done in one call.
        parameters: From values to what the kernel is given, once per image size.
        unit: Of the value; ``None`` for an operation without strength.
        identity: The value at which nothing changes, if there is one.
        placed: Whether it happens at a place in the image, the plan's corner.
        whole: Whether values must be whole numbers.
        limits: The lowest and the highest value that make sense.
    """

    name: str
    pillow: Callable[..., Image.Image]
    kernel: Kernel
    parameters: Parameters = plain_values
    unit: str | None = None
    identity: float | None = None
    placed: bool = False
    whole: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)

    def describe(self, value: float) -> str:
        """For people: ``"rotate -30 degrees"``."""
        return self.name if self.unit is None else f"{self.name} {value:.4g} {self.unit}"


OPERATIONS: Registry[Operation] = Registry("operation")


def register_op(
    name: str,
    *,
    pillow: Callable[..., Image.Image],
    parameters: Parameters = plain_values,
    unit: str | None = None,
    identity: float | None = None,
    placed: bool = False,
    whole: bool = False,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Callable[[Any], Any]:
    """Decorator that registers a batch kernel as an operation; arguments as in :class:`Operation`.

    ``tests/augment/test_backends.py`` shows how to hold the two against each other.

    Raises:
        DuplicateNameError: If another operation has that name.

    Example:
        >>> from gar_env.augment import OPERATIONS, register_op
        >>> def darken_with_pillow(image, value):
        ...     return image.point(lambda level: max(level - value, 0))
        >>> @register_op("darken", unit="levels", identity=0, pillow=darken_with_pillow)
        ... def darken(images, values):
        ...     return (images.short() - values.short()[:, None, None, None]).clamp_min(0).to(torch.uint8)
        >>> OPERATIONS["darken"].describe(20)
        'darken 20 levels'
    """

    def decorate(kernel: Any) -> Any:
        OPERATIONS.register(name)(Operation(name, pillow, kernel, parameters, unit, identity, placed, whole, limits))
        return kernel

    return decorate
