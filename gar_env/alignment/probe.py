"""Are the rows that layers return examples? Found out once, by weighing the examples differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gar_env.alignment.conservation import add_up
from gar_env.alignment.direction import Direction, trainable_parameters
from gar_env.alignment.inputs import Losses
from gar_env.alignment.layerwise import LayerTape, record_layers
from gar_env.alignment.put_back import put_back
from gar_env.alignment.rules import uses_batch_statistics
from gar_env.errors import MixedExamplesError
from gar_env.seeding import global_state, replay_global

# Of the largest entry; rounding stays below 1e-5 in float32, mixed examples are of the order of 0.1.
TOLERANCE, COARSE = 1e-3, 0.05


def check_separation(network: nn.Module, inputs: tuple | Mapping[str, Any], loss: Losses) -> None:
    """Record a batch twice, the second time with random weights on the losses: entries must be weighed alike.

    The parameters' sums cannot tell examples that are mixed up with one another; single entries under different
    weights can. Batch normalisation runs on its running statistics meanwhile, since its rows always depend on each
    other; a network with batch normalisation that keeps none cannot be checked and is let pass. Gradients, buffers,
    modes and the global generator are put back.

    Raises:
        LostGradientError: If a weight is used outside its layer.
        MixedExamplesError: If the entries of a layer are not weighed as its examples are; the message names it.
    """
    device = next(network.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    random_state = global_state(device)

    def record(loss: Losses) -> LayerTape:
        with put_back(network), replay_global(random_state, device):
            for module in network.modules():
                if _keeps_statistics(module):
                    module.eval()
            return record_layers(network, inputs, loss)

    if any(uses_batch_statistics(module) and not _keeps_statistics(module) for module in network.modules()):
        return
    plain = record(loss)
    weights = torch.rand(plain.n, generator=generator, device=device, dtype=plain.losses.dtype) + 0.5
    weighed = record(lambda output: weights * loss(output))
    if not bool(plain.losses.isfinite().all()):
        return  # divergence, for the caller to see; NaN would look like mixed examples
    tolerance = COARSE if plain.low_precision else TOLERANCE
    direction: Direction = {
        name: torch.randn(p.shape, generator=generator, device=device, dtype=p.dtype)
        for name, p in trainable_parameters(network).items()
    }
    with torch.no_grad():
        expected, found = plain.entries(direction), weighed.entries(direction)
        # Terms that cancel over the batch with equal weights do not cancel with these.
        add_up(weighed, found, direction)
        for names, entry in expected.items():
            gap = (found[names] - weights * entry).abs().max()
            if bool(gap > tolerance * entry.abs().max()):
                raise MixedExamplesError(
                    f"Rows belong to several examples at the parameters {', '.join(names)}: with other weights on the "
                    f"losses, their entries change by {float(gap / entry.abs().max()):.0%} more than the weights. Put "
                    "the batch first in every layer, and let no example's loss depend on another's rows; or pass "
                    "way='forward' for the derivative of each example's own loss, whatever it depends on."
                )


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
