"""Recording without activations: the pass is run again, with parameters that move.

Both ways give the derivative of each example's own loss, batch statistics included, for any use of the parameters, and
keep the batch, the parameters, the buffers and the random state of the recorded pass.

===================  ================================  ==========================================================
way                  at ``align``                      result
===================  ================================  ==========================================================
forward              one pass in forward mode          exact
finite_difference    one more forward pass             ``(l_i(theta + eps d) - l_i(theta)) / eps``, error estimated
===================  ================================  ==========================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from gar_env.alignment.backward import LossScale, backward_of_mean
from gar_env.alignment.conservation import add_up
from gar_env.alignment.direction import Direction, dot, norm, trainable_parameters
from gar_env.alignment.inputs import Losses, call, check_losses
from gar_env.alignment.tape import (
    KeptTree,
    Parts,
    Tape,
    coarsest_inside,
    coarsest_of,
    hint_on_gpus,
    keep,
    runs_in_low_precision,
    unkept,
)
from gar_env.alignment.unknown_layers import check_repeatable, first_line
from gar_env.errors import LostGradientError, StaleTapeError, UnsupportedLayerError
from gar_env.functional import Snapshot, multiplies_in_ten_bits

ROUGH = 0.5
"""Largest error of a finite difference, as estimated, that is returned: beyond it, something else than rounding."""


@dataclass(eq=False)
class ReplayedTape(Tape):
    """The recorded batch, parameters, buffers and random state; no activations."""

    snapshot: Snapshot
    inputs: KeptTree
    loss: Losses
    held: KeptTree  # the tensors that the loss holds, targets among them

    why_lost = (
        "Replaying the pass gave another derivative: what the backward pass computes is not the derivative of the "
        "forward pass (a hook on a parameter or an output, gradients scaled by frequency), or network or loss are not "
        "the same function each time (state in global variables)."
    )

    def advice(self) -> str:
        """See :meth:`Tape.advice`: the other ways are tried on the recorded batch."""
        from gar_env.alignment.covering import advice  # it records, in every way

        return advice(unwrapped(self.network), self.read_inputs(), self.loss, without=self.way)

    def read_inputs(self) -> Any:
        """The recorded batch.

        Raises:
            StaleTapeError: If it, or a tensor that the loss holds, was overwritten.
        """
        unkept(self.held, "the loss")
        return unkept(self.inputs, "the network")

    def kept(self) -> Iterable[Tensor]:
        """See :meth:`Tape.kept`."""
        return [*self.inputs.tensors, *self.snapshot.kept]

    def tangents(self, direction: Direction) -> dict[str, Tensor]:
        """The direction by the names of the module that is replayed."""
        inside = unwrapped(self.network) is not self.network
        return {name.removeprefix("module.") if inside else name: tensor for name, tensor in direction.items()}

    def release(self) -> None:
        """See :meth:`Tape.release`."""
        super().release()
        self.inputs = self.held = keep(())
        self.snapshot.release()


@dataclass(eq=False)
class ForwardTape(ReplayedTape):
    """Read in forward mode."""

    way = "forward"

    def entries(self, direction: Direction) -> Parts:
        """See :meth:`Tape.entries`; one part for all parameters."""
        entry = self._entry(direction, twice=False)
        try:
            add_up(self, {tuple(sorted(direction)): entry}, direction)
        except LostGradientError:
            # An operation whose forward-mode derivative is not that of its backward pass: go through that, twice.
            entry = self._entry(direction, twice=True)
        return {tuple(sorted(direction)): entry}

    def _entry(self, direction: Direction, *, twice: bool) -> Tensor:
        inputs = self.read_inputs()
        try:
            losses, entry = self.snapshot.tangent(
                self.tangents(direction), lambda module: self.loss(call(module, inputs)), twice=twice
            )
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            raise UnsupportedLayerError(
                f"The network has an operation without a derivative of its derivative: {first_line(error)}"
            ) from error
        # Half precision rounds to 8 bits, and forward mode takes other kernels.
        tolerance = 5e-2 if self.low_precision or self.coarsest.itemsize < 4 else 1e-3
        if not torch.allclose(losses.to(self.losses.dtype), self.losses, rtol=tolerance, atol=1e-5, equal_nan=True):
            raise StaleTapeError(
                f"Replaying the recorded pass gave other losses, by up to {(losses - self.losses).abs().max():.2g}: "
                "inputs or targets were overwritten, another thread drew from torch's global generator, or network or "
                "loss depend on global variables. Keep each batch in its own tensors until its rewards are computed."
                + hint_on_gpus(self)
            )
        return entry


@dataclass(eq=False)
class FiniteDifferenceTape(ReplayedTape):
    """Read by one more forward pass, a step of length sqrt(machine epsilon) along the direction: 3.5e-4 in float32.

    A shorter step drowns in rounding, a longer one in curvature and in rectifiers that switch. :attr:`error` estimates
    the relative error of the entries as a vector (entries near 0 carry the rounding of the others), as the largest of

    - what curvature does on average: the entries' sum is known exactly from the batch gradient; how far it is missed,
      over the sum of their absolute values;
    - what rounding does: machine epsilon times the largest output, over the step's largest change of a loss. It grows
      as gradients vanish, and no step length helps;
    - :attr:`measured`: what differences were off by when the network was looked at, with a margin,
      :mod:`gar_env.alignment.differences`.
    """

    rounding: float = 0.0
    measured: float = 0.0
    largest_error: float = ROUGH

    way = "finite_difference"
    exact = False  # the gap is an error estimate, and is checked as that

    def entries(self, direction: Direction) -> Parts:
        """See :meth:`Tape.entries`; one part for all parameters.

        Raises:
            UnsupportedLayerError: If the estimated error is above :attr:`largest_error`.
        """
        inputs, outputs = self.read_inputs(), []
        length = float(norm(direction))
        if length == 0 or not math.isfinite(length):
            self.error = 0.0 if length == 0 else math.nan
            return {tuple(sorted(direction)): self.losses * length}
        epsilon = torch.finfo(self.coarsest).eps
        step = math.sqrt(epsilon) / length

        def run(module: Callable[..., Any]) -> Tensor:
            output = call(module, inputs)
            outputs.extend(t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point())
            return self.loss(output)

        changes: Tensor = self.snapshot.moved(self.tangents(direction), step, run).detach() - self.losses
        entry = changes / step
        if bool(entry.isfinite().all()):
            # Of what is finite: masked outputs are minus infinity, and round nothing.
            largest = max(float(t.nan_to_num(0, 0, 0).abs().max()) for t in [self.losses, *outputs] if t.numel())
            self.rounding = rounding = epsilon * largest / max(float(changes.abs().max()), 1e-300)
            gap = entry.sum() - entry.numel() * dot(self.batch_gradient, direction)
            curvature = float(gap.abs() / entry.abs().sum().clamp_min(1e-300))
            self.error = max(curvature, rounding, self.measured)
            if self.error > self.largest_error:
                raise UnsupportedLayerError(
                    f"The finite difference is off by about {self.error:.2g} times its size: rounding {rounding:.1g}, "
                    f"curvature {curvature:.1g}. Gradients have vanished or the loss is too curved for it, inputs or "
                    "targets were overwritten, or the pass is not the same function each time."
                )
        return {tuple(sorted(direction)): entry}


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, whose own forward waits for the other processes."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def _tensors_of(loss: Losses) -> list[Tensor]:
    """Those in its closure, its defaults and its attributes; of a partial function, of a bound method likewise."""
    inner = getattr(loss, "func", loss)
    cells = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or () if _is_filled(cell)]
    owners = [loss, getattr(loss, "__self__", None)]
    attributes = [value for owner in owners for value in getattr(owner, "__dict__", {}).values()]
    bound = [*getattr(loss, "args", ()), *getattr(loss, "keywords", {}).values()]
    defaults = [*(getattr(inner, "__defaults__", None) or ()), *(getattr(inner, "__kwdefaults__", None) or {}).values()]
    held = [*cells, *defaults, *attributes, *bound]
    return [value for value in held if isinstance(value, Tensor)]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def record_replayed(
    tape: type[ForwardTape] | type[FiniteDifferenceTape],
    network: nn.Module,
    inputs: tuple | Mapping[str, Any],
    loss: Losses,
    *,
    run: Callable[..., Any] | None = None,
    loss_scale: LossScale = 1.0,
    alone: bool = False,
) -> ReplayedTape:
    """Run forward and backward of the mean loss, and keep what a replay needs; see :func:`gar_env.alignment.record`.

    Raises:
        StaleTapeError: If parameters changed inside the backward pass before they were copied.
        UnsupportedLayerError: For a finite difference in half precision, which rounding would drown.
    """
    low = runs_in_low_precision(network)
    if tape is FiniteDifferenceTape and low:
        raise UnsupportedLayerError(
            "A finite difference in half precision is rounding and nothing else: outside of torch.autocast it would "
            "be one of float32."
        )
    check_repeatable(network)
    snapshot = Snapshot.take(unwrapped(network), (loss,), parameters=False)
    kept_inputs = keep(inputs)  # before the pass, which may write into them
    losses = loss(call(network if run is None else run, inputs))
    check_losses(losses, inputs, per_token=True)
    coarsest = coarsest_of([losses, *network.parameters()], coarsest_inside(losses))
    if coarsest is torch.float32 and multiplies_in_ten_bits(network):
        coarsest = torch.float16  # has as many
    if any(_steps_inside(p) for p in network.parameters()):
        snapshot.take_parameters()
    versions = [p._version for p in snapshot.names.values()]
    batch_gradient, _ = backward_of_mean(trainable_parameters(network), losses, loss_scale, alone=alone)
    if not snapshot.parameters:
        if versions != [p._version for p in snapshot.names.values()]:
            raise StaleTapeError(
                "Parameters were changed inside the backward pass, by a hook on a module or an output, before they "
                "were copied. Step after it, or in hooks of the parameters (register_post_accumulate_grad_hook)."
            )
        snapshot.take_parameters()
    kept = snapshot, kept_inputs, loss, keep(_tensors_of(loss))
    return tape(network, losses.detach(), batch_gradient, *kept, low_precision=low, coarsest=coarsest)


def _steps_inside(p: nn.Parameter) -> bool:
    """Whether hooks on a parameter may move it inside the backward pass, as fused optimizers do."""
    return bool(p._post_accumulate_grad_hooks or p._backward_hooks)
