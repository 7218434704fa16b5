"""What is kept of a pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from gar_env.alignment import Tape
from gar_env.data import Batch
from gar_env.networks import LastLayer
from gar_env.state import plain


@plain
@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over a batch, forward and backward of the mean loss.

    Args:
        batch: ``n`` examples.
        weights: ``[n]``, or ``None``: the loss is the mean of ``w_i l_i``.
        loss_scale: What its gradient was multiplied by.
        losses: ``w_i l_i``, ``[n]``, detached.
        random_state: Of the learner's generator before it: dropout.
        tape: If it was recorded.
        outputs: The network's, detached; of passes aside.
        gradient: Of the mean loss, by parameter name; of passes aside. Of others it waits for the update.
        last_layer: The last linear layer's input and output, if the learner keeps them.
        shares: ``[n]``, where the gradient is of a part of the batch: how often each example counts in the mean.
    """

    batch: Batch
    weights: Tensor | None
    loss_scale: float
    losses: Tensor
    random_state: Tensor
    tape: Tape | None = None
    outputs: Tensor | None = None
    gradient: dict[str, Tensor] = field(default_factory=dict)
    last_layer: LastLayer | None = None
    shares: Tensor | None = None


@plain
@dataclass(frozen=True, eq=False)
class Start:
    """Copies of what a step starts from.

    Args:
        parameters: By name, at theta_t.
        optimizer_states: One per trainable parameter, in order; ``None`` if the update is not to be repeated.
    """

    parameters: dict[str, Tensor]
    optimizer_states: list[dict[str, Any]] | None


@plain
class Origin(NamedTuple):
    """What a recorded pass can be recorded again from.

    Args:
        batch: ``n`` examples.
        weights: As of :class:`Pass`.
        loss_scale: Likewise.
        random_state: Likewise.
        buffers: Before it, by name.
        parameters: By name, at which it was made.
    """

    batch: Batch
    weights: Tensor | None
    loss_scale: float
    random_state: Tensor
    buffers: dict[str, Tensor]
    parameters: dict[str, Tensor]
