"""The ways to compute an alignment, by name, and the rule that chooses one.

===================  ===========================================  ======================  ============================
way                  measures                                     keeps until ``align``   costs, plain step = 1
===================  ===========================================  ======================  ============================
hooks                the share reading of batch normalisation     per layer: input and    a forward pass, less where
                                                                  output gradient, or     gradients are materialised
                                                                  per-example gradients
forward              the derivative reading                       batch, parameters       a pass in forward mode
finite_difference    the derivative reading, to about 3e-3        batch, parameters       a forward pass
===================  ===========================================  ======================  ============================

Without batch normalisation in training mode both readings are the same number. ``"auto"`` never changes what is
measured:

1. ``batch_norm="derivative"`` and a layer that uses batch statistics: ``forward``.
2. ``batch_norm="share"`` and a layer that uses batch statistics: ``hooks``.
3. Without batch statistics, the derivative of each example's own loss: ``hooks``; if the first batch shows that a
   layer's rows are not examples (position embeddings, merged or swapped first dimensions), that examples are mixed or
   that a weight is used outside its layer, or if the hooks would break ``max_overhead``: ``forward``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from gar_env.alignment.rules import uses_batch_statistics
from gar_env.errors import ConfigurationError, UnsupportedLayerError
from gar_env.functional import Structure, structure_of
from gar_env.registry import check_choice

Way = Literal["auto", "hooks", "forward", "finite_difference"]
WAYS = ("auto", "hooks", "forward", "finite_difference")
BatchNormReading = Literal["share", "derivative"]
BATCH_NORM_READINGS = ("share", "derivative")
AlignmentPrecision = Literal["float32", "bfloat16"]
ALIGNMENT_PRECISIONS = ("float32", "bfloat16")


def check_way(way: str, batch_norm: str) -> None:
    """Refuse unknown names.

    Raises:
        ConfigurationError: With the known ones.
    """
    check_choice("way", way, WAYS)
    check_choice("batch_norm", batch_norm, BATCH_NORM_READINGS)


def check_precision(precision: str, way: str, device: torch.device | None = None) -> None:
    """Refuse an unknown precision, and one that a way or a device cannot do.

    Args:
        precision: What the alignment is computed in.
        way: That is recorded in, resolved or not.
        device: Of the network, if it is known.

    Raises:
        ConfigurationError: With what can be.
    """
    check_choice("precision", precision, ALIGNMENT_PRECISIONS)
    if precision == "float32":
        return
    if way not in ("auto", "hooks"):
        raise ConfigurationError(
            f"precision={precision!r} is of what hooks keep, and way={way!r} keeps a pass as it was. "
            "Use way='hooks', or precision='float32'."
        )
    if device is not None and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigurationError(f"precision={precision!r} is not supported by {device}. Use 'float32'.")


def has_batch_statistics(network: nn.Module) -> bool:
    """Whether any layer normalises with the statistics of the batch in its present mode."""
    return structure_of(network).derived(_normalises)


def _normalises(structure: Structure) -> bool:
    return any(uses_batch_statistics(module) for module in structure.modules.values())


def resolve(way: Way, batch_norm: BatchNormReading, network: nn.Module) -> Way:
    """The way that a network in its present mode is recorded in; ``"auto"`` by the rule above, but for its point 3.

    Raises:
        ConfigurationError: If the way measures another reading than ``batch_norm`` asks for.
    """
    if not has_batch_statistics(network):
        return "hooks" if way == "auto" else way
    if way == "auto":
        return "hooks" if batch_norm == "share" else "forward"
    measured = "share" if way == "hooks" else "derivative"
    if measured != batch_norm:
        raise ConfigurationError(
            f"The network normalises over the batch, where way={way!r} measures batch_norm={measured!r}; found "
            f"batch_norm={batch_norm!r}. Pass way='auto', or batch_norm={measured!r}."
        )
    return way


def check_not_compiled(network: nn.Module) -> None:
    """Refuse a network whose compiled code has no hooks in it.

    Raises:
        UnsupportedLayerError: With what to do.
    """
    compiled = structure_of(network).derived(_compiled)
    if compiled is not None:
        raise UnsupportedLayerError(
            f"{compiled or 'The network'} was compiled before it was hooked, and compiled code ignores hooks that come "
            "later. Build alignment = Alignment(network) on the network as it is, train on "
            "alignment.compile(**options) instead of torch.compile(network, **options), and record with "
            "alignment.record."
        )


def _compiled(structure: Structure) -> str | None:
    """The path of a module that was compiled."""
    for path, module in structure.modules.items():
        # By name: importing torch's compiler to ask takes seconds.
        if type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            return path
    return None
