"""What a reward signal is, and what it may ask for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from gar_env.alignment import Tape
from gar_env.errors import RewardError
from gar_env.learner import Pass, Repeat
from gar_env.registry import Registry


class Need(Flag):
    """What an environment has to prepare for a signal. Nothing is computed that no signal asked for."""

    ALIGNMENT = auto()
    """Each paid example's alignment with the gradient of the next batch's mean loss, at theta_{t+1}."""
    TAPE = auto()
    """The recorded pass over the paid batch, at theta_t."""
    NEXT_GRADIENT = auto()
    """The gradient of the next batch's mean loss, at theta_{t+1}."""
    NEXT_LOSS = auto()
    """The next batch's mean loss, at theta_{t+1}."""
    HELDOUT_GRADIENT = auto()
    """The gradient of a clean held-out batch's mean loss, at theta_{t+1}."""
    PASS = auto()
    """The paid batch as it was passed: examples, losses at theta_t."""
    LAST_LAYER = auto()
    """With it, input and output of the network's last linear layer."""
    PARAMETERS = auto()
    """The paid pass can be run again at other parameters, theta_t among them. (Not the next one: that is STEP.)"""
    STEP = auto()
    """The whole step can be taken again, the optimizer's update included, and the next loss computed after it."""

    NEXT_PASS = auto()
    """The next batch as it was passed, with its tape: examples, losses at theta_{t+1}."""

    RUN = auto()
    """How far training runs have come: only where rows are runs."""
    TASKS = auto()
    """What each task of a meta-batch taught: only where rows are tasks."""


READS_EXAMPLES = Need.ALIGNMENT | Need.TAPE | Need.PASS | Need.LAST_LAYER | Need.PARAMETERS | Need.STEP
"""Needs of signals that pay what was trained on: other slots get 0."""


class RunEvidence(NamedTuple):
    """How far training runs have come, each ``[n]``.

    Args:
        loss: Of the last batch, at theta_t.
        initial_loss: Over the run's part of the training data, before its first step.
        final_loss: Likewise, after its last; NaN of runs that go on.
        steps: How many it has taken, this one among them.
    """

    loss: Tensor
    initial_loss: Tensor
    final_loss: Tensor
    steps: Tensor


class TaskEvidence(NamedTuple):
    """What the tasks of the meta-batch that is paid for taught.

    Args:
        gradients: Each task's meta-gradient, ``{name: [n, ...]}``.
        gram: ``< g_i, g_j >`` of the tasks' own updates, ``[n, n]``.
        within: Cosine of each task's update with its own next, fresh one, ``[n]``.
        finite: bool ``[n]``: whose update is; numbers of the others are 0 or NaN.
    """

    gradients: dict[str, Tensor]
    gram: Tensor
    within: Tensor
    finite: Tensor


@dataclass(frozen=True)
class Evidence:
    """What is known about one step when its slots are paid.

    Args:
        n: How many slots.
        next_loss: Scalar; always there.
        alignment: With :attr:`Need.ALIGNMENT`, ``[n]``: the same numbers as ``align(tape, next_gradient)``, with less
            memory, since each layer's part of the tape is freed within the next backward pass.
        tape: With :attr:`Need.TAPE`.
        next_gradient: With :attr:`Need.NEXT_GRADIENT`. Loss gradient alone: no weight decay, momentum or clipping.
        heldout_gradient: With :attr:`Need.HELDOUT_GRADIENT`.
        paid: With :attr:`Need.PASS` or :attr:`Need.LAST_LAYER`: the paid batch, its losses ``[n]`` and last layer.
        following: With :attr:`Need.NEXT_PASS`; ``None`` if the next batch was too small for a pass.
        repeat: With :attr:`Need.PARAMETERS` or, for repeated steps, :attr:`Need.STEP`.
        run: With :attr:`Need.RUN`.
        tasks: With :attr:`Need.TASKS`.
        generator: For signals that draw, on the learner's device; one per episode, seeded with it.
    """

    n: int
    next_loss: Tensor
    alignment: Tensor | None = None
    tape: Tape | None = None
    next_gradient: Mapping[str, Tensor] | None = None
    heldout_gradient: Mapping[str, Tensor] | None = None
    paid: Pass | None = None
    following: Pass | None = None
    repeat: Repeat | None = None
    run: RunEvidence | None = None
    tasks: TaskEvidence | None = None
    generator: torch.Generator | None = None


NEEDED_FOR = {
    "alignment": Need.ALIGNMENT,
    "tape": Need.TAPE,
    "next_gradient": Need.NEXT_GRADIENT,
    "heldout_gradient": Need.HELDOUT_GRADIENT,
    "paid": Need.PASS | Need.LAST_LAYER,
    "following": Need.NEXT_PASS,
    "repeat": Need.PARAMETERS | Need.STEP,
    "run": Need.RUN,
    "tasks": Need.TASKS,
}
"""What to ask for, any of it, to read a piece of evidence."""


class AskedEvidence(Evidence):
    """Evidence as one signal gets it: what it did not ask for names the need to add, instead of being ``None``."""

    @classmethod
    def of(cls, evidence: Evidence, signal: RewardSignal, name: str) -> AskedEvidence:
        """For a signal that goes by this name."""
        found = cls.__new__(cls)
        vars(found).update(vars(evidence), _asked=(signal.needs, name, getattr(signal, "draws", False)))
        return found

    def __getattribute__(self, attribute: str) -> Any:
        value = super().__getattribute__(attribute)
        if attribute == "generator" and "_asked" in vars(self) and not vars(self)["_asked"][2]:
            raise RewardError(f"{vars(self)['_asked'][1]} reads evidence.generator; set draws = True in its class.")
        if value is None and attribute in NEEDED_FOR and "_asked" in vars(self):
            needs, name, _ = vars(self)["_asked"]
            if not needs & NEEDED_FOR[attribute]:
                words = " or ".join(f"Need.{need.name}" for need in NEEDED_FOR[attribute])
                raise RewardError(f"{name} reads evidence.{attribute}; add {words} to its needs.")
        return value


class RewardSignal(ABC):
    """Pays each slot of one step. Raw values: normalising is the agent's business.

    Example:
        A package of your own adds a signal by name::

            @register_reward("half_gar")
            class HalfGAR(RewardSignal):
                needs = Need.ALIGNMENT

                def __call__(self, evidence):
                    return 0.5 * evidence.alignment
    """

    needs: Need
    """Of the class, or of one object."""

    shared: ClassVar[bool] = False
    """Whether all slots are paid the same, which normalising within a step would erase."""

    for_small_batches: ClassVar[bool] = False
    """Whether a step costs about as much as a training step for every example."""

    draws: bool = False
    """Whether it draws from ``evidence.generator``."""

    @abstractmethod
    def __call__(self, evidence: Evidence) -> Tensor:
        """Rewards, floating point, ``[n]``, on the learner's device."""


REWARDS: Registry[type[RewardSignal]] = Registry("reward signal")
register_reward = REWARDS.register
