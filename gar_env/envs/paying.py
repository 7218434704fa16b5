"""From a reward signal to one reward per slot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from gar_env.alignment import Paid, Tape, align, aligning, dot
from gar_env.errors import ConfigurationError, NonFiniteGradientError, RewardError
from gar_env.rewards import Evidence, Need, RewardSignal


class Trained(NamedTuple):
    """What is kept of a controlled batch until its slots are paid.

    Args:
        tape: With :attr:`~gar_env.rewards.Need.TAPE`, of the ``m`` examples that were trained on; ``None`` if none was.
        slots: int64 ``[m]``, the slots of those examples; ``None`` if they are all of them.
    """

    tape: Tape | None
    slots: Tensor | None = None


def reads_examples(signal: RewardSignal) -> bool:
    """Whether a signal pays what was trained on, and so needs a tape of it."""
    return bool(signal.needs & (Need.TAPE | Need.ALIGNMENT))


@contextmanager
def collecting(signal: RewardSignal, trained: Trained | None) -> Iterator[Collected]:
    """Collect the alignment of a batch that waits to be paid inside the next backward pass, if the signal asks for it.

    A signal that wants the tape as well gets it whole, and the alignment is computed afterwards. Where gradients are
    not finite, the alignment is NaN: divergence, for the environment to see.
    """
    collected = Collected()
    if trained is None or trained.tape is None or Need.ALIGNMENT not in signal.needs or Need.TAPE in signal.needs:
        yield collected
        return
    losses = trained.tape.losses
    try:
        with aligning(trained.tape) as collected.paid:
            yield collected
        collected.alignment = collected.paid.entries
    except NonFiniteGradientError:
        collected.alignment = torch.full_like(losses, torch.nan)


@dataclass(eq=False)
class Collected:
    """What :func:`collecting` came to."""

    paid: Paid | None = None
    alignment: Tensor | None = None

    def with_gradient(self, signal: RewardSignal, trained: Trained, gradient: Mapping[str, Tensor]) -> Tensor | None:
        """The alignment that the signal asks for, ``[m]``, now that the reference's gradient is known.

        Raises:
            ConfigurationError: If the environment pays by another gradient than the one that was listened to.
        """
        if Need.ALIGNMENT not in signal.needs or trained.tape is None:
            return None
        if self.alignment is None:
            try:
                return align(trained.tape, gradient, retain_tape=True)
            except NonFiniteGradientError:
                return torch.full_like(trained.tape.losses, torch.nan)
        if self.paid is not None and not self.paid.is_of(gradient):
            raise ConfigurationError(
                "The environment's reference returned another gradient than that of its one backward pass, so the "
                "alignment computed inside that pass is not with it. Return learner.gradient() or side_pass(...)."
                "gradient as they are (loss_scale= multiplies them), or use a reward that needs TAPE | NEXT_GRADIENT."
            )
        return self.alignment


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
    if not reads_examples(signal):
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
    device = evidence.next_loss.device
    try:
        rewards = signal(asked)
    except NonFiniteGradientError:
        rewards = torch.full((n,), torch.nan, device=device)
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
