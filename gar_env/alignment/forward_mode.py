"""Recording for forward mode: the derivative of each example's own loss, batch statistics included."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from gar_env.alignment.direction import Direction
from gar_env.alignment.fallback import Snapshot, detached
from gar_env.alignment.tape import Losses, Tape, backward_of_mean, check_losses
from gar_env.errors import UnsupportedLayerError


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
        try:
            entry = self.snapshot.tangent(dict(direction), lambda call: self.loss(call(*self.inputs)))
        except NotImplementedError as error:
            raise UnsupportedLayerError(
                f"The network has an operation without forward-mode derivative: {error}\n"
                "Pass batch_norm='share', which needs it in no layer with a rule."
            ) from error
        return {tuple(sorted(direction)): entry}


def record_forward(network: nn.Module, inputs: tuple, loss: Losses) -> ForwardTape:
    """Run forward and backward of the mean loss, and keep what a replay needs; see :func:`gar_env.alignment.record`."""
    snapshot = Snapshot.take(network)
    losses = loss(network(*inputs))
    check_losses(losses, inputs)
    batch_gradient = backward_of_mean(network, losses)
    return ForwardTape(network, losses.detach(), batch_gradient, snapshot, detached(inputs), loss)
