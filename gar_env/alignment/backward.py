"""The backward pass of a mean loss, scaled or not, and a copy of its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from gar_env.errors import ConfigurationError, UnsupportedLayerError
from gar_env.functional import nodes_below
from gar_env.registry import shown

LossScale = float | GradScaler


def check_loss_scale(loss_scale: LossScale) -> None:
    """Refuse what scales nothing.

    Raises:
        ConfigurationError: If a number is not above 0.
    """
    if isinstance(loss_scale, GradScaler):
        return
    if isinstance(loss_scale, bool) or not isinstance(loss_scale, int | float) or not 0 < loss_scale < 1e300:
        raise ConfigurationError(f"loss_scale={shown(loss_scale)} must be above 0, or a torch.amp.GradScaler.")


def value_of(loss_scale: LossScale) -> float:
    """The factor in force; a GradScaler on a GPU waits for it."""
    return loss_scale.get_scale() if isinstance(loss_scale, GradScaler) else loss_scale


def backward_of_mean(
    parameters: Mapping[str, nn.Parameter], losses: Tensor, loss_scale: LossScale, *, alone: bool = False
) -> tuple[dict[str, Tensor], float]:
    """Backpropagate ``loss_scale`` times the mean of ``losses``; ``.grad`` is added to by torch, as usual.

    Args:
        parameters: That they depend on, by name.
        losses: ``[n]`` or ``[n, T]``.
        loss_scale: See :func:`gar_env.alignment.record`.
        alone: Whether no other tensor, such as an input that requires a gradient, is to get one. Reentrant checkpoints
            do without: backward passes to chosen tensors stop before them.

    Returns:
        A copy of this pass's own gradient, by parameter: of this process alone under DistributedDataParallel, and
        with the scale divided out; and the scale.

    Raises:
        UnsupportedLayerError: If a gradient is sparse.
    """
    mean = losses.mean()
    scaled = loss_scale.scale(mean) if isinstance(loss_scale, GradScaler) else mean * loss_scale
    scale = value_of(loss_scale)
    fresh: dict[str, Tensor] = {}

    def copy_of(name: str) -> Callable[[Tensor], None]:
        # A copy: optimizers with Nesterov momentum write into .grad, and then the check would compare with that. Taken
        # before it is added to .grad, or averaged over processes.
        def take(g: Tensor) -> None:
            if g.layout is not torch.strided:
                raise UnsupportedLayerError(f"The gradient of {name} is sparse. Build its layer with sparse=False.")
            own = g.detach().clone() if scale == 1 else g.detach() / scale
            fresh[name] = fresh[name] + own if name in fresh else own

        return take

    handles = [p.register_hook(copy_of(name)) for name, p in parameters.items()]
    others: list[tuple[Tensor, Tensor | None]] = []
    try:
        chosen = list(parameters.values()) if alone else None
        if alone and _has_reentrant_checkpoint(losses):
            chosen, others = None, _leaves_beside(parameters, losses)
        for leaf, _ in others:
            leaf.grad = None
        scaled.backward(inputs=chosen)
    finally:
        for handle in handles:
            handle.remove()
        for leaf, before in others:
            leaf.grad = before
    return {name: fresh[name] if name in fresh else torch.zeros_like(p) for name, p in parameters.items()}, scale


def _has_reentrant_checkpoint(losses: Tensor) -> bool:
    return any(node.name() == "CheckpointFunctionBackward" for node in nodes_below(losses))


def _leaves_beside(parameters: Mapping[str, Tensor], losses: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """Other tensors that a backward pass gives gradients to, with those that they have."""
    own = {id(p) for p in parameters.values()}
    leaves = [node.variable for node in nodes_below(losses) if hasattr(node, "variable")]
    return [(leaf, leaf.grad) for leaf in leaves if id(leaf) not in own]
