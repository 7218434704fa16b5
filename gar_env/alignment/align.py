"""``record`` a pass, ``align`` it with a direction."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from gar_env.alignment.conservation import check_conservation
from gar_env.alignment.direction import Direction, check_direction
from gar_env.alignment.forward_mode import record_forward
from gar_env.alignment.layerwise import record_layers
from gar_env.alignment.probe import check_separation
from gar_env.alignment.tape import Losses, Tape
from gar_env.registry import check_choice

BatchNormReading = Literal["share", "derivative"]
BATCH_NORM_READINGS = ("share", "derivative")


def record(
    network: nn.Module,
    inputs: Tensor | tuple,
    loss: Losses,
    *,
    batch_norm: BatchNormReading = "share",
    probe: bool = False,
) -> Tape:
    r"""Run forward and backward of the mean loss, and keep what :func:`align` needs.

    ``.grad`` is filled as by ``loss(network(inputs)).mean().backward()``, so an optimizer can step next.

    Args:
        network: Any module whose layers have the batch as their first dimension.
        inputs: The batch ``[n, ...]``, or a tuple of arguments.
        loss: From the network's output to one loss per example, ``[n]``.
        batch_norm: What ``grad l_i`` means under training-mode batch normalisation. ``"share"``: ``n`` times
            example i's share of the batch gradient, layer by layer (the paper's). ``"derivative"``: the derivative
            of example i's own loss, through the batch statistics (forward mode, a second forward pass at
            ``align``). Without batch normalisation in training mode both are the same number.
        probe: With ``"share"``, first check by two extra passes that the rows of every layer are examples: the
            conservation check of :func:`align` cannot see examples that are mixed up with one another. Pass True
            with the first batch of a network that you have not used here before.

    Returns:
        A tape, to be read once the direction is known.

    Raises:
        LossShapeError: If the loss is not one number per example.
        MixedExamplesError: If a layer's first dimension is not the batch.
        UnsupportedLayerError: If a layer has neither a rule nor a replay.

    Example:
        >>> network = nn.Linear(2, 1, bias=False)
        >>> inputs = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> tape = record(network, inputs, lambda outputs: outputs[:, 0])
        >>> align(tape, {"weight": torch.tensor([[1.0, 4.5]])})
        tensor([10.,  3.])

    Source:
        Mueller, Biedenkapp & Hutter (2021), section 5, lemmas 2 and 3.
    """
    check_choice("batch_norm", batch_norm, BATCH_NORM_READINGS)
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    if batch_norm == "share":
        if probe:
            check_separation(network, inputs, loss)
        return record_layers(network, inputs, loss)
    return record_forward(network, inputs, loss)


def align(tape: Tape, direction: Direction) -> Tensor:
    r"""Dot each example's gradient with one direction in parameter space.

    Entry ``i`` is the first-order change of example ``i``'s loss if the parameters moved by ``direction``.
    No per-example gradient of a large layer is stored.

    Args:
        tape: One recorded pass over ``n`` examples.
        direction: One tensor per trainable parameter, keyed as in ``named_parameters()``.

    Returns:
        Shape ``[n]``. Under training-mode batch normalisation, what ``batch_norm`` said when recording.

    Raises:
        DirectionMismatchError: If a trainable parameter has no entry, or an entry does not fit.
        LostGradientError: If the entries do not add up to ``n`` times the batch gradient's dot product with the
            direction: a weight was used outside its layer, or changed between forward and backward.
        StaleTapeError: If a recorded input was overwritten in place.

    Example:
        See :func:`record`.

    Source:
        Mueller, Biedenkapp & Hutter (2021), section 5, lemmas 2 and 3.
    """
    check_direction(direction, tape.batch_gradient)
    direction = {name: tensor.detach() for name, tensor in direction.items()}
    with torch.no_grad():
        parts = tape.entries(direction)
        check_conservation(tape, direction, parts)
        return torch.stack(list(parts.values())).sum(0)
