r"""One rule per layer type. Index legend: n examples, i inputs, o outputs, c channels.

A layer's share of an example's alignment is ``< d loss_i / d parameters, direction >``. Two kinds of rule give it:

===================  ===================================================  =======================================
kind                 what it computes                                     when
===================  ===================================================  =======================================
output tangent       how the layer's output moves when its parameters     at ``align``, from the kept input; then
                     move by ``direction``                                dotted with the output's gradient
example gradients    each example's gradient of the layer's parameters,   at once in the backward pass, so that
                     for parameters that are small beside activations     input and output gradient can be freed
===================  ===================================================  =======================================

Rules are looked up by exact type, never by isinstance: a subclass may change forward, and then its parent's
rule is silently wrong. Subclasses take the slower fallback.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gar_env.alignment.direction import Direction
from gar_env.errors import DuplicateNameError

OutputTangent = Callable[..., Tensor]
ExampleGradients = Callable[..., dict[str, Tensor]]

OUTPUT_TANGENTS: dict[type[nn.Module], OutputTangent] = {}
EXAMPLE_GRADIENTS: dict[type[nn.Module], ExampleGradients] = {}


def _register(table: dict, layers: tuple[type[nn.Module], ...]):
    def decorate(rule):
        for layer in layers:
            if layer in OUTPUT_TANGENTS or layer in EXAMPLE_GRADIENTS:
                raise DuplicateNameError(f"{layer.__name__} has an alignment rule already. A layer type has one rule.")
            table[layer] = rule
        return rule

    return decorate


def register_output_tangent(*layers: type[nn.Module]):
    """Decorator for ``rule(layer, x, direction) -> output tangent``, shaped like the layer's output.

    ``x`` is the layer's only positional input; ``direction`` has a tensor for ``weight`` and for ``bias`` (zeros
    where one is frozen), or no entry where the layer has no such parameter.
    """
    return _register(OUTPUT_TANGENTS, layers)


def register_example_gradients(*layers: type[nn.Module]):
    """Decorator for ``rule(layer, x, delta) -> {parameter name: [n, *parameter shape]}``.

    ``x`` is the layer's only positional input and ``delta`` the gradient of its output.
    """
    return _register(EXAMPLE_GRADIENTS, layers)


@register_output_tangent(nn.Linear)
def linear(layer: nn.Linear, x: Tensor, direction: Direction) -> Tensor:
    """``x W'^T + b'``: ``[n, ..., i]`` to ``[n, ..., o]``."""
    return F.linear(x, direction["weight"], direction.get("bias"))


@register_output_tangent(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor, direction: Direction) -> Tensor:
    """The layer's own convolution (stride, padding and its mode, groups, dilation) with the direction as weight."""
    return layer._conv_forward(x, direction["weight"], direction.get("bias"))


@register_output_tangent(nn.Embedding)
def embedding(layer: nn.Embedding, x: Tensor, direction: Direction) -> Tensor:
    """Rows of the direction; the padding row, which never trains, is zero."""
    tangent = F.embedding(x, direction["weight"])
    if layer.padding_idx is not None:
        tangent = tangent * (x != layer.padding_idx).unsqueeze(-1)
    return tangent


FRESH = (linear, convolution, embedding)
"""Rules whose tangent is a tensor of its own, that may be overwritten."""


def _scale_and_shift(layer: nn.Module, normalised: Tensor, delta: Tensor, over: tuple[int, ...]) -> dict[str, Tensor]:
    """Gradients of ``weight`` and ``bias`` in ``normalised * weight + bias``, summed over positions, not examples."""
    gradients = {}
    if layer.weight is not None:
        gradients["weight"] = (normalised * delta).sum(over) if over else normalised * delta
    if layer.bias is not None:
        gradients["bias"] = delta.sum(over) if over else delta
    return gradients


def uses_batch_statistics(layer: nn.Module) -> bool:
    """Whether a batch normalisation layer normalises with the statistics of the batch in its present mode."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None)


@register_example_gradients(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def batch_norm(layer: nn.modules.batchnorm._BatchNorm, x: Tensor, delta: Tensor) -> dict[str, Tensor]:
    """``[n, c, ...]`` to ``[n, c]``, with the statistics that the forward pass used."""
    channels, count = (-1, *(1,) * (x.ndim - 2)), x.numel() / x.shape[1]
    positions = tuple(range(2, x.ndim))

    # Sums over positions first, in place where the tensor is ours: torch's own normalisation, var_mean and reductions
    # over several dimensions take several times as long on a CPU.
    def over_positions(tensor: Tensor) -> Tensor:
        return tensor.sum(positions) if positions else tensor

    if uses_batch_statistics(layer):
        centred = x - (over_positions(x).sum(0) / count).view(channels)
        lengths = torch.linalg.vector_norm(centred, dim=positions) if positions else centred
        deviation = (lengths.square().sum(0) / count + layer.eps).sqrt()
    else:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        centred = x - layer.running_mean.view(channels)
        deviation = (layer.running_var + layer.eps).sqrt()
    gradients = {}
    if layer.weight is not None:
        gradients["weight"] = over_positions(centred.mul_(delta)) / deviation
    if layer.bias is not None:
        gradients["bias"] = over_positions(delta)
    return gradients


@register_example_gradients(nn.GroupNorm)
def group_norm(layer: nn.GroupNorm, x: Tensor, delta: Tensor) -> dict[str, Tensor]:
    """``[n, c, ...]`` to ``[n, c]``."""
    normalised = F.group_norm(x, layer.num_groups, eps=layer.eps)
    return _scale_and_shift(layer, normalised, delta, tuple(range(2, x.ndim)))


@register_example_gradients(nn.LayerNorm)
def layer_norm(layer: nn.LayerNorm, x: Tensor, delta: Tensor) -> dict[str, Tensor]:
    """``[n, ..., *shape]`` to ``[n, *shape]``."""
    normalised = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    return _scale_and_shift(layer, normalised, delta, tuple(range(1, x.ndim - len(layer.normalized_shape))))


def has_rule(layer: nn.Module) -> bool:
    """Whether a rule covers all of this layer's own trainable parameters.

    A layer under ``weight_norm`` or ``parametrize`` owns other parameters than its type promises; it has none. Nor has
    one whose ``forward`` was replaced on the instance, or whose weight is no parameter.
    """
    if "forward" in vars(layer):
        return False
    if type(layer) not in OUTPUT_TANGENTS and type(layer) not in EXAMPLE_GRADIENTS:
        return False
    if type(layer).__module__.startswith("torch.nn.") and "weight" not in layer._parameters:
        return False  # a tensor that somebody else computes has taken its place
    own = dict(layer.named_parameters(recurse=False))
    return all(isinstance(value, torch.nn.Parameter) for value in own.values()) and set(own) <= {
        "weight",
        "bias",
    }
