"""Obviously correct, and slow: one backward pass per example."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

# Relative to the largest entry of the vector: entries that happen to be near 0 carry its rounding.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Every entry within :data:`TOLERANCE` of the largest."""
    scale = expected.abs().max().clamp_min(1e-12)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=TOLERANCE[found.dtype])


def squares(outputs: Tensor) -> Tensor:
    """A loss per example."""
    return outputs.flatten(1).square().mean(1)


def derivative_by_backward(network: nn.Module, inputs: tuple, loss: Callable, direction: Mapping) -> Tensor:
    """``< grad l_i, direction >``: differentiate each example's own loss, through whatever the network does."""
    network = copy.deepcopy(network)
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    losses = loss(network(*inputs))
    entries = []
    for own_loss in losses:
        gradients = torch.autograd.grad(own_loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        entries.append(
            sum((g * direction[name]).sum() for name, g in zip(parameters, gradients, strict=True) if g is not None)
        )
    return torch.stack([torch.as_tensor(entry) for entry in entries]).detach()


def share_by_backward(network: nn.Module, inputs: tuple, loss: Callable, direction: Mapping) -> Tensor:
    """n times example i's share of the batch gradient: backpropagate the mean loss with only row i's parameters live.

    In every module that owns parameters, row i of the output is computed with the parameters, the other rows with
    detached copies of the same values. What reaches the parameters is then example i's share, layer by layer.
    """
    n = len(inputs[0])
    entries = []
    for i in range(n):
        live = copy.deepcopy(network)
        for module in live.modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.register_forward_hook(_only_row(i))
        parameters = {name: p for name, p in live.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss(live(*inputs)).mean(), list(parameters.values()), allow_unused=True)
        entries.append(
            n * sum((g * direction[name]).sum() for name, g in zip(parameters, gradients, strict=True) if g is not None)
        )
    return torch.stack(entries).detach()


def _only_row(i: int):
    busy = []

    def hook(module: nn.Module, args: tuple, output: Tensor):
        if busy:  # the detached run below calls this hook too
            return None
        busy.append(True)
        frozen = {name: p.detach() for name, p in module.named_parameters()}
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        others = functional_call(module, {**frozen, **buffers}, args)
        busy.pop()
        row = torch.arange(len(output)).view(-1, *[1] * (output.ndim - 1)) == i
        return torch.where(row, output, others)

    return hook
