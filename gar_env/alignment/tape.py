"""A tape: what is kept of one recorded pass, until the direction is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils._pytree import tree_leaves, tree_map

from gar_env.alignment.direction import Direction, trainable_parameters
from gar_env.errors import ConfigurationError, LossShapeError, StaleTapeError, UnsupportedLayerError

Losses = Callable[[Any], Tensor]
Inputs = Tensor | tuple | Mapping[str, Any]
LossScale = float | GradScaler
Parts = dict[tuple[str, ...], Tensor]
"""``{names of the parameters a part covers: each example's entry [n]}``; together they cover every parameter once."""


@dataclass(eq=False)
class Tape(ABC):
    """One recorded pass over ``n`` examples: forward, and backward of the mean loss.

    Args:
        network: The recorded network; its parameters may move on before the tape is read.
        losses: Each example's loss at the recorded parameters, detached, ``[n]`` (``[n, T]``: one per token).
        batch_gradient: A copy of the mean loss's gradient, for the conservation check.
        low_precision: Whether it ran in half precision or under ``torch.autocast``, all or in part.
        coarsest: The type of least precision that it ran in, whatever the type of the losses.
        used: Whether the tape has been read and what it kept is gone.
    """

    network: nn.Module
    losses: Tensor
    batch_gradient: dict[str, Tensor]
    low_precision: bool = field(default=False, kw_only=True)
    coarsest: torch.dtype = field(default=torch.float32, kw_only=True)
    used: bool = field(default=False, kw_only=True)

    way: ClassVar[str]
    """The name of the way it was recorded in."""

    exact: ClassVar[bool] = True
    """Whether the entries add up to the batch gradient but for rounding."""

    why_lost: ClassVar[str]
    """What to think of, and to do, when the parts do not add up to the batch gradient."""

    @property
    def n(self) -> int:
        """How many examples were recorded."""
        return len(self.losses)

    @property
    def nbytes(self) -> int:
        """Bytes that the tape keeps alive until it is read, each storage once."""
        return count_bytes([*self.batch_gradient.values(), *self.kept()])

    @abstractmethod
    def kept(self) -> Iterable[Tensor]:
        """The tensors that the tape holds beside the batch gradient."""

    @abstractmethod
    def entries(self, direction: Direction) -> Parts:
        """Each example's alignment, in parts; ``align`` adds them up and checks each."""

    def release(self) -> None:
        """Let go of everything kept, but for the losses."""
        self.used = True
        self.batch_gradient = {}

    def check_unused(self) -> None:
        """Refuse a second reading.

        Raises:
            StaleTapeError: If the tape was read before.
        """
        if self.used:
            raise StaleTapeError(
                "This tape was read already, and what it kept is freed. To read one pass along several directions, "
                "pass align(..., retain_tape=True) for all but the last."
            )


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind ``tensors``, each once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def call(network: Callable[..., Any], inputs: tuple | Mapping[str, Any]) -> Any:
    """The network's output for positional or named inputs."""
    return network(**inputs) if isinstance(inputs, Mapping) else network(*inputs)


def check_loss_scale(loss_scale: LossScale) -> None:
    """Refuse what scales nothing.

    Raises:
        ConfigurationError: If a number is not above 0.
    """
    if not isinstance(loss_scale, GradScaler) and not loss_scale > 0:
        raise ConfigurationError(f"loss_scale={loss_scale} must be above 0, or a torch.amp.GradScaler.")


def value_of(loss_scale: LossScale) -> float:
    """The factor in force; a GradScaler on a GPU waits for it."""
    return loss_scale.get_scale() if isinstance(loss_scale, GradScaler) else loss_scale


def backward_of_mean(network: nn.Module, losses: Tensor, loss_scale: LossScale) -> tuple[dict[str, Tensor], float]:
    """Backpropagate ``loss_scale`` times the mean of ``losses``, and add to ``.grad`` as usual.

    Returns:
        A copy of this pass's own gradient, by parameter: of this process alone under DistributedDataParallel, and
        with the scale divided out; and the scale.
    """
    mean = losses.mean()
    scaled = loss_scale.scale(mean) if isinstance(loss_scale, GradScaler) else mean * loss_scale
    scale = value_of(loss_scale)
    parameters = trainable_parameters(network)
    earlier = {name: p.grad for name, p in parameters.items()}
    fresh: dict[str, Tensor] = {}

    def copy_of(name: str) -> Callable[[Tensor], None]:
        # A copy: optimizers with Nesterov momentum write into .grad, and then the check would compare with that. Taken
        # in the hook, before other processes' gradients are averaged in.
        def take(p: Tensor) -> None:
            assert p.grad is not None
            fresh[name] = p.grad.detach().clone() if scale == 1 else p.grad.detach() / scale

        return take

    handles = [p.register_post_accumulate_grad_hook(copy_of(name)) for name, p in parameters.items()]
    for p in parameters.values():
        p.grad = None
    finished = False
    try:
        scaled.backward()
        finished = True
    finally:
        for handle in handles:
            handle.remove()
        for name, p in parameters.items():
            before = earlier[name]
            if not finished:
                p.grad = before
            elif before is not None:
                p.grad = before if p.grad is None else before.add_(p.grad)
    return {name: fresh[name] if name in fresh else torch.zeros_like(p) for name, p in parameters.items()}, scale


class Kept:
    """A tensor that must not be overwritten until it is read: its version is watched.

    Args:
        tensor: Kept as it is, detached, not copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()
        self.version = tensor._version

    @property
    def stale(self) -> bool:
        """Whether somebody wrote into the tensor since."""
        return self.tensor._version != self.version

    def __getstate__(self) -> dict[str, Any]:
        return {"tensor": self.tensor, "stale": self.stale}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A loaded tensor counts its versions anew; without this every loaded tape would look overwritten.
        self.tensor = state["tensor"]
        self.version = -1 if state["stale"] else self.tensor._version


def keep(tree: Any) -> Any:
    """The same arguments with every tensor :class:`Kept`."""
    return tree_map(lambda leaf: Kept(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def unkept(tree: Any, label: str) -> Any:
    """The tensors of :func:`keep` again.

    Raises:
        StaleTapeError: If one was overwritten; ``label`` says whose it was.
    """

    def read(leaf: Any) -> Any:
        if not isinstance(leaf, Kept):
            return leaf
        if leaf.stale:
            raise StaleTapeError(
                f"The input of {label} was overwritten in place after it was recorded. Keep each batch in its own "
                "tensor until its rewards are computed."
            )
        return leaf.tensor

    return tree_map(read, tree)


def working_dtype(tensor: Tensor) -> torch.dtype:
    """What per-example sums are accumulated in: float32 for half precision, else the tensor's own type."""
    return torch.promote_types(tensor.dtype, torch.float32)


def dot_per_example(a: Tensor, b: Tensor, *, own: bool = False) -> Tensor:
    """``[n, ...]`` twice to ``[n]``; ``own`` says that ``a`` may be overwritten, which saves an allocation."""
    dtype = working_dtype(b)
    a, b = a.to(dtype), b.to(dtype)
    return (a.mul_(b) if own else a * b).reshape(len(b), -1).sum(1)


def coarsest_of(tensors: Iterable[Tensor]) -> torch.dtype:
    """The floating type of least precision among ``tensors``; float32 if there is none."""
    types = {t.dtype for t in tensors if t.is_floating_point()}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def runs_in_low_precision(network: nn.Module) -> bool:
    """Whether a pass at this point would be in half precision, all or in part."""
    floating = [p for p in network.parameters() if p.is_floating_point()]
    return any(torch.is_autocast_enabled(p.device.type) for p in floating[:1]) or coarsest_of(floating).itemsize < 4


def lengths_of(inputs: tuple | Mapping[str, Any]) -> list[int]:
    """The first dimension of every tensor among the inputs."""
    values = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
    return [len(x) for x in tree_leaves(values) if isinstance(x, Tensor) and x.ndim]


def rows_of(inputs: tuple | Mapping[str, Any]) -> int | None:
    """How many examples the inputs hold, if all tensors agree on it."""
    lengths = set(lengths_of(inputs))
    return lengths.pop() if len(lengths) == 1 else None


def check_parameters(network: nn.Module) -> None:
    """Refuse a network without anything to align.

    Raises:
        LossShapeError: If no parameter is trained.
        UnsupportedLayerError: If parameters are complex.
    """
    parameters = trainable_parameters(network)
    if not parameters:
        raise LossShapeError("The network has no trainable parameter, so its losses have no gradient to align.")
    numbers = [name for name, p in parameters.items() if p.is_complex()]
    if numbers:
        raise UnsupportedLayerError(f"Complex parameters are not supported: {', '.join(numbers)}. Freeze them.")


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
    fits = isinstance(losses, Tensor) and losses.ndim >= 1 and (losses.ndim == 1 or per_token)
    if not fits or (lengths and len(losses) not in lengths):
        found = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise LossShapeError(
            f"loss must return one number per example, shape [{lengths[0] if lengths else 'n'}]; found {found}. Use "
            "reduction='none', and take the mean over every other dimension: losses.flatten(1).mean(1). For one entry "
            "per token, shape [n, T], pass way='forward' or way='finite_difference'."
        )
    if len(losses) == 0:
        raise LossShapeError("The batch is empty. Record at least one example.")
    if not losses.requires_grad:
        raise LossShapeError(
            "The losses depend on no trainable parameter. Call record outside torch.no_grad(), on a network with "
            "parameters that require gradients."
        )
