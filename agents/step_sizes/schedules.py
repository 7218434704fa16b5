"""Step-size schedules: the last step size over the first, as a function of time alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gar_env.registry import Registry

Schedule = Callable[[Tensor], Tensor]
"""From progress, steps taken over the length of the run, in [0, 1], ``[R]``, to factors of the initial step size."""

SCHEDULES: Registry[Schedule] = Registry("schedule")
register_schedule = SCHEDULES.register


@register_schedule("constant")
def constant(progress: Tensor) -> Tensor:
    """The initial step size."""
    return torch.ones_like(progress)


@register_schedule("exponential")
def exponential(progress: Tensor) -> Tensor:
    """Down to a hundredth, at an even rate."""
    return 0.01**progress


@register_schedule("waterfall")
def waterfall(progress: Tensor) -> Tensor:
    """A tenth after half of the run, a hundredth after three quarters."""
    return torch.where(progress < 0.5, 1.0, torch.where(progress < 0.75, 0.1, 0.01))


@register_schedule("power")
def power(progress: Tensor) -> Tensor:
    """``(1 + 100 progress)^(-3/4)``: about a thirtieth at the end."""
    return (1 + 100 * progress) ** -0.75


@register_schedule("cosine")
def cosine(progress: Tensor) -> Tensor:
    """Half a cosine down to 0.

    Source:
        Loshchilov & Hutter (2017), "SGDR", without restarts.
    """
    return (1 + torch.cos(torch.pi * progress)) / 2


@register_schedule("warmup-cosine")
def warmup_cosine(progress: Tensor) -> Tensor:
    """Evenly up over a tenth of the run, then a cosine down to 0.

    Source:
        Goyal et al. (2017) for the warm-up.
    """
    return torch.where(progress < 0.1, 0.02 + 9.8 * progress, cosine((progress - 0.1).clamp_min(0) / 0.9))
