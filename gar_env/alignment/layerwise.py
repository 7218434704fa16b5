"""Recording with hooks, layer by layer: what the paper does, and its reading of batch normalisation.

Every module that owns trainable parameters is one unit. A unit with a rule keeps its input and the gradient of its
output (or small per-example gradients at once); any other unit is kept whole and replayed in forward mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gar_env.alignment.backward import LossScale, backward_of_mean
from gar_env.alignment.choice import Choice
from gar_env.alignment.direction import Direction
from gar_env.alignment.inputs import Losses, call, check_losses, rows_of
from gar_env.alignment.layers import Unit, plan
from gar_env.alignment.recorder import Recorder
from gar_env.alignment.tape import Parts, Tape, coarsest_inside, coarsest_of, runs_in_low_precision, working_dtype
from gar_env.errors import LostGradientError
from gar_env.functional import structure_of


@dataclass(eq=False)
class LayerTape(Tape):
    """What each layer kept of its calls."""

    units: list[Unit]
    loss_scale: float

    way = "hooks"
    why_lost = (
        "A weight was used outside its layer, or a hook changed a gradient or what a layer returned. With hooks, use "
        "each weight through its own module only."
    )

    def advice(self) -> str:
        """See :meth:`Tape.advice`."""
        return "gar_env.alignment.try_ways(network, inputs, loss) tells which ways cover it."

    def kept(self) -> Iterable[Tensor]:
        """See :meth:`Tape.kept`."""
        return (tensor for unit in self.units for one in unit.calls for tensor in one.kept())

    def entries(self, direction: Direction) -> Parts:
        """See :meth:`Tape.entries`; one part per unit, units with a common parameter in one part."""
        return merge((unit, self.entry(unit, direction)) for unit in self.units)

    def entry(self, unit: Unit, direction: Direction) -> Tensor:
        """One unit's part, ``[n]``; ``direction`` needs the unit's own parameters only."""
        entry = torch.zeros_like(self.losses, dtype=working_dtype(self.losses))
        for kept in unit.calls:
            entry = entry + kept.entry(unit, direction)
        # The pass was a mean: each output gradient carries 1/n of its example's own.
        return entry * (self.n / self.loss_scale)

    def release(self) -> None:
        """See :meth:`Tape.release`."""
        super().release()
        for unit in self.units:
            unit.calls.clear()
            unit.copies = {}


def merge(entries: Iterable[tuple[Unit, Tensor]]) -> Parts:
    """One part per unit, but units that share a parameter in one part."""
    parts: Parts = {}
    for unit, entry in entries:
        names = set(unit.parameters.values())
        for other in [part for part in parts if names & set(part)]:
            entry = entry + parts.pop(other)
            names |= set(other)
        parts[tuple(sorted(names))] = entry
    return parts


def record_layers(
    network: nn.Module,
    inputs: tuple | Mapping[str, Any],
    loss: Losses,
    *,
    run: Callable[..., Any] | None = None,
    loss_scale: LossScale = 1.0,
    recorder: Recorder | None = None,
    choices: Mapping[str, Choice] | None = None,
    alone: bool = False,
) -> LayerTape:
    """Run forward and backward of the mean loss with hooks in place; see :func:`gar_env.alignment.record`.

    Args:
        network: Whose layers are recorded.
        inputs: Positional or named.
        loss: From output to losses ``[n]``.
        run: What is called instead of the network, if it was compiled.
        loss_scale: Of the backward pass.
        recorder: Whose hooks to use, if they are in place already.
        choices: What is already decided about layers, by unit name.
        alone: See :func:`~gar_env.alignment.backward.backward_of_mean`.
    """
    recorder = recorder or Recorder()
    units = plan(network)
    with recorder.recording(units, rows_of(inputs), choices or {}):
        losses = loss(call(network if run is None else run, inputs))
        check_losses(losses, inputs)
        inside = coarsest_inside(losses)
        recorder.rows = len(losses)
        structure = structure_of(network)  # as the forward pass left it
        batch_gradient, scale = backward_of_mean(structure.trained, losses, loss_scale, alone=alone)
    _check_called(units, batch_gradient)
    kept = [tensor for unit in units for one in unit.calls for tensor in one.kept()]
    coarsest = coarsest_of([losses, *structure.parameters.values(), *kept], inside)
    with structure.held():
        low = runs_in_low_precision(network)
    low = low or coarsest.itemsize < 4 or recorder.kept is not None
    error = 0.0 if recorder.kept else None
    return LayerTape(
        network, losses.detach(), batch_gradient, units, scale, low_precision=low, coarsest=coarsest, error=error
    )


def _check_called(units: list[Unit], batch_gradient: Mapping[str, Tensor]) -> None:
    """Refuse parameters that got a gradient though their module was not called, however small it is beside others.

    Raises:
        LostGradientError: With their names.
    """
    called = {name for unit in units if unit.calls for name in unit.parameters.values()}
    left = {name for unit in units if not unit.calls for name in unit.parameters.values()} - called
    lost = sorted(name for name in left if bool(batch_gradient[name].any()))
    if lost:
        raise LostGradientError(
            f"{', '.join(lost[:4])}{f' and {len(lost) - 4} more' if len(lost) > 4 else ''}: used outside the layer "
            "that owns it, which was not called. With hooks, use each weight through its own module only."
        )
