"""How a layer's part is computed: kept until the direction is known, or per-example gradients at once.

``"deferred"`` keeps the layer's input and its output's gradient, and costs one forward pass of the layer at ``align``.
``"materialised"`` (:mod:`.materialise`) keeps an example's weight gradients. Both give the same numbers to rounding.

The rule, from shapes alone, so that a run is repeatable bit for bit: materialise where an example's weight gradient is
at most :data:`LARGEST` times as large as its input and output gradient together (for linear layers on sequences
:data:`LARGEST_LINEAR`, which buys time with memory), but not convolutions on channels-last tensors.
``autotune=True`` measures instead, as ``torch.backends.cudnn.benchmark`` does, on a slice of the batch (a whole batch
would spoil the peak of memory), and remembers by layer shape; two processes may then choose differently, and differ by
rounding.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gar_env.alignment.materialise import can_materialise, example_weight_gradients, output_shape, weight_gradient
from gar_env.alignment.rules import OUTPUT_TANGENTS

Choice = Literal["deferred", "materialised"]

LARGEST = 1.2
"""Largest numel(weight) over numel(x_i) + numel(delta_i) at which materialising was faster in the measured networks."""

LARGEST_LINEAR = 2.0
"""The same for linear layers: products in batches are about as fast as one large one."""

SLICE = 2**21
"""Numbers, of input and output together, that autotuning measures with: few enough not to move the peak of memory."""

REPEATS = 5
_measured: dict[tuple, Choice] = {}


def choose(layer: nn.Module, x: Tensor, *, autotune: bool) -> Choice:
    """The faster choice for a layer with input ``x`` ``[n, ...]``, by the rule or measured."""
    if not can_materialise(layer, x):
        return "deferred"
    if autotune:
        key = layer_shape(layer, x)
        if key not in _measured:
            size = x[0].numel() + output_shape(layer, x)[1:].numel()
            _measured[key] = _measure(layer, x[: max(4, SLICE // size)])
        return _measured[key]
    weight = layer.weight
    assert isinstance(weight, Tensor)
    linear = type(layer) is nn.Linear
    largest = (LARGEST_LINEAR if linear else LARGEST) * (x[0].numel() + output_shape(layer, x)[1:].numel())
    # On channels-last tensors groups are slower than the convolution itself.
    return "materialised" if weight.numel() <= largest and (linear or x.is_contiguous()) else "deferred"


def layer_shape(layer: nn.Module, x: Tensor) -> tuple:
    """What the measured choice depends on."""
    weight: Any = layer.weight
    options = tuple(str(getattr(layer, name, None)) for name in ("stride", "padding", "dilation", "groups"))
    contiguous = x.is_contiguous()
    return (
        type(layer),
        len(x).bit_length(),
        tuple(x.shape[1:]),
        tuple(weight.shape),
        options,
        x.dtype,
        x.device,
        contiguous,
    )


def _measure(layer: nn.Module, x: Tensor) -> Choice:
    generator = torch.Generator(x.device).manual_seed(0)
    with torch.no_grad():
        x = x.detach().clone(memory_format=torch.preserve_format)
        delta = torch.randn(output_shape(layer, x), generator=generator, dtype=x.dtype, device=x.device)
        if not x.is_contiguous():
            delta = delta.to(memory_format=torch.channels_last if delta.ndim == 4 else torch.preserve_format)
        local = {name: p.detach() for name, p in layer.named_parameters(recurse=False)}
        rule = OUTPUT_TANGENTS[type(layer)]
        deferred, apart, usual = _seconds(
            lambda: rule(layer, x, local).mul_(delta).flatten(1).sum(1),
            lambda: example_weight_gradients(layer, x, delta).sum(0),
            lambda: weight_gradient(layer, x, delta),  # what materialising saves
            device=x.device,
        )
    return "materialised" if apart - usual < deferred else "deferred"


def _seconds(*calls: Callable[[], object], device: torch.device) -> list[float]:
    """The median time of each call; all take turns, so that what else the machine does hits them alike."""

    def once(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    rounds = [[once(call) for call in calls] for _ in range(REPEATS + 1)]
    return [statistics.median(times) for times in zip(*rounds[1:], strict=True)]
