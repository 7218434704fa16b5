"""The length of each example's gradient, from a tape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gar_env.alignment.layers import Unit
from gar_env.alignment.layerwise import LayerTape
from gar_env.alignment.materialise import CONVOLUTIONS, can_materialise, example_weight_gradients
from gar_env.alignment.recorder import Deferred, ExampleGradients
from gar_env.alignment.tape import Tape, check_tape, read
from gar_env.errors import UnsupportedLayerError


@torch.no_grad()
def example_lengths(tape: Tape) -> Tensor:
    r"""``|grad loss_i|``, the Euclidean length of each example's gradient. The tape stays as it is.

    A linear layer on ``[n, i]`` needs only ``|x_i| |delta_i|``; other layers' per-example gradients are made and
    dropped one layer at a time, so the most memory taken is ``n`` times the largest such layer.

    Args:
        tape: One pass over ``n`` examples, recorded with hooks.

    Returns:
        Shape ``[n]``. Under training-mode batch normalisation, of ``n`` times example ``i``'s share.

    Raises:
        UnsupportedLayerError: If the tape was recorded in another way, or a layer with parameters is neither linear
            nor a convolution with zero padding nor a normalisation.
        StaleTapeError: If the tape was read already, or a recorded input was overwritten in place.

    Example:
        >>> from gar_env.alignment import record
        >>> tape = record(nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0], [0.0, 1.0]]), lambda out: out[:, 0])
        >>> example_lengths(tape)
        tensor([5., 1.])
    """
    check_tape(tape)
    if not isinstance(tape, LayerTape):
        raise UnsupportedLayerError(
            f"Lengths of per-example gradients are read from tapes that hooks recorded; this one was recorded with "
            f"way={tape.way!r}. Use way='hooks' with batch_norm='share', or a signal that needs no lengths."
        )
    squares: list[Tensor] = []
    # Of parameters that are used several times: their gradients add up before they are squared.
    apart: dict[str, Tensor] = {}
    users = [name for unit in tape.units for name in unit.parameters.values() for _ in unit.calls]
    for unit in tape.units:
        for call in unit.calls:
            once = all(users.count(name) == 1 for name in unit.parameters.values())
            if once and isinstance(call, Deferred) and type(unit.module) is nn.Linear and call.delta.ndim == 2:
                sizes = call.delta.square().sum(1)
                x = read(call.x, str(unit)).to(call.delta.dtype).square().sum(1)
                squares.append(sizes * (x * ("weight" in unit.parameters) + ("bias" in unit.parameters)))
                continue
            for local, g in example_gradients(unit, call).items():
                name = unit.parameters[local]
                if users.count(name) == 1:
                    squares.append(g.flatten(1).square().sum(1))
                else:
                    apart[name] = apart[name] + g if name in apart else g
    squares += [g.flatten(1).square().sum(1) for g in apart.values()]
    return torch.stack(squares).sum(0).sqrt() * (tape.n / tape.loss_scale)


def example_gradients(unit: Unit, call: object, rows: Tensor | None = None) -> dict[str, Tensor]:
    """Each example's gradients of a layer's parameters, ``{name inside the layer: [n, *shape]}``; of some rows."""
    layer = unit.module
    chosen = slice(None) if rows is None else rows
    if isinstance(call, ExampleGradients):
        return {name: g[chosen] for name, g in call.gradients.items()}
    if isinstance(call, Deferred):
        x, delta = read(call.x, str(unit))[chosen], call.delta[chosen]
        x = x.to(delta.dtype) if x.is_floating_point() else x  # it may be kept in less precision
        found: dict[str, Tensor] = {}
        if type(layer) is nn.Linear:
            found["weight"] = torch.einsum("n...o,n...i->noi", delta, x)
            found["bias"] = delta.flatten(1, -2).sum(1) if delta.ndim > 2 else delta
        elif type(layer) is nn.Embedding:
            flat, places = delta.reshape(len(x), -1, delta.shape[-1]), x.reshape(len(x), -1, 1)
            flat = flat if layer.padding_idx is None else flat * (places != layer.padding_idx)
            weight = delta.new_zeros(len(x), *layer.weight.shape)
            found["weight"] = weight.scatter_add_(1, places.expand_as(flat), flat)
        elif isinstance(layer, CONVOLUTIONS) and can_materialise(layer, x):
            found["weight"] = example_weight_gradients(layer, x, delta)
            found["bias"] = delta.flatten(2).sum(2)
        if found:
            return {name: g for name, g in found.items() if name in unit.parameters}
    raise UnsupportedLayerError(
        f"The per-example gradients of {unit} cannot be made: they are known for linear layers, embeddings, "
        "convolutions with zero padding in full precision, and normalisation layers. Use a signal that needs none."
    )
