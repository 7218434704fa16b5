"""The Python state of modules and of functions: attributes, buffers, modes, hooks, and what closures hold.

A pass may change more than parameters: running statistics, a recurrent state kept in ``self.h``, a step counter, a list
that a hook appends to. :class:`State` is a copy of all that; :func:`swapped_in` lets passes run on the copy while the
originals, the very same objects, are put aside.

What it does not reach: global variables, attributes of classes, files, other processes.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gar_env.functional.copier import EMPTY, Copier, Function, contents_of

# Hooks on all modules: torch.nn.modules.module.register_module_forward_hook and its like.
_KINDS = ("forward_pre", "forward", "backward_pre", "backward")
_GLOBAL_HOOKS = [getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in _KINDS]


@dataclass(frozen=True, eq=False)
class State:
    """A copy, to be swapped in once; :meth:`copy` it to use it again.

    Args:
        modules: Modules, and objects that are called, each with its attributes; ``True`` where those are all of them,
            else no others can change.
        modes: Of layers that have no other attributes that change, ``training``.
        cells: What closures hold, by cell.
    """

    modules: list[tuple[Any, dict[str, Any], bool]] = field(default_factory=list)
    modes: list[tuple[nn.Module, bool]] = field(default_factory=list)
    cells: list[tuple[types.CellType, Any]] = field(default_factory=list)

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
            functions: Whose closures and objects count too: a loss.
            stand_ins: ``{id(parameter): tensor}``, what takes a parameter's place wherever it stands.
            strict: Whether to refuse what cannot be copied, instead of leaving it shared.
            without_ours: Leave out hooks of this package.

        Raises:
            UncopiableStateError: If ``strict``.
        """
        copier = Copier(stand_ins or {}, strict, without_ours)
        for inner in module.modules():
            copier.take(inner)
        for function in [*functions, *(hook for hooks in _GLOBAL_HOOKS for hook in hooks.values())]:
            copier.take_function(function)
        return cls(copier.modules, copier.modes, copier.cells)

    def copy(self, *, stand_ins: Mapping[int, Tensor]) -> State:
        """Copy the copy, with other tensors for its parameters."""
        copier = Copier(stand_ins, False, False)
        copier.sources = {id(module): attributes for module, attributes, _ in self.modules}
        copier.partial = {id(module) for module, _, whole in self.modules if not whole}
        copier.contents = {id(cell): value for cell, value in self.cells}
        for module, _, _ in self.modules:
            copier.take_function(module)
        for cell, _ in self.cells:
            copier.take_cell(cell)
        return State(copier.modules, self.modes + copier.modes, copier.cells)

    @property
    def buffers(self) -> list[Tensor]:
        """All of them."""
        held = [attributes.get("_buffers", {}) for _, attributes, _ in self.modules]
        return [buffer for buffers in held for buffer in buffers.values() if buffer is not None]


@contextmanager
def swapped_in(state: State) -> Iterator[None]:
    """Inside, modules and closures have that state, and change it; afterwards they have their own, untouched."""
    before = [
        (module, dict(vars(module)) if whole else {name: vars(module)[name] for name in attributes}, whole)
        for module, attributes, whole in state.modules
    ]
    modes = [(module, module.training) for module, _ in state.modes]
    held = [(cell, contents_of(cell)) for cell, _ in state.cells]
    try:
        for module, training in state.modes:
            vars(module)["training"] = training
        for module, attributes, whole in state.modules:
            if whole:
                vars(module).clear()
            vars(module).update(attributes)
        for cell, value in state.cells:
            if value is not EMPTY:
                cell.cell_contents = value
        yield
    finally:
        for module, attributes, whole in before:
            if whole:
                vars(module).clear()
            vars(module).update(attributes)
        for module, training in modes:
            vars(module)["training"] = training
        for cell, value in held:
            if value is not EMPTY:
                cell.cell_contents = value
            elif contents_of(cell) is not EMPTY:
                del cell.cell_contents
