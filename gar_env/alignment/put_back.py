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
    # The tensors too, not their values alone: a module may assign new ones.
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    modes = [(module, module.training) for module in network.modules()]
    for p, _ in gradients:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in gradients:
            p.grad = gradient
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer.copy_(before)
        for module, training in modes:
            module.training = training
