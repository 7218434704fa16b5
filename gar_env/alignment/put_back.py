"""Run passes through a network and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def put_back(network: nn.Module) -> Iterator[None]:
    """Inside, ``.grad`` starts empty; afterwards gradients, buffers and modes are as before, errors or not."""
    gradients: list[tuple[nn.Parameter, Tensor | None]] = [(p, p.grad) for p in network.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    modes = [(module, module.training) for module in network.modules()]
    for p, _ in gradients:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in gradients:
            p.grad = gradient
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, training in modes:
            module.training = training
