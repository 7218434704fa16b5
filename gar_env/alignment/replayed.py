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
from gar_env.alignment.direction import Direction, dot, norm
from gar_env.alignment.inputs import Losses, call, check_losses
from gar_env.alignment.snapshot import Snapshot
from gar_env.alignment.tape import Kept, Parts, Tape, coarsest_of, keep, runs_in_low_precision, unkept
from gar_env.errors import StaleTapeError, UnsupportedLayerError

ROUGH = 0.5
"""Largest error of a finite difference, as estimated, that is returned: beyond it, something else than rounding."""


@dataclass(eq=False)
class ReplayedTape(Tape):
    """The recorded batch, parameters, buffers and random state; no activations."""

    snapshot: Snapshot
    inputs: Any
    loss: Losses
    held: list[Kept]  # the tensors that the loss holds, targets among them

    why_lost = (
        "Replaying the pass gave another derivative: the network or the loss is not the same function each time (state "
        "outside its buffers, numpy randomness), or a layer's backward is not its derivative. Pass way='hooks'."
    )

    def read_inputs(self) -> Any:
        """The recorded batch.

        Raises:
            StaleTapeError: If it, or a tensor that the loss holds, was overwritten.
        """
        unkept(self.held, "the loss")
        return unkept(self.inputs, "the network")

    def kept(self) -> Iterable[Tensor]:
        """See :meth:`Tape.kept`."""
        batch = [leaf.tensor for leaf in tree_leaves(self.inputs) if isinstance(leaf, Kept)]
        return [*batch, *self.snapshot.parameters.values(), *self.snapshot.buffers.values()]

    def tangents(self, direction: Direction) -> dict[str, Tensor]:
        """The direction by the names of the module that is replayed."""
        inside = unwrapped(self.network) is not self.network
        return {name.removeprefix("module.") if inside else name: tensor for name, tensor in direction.items()}

    def release(self) -> None:
        """See :meth:`Tape.release`."""
        super().release()
        self.inputs, self.held, self.snapshot.parameters, self.snapshot.buffers = (), [], {}, {}


@dataclass(eq=False)
class ForwardTape(ReplayedTape):
    """Read in forward mode."""

    way = "forward"

    def entries(self, direction: Direction) -> Parts:
        """See :meth:`Tape.entries`; one part for all parameters."""
        inputs = self.read_inputs()
        try:
            losses, entry = self.snapshot.tangent(
                self.tangents(direction), lambda module: self.loss(call(module, inputs))
            )
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            raise UnsupportedLayerError(
                f"The network has an operation without a derivative of its derivative: {str(error).splitlines()[0]}\n"
                "Pass way='finite_difference', or way='hooks' with batch_norm='share': layers with a rule do not need "
                "one."
            ) from error
        if not torch.allclose(losses, self.losses, rtol=_replay_tolerance(losses), atol=1e-5, equal_nan=True):
            raise StaleTapeError(
                f"Replaying the recorded pass gave other losses, by up to {(losses - self.losses).abs().max():.2g}: "
                "inputs or targets were overwritten, or network or loss depend on something else than their buffers. "
                "Keep each batch in its own tensors until its rewards are computed."
            )
        return {tuple(sorted(direction)): entry}


def _replay_tolerance(losses: Tensor) -> float:
    return 1e-3 if losses.dtype in (torch.float32, torch.float64) else 5e-2


@dataclass(eq=False)
class FiniteDifferenceTape(ReplayedTape):
    """Read by one more forward pass, a step of length sqrt(machine epsilon) along the direction: 3.5e-4 in float32.

    A shorter step drowns in rounding, a longer one in curvature and in rectifiers that switch. :attr:`error` estimates
    the relative error of the entries as a vector (entries near 0 carry the rounding of the others), as the larger of

    - what curvature does on average: the entries' sum is known exactly from the batch gradient; how far it is missed,
      over the sum of their absolute values;
    - what rounding does: machine epsilon times the largest output, over the step's largest change of a loss. It grows
      as gradients vanish, and no step length helps.
    """

    error: float | None = None
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

        changes = self.snapshot.moved(self.tangents(direction), step, run).detach() - self.losses
        entry = changes / step
        if bool(entry.isfinite().all()):
            # Of what is finite: masked outputs are minus infinity, and round nothing.
            largest = max(float(t.nan_to_num(0, 0, 0).abs().max()) for t in [self.losses, *outputs] if t.numel())
            rounding = epsilon * largest / max(float(changes.abs().max()), 1e-300)
            gap = entry.sum() - entry.numel() * dot(self.batch_gradient, direction)
            curvature = float(gap.abs() / entry.abs().sum().clamp_min(1e-300))
            self.error = max(curvature, rounding)
            if self.error > self.largest_error:
                raise UnsupportedLayerError(
                    f"The finite difference is off by about {self.error:.0%}: rounding {rounding:.1g}, curvature "
                    f"{curvature:.1g}. Gradients have vanished or the loss is too curved for it, inputs or targets "
                    "were overwritten, or the pass is not the same function each time. Pass way='forward', which is "
                    "exact."
                )
        return {tuple(sorted(direction)): entry}


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel, whose own forward waits for the other processes."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def _tensors_of(loss: Losses) -> list[Tensor]:
    """Those in its closure, its defaults and its attributes."""
    cells = [cell.cell_contents for cell in getattr(loss, "__closure__", None) or () if _is_filled(cell)]
    held = [*cells, *(getattr(loss, "__defaults__", None) or ()), *getattr(loss, "__dict__", {}).values()]
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
) -> ReplayedTape:
    """Run forward and backward of the mean loss, and keep what a replay needs; see :func:`gar_env.alignment.record`.

    Raises:
        UnsupportedLayerError: For a finite difference in half precision, which rounding would drown.
    """
    snapshot = Snapshot.take(unwrapped(network), parameters=False)
    losses = loss(call(network if run is None else run, inputs))
    check_losses(losses, inputs, per_token=True)
    low, coarsest = runs_in_low_precision(network), coarsest_of([losses, *network.parameters()])
    if tape is FiniteDifferenceTape and low:
        raise UnsupportedLayerError(
            "A finite difference in half precision is rounding and nothing else. Leave torch.autocast, or pass "
            "way='hooks' or way='forward'."
        )
    batch_gradient, _ = backward_of_mean(network, losses, loss_scale)
    snapshot.take_parameters()
    kept = snapshot, keep(inputs), loss, keep(_tensors_of(loss))
    return tape(network, losses.detach(), batch_gradient, *kept, low_precision=low, coarsest=coarsest)
