"""Recording with hooks, layer by layer: what the paper does, and its reading of batch normalisation.

Every module that owns trainable parameters is one unit. A unit with a rule keeps its input and the gradient of its
output (or small per-example gradients at once); any other unit is kept whole and replayed in forward mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gar_env.alignment.direction import Direction, trainable_parameters
from gar_env.alignment.fallback import Replay, ReplayTaker
from gar_env.alignment.rules import EXAMPLE_GRADIENTS, OUTPUT_TANGENTS, has_rule, uses_batch_statistics
from gar_env.alignment.tape import Losses, Tape, backward_of_mean, check_losses
from gar_env.errors import MixedExamplesError, StaleTapeError, UnsupportedLayerError


@dataclass(eq=False)
class Unit:
    """A module that owns trainable parameters, and what its calls left behind.

    Args:
        name: The module's path, for messages.
        module: The module.
        parameters: ``{name inside the module: name in the network}`` of the trainable parameters it covers.
    """

    name: str
    module: nn.Module
    parameters: dict[str, str]
    calls: list[_TangentCall | _GradientCall | Replay] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name or 'the network itself'} ({type(self.module).__name__})"


@dataclass(eq=False)
class _TangentCall:
    x: Tensor
    version: int
    delta: Tensor

    @property
    def stale(self) -> bool:
        return self.x._version != self.version

    def __getstate__(self) -> dict[str, Any]:
        return {"x": self.x, "delta": self.delta, "stale": self.stale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A loaded tensor counts its versions anew; without this every loaded tape would look overwritten.
        self.x, self.delta = state["x"], state["delta"]
        self.version = -1 if state["stale"] else self.x._version


@dataclass(eq=False)
class _GradientCall:
    gradients: dict[str, Tensor]


@dataclass(eq=False)
class LayerTape(Tape):
    """Kept inputs and output gradients of each layer."""

    units: list[Unit]

    why_lost = (
        "A weight was used outside its layer, or a hook changed what the layer returned. Use the weight through its "
        "own module only, or pass batch_norm='derivative', which covers any use."
    )

    def entries(self, direction: Direction) -> dict[tuple[str, ...], Tensor]:
        """See :meth:`Tape.entries`; one part per unit, units with a common parameter in one part."""
        parts: dict[tuple[str, ...], Tensor] = {}
        for unit in self.units:
            entry = torch.zeros_like(self.losses)
            for call in unit.calls:
                entry = entry + self._entry(unit, call, direction)
            # The pass was a mean: each output gradient carries 1/n of its example's own.
            entry = entry * self.n
            names = set(unit.parameters.values())
            for other in [part for part in parts if names & set(part)]:
                entry = entry + parts.pop(other)
                names |= set(other)
            parts[tuple(sorted(names))] = entry
        return parts

    def _entry(self, unit: Unit, call: _TangentCall | _GradientCall | Replay, direction: Direction) -> Tensor:
        if isinstance(call, Replay):
            return call.entry(unit.parameters, direction)
        local = {
            name: direction[unit.parameters[name]] if name in unit.parameters else torch.zeros_like(value)
            for name, value in unit.module.named_parameters(recurse=False)
        }
        if isinstance(call, _GradientCall):
            return sum(
                ((g * local[name]).flatten(1).sum(1) for name, g in call.gradients.items()),
                start=torch.zeros_like(self.losses),
            )
        if call.stale:
            raise StaleTapeError(
                f"The input of {unit} was overwritten in place after it was recorded. Keep each batch in its own "
                "tensor until its rewards are computed."
            )
        tangent = OUTPUT_TANGENTS[type(unit.module)](unit.module, call.x, local)
        return (tangent * call.delta).flatten(1).sum(1)


def plan(network: nn.Module) -> list[Unit]:
    """The units of a network: together they own every trainable parameter.

    Raises:
        UnsupportedLayerError: If a module without a rule holds batch normalisation in training mode.
    """
    names = {id(p): name for name, p in trainable_parameters(network).items()}
    units: list[Unit] = []
    replayed: list[str] = []  # paths of modules that are kept whole: what is inside them is covered
    for path, module in network.named_modules():
        if any(path == root or path.startswith(root + "." if root else "") for root in replayed):
            continue
        own = {local: p for local, p in module.named_parameters(recurse=False) if p.requires_grad}
        if not own:
            continue
        if has_rule(module):
            units.append(Unit(path, module, {local: names[id(p)] for local, p in own.items()}))
            continue
        unit = Unit(path, module, {local: names[id(p)] for local, p in module.named_parameters() if p.requires_grad})
        if any(uses_batch_statistics(inner) for inner in module.modules()):
            raise UnsupportedLayerError(
                f"{unit} owns parameters that no rule covers and contains batch normalisation in training mode; an "
                "example's share of its gradient cannot be told apart. Pass batch_norm='derivative', or register "
                "a rule for the layer that owns the parameters."
            )
        replayed.append(path)
        units.append(unit)
    return units


def record_layers(network: nn.Module, inputs: tuple, loss: Losses, *, probe: bool) -> LayerTape:
    """Run forward and backward of the mean loss with hooks in place; see :func:`gar_env.alignment.record`."""
    units = plan(network)
    recorder = _Recorder(probe=probe and not any(uses_batch_statistics(m) for m in network.modules()))
    with recorder.attached(units):
        losses = loss(network(*inputs))
        check_losses(losses, inputs)
        recorder.n = len(losses)
        recorder.check_separation(losses)
        batch_gradient = backward_of_mean(network, losses)
    return LayerTape(network, losses.detach(), batch_gradient, units)


class _Recorder:
    """Hooks for one pass."""

    def __init__(self, *, probe: bool) -> None:
        self.probe = probe
        self.n = 0
        self.outputs: list[tuple[Unit, Tensor]] = []

    @contextmanager
    def attached(self, units: list[Unit]) -> Iterator[None]:
        handles = []
        try:
            for unit in units:
                if has_rule(unit.module):
                    handles.append(unit.module.register_forward_hook(self._keep(unit), with_kwargs=True))
                else:
                    taker = ReplayTaker(unit, self)
                    handles.append(unit.module.register_forward_pre_hook(taker.before, with_kwargs=True))
                    handles.append(unit.module.register_forward_hook(taker.after))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, unit: Unit):
        def after_forward(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            if not (torch.is_grad_enabled() and output.requires_grad):
                return
            held = next(module.parameters(recurse=False)).dtype
            if output.dtype != held:
                raise UnsupportedLayerError(
                    f"{unit} computed in {output.dtype} with parameters in {held}. Mixed precision is not supported: "
                    "leave torch.autocast before record."
                )
            x = args[0] if args else next(iter(kwargs.values()))
            # One box per call, emptied when the gradient arrives: a closure over x would pin it until the graph dies.
            box = [x.detach(), x._version]
            output.register_hook(lambda delta: self._close(unit, box, delta))
            self.watch(unit, output)

        return after_forward

    def _close(self, unit: Unit, box: list, delta: Tensor) -> None:
        if not box or not self.n:
            return
        self.check_rows(unit, len(delta) if delta.ndim else 0)
        version, x = box.pop(), box.pop()
        rule = EXAMPLE_GRADIENTS.get(type(unit.module))
        if rule is None:
            unit.calls.append(_TangentCall(x, version, delta))
        else:
            unit.calls.append(_GradientCall(rule(unit.module, x, delta)))

    def watch(self, unit: Unit, output: Tensor) -> None:
        """Remember an output until the probe has looked at it."""
        if self.probe:
            self.outputs.append((unit, output))

    def check_rows(self, unit: Unit, rows: int) -> None:
        """Refuse an output whose first dimension is not the batch."""
        if rows != self.n:
            raise MixedExamplesError(
                f"{unit} returned {rows} rows for a batch of {self.n} examples. The first dimension of every layer "
                "with parameters must be the batch: keep [n, tokens, features] instead of merging or swapping its "
                "first two, and expand position indices to [n, tokens]."
            )

    def check_separation(self, losses: Tensor) -> None:
        """Refuse a network in which the first example's loss reaches other examples' rows."""
        outputs, self.outputs = self.outputs, []
        if not outputs or self.n < 2:
            return
        n, self.n = self.n, 0  # keeps the recording hooks silent while the probe runs
        gradients = torch.autograd.grad(
            losses[0], [output for _, output in outputs], retain_graph=True, allow_unused=True
        )
        self.n = n
        for (unit, _), delta in zip(outputs, gradients, strict=True):
            if delta is None:
                continue
            self.check_rows(unit, len(delta) if delta.ndim else 0)
            if bool(delta[1:].count_nonzero()):
                raise MixedExamplesError(
                    f"The first example's loss depends on other rows of what {unit} returns, so the rows are not "
                    "examples. Put the batch first in every layer, and let no example's loss depend on another."
                )
