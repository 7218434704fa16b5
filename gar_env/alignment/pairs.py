"""Inner products of single examples' gradients, from two tapes: of chosen pairs alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gar_env.alignment.layers import Call, Unit
from gar_env.alignment.layerwise import LayerTape
from gar_env.alignment.norms import example_gradients
from gar_env.alignment.recorder import Deferred
from gar_env.alignment.tape import Tape, check_tape, read, working_dtype
from gar_env.errors import ConfigurationError, UnsupportedLayerError

AT_ONCE = 2**22
"""Numbers of per-example gradients that are made at a time, or one pair's."""


@torch.no_grad()
def pair_products(tape: Tape, other: Tape, rows: Tensor, others: Tensor) -> Tensor:
    r"""``< grad loss_i, grad loss'_j >`` of the pairs ``(i, j)``; both tapes stay as they are.

    Linear layers and embeddings take inner products of inputs and of output gradients; of other layers the per-example
    gradients of these pairs are made, some at a time.

    Args:
        tape: Of one pass, recorded with hooks.
        other: Of another one of the same network, at other parameters, say.
        rows: int64 ``[p]``, examples of the first.
        others: int64 ``[p]``, of the second.

    Returns:
        Shape ``[p]``. Under training-mode batch normalisation, of ``n`` times each example's share: the mean over all
        ``j`` is what :func:`~gar_env.alignment.align` gives for the second pass's gradient.

    Raises:
        ConfigurationError: If the tapes are of networks with other layers, or there are not as many of both.
        UnsupportedLayerError: If a tape was recorded in another way, or a layer's per-example gradients cannot be made.
        StaleTapeError: If a tape was read already, or a recorded input was overwritten in place.

    Example:
        >>> from gar_env.alignment import record
        >>> network, x = nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
        >>> tape = record(network, x, lambda outputs: outputs[:, 0])
        >>> pair_products(tape, tape, torch.tensor([0, 0]), torch.tensor([0, 1]))
        tensor([25.,  4.])
    """
    for one in (tape, other):
        check_tape(one)
        if not isinstance(one, LayerTape):
            raise UnsupportedLayerError(
                "Products of single examples' gradients are read from tapes that hooks recorded; this one was recorded "
                f"with way={one.way!r}. Use way='hooks' with batch_norm='share', or reward='gar'."
            )
    assert isinstance(tape, LayerTape)
    assert isinstance(other, LayerTape)
    units = list(zip(tape.units, other.units, strict=False))
    same = len(tape.units) == len(other.units) and all(a.parameters == b.parameters for a, b in units)
    if not same or rows.shape != others.shape or rows.ndim != 1:
        raise ConfigurationError(
            f"pair_products is of two tapes of one network and as many rows of each; found {len(tape.units)} and "
            f"{len(other.units)} layers, rows {list(rows.shape)} and {list(others.shape)}."
        )
    users = [name for unit in tape.units for name in unit.parameters.values() for _ in unit.calls]
    total = torch.zeros(len(rows), dtype=working_dtype(tape.losses), device=tape.losses.device)
    shared: list[tuple[Unit, Unit]] = []
    for unit, theirs in units if len(rows) else ():
        if not unit.calls:
            continue
        once = len(unit.calls) == len(theirs.calls) == 1 and all(users.count(n) == 1 for n in unit.parameters.values())
        if not once:
            shared.append((unit, theirs))
            continue
        found = _by_inner_products(unit, unit.calls[0], theirs.calls[0], rows, others)
        total += _by_gradients([(unit, theirs)], rows, others) if found is None else found
    if shared:
        total += _by_gradients(shared, rows, others)
    return total * (tape.n / tape.loss_scale) * (other.n / other.loss_scale)


def _by_inner_products(unit: Unit, call: Call, other: Call, rows: Tensor, others: Tensor) -> Tensor | None:
    """A linear layer's or an embedding's part, ``[p]``; ``None`` of other layers."""
    kind = type(unit.module)
    if not isinstance(call, Deferred) or not isinstance(other, Deferred) or kind not in (nn.Linear, nn.Embedding):
        return None
    label = str(unit)
    x, y = read(call.x, label)[rows], read(other.x, label)[others]
    delta, epsilon = call.delta[rows], other.delta[others]
    if x.is_floating_point():  # it may be kept in less precision
        x, y = x.to(delta.dtype), y.to(delta.dtype)
    places = x.ndim - (kind is nn.Linear)
    if places == 1 and kind is nn.Linear:  # [p, i], [p, o]
        inputs = (x * y).sum(1) * ("weight" in unit.parameters) + ("bias" in unit.parameters)
        return inputs * (delta * epsilon).sum(1)
    # [p, T, o]; positions of one example meet all of the other
    delta, epsilon = delta.reshape(len(rows), -1, delta.shape[-1]), epsilon.reshape(len(rows), -1, epsilon.shape[-1])
    outputs = torch.bmm(delta, epsilon.mT)
    if kind is nn.Linear:
        x, y = x.reshape(len(rows), -1, x.shape[-1]), y.reshape(len(rows), -1, y.shape[-1])
        inputs = torch.bmm(x, y.mT) * ("weight" in unit.parameters) + ("bias" in unit.parameters)
    else:
        x, y = x.reshape(len(rows), -1), y.reshape(len(rows), -1)
        padding = getattr(unit.module, "padding_idx", None)
        inputs = (x[:, :, None] == y[:, None]) & (True if padding is None else (x != padding)[:, :, None])
    return (inputs * outputs).sum((1, 2))


def _by_gradients(units: list[tuple[Unit, Unit]], rows: Tensor, others: Tensor) -> Tensor:
    """The part of layers whose per-example gradients are made, ``[p]``; units that share parameters come together."""
    size = sum(p.numel() for unit, _ in units for p in unit.module.parameters(recurse=False))
    step = max(1, AT_ONCE // max(1, size))
    parts = []
    for some, theirs in zip(rows.split(step), others.split(step), strict=True):
        ours, yours = (_gradients([pair[i] for pair in units], own) for i, own in ((0, some), (1, theirs)))
        parts.append(torch.stack([(ours[name] * yours[name]).flatten(1).sum(1) for name in ours]).sum(0))
    return torch.cat(parts) if parts else torch.zeros(0, device=rows.device)


def _gradients(units: list[Unit], rows: Tensor) -> dict[str, Tensor]:
    """By parameter, ``[p, *shape]``, over all calls."""
    found: dict[str, Tensor] = {}
    for unit in units:
        for call in unit.calls:
            for local, g in example_gradients(unit, call, rows).items():
                name = unit.parameters[local]
                found[name] = found[name] + g if name in found else g
    return found
