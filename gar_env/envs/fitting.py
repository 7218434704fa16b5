"""Whether a network fits the data that it is to train on: found out once, before anything trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gar_env.data import Dataset
from gar_env.errors import ConfigurationError
from gar_env.networks.build import NetworkBuilder
from gar_env.registry import shown


def check_network(
    network: str | NetworkBuilder, data: Dataset, inputs: Tensor, targets: Tensor, run: Callable[[Tensor], Any]
) -> None:
    """Pass a batch, and look at what comes out.

    Args:
        network: As its user gave it, for messages.
        data: What it trains on.
        inputs: ``[n, ...]``.
        targets: ``[n, ...]``.
        run: The network, with gradients.

    Raises:
        ConfigurationError: With what the network said.
    """
    n, name = len(inputs), network if isinstance(network, str) else "the builder"
    what = f"network={shown(name)} on {n} {data.kind} {list(data.input_shape)}, as {data.name} has them"
    try:
        outputs = run(inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of somebody's forward pass
        first = next(iter(str(error).splitlines()), "")
        raise ConfigurationError(f"{what}, fails: {type(error).__name__}: {first}") from error
    shape = (n, data.outputs) if data.has_labels or not data.classes else (*targets.shape, data.outputs)
    fits = isinstance(outputs, Tensor) and outputs.layout is torch.strided and outputs.shape == shape
    words = "floating logits" if data.classes else "floating outputs"
    if not fits or not outputs.is_floating_point() or outputs.is_meta:
        found = f"{outputs.dtype}, {outputs.layout}" if isinstance(outputs, Tensor) else type(outputs).__name__
        found += f" {list(outputs.shape)}" if isinstance(outputs, Tensor) else ""
        raise ConfigurationError(f"{what}, returns {found}; expected {words} {list(shape)}.")
    if not outputs.requires_grad:
        raise ConfigurationError(f"{what}, returns {words[9:]} that depend on no trainable parameter.")
