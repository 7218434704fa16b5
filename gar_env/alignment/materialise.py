r"""Per-example gradients of a weight, computed in the backward pass *instead of* the weight's gradient.

Their sum over the batch is the weight's gradient, so nothing is computed twice and neither the layer's input nor its
output's gradient is kept. It pays where an example's weight gradient is no larger than what it replaces
(:mod:`gar_env.alignment.choice`). Index legend: n examples, t positions, i inputs, o outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHUNKS, SMALLEST_CHUNK = 8, 4
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Deliver = Callable[[dict[str, Tensor]], None]


def can_materialise(layer: nn.Module, x: Tensor) -> bool:
    """Whether this layer's weight gradient can be replaced by per-example ones.

    Not if the weight is frozen, in mixed or half precision, or where padding is not zeros on both sides alike.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or not weight.requires_grad or not isinstance(x, Tensor):
        return False
    if x.dtype != weight.dtype or x.ndim == 0 or x.is_meta:
        return False
    if torch.is_autocast_enabled(x.device.type) or x.dtype not in (torch.float32, torch.float64) or len(x) == 0:
        return False
    if type(layer) is nn.Linear:
        return x.ndim >= 3
    return type(layer) in CONVOLUTIONS and _zero_padded(layer) and x.ndim == weight.ndim


def _zero_padded(layer: nn.Module) -> bool:
    return getattr(layer, "padding_mode", None) == "zeros" and not isinstance(getattr(layer, "padding", ""), str)


def output_shape(layer: Any, x: Tensor) -> torch.Size:
    """Of a linear layer or convolution for the input ``x``."""
    if isinstance(layer, nn.Linear):
        return torch.Size((*x.shape[:-1], layer.out_features))
    options = zip(x.shape[2:], layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    sizes = (
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in options
    )
    return torch.Size((len(x), layer.out_channels, *sizes))


def weight_gradient(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """The usual one, summed over the batch."""
    if isinstance(layer, nn.Linear):
        return delta.flatten(0, -2).T @ x.flatten(0, -2)
    return _backward(layer, x, delta, layer.weight, (False, True, False), layer.groups)[1]


def example_weight_gradients(layer: nn.Module, x: Tensor, delta: Tensor) -> Tensor:
    """``[n, *weight shape]``, from the layer's input and its output's gradient."""
    if isinstance(layer, nn.Linear):
        return torch.bmm(delta.flatten(1, -2).transpose(1, 2), x.flatten(1, -2))
    assert isinstance(layer, CONVOLUTIONS)
    gradients = layer.weight.new_empty(len(x), *layer.weight.shape)
    # In chunks: the CPU library copies a chunk's tensors three times, and is faster while they fit into its caches.
    chunk = max(SMALLEST_CHUNK, math.ceil(len(x) / CHUNKS))
    for part, inputs, deltas in zip(gradients.split(chunk), x.split(chunk), delta.split(chunk), strict=True):
        part.copy_(_apart(layer, inputs, deltas))
    return gradients


def _apart(layer: Any, x: Tensor, delta: Tensor) -> Tensor:
    """One convolution in n times as many groups: each example meets only itself."""
    n, weight = len(x), layer.weight
    x = x.reshape(1, n * x.shape[1], *x.shape[2:])
    delta = delta.reshape(1, n * delta.shape[1], *delta.shape[2:])
    shape_only = weight.new_empty(()).expand(n * weight.shape[0], *weight.shape[1:])
    gradients = _backward(layer, x, delta, shape_only, (False, True, False), groups=n * layer.groups)[1]
    return gradients.view(n, *weight.shape)


def _backward(layer: Any, x: Tensor, delta: Tensor, weight: Tensor, mask: tuple[bool, bool, bool], groups: int) -> Any:
    return torch.ops.aten.convolution_backward(
        delta,
        x,
        weight,
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        [0] * len(layer.stride),
        groups,
        mask,
    )


class _Layer(torch.autograd.Function):
    """A linear layer or convolution whose backward pass delivers per-example gradients on its way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: Any, deliver: Deliver) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.deliver = layer, deliver
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        return layer._conv_forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        layer, inputs = ctx.layer, None
        if ctx.needs_input_grad[0]:
            if isinstance(layer, nn.Linear):
                inputs = delta @ weight
            else:
                inputs = _backward(layer, x, delta, weight, (True, False, False), layer.groups)[0]
        gradients = {"weight": example_weight_gradients(layer, x, delta)}
        if layer.bias is not None and layer.bias.requires_grad:
            over = tuple(range(1, delta.ndim - 1)) if isinstance(layer, nn.Linear) else tuple(range(2, delta.ndim))
            gradients["bias"] = delta.sum(over)
        ctx.deliver(gradients)
        bias = gradients["bias"].sum(0) if "bias" in gradients else None
        return inputs, gradients["weight"].sum(0), bias, None, None


def call_and_materialise(layer: nn.Module, x: Tensor, deliver: Deliver) -> Tensor:
    """The layer's output; in the backward pass, ``deliver`` gets ``{parameter: [n, *shape]}``."""
    output = _Layer.apply(x, layer.weight, layer.bias, layer, deliver)
    assert isinstance(output, Tensor)
    return output
