"""Mixed precision and memory layout of a network's passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gar_env.registry import check_choice

PRECISIONS = ("float32", "bfloat16")


def check_precision(precision: str) -> None:
    """Refuse an unknown precision.

    Raises:
        ConfigurationError: If it is none of ``"float32"``, ``"bfloat16"``.
    """
    check_choice("precision", precision, PRECISIONS)


def lay_out(network: nn.Module, *, channels_last: bool) -> nn.Module:
    """The network with its convolutions' weights in channels-last order, if that is asked for."""
    # No such overload in torch's stubs.
    return network.to(memory_format=torch.channels_last) if channels_last else network  # pyright: ignore


def laid_out(inputs: Tensor, *, channels_last: bool) -> Tensor:
    """Images likewise; inputs of another shape as they are."""
    wanted = channels_last and inputs.ndim == 4
    return inputs.contiguous(memory_format=torch.channels_last) if wanted else inputs


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """``torch.autocast`` to bfloat16, or a context that does nothing. bfloat16 needs no loss scaling.

    Without its cache of cast weights: inside somebody else's ``torch.autocast`` it would outlive the next update.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)
