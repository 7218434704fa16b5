"""Networks with a life of their own, as people write them: what a recording must leave as a plain pass does."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

N = 6
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@dataclass
class Program:
    """A network in a training program, and what else of the program can be looked at."""

    network: nn.Module
    inputs: Tensor
    loss: Callable[[Any], Tensor] = lambda output: output.flatten(1).square().mean(1)
    look: Callable[[], Any] = lambda: None
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)


def shared_module() -> Program:
    layer = nn.Linear(4, 4)
    return Program(nn.Sequential(layer, nn.Tanh(), layer), torch.randn(N, 4))


class Scaled(nn.Module):
    """Kept whole: it owns a parameter, and a layer that stands elsewhere too."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(4)), layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(x * self.scale))


def shared_inside_and_after() -> Program:
    layer = nn.Linear(4, 4)
    return Program(nn.Sequential(Scaled(layer), nn.Tanh(), layer), torch.randn(N, 4))


def shared_before_and_inside() -> Program:
    layer = nn.Linear(4, 4)
    return Program(nn.Sequential(layer, nn.Tanh(), Scaled(layer)), torch.randn(N, 4))


class Remembers(nn.Module):
    """A recurrent cell that keeps its state, a counter, a list and a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, 4), nn.Linear(4, 2)
        self.h, self.steps, self.seen = torch.zeros(N, 4), 0, []
        self.cache: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.h = torch.tanh(self.inner(torch.cat([x, self.h], 1))).detach()
        self.steps += 1
        self.seen.append(self.steps)
        self.cache.setdefault("shapes", set()).add(tuple(x.shape))
        self.hidden = torch.tanh(self.inner(torch.cat([x, self.h], 1)))
        return self.head(self.hidden) * (1 + 0.1 * len(self.seen))


class Random(nn.Module):
    """Draws from every generator there is, one of its own included."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.generator = nn.Linear(4, 3), torch.Generator().manual_seed(0)
        self.numbers = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        factor = random.random() + np.random.rand() + self.numbers.random()  # noqa: NPY002
        noise = torch.rand(x.shape, generator=self.generator).to(x)
        return self.layer(factor * F.dropout(x, 0.3) + noise)


class FedBuffer(nn.Module):
    """Position indices from a buffer, expanded and fed to a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions, self.head = nn.Embedding(7, 4), nn.Embedding(5, 4), nn.Linear(4, 3)
        self.register_buffer("ids", torch.arange(5)[None])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.tokens(x) + self.positions(self.ids.expand(len(x), -1))))


class Transposed(nn.Module):
    """Dropout on a tensor that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 6), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.layer(x).transpose(1, 2), 0.4))


class WritesInput(nn.Module):
    """Centres its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.sub_(x.mean(1, keepdim=True)))


def fused_optimizer() -> Program:
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.PReLU(5), nn.Linear(5, 2))
    optimizers = [torch.optim.Adam([p], lr=0.01) for p in network.parameters()]
    for p, optimizer in zip(network.parameters(), optimizers, strict=True):

        def step(p: Tensor, optimizer=optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        p.register_post_accumulate_grad_hook(step)
    return Program(network, torch.randn(N, 4), optimizers=optimizers)


def listening_hooks() -> Program:
    network, heard = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.PReLU(5), nn.Linear(5, 2)), []
    network[0].register_forward_hook(lambda module, args, output: heard.append(float(output.sum())))
    network[2].register_full_backward_hook(lambda module, inputs, outputs: heard.append(len(outputs)))
    next(network.parameters()).register_hook(lambda g: heard.append(float(g.sum())))
    return Program(network, torch.randn(N, 4), look=lambda: list(heard))


class Centres(nn.Module):
    """A loss with a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.calls = 0

    def forward(self, output: Tensor) -> Tensor:
        self.calls += 1
        self.mean.lerp_(output.detach().mean(0), 0.1)
        return (output - self.mean).square().mean(1)


def stateful_loss() -> Program:
    loss = Centres()
    return Program(nn.Linear(4, 3), torch.randn(N, 4), loss, look=lambda: (loss.calls, loss.mean.clone()))


def counting_loss() -> Program:
    count = [0]

    def loss(output: Tensor) -> Tensor:
        count[0] += 1
        return output.square().mean(1)

    return Program(nn.Linear(4, 3), torch.randn(N, 4), loss, look=lambda: count[0])


class Counts:
    """A loss that is an object, and a method of one."""

    def __init__(self) -> None:
        self.calls, self.heard = 0, []

    def __call__(self, output: Tensor) -> Tensor:
        return self.losses(output)

    def losses(self, output: Tensor) -> Tensor:
        self.calls += 1
        self.heard.append(float(output.detach().sum()))
        return output.square().mean(1)


def loss_object() -> Program:
    loss = Counts()
    return Program(nn.Linear(4, 3), torch.randn(N, 4), loss, look=lambda: (loss.calls, list(loss.heard)))


def loss_method() -> Program:
    loss = Counts()
    return Program(nn.Linear(4, 3), torch.randn(N, 4), loss.losses, look=lambda: (loss.calls, list(loss.heard)))


def spectral() -> Program:
    layer = nn.utils.spectral_norm(nn.Linear(4, 4))
    return Program(nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2)), torch.randn(N, 4))


def input_gradient() -> Program:
    inputs = torch.randn(N, 4, requires_grad=True)
    return Program(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), inputs, look=lambda: inputs.grad)


def normalised(**options: Any) -> Callable[[], Program]:
    def make() -> Program:
        layers = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, **options), nn.ReLU(inplace=True), nn.Flatten()
        return Program(nn.Sequential(*layers, nn.Linear(27, 2)), torch.randn(N, 2, 5, 5))

    return make


class TiedPadding(nn.Module):
    """A language model's head is its embedding, padding row included."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(x)).cumsum(1))


class PaddedRecurrent(nn.Module):
    """An embedding with a padding row before a layer that has no forward mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(7, 4, padding_idx=0), nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return Squared.apply(self.layer(self.embedding(x))[0])


class Squared(torch.autograd.Function):
    """Differentiable twice, and not in forward mode."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, delta: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * delta


def recurrent() -> Program:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.LSTM(4, 3, 2, batch_first=True, dropout=0.3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x)[0][:, -1])

    return Program(Last(), torch.randn(N, 5, 4))


def transformer() -> Program:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True)
    return Program(nn.Sequential(layer, nn.Linear(8, 2)), torch.randn(N, 4, 8))


def channels_last() -> Program:
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(0.3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 2))
    network = network.to(memory_format=torch.channels_last)
    return Program(network, torch.randn(N, 2, 5, 5).contiguous(memory_format=torch.channels_last))


def of(make: Callable[[], nn.Module], make_inputs: Callable[[], Any] = lambda: torch.randn(N, 4)):
    return lambda: Program(make(), make_inputs())


PROGRAMS: dict[str, Callable[[], Program]] = {
    "shared module": shared_module,
    "shared inside a whole one, and after": shared_inside_and_after,
    "shared before a whole one, and inside": shared_before_and_inside,
    "remembers": of(Remembers),
    "draws random numbers": of(Random),
    "fed buffer": of(FedBuffer, lambda: torch.randint(7, (N, 5))),
    "dropout, not contiguous": of(Transposed, lambda: torch.randn(N, 5, 4)),
    "writes its input": of(WritesInput),
    "fused optimizer": fused_optimizer,
    "listening hooks": listening_hooks,
    "stateful loss": stateful_loss,
    "counting loss": counting_loss,
    "loss that is an object": loss_object,
    "loss that is a method": loss_method,
    "spectral norm": spectral,
    "input with a gradient": input_gradient,
    "batch norm": normalised(),
    "batch norm without statistics": normalised(track_running_stats=False),
    "tied padding": of(TiedPadding, lambda: torch.randint(7, (N, 5))),
    "padding row without forward mode": of(PaddedRecurrent, lambda: torch.randint(7, (N, 5))),
    "recurrent": recurrent,
    "transformer": transformer,
    "channels last": channels_last,
}


def build(make: Callable[[], Program], seed: int, device: str = "cpu", dtype: torch.dtype | None = None) -> Program:
    """A program in training, its random numbers drawn from ``seed`` on the CPU."""
    torch.manual_seed(seed)
    program = make()
    program.network.train().to(device, dtype)
    for module in program.network.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                setattr(module, name, value.to(device, dtype))
    if isinstance(program.loss, nn.Module):
        program.loss.to(device, dtype)
    with torch.no_grad():
        inputs = program.inputs
        inputs.data = inputs.to(device, dtype if inputs.is_floating_point() else None)
    return program
