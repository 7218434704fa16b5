"""Every option of a training run, written once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from gar_env.alignment import check_way
from gar_env.alignment.ways import check_precision as check_alignment_precision
from gar_env.errors import ConfigurationError
from gar_env.learner.optimizers import SCHEDULES, optimizer_of
from gar_env.learner.precision import check_precision
from gar_env.registry import check_choice, check_positive, shown


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is trained.

    Args:
        optimizer: Any of ``torch.optim`` by name; ``"sgd"`` has Nesterov momentum.
        step_size: Of the optimizer, after the warm-up.
        momentum: Of the optimizer; ``None`` is 0.9 for SGD unless the environment says otherwise, their own for others.
        weight_decay: Of the optimizer.
        schedule: ``"constant"``, ``"cosine"`` or ``"linear"``, both to 0.
        warmup_steps: SGD steps of linear warm-up.
        gradient_clip: Largest length of the gradient that the optimizer sees; rewards see the unclipped one.
        precision: ``"float32"``, or ``"bfloat16"``: mixed precision by ``torch.autocast``; parameters stay float32.
        channels_last: Whether images and convolutions are laid out channels-last, which is often faster.
        batch_norm: Reading of per-example gradients, ``"share"`` or ``"derivative"``:
            :class:`gar_env.alignment.Alignment`.
        alignment_precision: What only pays is computed in, ``"float32"`` or ``"bfloat16"``, likewise; training is the
            same, bit for bit. With the last, ``infos["alignment_error"]`` estimates its relative error.
        way: How it is computed: ``"auto"``, ``"hooks"``, ``"forward"`` or ``"finite_difference"``, likewise. With the
            last, ``infos["alignment_error"]`` estimates its relative error.

    Raises:
        ConfigurationError: If an option is out of range, or contradicts another.
    """

    optimizer: str = "sgd"
    step_size: float = 0.1
    momentum: float | None = None
    weight_decay: float = 5e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    gradient_clip: float | None = None
    precision: str = "float32"
    channels_last: bool = False
    batch_norm: str = "share"
    way: str = "auto"
    alignment_precision: str = "float32"

    def __post_init__(self) -> None:
        for name, kind in (("warmup_steps", int), ("channels_last", bool)):
            if type(getattr(self, name)) is not kind:
                raise ConfigurationError(f"{name}={shown(getattr(self, name))} must be {kind.__name__}.")
        optimizer_of(self.optimizer)
        check_positive("step_size", self.step_size)
        for name, value, most in (("momentum", self.momentum, 1), ("weight_decay", self.weight_decay, math.inf)):
            if value is not None and (isinstance(value, bool) or not 0 <= value < most):
                raise ConfigurationError(f"{name}={shown(value)} must be at least 0 and below {most}.")
        if self.gradient_clip is not None:
            check_positive("gradient_clip", self.gradient_clip)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_precision(self.precision)
        check_way(self.way, self.batch_norm)
        check_alignment_precision(self.alignment_precision, self.way)
        if self.precision != "float32" and (self.batch_norm == "derivative" or self.way == "finite_difference"):
            raise ConfigurationError(
                f"precision={self.precision!r} is too coarse for derivatives through batch statistics and for finite "
                "differences. Use precision='float32', or batch_norm='share' and way='auto'."
            )

    @property
    def training(self) -> TrainingOptions:
        """These options alone, where they are some of an environment's."""
        return TrainingOptions(**{field.name: getattr(self, field.name) for field in fields(TrainingOptions)})

    def as_dict(self) -> dict[str, Any]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(TrainingOptions)}
