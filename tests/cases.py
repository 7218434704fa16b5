"""Networks that alignment has to be right for: one per layer option, and the ways weights can be used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gar_env.networks import CNN_BN, FC, FC_BN, WideResNet

N = 6


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]
    make_inputs: Callable[[torch.Generator], tuple]
    batch_norm: bool = False

    def __str__(self) -> str:
        return self.name

    def build(self, seed: int, dtype: torch.dtype) -> tuple[nn.Module, tuple, dict[str, Tensor], Callable]:
        """``(network, inputs, direction, loss)`` with random parameters, also where modules start at 0 or 1."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = self.make().to(dtype)
            with torch.no_grad():
                for p in network.parameters():
                    p.add_(0.1 * torch.randn_like(p))
        generator = torch.Generator().manual_seed(seed + 1)
        inputs = tuple(
            x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in self.make_inputs(generator)
        )
        direction = {
            name: torch.randn(p.shape, generator=generator, dtype=dtype)
            for name, p in network.named_parameters()
            if p.requires_grad
        }
        weights = torch.rand(N, generator=generator, dtype=dtype) + 0.5
        return network, inputs, direction, lambda outputs: weights * outputs.reshape(N, -1).square().mean(1)


def randn(*shape: int):
    return lambda generator: (torch.randn(N, *shape, generator=generator),)


def tokens(*shape: int):
    return lambda generator: (torch.randint(5, (N, *shape), generator=generator),)


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Tied(nn.Module):
    """Input embedding and output layer share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(x)).mean(1))


class OwnParameter(nn.Module):
    """A network that owns a parameter beside its layers: kept whole."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(x * self.scale))


class Outside(nn.Module):
    """A layer's weight used past its module as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.layer(x), self.layer.weight)


class Unused(nn.Module):
    """One layer that forward never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Attention(nn.Module):
    """Self-attention with a residual, batch first."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=dropout)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return self.head(x + self.attention(y, y, y, need_weights=False)[0])


class KeywordArguments(nn.Module):
    """A layer called by keyword, and one whose output is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(input=x)
        z = self.second(torch.tanh(y))
        y += z
        return self.third(F.relu_(y))


class LastState(nn.Module):
    """A recurrent layer that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 3, 2, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class TwoInputs(nn.Module):
    """Two arguments through two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Bilinear(4, 2, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.first(x) + self.second(x, y)


class SubclassedLinear(nn.Linear):
    """Changes forward: its parent's rule would be silently wrong."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.square(), self.bias)


def frozen(network: nn.Sequential, *names: str) -> nn.Module:
    for name, p in network.named_parameters():
        p.requires_grad_(name not in names)
    return network


class Pair(nn.Module):
    """A module without a rule whose outputs depend on one another."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x * self.scale
        return h, torch.tanh(h)


class Pairs(nn.Module):
    """Uses both outputs of :class:`Pair`."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = Pair(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, y = self.pair(x)
        return self.head(h + y.square())


class Listed(nn.Module):
    """Parameters in a list, which is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.ones(4, 4), torch.ones(4)])

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights[0] + self.weights[1]


class Scalar(nn.Module):
    """A module without a rule that returns one number per example."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Exponential(nn.Module):
    """A parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def exponential(layer: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(layer, "weight", Exponential())
    return layer


def seq(*layers: nn.Module):
    return lambda: copy.deepcopy(nn.Sequential(*layers))


def conv(kind=nn.Conv2d, *args, **kwargs):
    return lambda: nn.Sequential(kind(*args, **kwargs), nn.Tanh(), nn.Flatten())


CASES = [
    Case("linear", lambda: nn.Linear(4, 3), randn(4)),
    Case("linear without bias", lambda: nn.Linear(4, 3, bias=False), randn(4)),
    Case("linear on sequences", lambda: nn.Linear(4, 3), randn(5, 4)),
    Case("two layers, in-place rectifier", seq(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3)), randn(4)),
    Case("conv1d", conv(nn.Conv1d, 2, 3, 3, stride=2, padding=1), randn(2, 9)),
    Case("conv1d dilated", conv(nn.Conv1d, 2, 4, 3, dilation=2, groups=2), randn(2, 9)),
    Case("conv2d", conv(nn.Conv2d, 3, 4, 3), randn(3, 6, 6)),
    Case("conv2d strided, padded", conv(nn.Conv2d, 3, 4, 3, stride=2, padding=1), randn(3, 7, 5)),
    Case("conv2d grouped", conv(nn.Conv2d, 4, 8, 3, groups=4, padding=1), randn(4, 5, 5)),
    Case("conv2d dilated", conv(nn.Conv2d, 2, 3, (3, 2), dilation=(2, 1)), randn(2, 7, 5)),
    Case("conv2d same, circular", conv(nn.Conv2d, 2, 3, 3, padding="same", padding_mode="circular"), randn(2, 5, 5)),
    Case("conv2d without bias", conv(nn.Conv2d, 2, 3, 1, bias=False), randn(2, 4, 4)),
    Case("conv3d", conv(nn.Conv3d, 1, 2, 2), randn(1, 3, 3, 3)),
    Case("batch norm 1d", seq(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)), randn(4), True),
    Case("batch norm 2d", seq(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 2)), randn(2, 5, 5), True),
    Case("batch norm without running statistics", seq(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False)), randn(4), True),
    Case("batch norm in evaluation mode", lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5).eval(), nn.Tanh()), randn(4)),
    Case("group norm", seq(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten()), randn(2, 5, 5)),
    Case("layer norm", seq(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)), randn(4)),
    Case("layer norm on sequences", seq(nn.LayerNorm((3, 4)), nn.Linear(4, 2)), randn(2, 3, 4)),
    Case("layer norm without bias", seq(nn.LayerNorm(4, bias=False), nn.Linear(4, 2)), randn(5, 4)),
    Case("embedding", seq(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 2)), tokens(4)),
    Case("embedding with padding", seq(nn.Embedding(5, 3, padding_idx=0), nn.Linear(3, 2)), tokens(4)),
    Case("a layer called twice", Twice, randn(4)),
    Case("tied weights", Tied, tokens(3)),
    Case("frozen weight", lambda: frozen(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), "0.weight"), randn(4)),
    Case("frozen scale", lambda: frozen(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)), "0.weight", "1.bias"), randn(4)),
    Case("frozen layer", lambda: frozen(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2)), "0.weight", "0.bias"), randn(4)),
    Case("unused layer", Unused, randn(4)),
    Case("parameter on the network itself", OwnParameter, randn(4)),
    Case("unknown leaf", seq(nn.Linear(4, 5), nn.PReLU(5), nn.Linear(5, 2)), randn(4)),
    Case("subclass with its own forward", seq(SubclassedLinear(4, 5), nn.Linear(5, 2)), randn(4)),
    Case("parametrized weight", lambda: nn.Sequential(exponential(nn.Linear(4, 5)), nn.Tanh()), randn(4)),
    Case("parametrized weight without bias", lambda: nn.Sequential(exponential(nn.Linear(4, N, bias=False))), randn(4)),
    Case("outputs that depend on one another", Pairs, randn(4)),
    Case("parameter list", Listed, randn(4)),
    Case("one number per example", Scalar, randn(4)),
    Case("attention", Attention, randn(4, 8)),
    Case("transformer layer", lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), randn(4, 8)),
    Case("keyword arguments, in-place residual", KeywordArguments, randn(4)),
    Case("recurrent, two layers", LastState, randn(5, 4)),
    Case("transposed convolution", conv(nn.ConvTranspose2d, 2, 3, 3), randn(2, 4, 4)),
    Case("two inputs", TwoInputs, lambda g: (torch.randn(N, 4, generator=g), torch.randn(N, 2, generator=g))),
    Case("instance norm", seq(nn.Conv2d(2, 3, 2), nn.InstanceNorm2d(3, affine=True), nn.Tanh()), randn(2, 5, 5)),
    Case("recurrent", seq(nn.GRU(4, 3, batch_first=True), type("First", (nn.Module,), {"forward": lambda self, x: x[0]})()), randn(5, 4)),
    Case("fc", lambda: FC((1, 4, 4), 3), randn(1, 4, 4)),
    Case("fc_bn", lambda: FC_BN((1, 4, 4), 3), randn(1, 4, 4), True),
    Case("cnn_bn", lambda: CNN_BN((2, 6, 6), 3), randn(2, 6, 6), True),
    Case("wrn-10-1", lambda: WideResNet((3, 8, 8), 3, depth=10, width=1), randn(3, 8, 8), True),
]  # fmt: skip

WITHOUT_BATCH_NORM = [case for case in CASES if not case.batch_norm]
WITH_BATCH_NORM = [case for case in CASES if case.batch_norm]
