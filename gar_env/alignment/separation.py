"""Are the rows that layers return examples? Found out by weighing the examples differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gar_env.alignment.conservation import add_up
from gar_env.alignment.direction import Direction, trainable_parameters
from gar_env.alignment.inputs import Losses
from gar_env.alignment.layers import plan
from gar_env.alignment.layerwise import LayerTape, record_layers
from gar_env.alignment.rules import uses_batch_statistics
from gar_env.errors import AlignmentError, MixedExamplesError
from gar_env.functional import isolated, multiplies_in_ten_bits

# Of a part's largest entry: rounding stays below 1e-5 in float32, mixed examples are of the order of 0.1. And of the
# largest entry of all: a part whose gradient is 0, as a bias before a normalisation, is nothing but rounding.
TOLERANCE, FLOOR = 1e-3, 1e-5
TEN_BITS, TEN_BITS_FLOOR = 1e-2, 1e-4
COARSE, COARSE_FLOOR = 0.05, 1e-3
SPREAD = 0.2
"""Perturbed parameters move by this share of their root mean square; those that are all 0, half as far from 0."""

Arguments = tuple | Mapping[str, Any]


def check_separation(network: nn.Module, inputs: Arguments, loss: Losses, *, perturbed: bool) -> tuple[int, bool]:
    """Record a batch twice, the second time with random weights on the losses: entries must be weighed alike.

    The parameters' sums cannot tell examples that are mixed up with one another; single entries under different
    weights can. The passes run on a copy, without anybody noticing, in float32 at least and outside of autocast where
    the network allows it. Batch normalisation takes its statistics as constants meanwhile, since its rows always
    depend on each other.

    Args:
        network: In the mode it trains in.
        inputs: A batch.
        loss: From output to losses ``[n]``.
        perturbed: Whether to look beside the present parameters, where no branch is closed because a weight is 0.

    Returns:
        How many examples there were, and whether it was seen in float32 at least.

    Raises:
        AlignmentError: Whatever recording raises: a weight is used outside its layer, for example.
        MixedExamplesError: If the entries of a layer are not weighed as its examples are; the message names it.
        UncopiableStateError: If the network holds something that cannot be copied.
    """
    device = next(network.parameters()).device
    plan(network)  # in its own modes: what is refused there is refused here
    if not _is_coarse(network, device):
        return _check(network, inputs, loss, None, perturbed), True
    try:
        with torch.autocast(device.type, enabled=False):
            upcast = tree_map(_in_float32, inputs)
            return _check(network, upcast, loss, torch.float32, perturbed), True
    except (AlignmentError, torch.OutOfMemoryError):
        raise
    except Exception:  # it was written for half precision
        return _check(network, inputs, loss, None, perturbed), False


def _is_coarse(network: nn.Module, device: torch.device) -> bool:
    halves = any(p.is_floating_point() and p.dtype.itemsize < 4 for p in network.parameters())
    return halves or torch.is_autocast_enabled(device.type)


def _in_float32(leaf: Any) -> Any:
    half = isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype.itemsize < 4
    return leaf.float() if half else leaf


def _check(network: nn.Module, inputs: Arguments, loss: Losses, dtype: torch.dtype | None, perturbed: bool) -> int:
    device = next(network.parameters()).device

    def generator() -> torch.Generator:
        return torch.Generator(device).manual_seed(0)

    def record(weighed: Losses) -> LayerTape:
        with isolated(network, loss, dtype=dtype):
            if perturbed:
                _perturb(network, generator())
            for module in network.modules():
                if uses_batch_statistics(module):
                    module.register_forward_pre_hook(_hold_statistics)
                    module.eval()
            return record_layers(network, tree_map(copied, inputs), weighed, alone=True)

    plain = record(loss)
    draw = generator()
    weights = torch.rand(plain.n, generator=draw, device=device, dtype=plain.losses.dtype) + 0.5
    weighed = record(lambda output: weights * loss(output))
    if not bool(plain.losses.isfinite().all()):
        return plain.n  # divergence, for the caller to see; NaN would look like mixed examples
    tolerance, floor = TOLERANCE, FLOOR
    if multiplies_in_ten_bits(network):
        tolerance, floor = TEN_BITS, TEN_BITS_FLOOR
    if plain.low_precision:
        tolerance, floor = COARSE, COARSE_FLOOR
    direction: Direction = {
        name: torch.randn(p.shape, generator=draw, device=device, dtype=plain.batch_gradient[name].dtype)
        for name, p in trainable_parameters(network).items()
    }
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        expected, found = plain.entries(direction), weighed.entries(direction)
        # Terms that cancel over the batch with equal weights do not cancel with these.
        add_up(weighed, found, direction)
        largest = torch.stack([entry.abs().max() for entry in expected.values()]).max()
        for names, entry in expected.items():
            gap, size = (found[names] - weights * entry).abs().max(), entry.abs().max()
            if bool(gap > tolerance * size + floor * largest):
                raise MixedExamplesError(
                    f"Rows belong to several examples at the parameters {_listed(names)}: with other weights on the "
                    f"losses, their entries change by {float(gap / size):.2g} of their size more than the weights. "
                    "With hooks, put the batch first in every layer, and let no example's loss depend on another's "
                    "rows."
                )
    return plain.n


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def copied(leaf: Any) -> Any:
    """A tensor of an input, for a pass that may write into it."""
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().clone().requires_grad_(leaf.requires_grad)


@torch.no_grad()
def _perturb(network: nn.Module, generator: torch.Generator) -> None:
    for p in network.parameters():
        if p.is_floating_point():
            size = SPREAD * float(p.square().mean().sqrt())
            noise = torch.randn(p.shape, generator=generator, device=p.device, dtype=torch.float32)
            p.add_((noise * (size or SPREAD / 2)).to(p.dtype))


def _hold_statistics(module: nn.Module, args: tuple) -> None:
    """Make the batch's statistics constants, in a copy of the module."""
    x = args[0].detach()
    over = [0, *range(2, x.ndim)]
    module._buffers["running_mean"] = x.mean(over)
    module._buffers["running_var"] = x.var(over, correction=0)
