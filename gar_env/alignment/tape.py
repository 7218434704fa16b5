"""A tape: what is kept of one recorded pass, until the direction is known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from gar_env.alignment.direction import Direction
from gar_env.errors import StaleTapeError
from gar_env.functional import nodes_below, structure_of
from gar_env.registry import shown

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
        listening: Whether an ``aligning`` is reading it now.
        error: Estimated relative error of the entries as a vector, once it is read; ``None`` where they are exact but
            for the rounding of the pass's own precision.
    """

    network: nn.Module
    losses: Tensor
    batch_gradient: dict[str, Tensor]
    low_precision: bool = field(default=False, kw_only=True)
    coarsest: torch.dtype = field(default=torch.float32, kw_only=True)
    used: bool = field(default=False, kw_only=True)
    listening: bool = field(default=False, kw_only=True)
    error: float | None = field(default=None, kw_only=True)

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

    @abstractmethod
    def advice(self) -> str:
        """What to do when it cannot be read: a sentence that names ways which work, where that can be found out."""

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


def check_tape(tape: Any) -> None:
    """Refuse what is no tape, and one that was read.

    Raises:
        StaleTapeError: If it was read before, or is being read by an enclosing ``aligning``.
    """
    if not isinstance(tape, Tape):
        raise StaleTapeError(f"{shown(tape)} is no tape. Pass what record(...) returned.")
    tape.check_unused()
    if tape.listening:
        raise StaleTapeError("An enclosing aligning(tape) is reading this tape. Read it once, there or here.")


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind ``tensors``, each once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


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


@dataclass(frozen=True, eq=False)
class KeptTree:
    """Arguments, flat: containers such as ``PackedSequence`` cannot hold anything but tensors.

    Args:
        leaves: Tensors are :class:`Kept`.
        structure: Around them.
        differentiated: Which leaves required a gradient of their own: a network may ask for it.
    """

    leaves: list[Any]
    structure: TreeSpec
    differentiated: frozenset[int]

    @property
    def tensors(self) -> list[Tensor]:
        """Those among them."""
        return [leaf.tensor for leaf in self.leaves if isinstance(leaf, Kept)]


def keep(tree: Any) -> KeptTree:
    """The same arguments with every tensor :class:`Kept`."""
    leaves, structure = tree_flatten(tree)
    own = frozenset(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad)
    leaves_of_graphs = frozenset(i for i in own if leaves[i].is_leaf)
    return KeptTree([Kept(x) if isinstance(x, Tensor) else x for x in leaves], structure, leaves_of_graphs)


def unkept(tree: KeptTree, label: str) -> Any:
    """The arguments of :func:`keep` again.

    Raises:
        StaleTapeError: If one was overwritten; ``label`` says whose it was.
    """
    leaves = [read(leaf, label) if isinstance(leaf, Kept) else leaf for leaf in tree.leaves]
    for i in tree.differentiated:
        leaves[i] = leaves[i].detach().requires_grad_()
    return tree_unflatten(leaves, tree.structure)


def read(kept: Kept, label: str) -> Tensor:
    """The tensor.

    Raises:
        StaleTapeError: If it was overwritten; ``label`` says whose it was.
    """
    if kept.stale:
        raise StaleTapeError(
            f"The input of {label} was overwritten in place after it was recorded. Keep each batch in its own tensor "
            "until its rewards are computed; where a forward pass writes into its own input, pass it a copy."
        )
    return kept.tensor


def working_dtype(tensor: Tensor) -> torch.dtype:
    """What per-example sums are accumulated in: float32 for half precision, else the tensor's own type."""
    return torch.promote_types(tensor.dtype, torch.float32)


def dot_per_example(a: Tensor, b: Tensor, *, own: bool = False) -> Tensor:
    """``[n, ...]`` twice to ``[n]``; ``own`` says that ``a`` may be overwritten, which saves an allocation."""
    dtype = working_dtype(b)
    a, b = a.to(dtype), b.to(dtype)
    return (a.mul_(b) if own else a * b).reshape(len(b), -1).sum(1)


def hint_on_gpus(tape: Tape) -> str:
    """A sentence for the end of a reason why a replay is not the recorded pass; empty where it cannot be the reason."""
    attends = any("attention" in type(module).__name__.lower() for module in tape.network.modules())
    if not tape.losses.is_cuda or not attends:
        return ""
    return (
        " Or attention drew its dropout inside a fused kernel, which no replay in forward mode repeats: record inside "
        "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)."
    )


def full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    """A context in which tapes are read: without ``torch.autocast`` on a tensor's device, whatever is around it."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def coarsest_of(tensors: Iterable[Tensor], *others: torch.dtype) -> torch.dtype:
    """The floating type of least precision among ``tensors`` and other types; float32 if there is none."""
    types = {*(t.dtype for t in tensors if t.is_floating_point()), *others}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def coarsest_inside(losses: Tensor) -> torch.dtype:
    """The floating type of least precision that a float64 pass went through; others are taken at their word."""
    if losses.dtype is not torch.float64:
        return losses.dtype
    recorded = (metadata.dtype for node in nodes_below(losses) for metadata in node._input_metadata)
    types = {losses.dtype, *recorded}
    floating = [dtype for dtype in types if dtype.is_floating_point]
    return max(floating, key=lambda dtype: torch.finfo(dtype).eps)


def runs_in_low_precision(network: nn.Module) -> bool:
    """Whether a pass at this point would be in half precision, all or in part."""
    floating = [p for p in structure_of(network).parameters.values() if p.is_floating_point()]
    return any(torch.is_autocast_enabled(p.device.type) for p in floating[:1]) or coarsest_of(floating).itemsize < 4
