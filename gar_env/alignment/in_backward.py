"""Alignment inside the next backward pass: each layer's part is computed, and freed, when its gradient is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gar_env.alignment.align import align
from gar_env.alignment.backward import LossScale, check_loss_scale, value_of
from gar_env.alignment.conservation import adds_up, check_conservation, products_of
from gar_env.alignment.direction import Direction, check_direction, gradient, trainable_parameters
from gar_env.alignment.gram import Gram, can_use_gram
from gar_env.alignment.layers import Unit
from gar_env.alignment.layerwise import LayerTape, merge
from gar_env.alignment.listeners import pausable
from gar_env.alignment.tape import Tape, check_tape, full_precision
from gar_env.errors import ConfigurationError, LostGradientError, StaleTapeError, UnsupportedLayerError
from gar_env.seeding import TURNS


class NoGradientError(ConfigurationError):
    """A block without a backward pass of the recorded network. The tape is as it was."""


class Paid:
    """What :func:`aligning` collects; :attr:`entries` is there when the block has ended."""

    def __init__(self) -> None:
        self._entries: Tensor | None = None
        self._sources: dict[str, int] = {}

    def is_of(self, direction: Direction) -> bool:
        """Whether these tensors are the very ones whose gradients were listened to."""
        return all(direction[name].data_ptr() == pointer for name, pointer in self._sources.items())

    @property
    def entries(self) -> Tensor:
        """Each example's alignment with the gradient of the pass inside the block, ``[n]``.

        Raises:
            StaleTapeError: If the block has not ended, or ended in an error.
        """
        if self._entries is None:
            raise StaleTapeError("The alignment is there when the block of aligning(tape) has ended without an error.")
        return self._entries


@contextmanager
def aligning(tape: Tape, *, loss_scale: LossScale = 1.0) -> Iterator[Paid]:
    r"""Align a tape with the gradient of the one backward pass inside this block, layer by layer as it arrives.

    The same numbers as ``align(tape, gradient(network))`` after that pass, with less memory: a layer's part of the tape
    is freed as soon as its new gradient is there, while the pass inside still frees its own activations.

    Args:
        tape: Of the same network. It is read and freed.
        loss_scale: What the loss of the pass inside is multiplied by, a number or a ``torch.amp.GradScaler``; divided
            out.

    Yields:
        Where to find the entries afterwards.

    Raises:
        ConfigurationError: If gradients are there already, or none arrives, or two backward passes bring some: with
            accumulated gradients, align after the last.
        DirectionMismatchError: If parameters were frozen or unfrozen since the tape was recorded.
        LostGradientError: See :func:`~gar_env.alignment.align`.
        NonFiniteGradientError: Likewise.
        StaleTapeError: If the tape was read already, or a recorded input was overwritten in place.

    Example:
        >>> from torch import nn
        >>> from gar_env.alignment import record
        >>> network, inputs = nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> tape = record(network, inputs, lambda outputs: outputs[:, 0])
        >>> network.zero_grad()
        >>> with aligning(tape) as paid:
        ...     network(torch.tensor([[1.0, 4.5]])).sum().backward()
        >>> paid.entries
        tensor([10.,  3.])

    Note:
        What happens to ``.grad`` after the backward pass (clipping, unscaling, a step) does not reach the entries.
        What an optimizer inside the backward pass does to ``.grad`` before it is seen here does: enter the block before
        such hooks are registered. Under DistributedDataParallel the direction is the global gradient (inside
        ``no_sync()`` the local one), which exists only after the backward pass: nothing is freed before the block ends.
    """
    check_tape(tape)
    check_loss_scale(loss_scale)
    parameters = trainable_parameters(tape.network)
    check_direction(parameters, tape.batch_gradient)
    left = [name for name, p in parameters.items() if p.grad is not None and bool(p.grad.any())]
    if left:
        raise ConfigurationError(
            f"{len(left)} parameters have gradients already, {left[0]} among them, and aligning(tape) would count them "
            "in. Call optimizer.zero_grad() first; for accumulated gradients, align(tape, gradient(network)) after the "
            "last pass."
        )
    paid = Paid()
    collector = _collector_of(tape)(tape, loss_scale, parameters)
    tape.listening = True
    try:
        with pausable(collector):
            yield paid
        if not collector.sources:
            raise NoGradientError(
                "No gradient of the recorded network arrived inside aligning(tape). Call loss.backward() there "
                "(torch.autograd.grad fills no .grad), or align(tape, direction) with a direction of your own."
            )
        tape.listening = False
        try:
            with torch.no_grad(), full_precision(tape.losses), TURNS:
                paid._entries = collector.finish()
        except (LostGradientError, UnsupportedLayerError) as error:
            advice = tape.advice()
            raise error if str(error).endswith(advice) else type(error)(f"{error} {advice}") from error
        paid._sources = collector.sources
    finally:
        tape.listening = False
        collector.remove_hooks()
        if collector.sources:
            tape.release()


def _collector_of(tape: Tape) -> type[_Collector]:
    if isinstance(tape.network, DistributedDataParallel):
        return _AveragedCollector
    return _LayerCollector if isinstance(tape, LayerTape) else _Collector


class _Collector:
    """Listens to one backward pass through a recorded network, and aligns when it is over."""

    def __init__(self, tape: Any, loss_scale: LossScale, parameters: dict[str, nn.Parameter]) -> None:
        self.tape, self._given_scale = tape, loss_scale
        self.loss_scale = 1.0
        self.paused = False
        self.thread = threading.get_ident()  # on GPUs hooks run in other threads, while this one waits
        self.parameters = parameters
        self.gradients: dict[str, Tensor] = {}
        self.sources: dict[str, int] = {}
        self.handles = [p.register_post_accumulate_grad_hook(self._hook(name)) for name, p in self.parameters.items()]

    def remove_hooks(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.gradients.clear()

    def _hook(self, name: str) -> Callable[[Tensor], None]:
        def arrived(p: Tensor) -> None:
            if self.paused:
                return
            if name in self.sources:
                raise ConfigurationError(
                    f"The gradient of {name} arrived twice inside aligning(tape): the first one has been used already. "
                    "With several backward passes, call align(tape, gradient(network)) after the last."
                )
            if p.grad is None:
                raise ConfigurationError(
                    f"The gradient of {name} was taken away before aligning(tape) saw it, by another hook on the "
                    "parameter: an optimizer that steps inside the backward pass, for example. Enter aligning(tape) "
                    "before such hooks are registered, or align(tape, direction) with gradients that you keep."
                )
            if not self.sources:
                self.loss_scale = value_of(self._given_scale)  # a scaler knows it now, and may change it later
                self.begin()
            self.sources[name] = p.grad.data_ptr()
            with TURNS.working_for(self.thread), torch.no_grad(), full_precision(self.tape.losses):
                self.take(name, p.grad)

        return arrived

    def begin(self) -> None:
        """The first gradient of the pass is there."""

    def take(self, name: str, g: Tensor) -> None:
        """A gradient arrived. Copied: clipping, unscaling or a step inside the block must not reach the rewards."""
        self.gradients[name] = g.clone()

    def finish(self) -> Tensor:
        """The entries ``[n]``, checked; parameters that no gradient arrived for have the gradient zero."""
        direction = {name: self.gradients.get(name, torch.zeros_like(p)) for name, p in self.parameters.items()}
        return align(self.tape, {name: g / self.loss_scale for name, g in direction.items()})


class _AveragedCollector(_Collector):
    """Waits until gradients are averaged over processes, at the very end of the backward pass."""

    def begin(self) -> None:
        engine = torch.autograd.Variable._execution_engine  # pyright: ignore[reportAttributeAccessIssue]
        # Callbacks run in order. The wrapper's, which waits for the average, comes after this one: queue again then.
        engine.queue_callback(lambda: engine.queue_callback(self._copy))

    def _copy(self) -> None:
        self.gradients = {name: g.clone() for name, g in gradient(self.tape.network).items()}

    def take(self, name: str, g: Tensor) -> None:
        """Of this process alone: not what is wanted."""


class _LayerCollector(_Collector):
    """Computes each layer's part when the gradients of its parameters are there, and frees it."""

    tape: LayerTape

    def __init__(self, tape: LayerTape, loss_scale: LossScale, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__(tape, loss_scale, parameters)
        self.waiting = {unit: set(unit.parameters.values()) for unit in tape.units}
        self.entries: list[tuple[Unit, Tensor]] = []
        self.products: dict[str, Tensor] = {}
        self.squares: list[Tensor] = []
        self.versions: dict[str, int] = {}
        self.users: dict[str, list[Unit]] = {}
        for unit in tape.units:
            for name in unit.parameters.values():
                self.users.setdefault(name, []).append(unit)
        alone = [unit for unit in tape.units if all(len(self.users[name]) == 1 for name in unit.parameters.values())]
        dense = [unit for unit in alone if not tape.low_precision and can_use_gram(unit)]
        self.grams = {unit: Gram(unit, lambda: not self.paused) for unit in dense}

    def remove_hooks(self) -> None:
        super().remove_hooks()
        for gram in self.grams.values():
            gram.remove_hooks()
        self.grams.clear()  # they know this collector: a circle that would keep all it holds until it is collected

    def take(self, name: str, g: Tensor) -> None:
        self.gradients[name] = g = g if self.loss_scale == 1 else g / self.loss_scale
        self.versions[name] = g._version
        recorded = self.tape.batch_gradient.pop(name)
        first, self.products[name], second = products_of(recorded, g)
        self.squares += (first, second)
        for unit in self.users.get(name, ()):
            self.waiting[unit].discard(name)
            if not self.waiting[unit]:
                self._pay(unit)

    def _pay(self, unit: Unit) -> None:
        names = unit.parameters.values()
        gram = self.grams.get(unit)
        entry = gram.total() if gram else None
        if entry is not None:
            entry = entry * (self.tape.n / (self.tape.loss_scale * self.loss_scale))
            wanted = self.tape.n * torch.stack([self.products[name] for name in names]).sum()
            # Other uses of the weight are in its gradient, and not in the inner products.
            if not adds_up(self.tape, entry, wanted):
                entry = None
        if entry is None:
            entry = self.tape.entry(unit, {name: self.gradients[name] for name in names})
        self.entries.append((unit, entry))
        unit.calls.clear()
        unit.copies = {}

    def finish(self) -> Tensor:
        for unit, names in self.waiting.items():
            held = [name for name in unit.parameters.values() if names and name in self.versions]
            if any(self.gradients[name]._version != self.versions[name] for name in held):
                raise ConfigurationError(
                    f"The gradients of {unit} were changed inside aligning(tape), after its backward pass. Clip, "
                    "unscale and step after the block."
                )
        for name in [name for name in self.parameters if name not in self.products]:
            self.take(name, torch.zeros_like(self.parameters[name]))
        parts = merge(self.entries)
        lengths = torch.stack(self.squares).view(-1, 2).sum(0).sqrt()
        check_conservation(self.tape, parts, self.products, lengths[0] * lengths[1])
        return torch.stack(list(parts.values())).sum(0)
