"""From a reward signal to one reward per slot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gar_env.alignment import FiniteDifferenceTape, NoGradientError, Paid, Tape, align, aligning, dot
from gar_env.errors import ConfigurationError, GarEnvError, NonFiniteGradientError, RewardError
from gar_env.learner import Learner, Pass, Repeat, Start
from gar_env.registry import shown
from gar_env.rewards.signal import READS_EXAMPLES, REWARDS, AskedEvidence, Evidence, Need, RewardSignal
from gar_env.seeding import named_generator
from gar_env.state import as_data, attributes, from_data, set_attributes

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Trained(NamedTuple):
    """What is kept of a controlled batch until its slots are paid.

    Args:
        passed: The pass over the ``m`` examples that were trained on; ``None`` if there were too few.
        slots: int64 ``[m]``, the slots of those examples; ``None`` if they are all of them.
        start: What the step started from, if the signal takes it again.
    """

    passed: Pass | None
    slots: Tensor | None = None
    start: Start | None = None

    @property
    def tape(self) -> Tape | None:
        """Of the pass, if it was recorded."""
        return self.passed and self.passed.tape


@dataclass(eq=False)
class Collected:
    """What :meth:`Evaluator.collecting` came to."""

    paid: Paid | None = None
    alignment: Tensor | None = None


class Evaluator:
    """What one signal pays the slots of an environment.

    Args:
        reward: A signal, or its registered name; called once for each batch that is paid. In messages it goes by that
            name, by its own attribute ``name``, or by its class.
        num_envs: How many slots.
    """

    def __init__(self, reward: str | RewardSignal, num_envs: int) -> None:
        self.signal: Any = _signal_of(reward) if isinstance(reward, str) else reward
        name = getattr(reward, "name", None)
        self.name = reward if isinstance(reward, str) else name if isinstance(name, str) else type(reward).__name__
        if not callable(self.signal) or not isinstance(getattr(self.signal, "needs", None), Need):
            raise ConfigurationError(
                f"Reward signal {shown(self.name)} is no signal: it must have needs, a gar_env.rewards.Need, and be "
                "called with an Evidence. Derive it from gar_env.RewardSignal."
            )
        self._made = tuple(getattr(self.signal, "__dict__", ()))
        self.num_envs = num_envs
        self.alignment_error: float | None = None  # of a finite difference or half precision, as estimated
        self.learner: Learner | None = None
        self.generator = torch.Generator()

    def check_provided(self, environment: str, provides: Need) -> None:
        """Refuse a signal that needs what an environment cannot give.

        Args:
            environment: Its name, for the message.
            provides: What it can give.

        Raises:
            ConfigurationError: With the registered signals that fit.
        """
        missing = self.signal.needs & ~provides
        if missing:
            needs = {name: getattr(REWARDS[name], "needs", None) for name in REWARDS}
            fit = [name for name, own in needs.items() if isinstance(own, Need) and not own & ~provides]
            words = ", ".join(f"Need.{need.name}" for need in missing)
            raise ConfigurationError(
                f"reward={shown(self.name)} needs {words}, which {environment} cannot give. Signals that fit: "
                f"{', '.join(fit)}."
            )

    @property
    def reads_examples(self) -> bool:
        """Whether it pays what was trained on; others get 0."""
        return bool(self.signal.needs & READS_EXAMPLES)

    @property
    def reads_tape(self) -> bool:
        """Whether the pass over what was trained on is to be recorded."""
        return bool(self.signal.needs & (Need.TAPE | Need.ALIGNMENT))

    @property
    def reads_next_tape(self) -> bool:
        """Whether the pass over the next batch is to be recorded."""
        return Need.NEXT_PASS in self.signal.needs

    def begin(self, learner: Learner, seed: int) -> None:
        """A new episode: tell its learner what to keep of its passes."""
        self.learner = learner
        self.draw_from(seed, learner.device)
        learner.keeps_last_layer = Need.LAST_LAYER in self.signal.needs

    def state_dict(self) -> dict[str, Any]:
        """Its draws, and what the signal keeps, as data.

        Raises:
            NotDataError: If the signal keeps something else.
        """
        own = getattr(self.signal, "state_dict", None)
        signal = as_data(own()) if own else attributes(self.signal, made=self._made)
        return {"generator": self.generator.get_state(), "signal": signal, "alignment_error": self.alignment_error}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        self.generator.set_state(state["generator"])
        self.alignment_error = state["alignment_error"]
        if own := getattr(self.signal, "load_state_dict", None):
            own(from_data(state["signal"]))
        else:
            set_attributes(self.signal, state["signal"], device=self.generator.device)

    def draw_from(self, seed: int, device: torch.device) -> None:
        """Seed what signals draw."""
        self.alignment_error = None
        self.generator = named_generator(seed, "rewards", device)

    @property
    def repeats(self) -> bool:
        """Whether it runs the paid pass, or the whole step, again."""
        return bool(self.signal.needs & (Need.PARAMETERS | Need.STEP))

    def start(self) -> Start | None:
        """Copies of what the coming step starts from, if the signal takes it again."""
        assert self.learner is not None
        return self.learner.start(optimizer=Need.STEP in self.signal.needs) if self.repeats else None

    @contextmanager
    def collecting(self, trained: Trained | None) -> Iterator[Collected]:
        """Collect the alignment of a batch that waits to be paid inside the next backward pass, if it is asked for.

        A signal that wants the tape as well gets it whole, and the alignment is computed afterwards. Where gradients
        are not finite, the alignment is NaN: divergence, for the environment to see.
        """
        collected, needs = Collected(), self.signal.needs
        if trained is None or trained.tape is None or Need.ALIGNMENT not in needs or Need.TAPE in needs:
            yield collected
            return
        tape = trained.tape
        if isinstance(tape, FiniteDifferenceTape):
            tape.largest_error = math.inf  # reported in the infos; a run must not end for it
        try:
            with aligning(tape) as collected.paid:
                yield collected
            collected.alignment = collected.paid.entries
        except NonFiniteGradientError:
            collected.alignment = torch.full_like(tape.losses, torch.nan)
        except NoGradientError:
            pass  # the reference came to its gradient in another way: align afterwards

    def pay(
        self,
        trained: Trained,
        evidence: Evidence,
        collected: Collected,
        *,
        step: int,
        following: Pass | None,
    ) -> Tensor:
        """What each slot gets, checked. A signal that reads examples pays what was trained on, and the others get 0.

        Args:
            trained: The batch to be paid.
            evidence: Of all slots: the next loss and gradient, and the held-out gradient if it is asked for.
            collected: Inside the backward pass of that gradient.
            step: For messages, from 1.
            following: The pass that the next gradient is of; ``None`` if too few examples were left for one.

        Returns:
            ``[n]``, detached.

        Raises:
            ConfigurationError: If the next gradient is another than the one that was listened to.
            RewardError: If the signal returns another shape, type or device, or NaN while training is finite.
        """
        if not self.reads_examples:
            return self.rewards(evidence, step=step)
        nothing = torch.zeros(self.num_envs, device=evidence.next_loss.device)
        passed = trained.passed
        if passed is None or (Need.STEP in self.signal.needs and following is None):
            return nothing  # too few were trained on, or came after
        repeat = None
        if self.learner and trained.start:
            repeat = Repeat(self.learner, trained.start, passed, following)
        alignment = self._alignment(trained.tape, evidence.next_gradient or {}, collected) if trained.tape else None
        tape = trained.tape if Need.TAPE in self.signal.needs else None
        n = self.num_envs if trained.slots is None else len(trained.slots)
        after = following if self.reads_next_tape else None
        evidence = replace(evidence, n=n, tape=tape, alignment=alignment, paid=passed, following=after, repeat=repeat)
        paid = self.rewards(evidence, step=step)
        if trained.tape and trained.tape.error is not None:
            self.alignment_error = trained.tape.error
        if trained.slots is None:
            return paid
        return torch.zeros(self.num_envs, device=paid.device, dtype=paid.dtype).index_copy(0, trained.slots, paid)

    def rewards(self, evidence: Evidence, *, step: int, finite: Tensor | None = None) -> Tensor:
        """What the signal pays each row, checked.

        Args:
            evidence: All that the signal asks for.
            step: For messages, from 1.
            finite: bool ``[n]``: of which rows loss and gradient are finite; others may be paid NaN. By default that of
                the one next loss and gradient.

        Returns:
            ``[n]``, detached.

        Raises:
            RewardError: If the signal returns another shape, type or device, or NaN where training is finite.
        """
        if evidence.generator is None:
            evidence = replace(evidence, generator=self.generator)
        return _checked(self.signal, self.name, evidence, step, finite)

    def _alignment(self, tape: Tape, gradient: Mapping[str, Tensor], collected: Collected) -> Tensor | None:
        if Need.ALIGNMENT not in self.signal.needs:
            return None
        if collected.alignment is None:
            try:
                return align(tape, gradient, retain_tape=True)
            except NonFiniteGradientError:
                return torch.full_like(tape.losses, torch.nan)
        if collected.paid is not None and not collected.paid.is_of(gradient):
            raise ConfigurationError(
                "The environment's reference returned another gradient than that of its one backward pass, so the "
                "alignment computed inside that pass is not with it. Return the pass of learner.run(..., aside=True) "
                "as it is (loss_scale= multiplies its gradient), or use a reward that needs TAPE | NEXT_GRADIENT."
            )
        return collected.alignment

    def infos(self) -> dict[str, tuple[Any, Any]]:
        """``alignment_error``, as estimated: for environments whose alignment is not exact."""
        there = self.alignment_error is not None
        return {"alignment_error": (self.alignment_error if there else math.nan, there)}


def _signal_of(name: str) -> Any:
    """A registered signal.

    Raises:
        ConfigurationError: If it cannot be made without arguments.
        UnknownNameError: If there is none of that name.
    """
    kind: Any = REWARDS[name]
    try:
        return kind()
    except GarEnvError:
        raise
    except Exception as error:  # of somebody's code
        raise ConfigurationError(
            f"Reward signal {shown(name)} cannot be made: {type(error).__name__}: {error}. A registered signal is a "
            "class that takes no arguments; pass an object as reward= where it needs some."
        ) from error


def _checked(signal: RewardSignal, name: str, evidence: Evidence, step: int, finite: Tensor | None = None) -> Tensor:
    n, gradient = evidence.n, evidence.next_gradient or {}
    asked = evidence if Need.NEXT_GRADIENT in signal.needs else replace(evidence, next_gradient=None)
    device = evidence.next_loss.device
    try:
        rewards = signal(AskedEvidence.of(asked, signal, name))
    except NonFiniteGradientError:
        rewards = torch.full((n,), torch.nan, device=device)
    except (GarEnvError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of somebody's code
        raise RewardError(f"Reward signal {shown(name)} raised {type(error).__name__}: {error}") from error
    odd = isinstance(rewards, Tensor) and (rewards.is_nested or rewards.layout is not torch.strided)
    if not isinstance(rewards, Tensor) or odd or rewards.shape != (n,) or rewards.dtype not in FLOATS:
        found = type(rewards).__name__
        if isinstance(rewards, Tensor):
            found = f"a {rewards.layout} tensor" if odd else f"{rewards.dtype} {list(rewards.shape)}"
        raise RewardError(
            f"Reward signal {shown(name)} returned {found}; expected floating point [{n}], one number for each row."
        )
    if rewards.device != device:
        raise RewardError(f"Reward signal {shown(name)} returned a tensor on {rewards.device}; expected {device}.")
    wrong = ~rewards.to(torch.float32).isfinite()  # what leaves the environment
    # A loss or gradient that is no longer finite, or too long for its own square, is divergence, not a bad signal.
    if bool(wrong.any()):
        wrong = wrong & ((evidence.next_loss + dot(gradient, gradient)).isfinite() if finite is None else finite)
    if bool(wrong.any()):
        raise RewardError(
            f"Reward signal {shown(name)} returned NaN or infinity for {int(wrong.sum())} of {n} rows in step {step}, "
            "while loss and gradient are finite."
        )
    return rewards.detach()
