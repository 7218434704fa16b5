"""The Python state of modules and of functions: attributes, buffers, modes, hooks, and what closures hold.

A pass may change more than parameters: running statistics, a recurrent state kept in ``self.h``, a step counter, a list
that a hook appends to. :class:`State` is a copy of all that; :func:`swapped_in` lets passes run on the copy while the
originals, the very same objects, are put aside.

What it does not reach: global variables, attributes of classes, files, other processes, memory that a NumPy array
shares with a tensor, and, unless ``strict``, tensors that a function (a loss) holds and changes in place: targets are
such tensors as a rule, and are shared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gar_env.functional.copier import Copier
from gar_env.functional.owners import Function, read, write

# Hooks on all modules: torch.nn.modules.module.register_module_forward_hook and its like.
_KINDS = ("forward_pre", "forward", "backward_pre", "backward")
_GLOBAL_HOOKS = [getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in _KINDS]


@dataclass(frozen=True, eq=False)
class State:
    """A copy, to be swapped in once; :meth:`copy` it to use it again.

    Args:
        owners: Modules, functions, closures' cells and objects that are called, each with what it holds:
            :func:`gar_env.functional.owners.read`.
    """

    owners: list[tuple[Any, Any]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        module: nn.Module,
        functions: Iterable[Function] = (),
        *,
        stand_ins: Mapping[int, Tensor] | None = None,
        strict: bool = False,
        without_ours: bool = False,
    ) -> State:
        """Copy the present state.

        Args:
            module: With all modules in it, and those that its attributes hold.
            functions: Whose closures, defaults and objects count too: a loss.
            stand_ins: ``{id(parameter): tensor}``, what takes a parameter's place wherever it stands.
            strict: Whether to refuse what cannot be copied, instead of leaving it shared.
            without_ours: Leave out hooks of this package.

        Raises:
            UncopiableStateError: If ``strict``.
        """
        copier = Copier(stand_ins or {}, strict=strict, without_ours=without_ours, sources={})
        copier.take(module)
        for function in [*functions, *(hook for hooks in _GLOBAL_HOOKS for hook in hooks.values())]:
            copier.take(function)
        return cls(copier.owners)

    def copy(self, *, stand_ins: Mapping[int, Tensor]) -> State:
        """Copy the copy, with other tensors for its parameters."""
        sources = {id(owner): held for owner, held in self.owners}
        copier = Copier(stand_ins, strict=False, without_ours=False, sources=sources)
        for owner, _ in self.owners:
            copier.take(owner)
        return State(copier.owners)

    @property
    def parameters(self) -> list[Tensor]:
        """All of them; one that stands in several places comes several times."""
        held = [held["_parameters"] for owner, held in self.owners if isinstance(owner, nn.Module)]
        return [p for parameters in held for p in parameters.values() if p is not None]

    @property
    def buffers(self) -> list[Tensor]:
        """All of them."""
        held = [held.get("_buffers", {}) for owner, held in self.owners if isinstance(owner, nn.Module)]
        return [buffer for buffers in held for buffer in buffers.values() if buffer is not None]


@contextmanager
def swapped_in(state: State) -> Iterator[None]:
    """Inside, owners hold that state, and change it; afterwards they have their own, untouched."""
    before = [(owner, read(owner)) for owner, _ in state.owners]
    try:
        for owner, held in state.owners:
            write(owner, held)
        yield
    finally:
        for owner, held in before:
            write(owner, held)
