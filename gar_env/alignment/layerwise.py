"""Recording with hooks, layer by layer: what the paper does, and its reading of batch normalisation.

Every module that owns trainable parameters is one unit. A unit with a rule keeps its input and the gradient of its
output (or small per-example gradients at once); any other unit is kept whole and replayed in forward mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gar_env.alignment.direction import Direction, trainable_parameters
from gar_env.alignment.fallback import Replay, ReplayTaker
from gar_env.alignment.rules import EXAMPLE_GRADIENTS, OUTPUT_TANGENTS, has_rule, uses_batch_statistics
from gar_env.alignment.tape import (
    Kept,
    Losses,
    Tape,
    backward_of_mean,
    check_losses,
    sum_per_example,
    unkept,
)
from gar_env.errors import MixedExamplesError, UnsupportedLayerError


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
    x: Kept
    delta: Tensor


@dataclass(eq=False)
class _GradientCall:
    gradients: dict[str, Tensor]


@dataclass(eq=False)
class LayerTape(Tape):
    """Kept inputs and output gradients of each layer."""

    units: list[Unit]

    why_lost = (
        "A weight was used outside its layer, a layer is shared with a module that is kept whole, or a hook changed "
        "what it returned. Use each weight through its own module only, or pass batch_norm='derivative', which covers "
        "any use."
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
                (sum_per_example(g * local[name]) for name, g in call.gradients.items()),
                start=torch.zeros_like(self.losses),
            )
        x = unkept(call.x, str(unit))
        return sum_per_example(OUTPUT_TANGENTS[type(unit.module)](unit.module, x, local) * call.delta)


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
        holds = _holds_more(module)
        if not own and not holds:
            continue
        if has_rule(module) and not holds:
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


def _holds_more(module: nn.Module) -> bool:
    """Whether trainable parameters of this module lie in children that are not called with examples.

    A parametrization computes a weight, and a parameter list computes nothing: their rows are no examples.
    """
    lists = [child for child in module.children() if isinstance(child, nn.ParameterList | nn.ParameterDict)]
    holders = [module] if nn.utils.parametrize.is_parametrized(module) else lists
    return any(p.requires_grad for holder in holders for p in holder.parameters())


def record_layers(network: nn.Module, inputs: tuple, loss: Losses) -> LayerTape:
    """Run forward and backward of the mean loss with hooks in place; see :func:`gar_env.alignment.record`."""
    units = plan(network)
    recorder = _Recorder()
    with recorder.attached(units):
        losses = loss(network(*inputs))
        check_losses(losses, inputs)
        recorder.n = len(losses)
        batch_gradient = backward_of_mean(network, losses)
    return LayerTape(network, losses.detach(), batch_gradient, units)


class _Recorder:
    """Hooks for one pass."""

    def __init__(self) -> None:
        self.n = 0

    @contextmanager
    def attached(self, units: list[Unit]) -> Iterator[None]:
        handles = []
        try:
            for unit in units:
                if has_rule(unit.module) and not _holds_more(unit.module):
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
            # One box per call, emptied when the gradient arrives: a closure over x would pin it until the graph dies.
            box = [Kept(args[0] if args else next(iter(kwargs.values())))]
            output.register_hook(lambda delta: self._close(unit, box, delta))

        return after_forward

    def _close(self, unit: Unit, box: list[Kept], delta: Tensor) -> None:
        self.check_rows(unit, len(delta) if delta.ndim else 0)
        x = box.pop()
        rule = EXAMPLE_GRADIENTS.get(type(unit.module))
        if rule is None:
            unit.calls.append(_TangentCall(x, delta))
        else:
            unit.calls.append(_GradientCall(rule(unit.module, x.tensor, delta)))

    def check_rows(self, unit: Unit, rows: int) -> None:
        """Refuse an output whose first dimension is not the batch."""
        if rows != self.n:
            raise MixedExamplesError(
                f"{unit} returned {rows} rows for a batch of {self.n} examples. The first dimension of every layer "
                "with parameters must be the batch: keep [n, tokens, features] instead of merging or swapping its "
                "first two, and expand position indices to [n, tokens]."
            )
