"""From a reward signal to one reward per slot."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gar_env.alignment import Tape, dot
from gar_env.errors import RewardError
from gar_env.rewards import Evidence, Need, RewardSignal


class Trained(NamedTuple):
    """What is kept of a controlled batch until its slots are paid.

    Args:
        tape: With :attr:`~gar_env.rewards.Need.TAPE`, of the ``m`` examples that were trained on; ``None`` if none was.
        slots: int64 ``[m]``, the slots of those examples; ``None`` if they are all of them.
    """

    tape: Tape | None
    slots: Tensor | None = None


def pay_slots(signal: RewardSignal, name: str, trained: Trained, evidence: Evidence, *, step: int) -> Tensor:
    """What a signal pays each slot, checked. One that reads the tape pays what was trained on, and the others get 0.

    Args:
        signal: Called once.
        name: What it is called in messages.
        trained: The batch to be paid.
        evidence: Of all slots, with everything but the tape.
        step: For messages, from 1.

    Returns:
        ``[n]``, detached.

    Raises:
        RewardError: If the signal returns another shape, type or device, or NaN while training is finite.
    """
    if Need.TAPE not in signal.needs:
        return _checked(signal, name, evidence, step)
    if trained.slots is None:
        return _checked(signal, name, replace(evidence, tape=trained.tape), step)
    rewards = torch.zeros(evidence.n, device=evidence.next_loss.device)
    if trained.tape is None:
        return rewards
    paid = _checked(signal, name, replace(evidence, n=trained.tape.n, tape=trained.tape), step)
    return rewards.to(paid.dtype).index_copy(0, trained.slots, paid)


def _checked(signal: RewardSignal, name: str, evidence: Evidence, step: int) -> Tensor:
    n, gradient = evidence.n, evidence.next_gradient or {}
    asked = evidence if Need.NEXT_GRADIENT in signal.needs else replace(evidence, next_gradient=None)
    rewards, device = signal(asked), evidence.next_loss.device
    if not isinstance(rewards, Tensor) or rewards.shape != (n,) or not rewards.is_floating_point():
        found = f"{rewards.dtype} {list(rewards.shape)}" if isinstance(rewards, Tensor) else type(rewards).__name__
        raise RewardError(
            f"Reward signal {name!r} returned {found}; expected floating point [{n}], one number per slot."
        )
    if rewards.device.type != device.type:
        raise RewardError(f"Reward signal {name!r} returned a tensor on {rewards.device}; expected {device}.")
    wrong = ~rewards.isfinite()
    # A loss or gradient that is no longer finite, or too long for its own square, is divergence, not a bad signal.
    if bool(wrong.any()) and bool((evidence.next_loss + dot(gradient, gradient)).isfinite()):
        raise RewardError(
            f"Reward signal {name!r} returned NaN or infinity for {int(wrong.sum())} of {n} slots in step {step}, "
            "while loss and gradient are finite."
        )
    return rewards.detach()
