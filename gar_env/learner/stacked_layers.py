"""Layers of R networks at once: one call for all rows, and no row's numbers depend on another's.

Index legend: ``R`` rows, ``n`` examples of each row's batch, ``i`` inputs, ``o`` outputs, ``c`` channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gar_env.errors import ConfigurationError
from gar_env.networks import CNN_BN, FC, FC_BN
from gar_env.networks.small import SmallCNN

GROUPS = 4
"""Rows in one grouped convolution on a CPU: always as many, for others may run in another kernel, rounded otherwise."""

GPU_GROUPS = 64
"""Most rows in one on a GPU, where rows are no bit patterns: the fastest of 4, 16, 64 and all, of 16 to 1,024 rows."""

LINE = 16
"""Numbers in a line of a CPU's cache."""

SMALL = 64
"""Input times output channels from which a CPU is faster row by row than in groups."""


@dataclass(eq=False)
class Kept:
    """A layer's call: what its part of a predicted change is made of.

    Args:
        names: Of its parameters.
        output: ``[R, n, ...]``.
        tangent: From a direction by name to how the output moves, its input being as it is.
    """

    names: tuple[str, ...]
    output: Tensor
    tangent: Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(eq=False)
class Stacked:
    """One pass of R networks.

    Args:
        parameters: ``[R, ...]`` by name.
        buffers: Likewise; statistics are replaced, not changed in place.
        training: Whether the networks are in training mode.
        generators: One of each row, for dropout.
        exact: Whether a row's numbers are bit for bit those of the row alone, on a CPU; it costs a little.
        keeping: Whether predicted changes may be asked for.
        kept: What each layer with parameters left for them. Take it away after the pass: it may refer to it.
    """

    parameters: Mapping[str, Tensor]
    buffers: dict[str, Tensor]
    training: bool
    generators: list[torch.Generator]
    exact: bool = True
    keeping: bool = True
    kept: list[Kept] = field(default_factory=list)

    def __call__(self, module: nn.Module, path: str, x: Tensor) -> Tensor:
        """The module's outputs, ``[R, n, ...]`` to ``[R, n, ...]``.

        Args:
            module: Of one row; its own parameters are not used.
            path: Its name in the network.
            x: Its inputs.
        """
        if getattr(module, "inplace", False):
            x = x.clone()  # what a layer before it keeps must stay
        return _RULES[type(module)](self, module, path, x)

    def child(self, path: str, module: nn.Module, name: str, x: Tensor) -> Tensor:
        """The outputs of ``module.name``."""
        return self(getattr(module, name), f"{path}.{name}" if path else name, x)

    def own(self, path: str, *names: str) -> tuple[Tensor | None, ...]:
        """A layer's parameters, ``None`` where it has none of that name."""
        return tuple(self.parameters.get(f"{path}.{name}" if path else name) for name in names)

    def keep(self, path: str, output: Tensor, tangent: Callable[..., Tensor], *names: str) -> Tensor:
        """Remember a layer's call; ``tangent`` takes its parameters' directions, in order."""
        if not self.keeping:
            return output
        full = [f"{path}.{name}" if path else name for name in names]
        there = [name if name in self.parameters else None for name in full]

        def moved(direction: Mapping[str, Tensor]) -> Tensor:
            return tangent(*(None if name is None else direction.get(name) for name in there))

        self.kept.append(Kept(tuple(name for name in there if name), output, moved))
        return output


Rule = Callable[[Stacked, Any, str, Tensor], Tensor]
_RULES: dict[type[nn.Module], Rule] = {}


def register_stacked_layer(*layers: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Decorator: how R layers of exactly these types are run at once.

    The function takes the :class:`Stacked` pass, the module, its path and its inputs ``[R, n, ...]``. A layer with
    parameters reads them by :meth:`Stacked.own` and calls :meth:`Stacked.keep`.
    """

    def decorate(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(layers, rule))
        return rule

    return decorate


def has_rules(module: nn.Module) -> bool:
    """Whether every module inside has a rule, and none has a hook, a forward method or options of its own."""
    for inner in module.modules():
        hooks = inner._forward_hooks, inner._forward_pre_hooks, inner._backward_hooks, inner._backward_pre_hooks
        if any(hooks) or "forward" in vars(inner) or type(inner) not in _RULES or not _is_plain(inner):
            return False
    return not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in module.parameters())


def _is_plain(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return not module.track_running_stats or module.momentum is not None
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    return not getattr(module, "return_indices", False)


@register_stacked_layer(nn.Sequential)
def sequential(stacked: Stacked, module: nn.Sequential, path: str, x: Tensor) -> Tensor:
    """One after the other."""
    for name in module._modules:
        x = stacked.child(path, module, name, x)
    return x


@register_stacked_layer(FC, FC_BN, CNN_BN)
def layers(stacked: Stacked, module: nn.Module, path: str, x: Tensor) -> Tensor:
    """A network that is its ``layers``."""
    return stacked.child(path, module, "layers", x)


@register_stacked_layer(SmallCNN)
def small_cnn(stacked: Stacked, module: SmallCNN, path: str, x: Tensor) -> Tensor:
    """Features, their mean over places, and a linear layer."""
    return stacked.child(path, module, "head", stacked.child(path, module, "features", x).mean((3, 4)))


@register_stacked_layer(nn.Identity, nn.ReLU, nn.LeakyReLU)
def elementwise(stacked: Stacked, module: nn.Module, path: str, x: Tensor) -> Tensor:
    """Whatever the shape."""
    return module(x)


@register_stacked_layer(nn.ELU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Softplus)
def transcendental(stacked: Stacked, module: nn.Module, path: str, x: Tensor) -> Tensor:
    """Whatever the shape; the last few numbers of a tensor would be rounded otherwise, so rows end with zeros."""
    if not stacked.exact:
        return module(x)
    flat = x.flatten(1)
    return module(F.pad(flat, (0, -flat.shape[1] % 64)))[:, : flat.shape[1]].view_as(x)


@register_stacked_layer(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
def pool(stacked: Stacked, module: nn.Module, path: str, x: Tensor) -> Tensor:
    """Every example by itself."""
    pooled: Tensor = module(x.flatten(0, 1))
    return pooled.unflatten(0, x.shape[:2])


@register_stacked_layer(nn.Flatten)
def flatten(stacked: Stacked, module: nn.Flatten, path: str, x: Tensor) -> Tensor:
    """All but rows and examples."""
    return x.flatten(2)


@register_stacked_layer(nn.Dropout)
def dropout(stacked: Stacked, module: nn.Dropout, path: str, x: Tensor) -> Tensor:
    """Each row draws from its own generator."""
    if not stacked.training or module.p == 0:
        return x
    keep = 1 - module.p
    masks = [torch.empty(x.shape[1:], device=x.device).bernoulli_(keep, generator=g) for g in stacked.generators]
    return x * torch.stack(masks).div_(keep or 1)


@register_stacked_layer(nn.Linear)
def linear(stacked: Stacked, module: nn.Linear, path: str, x: Tensor) -> Tensor:
    """``y_roi = sum_i x_ri w_roi + b_ro``, one product of matrices per row."""

    _check_size(module, path, module.in_features, x, -1)  # padding would hide it

    def apply(weight: Tensor | None, bias: Tensor | None) -> Tensor:
        flat = x.flatten(1, -2)
        if weight is None:
            y = flat.new_zeros(*flat.shape[:2], module.out_features)
        else:
            y = torch.bmm(_aligned(flat, 1), _aligned(weight, 2).mT)[..., : module.out_features]
        return (y if bias is None else y + bias[:, None]).reshape(*x.shape[:-1], -1)

    weight, bias = stacked.own(path, "weight", "bias")
    if not stacked.exact and bias is not None and weight is not None and x.ndim == 3:
        return torch.baddbmm(bias[:, None], x, weight.mT)
    return stacked.keep(path, apply(weight, bias), apply, "weight", "bias")


def _check_size(module: nn.Module, path: str, size: int, x: Tensor, dim: int) -> None:
    if x.ndim < 3 or x.shape[dim] != size:
        raise ConfigurationError(
            f"{path or type(module).__name__} takes {size} numbers, and each example has {list(x.shape[2:])}."
        )


def _aligned(matrices: Tensor, sides: int) -> Tensor:
    """With zeros up to a whole number of cache lines: the rounding of a product depends on where its rows begin."""
    missing = [-side % LINE for side in reversed(matrices.shape[-sides:])]
    return F.pad(matrices, [amount for side in missing for amount in (0, side)]) if any(missing) else matrices


@register_stacked_layer(nn.Conv2d)
def convolution(stacked: Stacked, module: nn.Conv2d, path: str, x: Tensor) -> Tensor:
    """Rows as groups of channels where few channels meet, else row by row."""
    options: dict[str, Any] = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}

    def apply(weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if weight is None:
            weight = x.new_zeros(len(x), *module.weight.shape)
        if not stacked.exact:
            return _grouped(x, weight, bias, options, len(x))
        if module.in_channels * module.out_channels >= SMALL and x.device.type == "cpu":
            biases = [None] * len(x) if bias is None else bias.unbind()
            rows = zip(x.unbind(), weight.unbind(), biases, strict=True)
            return torch.stack([F.conv2d(one, w, b, **options) for one, w, b in rows])
        size = GROUPS if x.device.type == "cpu" else GPU_GROUPS
        parts = [slice(start, start + size) for start in range(0, len(x), size)]
        return torch.cat(
            [_grouped(x[at], weight[at], None if bias is None else bias[at], options, size) for at in parts]
        )

    weight, bias = stacked.own(path, "weight", "bias")
    return stacked.keep(path, apply(weight, bias), apply, "weight", "bias")


def _grouped(x: Tensor, weight: Tensor, bias: Tensor | None, options: dict[str, Any], size: int) -> Tensor:
    rows, n = x.shape[:2]
    if rows < size and x.device.type == "cpu":  # filled up with copies
        fill = [0] * (size - rows)
        x, weight = torch.cat([x, x[fill].detach()]), torch.cat([weight, weight[fill].detach()])
        bias = None if bias is None else torch.cat([bias, bias[fill].detach()])
    groups = len(x)
    flat = x.transpose(0, 1).reshape(n, -1, *x.shape[3:])
    y = F.conv2d(flat, weight.flatten(0, 1), None if bias is None else bias.flatten(), groups=groups, **options)
    return y.view(n, groups, weight.shape[1], *y.shape[2:]).transpose(0, 1)[:rows]


@register_stacked_layer(nn.BatchNorm1d, nn.BatchNorm2d)
def batch_norm(stacked: Stacked, module: nn.modules.batchnorm._BatchNorm, path: str, x: Tensor) -> Tensor:
    """Over the batch of each row by itself, in either mode as the module does; ``momentum`` is torch's."""
    module._check_input_dim(x[0])
    _check_size(module, path, module.num_features, x, 2)  # broadcasting would hide it
    mean_name, variance_name = (f"{path}.{name}" if path else name for name in ("running_mean", "running_var"))
    over = (1, *range(3, x.ndim))

    def shaped(values: Tensor) -> Tensor:
        return values.view(values.shape[0], 1, values.shape[1], *(1,) * (x.ndim - 3))

    count = x[0].numel() // x.shape[2]
    if stacked.training or not module.track_running_stats:
        if count < 2:
            raise ConfigurationError(
                f"{path} normalises over a batch of one number. Give each row 2 examples at least."
            )
        if not stacked.exact and not module.track_running_stats:
            return _batch_norm_by_channels(stacked, module, path, x)
        variance, mean = torch.var_mean(x, over, correction=0)
    else:
        mean, variance = stacked.buffers[mean_name], stacked.buffers[variance_name]
    if stacked.training and module.track_running_stats:
        with torch.no_grad():
            unbiased = variance * (count / max(count - 1, 1))
            for name, value in ((mean_name, mean), (variance_name, unbiased)):
                stacked.buffers[name] = stacked.buffers[name].lerp(value, module.momentum or 0.0)
            counter = f"{path}.num_batches_tracked" if path else "num_batches_tracked"
            stacked.buffers[counter] = stacked.buffers[counter] + 1
    normalised = (x - shaped(mean)) * shaped((variance + module.eps).rsqrt())

    def apply(weight: Tensor | None, bias: Tensor | None, fixed: Tensor = normalised) -> Tensor:
        y = torch.zeros_like(fixed) if weight is None else fixed * shaped(weight)
        return y if bias is None else y + shaped(bias)

    weight, bias = stacked.own(path, "weight", "bias")
    output = normalised if weight is None else apply(weight, bias)
    return stacked.keep(path, output, apply, "weight", "bias")


def _batch_norm_by_channels(stacked: Stacked, module: nn.modules.batchnorm._BatchNorm, path: str, x: Tensor) -> Tensor:
    """Rows as groups of channels: torch's own kernel, which has a second derivative."""
    weight, bias = (None if one is None else one.flatten() for one in stacked.own(path, "weight", "bias"))
    flat = x.transpose(0, 1).flatten(1, 2)
    y = F.batch_norm(flat, None, None, weight, bias, training=True, eps=module.eps)
    return y.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


@register_stacked_layer(nn.LayerNorm)
def layer_norm(stacked: Stacked, module: nn.LayerNorm, path: str, x: Tensor) -> Tensor:
    """Every example by itself; scale and shift of each row."""
    normalised = F.layer_norm(x, module.normalized_shape, eps=module.eps)

    def shaped(values: Tensor) -> Tensor:
        return values.view(len(values), *(1,) * (x.ndim - values.ndim), *values.shape[1:])

    def apply(weight: Tensor | None, bias: Tensor | None) -> Tensor:
        y = torch.zeros_like(normalised) if weight is None else normalised * shaped(weight)
        return y if bias is None else y + shaped(bias)

    weight, bias = stacked.own(path, "weight", "bias")
    output = normalised if weight is None else apply(weight, bias)
    return stacked.keep(path, output, apply, "weight", "bias")
