"""Which kernels a pass on a GPU runs with. Others round otherwise, and draw other dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.backends import cuda, cudnn


@dataclass(frozen=True)
class Kernels:
    """Whether cuDNN is on, and the kernels of attention.

    Example:
        >>> with Kernels.now().again():
        ...     pass
    """

    cudnn: bool
    flash: bool
    memory_efficient: bool
    math: bool
    cudnn_attention: bool

    @classmethod
    def now(cls) -> Kernels:
        """As they are; of the whole process."""
        return cls(
            cudnn.enabled,
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        )

    @contextmanager
    def again(self) -> Iterator[None]:
        """Inside, they are on and off as then."""
        before = Kernels.now()
        if before != self:
            self._set()
        try:
            yield
        finally:
            if before != self:
                before._set()

    def _set(self) -> None:
        cudnn.enabled = self.cudnn
        cuda.enable_flash_sdp(self.flash)
        cuda.enable_mem_efficient_sdp(self.memory_efficient)
        cuda.enable_math_sdp(self.math)
        cuda.enable_cudnn_sdp(self.cudnn_attention)


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Inside, cuDNN is off; ``cudnn.flags`` would set its other switches too, and refuses where one was set alone."""
    before = cudnn.enabled
    cudnn.enabled = False
    try:
        yield
    finally:
        cudnn.enabled = before


def draws_in_cudnn(module: nn.Module) -> bool:
    """Whether a layer's dropout comes from cuDNN's own state, which cannot be read, set or put back."""
    return (
        isinstance(module, nn.RNNBase)
        and module.training
        and module.dropout > 0
        and module.num_layers > 1
        and cudnn.enabled
        and is_on_gpu(module)
    )


def is_on_gpu(network: nn.Module) -> bool:
    """Whether its first parameter is."""
    first = next(network.parameters(), None)
    return first is not None and first.is_cuda


def multiplies_in_ten_bits(network: nn.Module) -> bool:
    """Whether float32 products on a GPU may be of TF32: with 10 bits of mantissa, as float16 has."""
    if not is_on_gpu(network) or torch.cuda.get_device_capability(next(network.parameters()).device)[0] < 8:
        return False
    if _is_tf32(cuda.matmul):
        return True
    # Before torch 2.9 one switch is for both.
    kinds = (nn.modules.conv._ConvNd, getattr(cudnn, "conv", cudnn)), (nn.RNNBase, getattr(cudnn, "rnn", cudnn))
    found = [switch for kind, switch in kinds if any(isinstance(module, kind) for module in network.modules())]
    return cudnn.enabled and any(map(_is_tf32, found))


def _is_tf32(switch: Any) -> bool:
    return switch.fp32_precision == "tf32" if hasattr(switch, "fp32_precision") else switch.allow_tf32
