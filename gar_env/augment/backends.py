"""Applying a plan: by Pillow image by image, or in tensors, grouped by kernel or without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gar_env.augment.operation import Kernel
from gar_env.augment.plan import Plan
from gar_env.augment.spaces import STRENGTHS, SearchSpace
from gar_env.errors import ConfigurationError, DeviceError
from gar_env.registry import Registry, shown

Backend = Callable[[Plan, Tensor], Tensor]

BACKENDS: Registry[Backend] = Registry("augmentation backend")
register_backend = BACKENDS.register

LARGEST = 32767  # pixels a side: coordinates in 16.16 fixed point


def apply(plan: Plan, images: Tensor, *, backend: str = "torch") -> Tensor:
    """Do to every image what is planned for it.

    Args:
        plan: For ``n`` images of this size.
        images: uint8 ``[n, channels, height, width]`` on the plan's device; one channel (Pillow's mode ``L``) or three.
        backend: ``"torch"``: grouped by kernel; on a GPU it waits once, for the sizes of the groups. ``"masked"``:
            every kernel on every image, chosen by masks; more work, but it never waits, and no shape depends on the
            plan. ``"pillow"``: image by image, on the CPU. All are equal in every bit.

    Returns:
        New images, likewise.

    Raises:
        ConfigurationError: If images are not as above, or the plan is for another batch.
        DeviceError: If plan and images are on different devices.
        UnknownNameError: If there is no such backend.

    Example:
        >>> from gar_env.augment import SPACES
        >>> images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
        >>> plan = Plan.sample(SPACES["wl"], 4, height=32, width=32, generator=torch.Generator().manual_seed(0))
        >>> bool((apply(plan, images) == apply(plan, images, backend="pillow")).all())
        True
    """
    if not isinstance(images, Tensor):
        raise ConfigurationError(
            f"images are {type(images).__name__}; expected a tensor. Use torch.from_numpy(images)."
        )
    if images.dtype != torch.uint8:
        raise ConfigurationError(
            f"images are {images.dtype}; expected torch.uint8, 0..255. Augment before normalising; for floats in "
            "[0, 1], pass (images * 255).round().to(torch.uint8)."
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ConfigurationError(
            f"images are {list(images.shape)}; expected [n, channels, height, width] with 1 channel (gray) or 3 (RGB)."
            + (" Permute channels-last images with images.permute(0, 3, 1, 2)." if images.shape[-1] in (1, 3) else "")
        )
    if 0 in images.shape or max(images.shape[2:]) > LARGEST:
        raise ConfigurationError(
            f"images are {list(images.shape)}; expected at least one image, and 1..{LARGEST} pixels a side."
        )
    if not isinstance(plan, Plan):
        raise ConfigurationError(f"plan={shown(plan)} must be a Plan.")
    found, expected = (len(images), *images.shape[2:]), (plan.n, plan.height, plan.width)
    if found != expected:
        raise ConfigurationError(
            "The plan is for {} images of {}x{} pixels (height x width); found {} of {}x{}. Make a plan for this "
            "batch.".format(*expected, *found)
        )
    if images.device != plan.device:
        raise DeviceError(f"images are on {images.device}, the plan on {plan.device}. Use plan.to(images.device).")
    return BACKENDS[backend](plan, images)


class Group(NamedTuple):
    """Operations that share a kernel.

    Args:
        kernel: Of them all.
        rows: Its parameters, ``[operations * 31 * 2, ...]``, for every strength and sign.
        placed: Whether it wants corners.
    """

    kernel: Kernel
    rows: Tensor
    placed: bool


class Compiled(NamedTuple):
    """A search space for one image size, on one device.

    Args:
        groups: Numbered from 1; group 0 is what is not applied.
        group_of: int64 ``[operations]``.
        first_row_of: int64 ``[operations]``, where an operation's rows start in its group's.
    """

    groups: tuple[Group, ...]
    group_of: Tensor
    first_row_of: Tensor

    def rows_of(self, plan: Plan) -> tuple[Tensor, Tensor]:
        """Group, 0 if not applied, and row of every application; int64 ``[n, p]``."""
        groups = self.group_of.take(plan.operations) * plan.applied
        rows = self.first_row_of.take(plan.operations) + 2 * plan.strengths + plan.negative
        return groups, rows


@lru_cache(maxsize=32)
def compiled(space: SearchSpace, height: int, width: int, device: torch.device) -> Compiled:
    """All parameters of a space, computed on the host in float64, once per image size."""
    tables: dict[Kernel, list[Tensor]] = {}
    group_of, first_row_of, placed = [], [], {}
    for choice in space.choices:
        op = choice.op
        values = [choice.value(k, negative) for k in range(STRENGTHS) for negative in (False, True)]
        own = tables.setdefault(op.kernel, [])
        first_row_of.append(len(own) * len(values))
        group_of.append(list(tables).index(op.kernel) + 1)
        own.append(op.parameters(values, height, width))
        placed[op.kernel] = op.placed
    groups = tuple(Group(kernel, torch.cat(rows).to(device), placed[kernel]) for kernel, rows in tables.items())
    return Compiled(groups, *(torch.tensor(numbers, device=device) for numbers in (group_of, first_row_of)))


LARGE = 96 * 96
"""Pixels above which a CPU takes a few images at a time."""

CACHED = 2**17
"""Numbers of these few: what a kernel makes then fits caches."""

LARGER = 128 * 128
"""Pixels above which it takes one image at a time, through all its operations."""


def _run(group: Group, images: Tensor, rows: Tensor, corners: Tensor) -> Tensor:
    few = max(1, CACHED // images[0].numel())
    if len(images) > few and images[0, 0].numel() > LARGE and images.device.type == "cpu":
        parts = zip(images.split(few), rows.split(few), corners.split(few), strict=True)
        return torch.cat([_run(group, *part) for part in parts])
    parameters = group.rows.index_select(0, rows)
    done = group.kernel(images, parameters, corners) if group.placed else group.kernel(images, parameters)
    if not isinstance(done, Tensor) or done.dtype != torch.uint8 or done.shape != images.shape:
        found = f"{done.dtype} {list(done.shape)}" if isinstance(done, Tensor) else type(done).__name__
        name = getattr(group.kernel, "__name__", repr(group.kernel))
        raise ConfigurationError(
            f"The kernel {name} returned {found} for images {images.dtype} {list(images.shape)}. A kernel returns "
            "images of the same type and shape."
        )
    return done


@register_backend("torch")
def grouped(plan: Plan, images: Tensor) -> Tensor:
    """At each place, images sorted by kernel, each kernel on a contiguous slice; put back in order once, at the end.

    Above :data:`LARGER` pixels on a CPU, image by image.
    """
    space = compiled(plan.space, plan.height, plan.width, images.device)
    groups, rows = space.rows_of(plan)
    if plan.height * plan.width > LARGER and images.device.type == "cpu":
        return _one_by_one(space, groups, rows, plan.corners, images)
    sizes = torch.zeros(plan.places, len(space.groups) + 1, dtype=torch.int64, device=images.device)
    sizes.scatter_add_(1, groups.T, torch.ones_like(groups.T))
    orders = groups.sort(stable=True, dim=0).indices.T.contiguous()  # per place, image numbers sorted by group
    at = torch.arange(plan.n, device=images.device)  # where each image lies now
    current = images
    for place, (idle, *busy) in enumerate(sizes.tolist()):  # the one wait for the device
        if idle == plan.n:
            continue
        order = orders[place]
        current = current.index_select(0, at.index_select(0, order))
        at = torch.empty_like(at).scatter_(0, order, torch.arange(plan.n, device=at.device))
        place_rows, corners = rows[:, place].index_select(0, order), plan.corners[:, place].index_select(0, order)
        start = idle
        for group, size in zip(space.groups, busy, strict=True):
            if size:
                own = current.narrow(0, start, size)
                own.copy_(_run(group, own, place_rows.narrow(0, start, size), corners.narrow(0, start, size)))
                start += size
    return images.clone() if current is images else current.index_select(0, at)


def _one_by_one(space: Compiled, groups: Tensor, rows: Tensor, corners: Tensor, images: Tensor) -> Tensor:
    done = torch.empty(images.shape, dtype=images.dtype)
    for i, numbers in enumerate(groups.tolist()):
        image = images[i : i + 1].clone(memory_format=torch.contiguous_format)  # a kernel may write into it
        for place, number in enumerate(numbers):
            if number:
                at = slice(i, i + 1), place
                image = _run(space.groups[number - 1], image, rows[at], corners[at])
        done[i] = image[0]
    return done


@register_backend("masked")
def masked(plan: Plan, images: Tensor) -> Tensor:
    """Every kernel on every image; no shape depends on the plan, so nothing waits for the device."""
    space = compiled(plan.space, plan.height, plan.width, images.device)
    groups, rows = space.rows_of(plan)
    current = images.clone()
    for place in range(plan.places):
        before, corners = current, plan.corners[:, place]
        for number, group in enumerate(space.groups, start=1):
            chosen = groups[:, place] == number
            done = _run(group, before, rows[:, place] * chosen, corners)  # row 0 where it is not chosen
            current = torch.where(chosen[:, None, None, None], done, current)
    return current


@register_backend("pillow")
def by_pillow(plan: Plan, images: Tensor) -> Tensor:
    """The reference: Pillow, image by image, on the CPU."""
    done = [to_tensor(plan.to_pillow(i)(to_image(image))) for i, image in enumerate(images.cpu())]
    return torch.stack(done).to(images.device)


def to_image(image: Tensor) -> Image.Image:
    """uint8 ``[channels, height, width]`` to a Pillow image, mode ``L`` or ``RGB``."""
    array = image.cpu().numpy()
    return Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def to_tensor(image: Image.Image) -> Tensor:
    """A Pillow image of mode ``L`` or ``RGB`` to uint8 ``[channels, height, width]``.

    Raises:
        ConfigurationError: If it has another mode.
    """
    if image.mode not in ("L", "RGB"):
        raise ConfigurationError(f"The image has mode {image.mode!r}; expected L or RGB. Use image.convert('RGB').")
    array = torch.from_numpy(np.array(image))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1).contiguous()
