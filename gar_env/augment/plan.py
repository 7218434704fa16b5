"""What happens to each image of a batch: operation, strength, sign and place, for every place in the sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from PIL import Image
from torch import Generator, Tensor

from gar_env.augment.spaces import STRENGTHS, SearchSpace, check_strength, is_whole
from gar_env.errors import ConfigurationError
from gar_env.registry import shown


@dataclass(frozen=True, eq=False)
class Plan:
    """A sequence of up to ``p`` operations for each of ``n`` images, with everything that was drawn at random in it.

    Build it with :meth:`sample` or :meth:`choose`.

    Args:
        space: What the numbers of the operations mean.
        height: Of the images it is for.
        width: Likewise.
        operations: int64 ``[n, p]``, numbers in ``space``; column by column, as they are applied.
        strengths: int64 ``[n, p]``, 0..30.
        keep: bool ``[n, p]``, whether it is applied at all.
        negative: bool ``[n, p]``, the sign of those that have one.
        corners: int64 ``[n, p, 2]``, ``(x, y)`` of those that happen at a place.

    Raises:
        ConfigurationError: If a shape or type does not fit; on the CPU also if a number is out of range (elsewhere that
            would have to wait for the device).
    """

    space: SearchSpace
    height: int
    width: int
    operations: Tensor
    strengths: Tensor
    keep: Tensor
    negative: Tensor
    corners: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.space, SearchSpace):
            raise ConfigurationError(f"space={shown(self.space)} must be a SearchSpace: load_space(name).")
        for name in ("operations", "strengths", "keep", "negative", "corners"):
            if not isinstance(getattr(self, name), Tensor):
                raise ConfigurationError(f"{name}={shown(getattr(self, name))} must be a tensor.")
        shape = self.operations.shape
        if len(shape) != 2 or 0 in shape:
            raise ConfigurationError(f"operations must be [images, places], none of them 0; found {list(shape)}.")
        if not (type(self.height) is type(self.width) is int) or min(self.height, self.width) < 1:
            raise ConfigurationError(
                f"height={shown(self.height)} and width={shown(self.width)} must be at least 1 pixel, whole numbers."
            )
        for name, dtype, trailing in (
            ("operations", torch.int64, ()),
            ("strengths", torch.int64, ()),
            ("keep", torch.bool, ()),
            ("negative", torch.bool, ()),
            ("corners", torch.int64, (2,)),
        ):
            value = getattr(self, name)
            if value.shape != (*shape, *trailing) or value.dtype != dtype or value.device != self.device:
                raise ConfigurationError(
                    f"{name} must be {dtype} {[*shape, *trailing]} on {self.device}; found {value.dtype} "
                    f"{list(value.shape)} on {value.device}."
                )
        if self.device.type == "cpu":
            _check_range("operations", self.operations, len(self.space), f"the space {self.space.name!r} has")
            _check_range("strengths", self.strengths, STRENGTHS, "there are")
            for axis, (name, size) in enumerate((("x", self.width), ("y", self.height))):
                _check_range(f"corners ({name})", self.corners[..., axis], size, "the image has")

    @property
    def n(self) -> int:
        """How many images it is for."""
        return len(self.operations)

    @property
    def places(self) -> int:
        """How many operations an image can get, ``p``."""
        return self.operations.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.operations.device

    @property
    def applied(self) -> Tensor:
        """bool ``[n, p]``: kept, and not at a strength that changes nothing."""
        noops = _tables(self.space, self.device)[1]
        return self.keep & ~noops.take(self.operations * STRENGTHS + self.strengths)

    @classmethod
    def choose(
        cls,
        space: SearchSpace,
        operations: Tensor,
        strengths: Tensor,
        keep: Tensor,
        *,
        height: int,
        width: int,
        generator: Generator,
    ) -> Plan:
        """Decided operations; signs are drawn by a fair coin, places uniformly: the centre of a square falls anywhere.

        Args:
            space: What to choose from.
            operations: As above.
            strengths: Likewise.
            keep: Likewise.
            height: Of the images.
            width: Likewise.
            generator: On the device of the others.
        """
        device = operations.device
        coins = torch.rand(3, *operations.shape, generator=generator, device=device)
        plan = cls(
            space,
            height,
            width,
            operations,
            strengths,
            keep,
            coins[0] < 0.5,
            torch.zeros(*operations.shape, 2, dtype=torch.int64, device=device),
        )
        values = _tables(space, device)[0].take(operations * STRENGTHS + strengths)
        sides = ((coins[1], width), (coins[2], height))
        corners = [(coin * side - values / 2).clamp(0, side - 1) for coin, side in sides]
        return replace(plan, corners=torch.stack(corners, 2).long())

    @classmethod
    def sample(
        cls,
        space: SearchSpace,
        n: int,
        *,
        height: int,
        width: int,
        generator: Generator,
        num_operations: int = 2,
        strength: int | None = None,
        keep_probability: float = 1.0,
    ) -> Plan:
        """Operations uniformly without replacement, strengths uniformly.

        Nothing waits for the device of the generator.

        Args:
            space: What to choose from.
            n: How many images, at least 1.
            height: Of the images.
            width: Likewise.
            generator: Decides the device too.
            num_operations: For each image, at most as many as there are.
            strength: The same for all, 0..30; ``None`` draws each.
            keep_probability: Chance of each operation to be applied.

        Raises:
            ConfigurationError: If a number is out of range.
        """
        if not (is_whole(n) and is_whole(num_operations)) or n < 1 or not 1 <= num_operations <= len(space):
            raise ConfigurationError(
                f"n={n} must be a whole number, at least 1, num_operations={num_operations} in 1..{len(space)}, the "
                f"size of the space {space.name!r}."
            )
        if not 0 <= keep_probability <= 1:
            raise ConfigurationError(f"keep_probability={keep_probability} must be in [0, 1].")
        if strength is not None:
            check_strength(strength)
        device, shape = generator.device, (n, num_operations)
        return cls.choose(
            space,
            draw_operations(space, n, num_operations, generator),
            torch.full(shape, strength, device=device)
            if strength is not None
            else torch.randint(STRENGTHS, shape, generator=generator, device=device),
            torch.rand(shape, generator=generator, device=device) < keep_probability,
            height=height,
            width=width,
            generator=generator,
        )

    def describe(self, i: int) -> list[str]:
        """What is applied to image ``i``, in order: ``["rotate -45 degrees", "cutout 7 pixels at (3, 0)"]``.

        Raises:
            ConfigurationError: If there is no image ``i``.
        """
        described = []
        for name, strength, negative, corner in self._steps(i):
            place = f" at {corner}" if self.space[name].op.placed else ""
            described.append(self.space.describe(name, strength, negative=negative) + place)
        return described

    def to_pillow(self, i: int) -> Callable[[Image.Image], Image.Image]:
        """A function from Pillow image to Pillow image that does with Pillow what is planned for image ``i``.

        Raises:
            ConfigurationError: If there is no image ``i``; from the function, if an image has another size.
        """
        steps = [
            (self.space[name].op, self.space.value(name, strength, negative=negative), corner)
            for name, strength, negative, corner in self._steps(i)
        ]

        def replay(image: Image.Image) -> Image.Image:
            if image.size != (self.width, self.height):
                raise ConfigurationError(
                    f"The plan is for images of {self.height}x{self.width} pixels (height x width); found "
                    f"{image.height}x{image.width}."
                )
            for op, value, corner in steps:
                image = op.pillow(image, value, corner) if op.placed else op.pillow(image, value)
            return image

        return replay

    def _steps(self, i: int) -> list[tuple[str, int, bool, tuple[int, int]]]:
        if not -self.n <= i < self.n:
            raise ConfigurationError(f"There is no image {i}; the plan is for {self.n}: 0..{self.n - 1}.")
        columns = (self.operations[i], self.strengths[i], self.negative[i], self.corners[i], self.keep[i])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [(self.space.names[op], k, minus, (x, y)) for op, k, minus, (x, y), kept in rows if kept]

    def to(self, device: torch.device | str) -> Plan:
        """The same plan on ``device``."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


def draw_operations(space: SearchSpace, n: int, places: int, generator: Generator) -> Tensor:
    """For each image different operations, all equally likely: int64 ``[n, places]``; nothing waits for the device."""
    noise = torch.rand(n, len(space), generator=generator, device=generator.device)
    return noise.argsort(1)[:, :places]


@lru_cache(maxsize=32)
def _tables(space: SearchSpace, device: torch.device) -> tuple[Tensor, Tensor]:
    """Values float32 and whether they change nothing, both ``[operations * 31]``, copied to the device once."""
    values = [float(choice.value(k)) for choice in space.choices for k in range(STRENGTHS)]
    noops = [choice.is_noop(k) for choice in space.choices for k in range(STRENGTHS)]
    return torch.tensor(values, device=device), torch.tensor(noops, device=device)


def _check_range(name: str, values: Tensor, limit: int, there_are: str) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= limit:
        raise ConfigurationError(f"{name} go from {low} to {high}, but {there_are} {limit}: 0..{limit - 1}.")
