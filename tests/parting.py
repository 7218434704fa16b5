"""Networks in which a forward pass and its gradient part ways, or rows are no examples."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from programs import N, Program, of


class NoGradInside(nn.Module):
    """One branch is computed where gradients are off."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.layer(x) * 3
        return self.layer(torch.tanh(x)) - target


class Detached(nn.Module):
    """A gate through which no gradient flows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x))
        return self.layer(x) * gate.detach() + 0.1 * gate


class StraightThrough(nn.Module):
    """Rounds, and hands gradients through."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.head(y + (y.round() - y).detach())


class Reversed(nn.Module):
    """A hook on an output turns its gradient around."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x))
        if y.requires_grad:
            y.register_hook(lambda g: -0.5 * g)
        return self.head(y)


class Packed(nn.Module):
    """A recurrent layer on sequences of several lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([5, 5, 4, 3, 2, 1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.head(self.layer(packed)[1][0][-1])


class CancelledBias(nn.Module):
    """Biases whose gradient is 0: before a normalisation, and of the keys of an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(3, 4, 1), nn.InstanceNorm1d(4)
        self.queries, self.keys, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x)).transpose(1, 2)
        weights = (self.queries(y) @ self.keys(y).transpose(1, 2)).softmax(-1)
        return self.head(weights @ y)


class Energy(nn.Module):
    """Energies and forces: differentiates itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        energy = self.layers(x)
        (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return torch.cat([energy, force], 1)


class Adapts(nn.Module):
    """One inner step of MAML."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.layer(x).square().mean()
        weight, bias = torch.autograd.grad(inner, [self.layer.weight, self.layer.bias], create_graph=True)
        return F.linear(x, self.layer.weight - 0.1 * weight, self.layer.bias - 0.1 * bias)


def weight_in_loss() -> Program:
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    return Program(
        network, torch.randn(N, 4), lambda output: output.square().mean(1) + 0.1 * network[0].weight.square().sum()
    )


def hooked_parameter() -> Program:
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    network[0].weight.register_hook(lambda g: 0.5 * g)
    return Program(network, torch.randn(N, 4))


class Graphs(nn.Module):
    """Five graphs of nine nodes: no input has as many rows as there are losses."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        owner = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 4], device=x.device)
        return self.head(x.new_zeros(5, 3).index_add(0, owner, torch.tanh(self.nodes(x))))


class LoRA(nn.Module):
    """A branch that is closed at first, and mixes examples."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.base(x) + self.b(h - h.mean(0))


PARTING: dict[str, Callable[[], Program]] = {
    "no_grad inside": of(NoGradInside),
    "detached": of(Detached),
    "straight through": of(StraightThrough),
    "reversed by a hook": of(Reversed),
    "packed": of(Packed, lambda: torch.randn(N, 5, 4)),
    "cancelled bias": of(CancelledBias, lambda: torch.randn(N, 3, 5)),
    "energy and force": of(Energy, lambda: torch.randn(N, 3)),
    "maml": of(Adapts),
    "weight in the loss": weight_in_loss,
    "hooked parameter": hooked_parameter,
    "graphs": of(Graphs, lambda: torch.randn(9, 4)),
    "closed branch that mixes": of(LoRA),
    "scaled by frequency": of(lambda: nn.Embedding(5, 3, scale_grad_by_freq=True), lambda: torch.randint(5, (N, 3))),
}
