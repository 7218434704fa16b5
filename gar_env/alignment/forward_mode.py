"""Recording for forward mode: the derivative of each example's own loss, batch statistics included."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gar_env.alignment.direction import Direction
from gar_env.alignment.fallback import Snapshot
from gar_env.alignment.tape import Losses, Tape, backward_of_mean, check_losses, keep, unkept
from gar_env.errors import StaleTapeError, UnsupportedLayerError


@dataclass(eq=False)
class ForwardTape(Tape):
    """The recorded batch, parameters, buffers and random state; no activations."""

    snapshot: Snapshot
    inputs: tuple
    loss: Losses

    why_lost = (
        "Replaying the pass gave another derivative: the network or the loss is not the same function each time (state "
        "outside its buffers, numpy randomness), or a layer's backward is not its derivative. Pass batch_norm='share'."
    )

    def entries(self, direction: Direction) -> dict[tuple[str, ...], Tensor]:
        """See :meth:`Tape.entries`; one part for all parameters."""
        inputs = unkept(self.inputs, "the network")
        try:
            losses, entry = self.snapshot.tangent(dict(direction), lambda call: self.loss(call(*inputs)))
        except NotImplementedError as error:
            raise UnsupportedLayerError(
                f"The network has an operation without forward-mode derivative: {error}\n"
                "Pass batch_norm='share': layers with a rule do not need one."
            ) from error
        if not torch.allclose(losses, self.losses, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise StaleTapeError(
                f"Replaying the recorded pass gave other losses, by up to {(losses - self.losses).abs().max():.2g}: "
                "inputs or targets were overwritten, or network or loss depend on something else than their buffers. "
                "Keep each batch in its own tensors until its rewards are computed."
            )
        return {tuple(sorted(direction)): entry}


def record_forward(network: nn.Module, inputs: tuple, loss: Losses) -> ForwardTape:
    """Run forward and backward of the mean loss, and keep what a replay needs; see :func:`gar_env.alignment.record`."""
    snapshot = Snapshot.take(network)
    losses = loss(network(*inputs))
    check_losses(losses, inputs)
    batch_gradient = backward_of_mean(network, losses)
    return ForwardTape(network, losses.detach(), batch_gradient, snapshot, keep(inputs), loss)
