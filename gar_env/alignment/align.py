"""``record`` a pass, ``align`` it with a direction, at once or while the direction's backward pass runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gar_env.alignment.backward import LossScale
from gar_env.alignment.conservation import add_up
from gar_env.alignment.direction import Direction, check_direction
from gar_env.alignment.engine import Alignment
from gar_env.alignment.inputs import Inputs, Losses
from gar_env.alignment.tape import Tape, check_tape, full_precision
from gar_env.alignment.ways import AlignmentPrecision, BatchNormReading, Way
from gar_env.errors import LostGradientError, UnsupportedLayerError
from gar_env.seeding import TURNS


def record(
    network: nn.Module,
    inputs: Inputs,
    loss: Losses,
    *,
    way: Way = "auto",
    batch_norm: BatchNormReading = "share",
    max_overhead: float | None = None,
    autotune: bool = False,
    materialise: bool = True,
    precision: AlignmentPrecision = "float32",
    probe: bool = True,
    loss_scale: LossScale = 1.0,
) -> Tape:
    r"""Run forward and backward of the mean loss, and keep what :func:`align` needs.

    ``.grad`` is filled as by ``loss(network(inputs)).mean().backward()``, so an optimizer can step next: bit for bit
    with ``materialise=False``, else but for rounding. Everything else is as after that pass. In a loop, an
    :class:`~gar_env.alignment.Alignment` does the same and remembers what it found out about the network.

    Args:
        network: Any module whose layers have the batch as their first dimension.
        inputs: The batch ``[n, ...]``, a tuple of arguments, or a dictionary of named ones.
        loss: From the network's output to one loss per example, ``[n]``. With the ways ``"forward"`` and
            ``"finite_difference"`` also one per token, ``[n, T]``; the mean is then taken over both.
        way: See :class:`~gar_env.alignment.Alignment`.
        batch_norm: Likewise.
        max_overhead: Likewise.
        autotune: Likewise.
        materialise: Likewise.
        precision: Likewise.
        probe: Likewise.
        loss_scale: The backward pass starts from this times the mean loss, and the tape divides it out again: a
            ``torch.amp.GradScaler``, or ``1 / k`` for ``k`` accumulated micro-batches.

    Returns:
        A tape, to be read once the direction is known.

    Raises:
        ConfigurationError: If ``way`` and ``batch_norm`` contradict each other.
        LossShapeError: If the loss is not one number per example.
        MemoryCapError: If no way stays below ``max_overhead``.
        MixedExamplesError: If a layer's first dimension is not the batch.
        UnsupportedLayerError: If a layer has neither a rule nor a replay, or was compiled before it was hooked.

    Example:
        >>> network = nn.Linear(2, 1, bias=False)
        >>> inputs = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
        >>> tape = record(network, inputs, lambda outputs: outputs[:, 0])
        >>> align(tape, {"weight": torch.tensor([[1.0, 4.5]])})
        tensor([10.,  3.])

    Source:
        Mueller, Biedenkapp & Hutter (2021), section 5, lemmas 2 and 3.
    """
    alignment = Alignment(
        network,
        way=way,
        batch_norm=batch_norm,
        max_overhead=max_overhead,
        autotune=autotune,
        materialise=materialise,
        precision=precision,
        probe=probe,
    )
    return alignment.record(inputs, loss, loss_scale=loss_scale)


def align(tape: Tape, direction: Direction, *, retain_tape: bool = False) -> Tensor:
    r"""Dot each example's gradient with one direction in parameter space.

    Entry ``i`` is the first-order change of example ``i``'s loss if the parameters moved by ``direction``.
    No per-example gradient of a large layer is stored.

    Args:
        tape: One recorded pass over ``n`` examples. What it kept is freed.
        direction: One tensor per trainable parameter, keyed as in ``named_parameters()``.
        retain_tape: Keep the tape for another direction, as ``retain_graph`` does for a backward pass.

    Returns:
        Shape ``[n]``, or that of the recorded losses. Under training-mode batch normalisation, what ``batch_norm``
        said when recording.

    Raises:
        DirectionMismatchError: If a trainable parameter has no entry, or an entry does not fit.
        LostGradientError: If the entries do not add up to ``n`` times the batch gradient's dot product with the
            direction: a weight was used outside its layer, or changed between forward and backward.
        NonFiniteGradientError: If the direction or the recorded pass is NaN or infinite; it names the parameters.
        StaleTapeError: If the tape was read already, or a recorded input was overwritten in place.

    Example:
        See :func:`record`.

    Source:
        Mueller, Biedenkapp & Hutter (2021), section 5, lemmas 2 and 3.
    """
    check_tape(tape)
    check_direction(direction, tape.batch_gradient)
    direction = {name: direction[name].detach().to(g.dtype) for name, g in tape.batch_gradient.items()}
    try:
        with torch.no_grad(), full_precision(tape.losses), TURNS:
            entries = add_up(tape, tape.entries(direction), direction)
    except (LostGradientError, UnsupportedLayerError) as error:
        raise type(error)(f"{error} {tape.advice()}") from error
    if not retain_tape:
        tape.release()
    return entries
