"""One network's alignment: the way chosen, and what was found out about the network remembered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from gar_env.alignment.backward import LossScale, check_loss_scale
from gar_env.alignment.choice import Choice
from gar_env.alignment.covering import advice
from gar_env.alignment.findings import apply, findings_of
from gar_env.alignment.inputs import Inputs, Losses, check_network
from gar_env.alignment.layerwise import record_layers
from gar_env.alignment.listeners import paused
from gar_env.alignment.memory import MemoryCap
from gar_env.alignment.recorder import Recorder
from gar_env.alignment.rerun import FiniteDifferenceTape, ForwardTape, record_replayed, unwrapped
from gar_env.alignment.tape import Tape
from gar_env.alignment.ways import (
    AlignmentPrecision,
    BatchNormReading,
    Way,
    check_not_compiled,
    check_precision,
    check_way,
    has_batch_statistics,
    resolve,
)
from gar_env.errors import ConfigurationError, LostGradientError, MixedExamplesError, UnsupportedLayerError
from gar_env.functional import structure_of
from gar_env.registry import shown
from gar_env.seeding import TURNS

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
            buffers, gradients, the batch and what autograd keeps for the backward pass, by an extra forward pass once
            per shape of the inputs; not the optimizer's state, nor what single operations use for themselves.
        autotune: Measure how each layer's part is computed fastest, once per layer shape and process, instead of the
            rule of :mod:`gar_env.alignment.choice`. Two processes may then differ by rounding.
        materialise: Whether weight gradients may be computed as sums of per-example ones, where that is faster; equal
            but for rounding. ``False`` leaves ``.grad`` bit for bit as a plain pass does.
        precision: Of what is only paid: ``"float32"``, that of the pass; or ``"bfloat16"``: inputs of layers are kept,
            and their tangents computed, in half precision, and summed in float32. Training and ``.grad`` are those of
            ``"float32"``, bit for bit. Rewards are off by some thousandths of their length, which ``tape.error``
            estimates. With hooks alone; worth it where the processor multiplies such numbers faster.
        probe: Look at a network, in its 1st, 10th, 100th, ... pass of each mode, by a few extra passes through a copy.
            With hooks: whether the rows of every layer are examples, since the conservation check cannot see examples
            that are mixed up with one another. With finite differences: whether they are of what is trained on.

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
        materialise: bool = True,
        precision: AlignmentPrecision = "float32",
        probe: bool = True,
    ) -> None:
        check_way(way, batch_norm)
        check_precision(precision, way)
        if not isinstance(network, nn.Module):
            raise ConfigurationError(f"network={shown(network)} must be an nn.Module.")
        self.network = network
        self.way: Way = way
        self.batch_norm: BatchNormReading = batch_norm
        self.max_overhead, self.autotune, self.probe = max_overhead, autotune, probe
        self.precision: AlignmentPrecision = precision
        self.findings = findings_of(network)
        self._structure = structure_of(network)  # kept, to be quick
        kept = torch.bfloat16 if precision == "bfloat16" else None
        self._recorder = Recorder(autotune=autotune, materialise=materialise, kept=kept)
        self._run: Callable[..., Any] | None = None
        self._cap: MemoryCap | None = None
        if max_overhead is not None:
            self._cap = MemoryCap(network, max_overhead, autotune=autotune, materialise=materialise)

    def compile(self, **options: Any) -> Callable[..., Any]:
        """``torch.compile(network, **options)`` with the hooks inside, where they rest until a pass is recorded.

        Each layer with parameters then breaks the graph in two while it is recorded. Weight gradients are not
        materialised.
        """
        check_not_compiled(self.network)
        self._recorder.attach(self.network)
        self._run = torch.compile(self.network, **options)
        return self._run

    def record(self, inputs: Inputs, loss: Losses, *, loss_scale: LossScale = 1.0) -> Tape:
        """Run forward and backward of the mean loss; see :func:`gar_env.alignment.record` for arguments and errors."""
        check_loss_scale(loss_scale)
        if not callable(loss):
            raise ConfigurationError(f"loss={shown(loss)} must be a function of the network's output.")
        self._structure = structure_of(self.network)
        with self._structure.held():
            check_not_compiled(self.network)
            check_network(self.network)
            way = resolve(self.way, self.batch_norm, self.network)
            if self.precision != "float32":
                check_precision(self.precision, way, next(self.network.parameters()).device)
        arguments = inputs if isinstance(inputs, tuple | Mapping) else (inputs,)
        with TURNS:
            try:
                return self._record(way, arguments, loss, loss_scale)
            except (LostGradientError, MixedExamplesError, UnsupportedLayerError) as error:
                with paused():
                    what_works = advice(unwrapped(self.network), arguments, loss, without=way)
                raise type(error)(f"{error} {what_works}") from error

    def _record(self, way: Way, arguments: tuple | Mapping[str, Any], loss: Losses, loss_scale: LossScale) -> Tape:
        free = self.way == "auto" and not has_batch_statistics(self.network) and self.precision == "float32"
        if way == "hooks" and self.probe:
            separate = self.findings.look_at_layers(self._structure, arguments, loss, may_fail=free)
            if free and separate is False:
                way = "forward"
        choices: Mapping[str, Choice] = {}
        if self._cap is not None:
            with paused():
                way, choices = self._cap.decide(way, free, arguments, loss)
        if way == "hooks":
            tape = record_layers(
                self.network,
                arguments,
                loss,
                run=self._run,
                loss_scale=loss_scale,
                recorder=self._recorder,
                choices=choices,
            )
        else:
            differs = way == "finite_difference" and self.probe
            finding = self.findings.look_at_differences(self.network, arguments, loss) if differs else None
            tape = record_replayed(TAPES[way], self.network, arguments, loss, run=self._run, loss_scale=loss_scale)
            if finding is not None and isinstance(tape, FiniteDifferenceTape):
                apply(finding, tape)
        if self._cap is not None:
            self._cap.check(tape, arguments)
        return tape
