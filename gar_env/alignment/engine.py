"""One network's alignment: the way chosen, and what was found out about the network remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gar_env.alignment.choice import Choice
from gar_env.alignment.layerwise import LayerTape, record_layers
from gar_env.alignment.memory import StepMemory, measure
from gar_env.alignment.pausing import paused
from gar_env.alignment.probe import check_separation
from gar_env.alignment.recorder import OtherRowsError, Recorder
from gar_env.alignment.replayed import FiniteDifferenceTape, ForwardTape, record_replayed
from gar_env.alignment.tape import Inputs, Losses, Tape
from gar_env.alignment.ways import BatchNormReading, Way, check_not_compiled, check_way, has_batch_statistics, resolve
from gar_env.errors import ConfigurationError, MemoryCapError
from gar_env.seeding import global_state, replay_global

TAPES = {"forward": ForwardTape, "finite_difference": FiniteDifferenceTape}


class Alignment:
    """How one network's passes are recorded.

    Args:
        network: Any module whose layers have the batch as their first dimension.
        way: ``"hooks"``, ``"forward"``, ``"finite_difference"``, or ``"auto"`` for the rule of
            :mod:`gar_env.alignment.ways`, which never changes what is measured.
        batch_norm: What ``grad l_i`` means under training-mode batch normalisation. ``"share"``: ``n`` times
            example i's share of the batch gradient, layer by layer (the paper's). ``"derivative"``: the derivative
            of example i's own loss, through the batch statistics. Without batch normalisation in training mode both
            are the same number.
        max_overhead: Largest allowed peak of memory over a plain step's, for example 1.5. Counted are parameters,
            buffers, gradients, the batch and what autograd keeps for the backward pass; not the optimizer's state, so
            the true ratio is lower. Measured once per shape of the inputs, with an extra forward pass.
        autotune: Measure how each layer's part is computed fastest, once per layer shape and process, instead of the
            rule of :mod:`gar_env.alignment.choice`. Two processes may then differ by rounding.
        probe: Before the first pass is recorded with hooks, check by two extra passes that the rows of every layer are
            examples: the conservation check cannot see examples that are mixed up with one another.

    Raises:
        ConfigurationError: If an option is unknown or out of range.

    Example:
        >>> network = nn.Linear(2, 1, bias=False)
        >>> alignment = Alignment(network)
        >>> tape = alignment.record(torch.ones(3, 2), lambda outputs: outputs[:, 0])
        >>> (tape.way, tape.n)
        ('hooks', 3)
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        way: Way = "auto",
        batch_norm: BatchNormReading = "share",
        max_overhead: float | None = None,
        autotune: bool = False,
        probe: bool = True,
    ) -> None:
        check_way(way, batch_norm)
        if max_overhead is not None and not max_overhead > 1:
            raise ConfigurationError(f"max_overhead={max_overhead} must be above 1, or None for no limit.")
        self.network = network
        self.way: Way = way
        self.batch_norm: BatchNormReading = batch_norm
        self.max_overhead, self.autotune, self.probe = max_overhead, autotune, probe
        self.probed = False
        self._rows_are_examples: bool | None = None  # found out by the first pass that hooks record
        self._recorder = Recorder(autotune=autotune)
        self._run: Callable[..., Any] | None = None
        self._memory: dict[tuple, StepMemory] = {}

    def compile(self, **options: Any) -> Callable[..., Any]:
        """``torch.compile(network, **options)`` with the hooks inside, where they rest until a pass is recorded.

        Each layer with parameters then breaks the graph in two while it is recorded. Weight gradients are not
        materialised.
        """
        check_not_compiled(self.network)
        self._recorder.attach(self.network)
        self._run = torch.compile(self.network, **options)
        return self._run

    def record(self, inputs: Inputs, loss: Losses, *, loss_scale: float = 1.0) -> Tape:
        """Run forward and backward of the mean loss; see :func:`gar_env.alignment.record` for arguments and errors."""
        if not loss_scale > 0:
            raise ConfigurationError(f"loss_scale={loss_scale} must be above 0.")
        check_not_compiled(self.network)
        arguments = (inputs,) if isinstance(inputs, Tensor) else inputs
        way = resolve(self.way, self.batch_norm, self.network)
        free = self.way == "auto" and not has_batch_statistics(self.network)
        if free and self._rows_are_examples is False:
            way = "forward"
        way, choices = self._within_memory(way, free, arguments, loss)
        if way == "hooks":
            tape = self._record_layers(arguments, loss, loss_scale, choices, free)
        else:
            tape = record_replayed(TAPES[way], self.network, arguments, loss, run=self._run, loss_scale=loss_scale)
        self._check_memory(tape, arguments)
        return tape

    def _record_layers(
        self, inputs: tuple | dict[str, Any], loss: Losses, loss_scale: float, choices: dict[str, Choice], free: bool
    ) -> Tape:
        def record() -> LayerTape:
            if self.probe and not self.probed:
                with paused():
                    check_separation(self.network, inputs, loss)
                self.probed = True
            return record_layers(
                self.network,
                inputs,
                loss,
                run=self._run,
                loss_scale=loss_scale,
                recorder=self._recorder,
                choices=choices,
            )

        if not free or self._rows_are_examples:
            return record()
        device = next(self.network.parameters()).device
        state, buffers = global_state(device), [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        try:
            tape = record()
        except OtherRowsError:
            self._rows_are_examples = False
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            with replay_global(state, device):
                return record_replayed(ForwardTape, self.network, inputs, loss, run=self._run, loss_scale=loss_scale)
        self._rows_are_examples = True
        return tape

    # Memory

    def _within_memory(
        self, way: Way, free: bool, inputs: tuple | dict[str, Any], loss: Losses
    ) -> tuple[Way, dict[str, Choice]]:
        """The way and the layers' choices that stay below ``max_overhead``.

        Raises:
            MemoryCapError: If there are none.
        """
        if self.max_overhead is None:
            return way, {}
        key = _shapes(inputs)
        if key not in self._memory:
            with paused():
                self._memory[key] = measure(
                    self.network, inputs, loss, layerwise=way == "hooks", autotune=self.autotune
                )
        memory = self._memory[key]
        found = {}
        if way == "hooks":
            choices, found["hooks"] = memory.fit(self.max_overhead)
            if found["hooks"] <= self.max_overhead:
                return way, choices
        if way != "hooks" or free:
            replay = "forward" if way == "hooks" else way
            found[replay] = memory.overhead(memory.replay)
            if found[replay] <= self.max_overhead:
                return replay, {}
        listed = " and ".join(f"way={name!r} {overhead:.2f}" for name, overhead in found.items())
        more = ""
        if way == "hooks" and not free and self.way == "auto":
            more = " batch_norm='derivative', another reading, needs less memory."
        raise MemoryCapError(
            f"max_overhead={self.max_overhead} cannot be kept: {listed} times the memory of a plain step. Raise it, or "
            f"use a larger batch, against which parameters weigh less.{more}"
        )

    def _check_memory(self, tape: Tape, inputs: tuple | dict[str, Any]) -> None:
        if self.max_overhead is None:
            return
        overhead = self._memory[_shapes(inputs)].overhead(tape.nbytes)
        if overhead > self.max_overhead:
            tape.release()
            raise MemoryCapError(
                f"max_overhead={self.max_overhead} was broken: the tape came to {overhead:.2f} times the memory of a "
                "plain step. Raise it, or pass another way."
            )


def _shapes(inputs: tuple | dict[str, Any]) -> tuple:
    tensors = inputs.values() if isinstance(inputs, dict) else inputs
    return tuple(tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in tensors)
