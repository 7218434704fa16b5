"""What a pass is given, and what its loss returns: calls and checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gar_env.alignment.direction import trainable_parameters
from gar_env.errors import LossShapeError, UnsupportedLayerError
from gar_env.functional import Structure, structure_of

Losses = Callable[[Any], Tensor]
Inputs = Tensor | tuple | Mapping[str, Any]


def call(network: Callable[..., Any], inputs: tuple | Mapping[str, Any]) -> Any:
    """The network's output for positional or named inputs."""
    return network(**inputs) if isinstance(inputs, Mapping) else network(*inputs)


def lengths_of(inputs: tuple | Mapping[str, Any]) -> list[int]:
    """The first dimension of every tensor among the inputs."""
    values = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    return [len(x) for x in tree_leaves(values) if isinstance(x, Tensor) and x.ndim]


def rows_of(inputs: tuple | Mapping[str, Any]) -> int | None:
    """How many examples the inputs hold, if all tensors agree on it."""
    lengths = set(lengths_of(inputs))
    return lengths.pop() if len(lengths) == 1 else None


def check_network(network: nn.Module) -> None:
    """Refuse a network that cannot be recorded in any way.

    Raises:
        LossShapeError: If no parameter is trained.
        UnsupportedLayerError: If parameters are complex, hold no data, or have sparse gradients; or if the network is a
            module of TorchScript or ``DataParallel``.
    """
    structure_of(network).derived(_check_structure)


def _check_structure(structure: Structure) -> None:
    network = structure.modules[""]
    if isinstance(network, nn.DataParallel):
        raise UnsupportedLayerError(
            "The network is a DataParallel, which runs copies whose layers are not the recorded ones. Pass its "
            ".module, or use DistributedDataParallel."
        )
    trained = with_complex = False
    for module in structure.modules.values():
        if isinstance(module, _LOOKED_AT):
            _check_module(network, module)
        for p in module._parameters.values():
            if p is None:
                continue
            if p.is_meta or isinstance(p, nn.parameter.UninitializedParameter):
                _check_module(network, module)
            if p.requires_grad:
                trained, with_complex = True, with_complex or p.is_complex()
    if not trained:
        raise LossShapeError("The network has no trainable parameter, so its losses have no gradient to align.")
    if with_complex:
        numbers = [name for name, p in trainable_parameters(network).items() if p.is_complex()]
        raise UnsupportedLayerError(f"Complex parameters are not supported: {', '.join(numbers)}. Freeze them.")


_LOOKED_AT = (torch.jit.ScriptModule, nn.Embedding, nn.EmbeddingBag)


def _check_module(network: nn.Module, module: nn.Module) -> None:
    path = next(path for path, inner in network.named_modules() if inner is module)
    label = f"{path or 'The network'} ({type(module).__name__})"
    if isinstance(module, torch.jit.ScriptModule):
        if any(p.requires_grad for p in module.parameters()):
            raise UnsupportedLayerError(
                f"{label} was traced or scripted, and code of TorchScript calls no hooks. Pass the module that it was "
                "made from."
            )
        return
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight.requires_grad:
        odd = [name for name in ("max_norm", "scale_grad_by_freq", "sparse") if getattr(module, name, None)]
        if odd:
            raise UnsupportedLayerError(
                f"{label} is built with {' and '.join(odd)}, which changes its weight or its gradient in a way "
                "that has no per-example share. Build it without."
            )
    for name, p in module._parameters.items():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise UnsupportedLayerError(
                f"{label} has no parameters yet. Run one forward pass before the first recording, as lazy modules "
                "need it."
            )
        if p is not None and p.is_meta:
            raise UnsupportedLayerError(
                f"{label}: {name} is on the meta device and holds no numbers. Load the network, or "
                "network.to_empty(device=...) and initialise it."
            )


def check_losses(losses: Any, inputs: tuple | Mapping[str, Any], *, per_token: bool = False) -> None:
    """Refuse losses that are not one number per example.

    Args:
        losses: What the loss returned.
        inputs: Of the network.
        per_token: Whether more dimensions than the first are allowed.

    Raises:
        LossShapeError: With what was found and how to reduce it.
    """
    lengths = lengths_of(inputs)
    fits = (
        isinstance(losses, Tensor)
        and not (losses.is_nested or losses.is_meta)
        and losses.layout is torch.strided
        and losses.is_floating_point()
    )
    fits = fits and losses.dtype.itemsize > 1  # no arithmetic in float8
    fits = fits and losses.ndim >= 1 and (losses.ndim == 1 or per_token)
    # Where the pass is replayed, an example need not be a row of any input: a graph of a batch of graphs, for one.
    if not fits or not (per_token or not lengths or len(losses) in lengths):
        found = type(losses).__name__
        if isinstance(losses, Tensor):
            found = "a nested tensor" if losses.is_nested else f"{list(losses.shape)}, {losses.dtype}"
        raise LossShapeError(
            f"loss must return one number per example, shape [{lengths[0] if lengths else 'n'}]; found {found}. Use "
            "reduction='none', and take the mean over every other dimension: losses.flatten(1).mean(1). For one entry "
            "per token, shape [n, T], or per part of an input, such as a graph in a batch of graphs, pass "
            "way='forward' or way='finite_difference'."
        )
    if len(losses) == 0:
        raise LossShapeError("The batch is empty. Record at least one example.")
    if not losses.requires_grad:
        raise LossShapeError(
            "The losses depend on no trainable parameter. Call record outside torch.no_grad(), on a network with "
            "parameters that require gradients."
        )
