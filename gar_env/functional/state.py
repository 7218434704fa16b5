"""The Python state of modules and of functions: attributes, buffers, modes, hooks, and what closures hold.

A pass may change more than parameters: running statistics, a recurrent state kept in ``self.h``, a step counter, a list
that a hook appends to. :class:`State` is a copy of all that; :func:`swapped_in` lets passes run on the copy while the
originals, the very same objects, are put aside.

What it does not reach: global variables, attributes of classes, files, other processes.
"""

from __future__ import annotations

import collections
import copy
import enum
import functools
import io
import logging
import random
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Function = Callable[..., Any]

LARGEST = 20_000
"""Objects in one copy. A module that holds more holds a program, a trainer for example."""

_ATOMS = (int, float, complex, bool, str, bytes, types.NoneType, torch.dtype, torch.device, torch.Size, range, slice)
_FIXED = (type, enum.Enum, PurePath, types.ModuleType, types.BuiltinFunctionType, weakref.ref, logging.Logger)
_ATOM_TYPES = frozenset(_ATOMS)
_PLAIN_DICTS = (dict, collections.OrderedDict)
# Layers whose attributes no pass changes, buffers and modes aside.
_STATELESS = ("torch.nn.modules.", "torchvision.models.", "torchvision.ops.", "gar_env.networks.")


_EMPTY = object()
"""What a cell holds before its variable is set."""


class UncopiableStateError(Exception):
    """State that cannot be copied, so what a pass does to it cannot be undone."""


@dataclass(frozen=True, eq=False)
class State:
    """A copy, to be swapped in once; :meth:`copy` it to use it again.

    Args:
        modules: Modules, and objects that are called, each with its attributes; ``True`` where those are all of them,
            else no others can change.
        cells: What closures hold, by cell.
    """

    modules: list[tuple[Any, dict[str, Any], bool]]
    cells: list[tuple[types.CellType, Any]]

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
        copier = _Copier(stand_ins or {}, strict, without_ours)
        for inner in module.modules():
            copier.take(inner)
        for function in functions:
            copier.take_function(function)
        return copier.finish()

    def copy(self, *, stand_ins: Mapping[int, Tensor]) -> State:
        """Copy the copy, with other tensors for its parameters."""
        copier = _Copier(stand_ins, False, False)
        copier.sources = {id(module): attributes for module, attributes, _ in self.modules}
        copier.contents = {id(cell): value for cell, value in self.cells}
        for module, _, _ in self.modules:
            copier.take_function(module)
        for cell, _ in self.cells:
            copier.take_cell(cell)
        return copier.finish()

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
    held = [(cell, _contents(cell)) for cell, _ in state.cells]
    try:
        for module, attributes, whole in state.modules:
            if whole:
                vars(module).clear()
            vars(module).update(attributes)
        for cell, value in state.cells:
            if value is not _EMPTY:
                cell.cell_contents = value
        yield
    finally:
        for module, attributes, whole in before:
            if whole:
                vars(module).clear()
            vars(module).update(attributes)
        for cell, value in held:
            if value is not _EMPTY:
                cell.cell_contents = value
            elif _contents(cell) is not _EMPTY:
                del cell.cell_contents


def _is_stateless(module: nn.Module) -> bool:
    kind = type(module)
    if not kind.__module__.startswith(_STATELESS) or "forward" in vars(module):
        return False
    return not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _slots(kind: type) -> list[str]:
    """The attributes that objects of a Python class keep in ``__slots__``."""
    return [
        name
        for base in kind.__mro__
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    ]


def is_ours(function: Any) -> bool:
    """Whether a function, or an object, belongs to this package."""
    function = getattr(function, "func", function)
    return (getattr(function, "__module__", None) or type(function).__module__).startswith("gar_env.")


class _Copier:
    """Copies values; everything that is met twice is copied once."""

    def __init__(self, stand_ins: Mapping[int, Tensor], strict: bool, without_ours: bool) -> None:
        self.stand_ins, self.strict, self.without_ours = stand_ins, strict, without_ours
        self.sources: dict[int, dict[str, Any]] = {}  # where a module's attributes are copied from, if not from it
        self.contents: dict[int, Any] = {}
        self._modules: list[tuple[Any, dict[str, Any], bool]] = []
        self._cells: dict[int, tuple[types.CellType, Any]] = {}
        self._taken: set[int] = set()
        self._copies: dict[int, tuple[Any, Any]] = {}  # the original too, so that its id stays taken

    def finish(self) -> State:
        return State(self._modules, list(self._cells.values()))

    def take(self, module: nn.Module) -> None:
        """A module: it stays, and what it holds is copied."""
        if id(module) in self._taken or isinstance(module, torch.jit.ScriptModule):
            return
        self._taken.add(id(module))
        source = self.sources.get(id(module), vars(module))
        if not self.stand_ins and not self.without_ours and _is_stateless(module):
            attributes = {"training": source["training"]}
            if source["_buffers"]:
                attributes["_buffers"] = {name: self(buffer) for name, buffer in source["_buffers"].items()}
            self._modules.append((module, attributes, False))
            return
        attributes: dict[str, Any] = {}
        self._modules.append((module, attributes, True))
        for name, value in source.items():
            if self.without_ours and name == "forward" and is_ours(value):
                continue
            attributes[name] = value if type(value) in _ATOM_TYPES else self(value)
            if self.without_ours and name.endswith("_hooks") and type(value) in _PLAIN_DICTS and value:
                kept = {key: hook for key, hook in attributes[name].items() if not is_ours(hook)}
                attributes[name] = type(value)(kept)

    def take_function(self, function: Function) -> None:
        """What is called: it stays, and what its closure, its object or its arguments hold is copied."""
        if isinstance(function, functools.partial):
            self.take_function(function.func)
        owner = getattr(function, "__self__", function)
        if isinstance(owner, nn.Module):
            self.take(owner)
        elif isinstance(function, types.FunctionType):
            self(function)
        elif hasattr(owner, "__dict__") and not isinstance(owner, type) and not is_ours(owner):
            self._take_object(owner)

    def _take_object(self, owner: Any) -> None:
        if id(owner) in self._taken:
            return
        self._taken.add(id(owner))
        source = self.sources.get(id(owner)) or vars(owner)
        self._keep(owner, owner)
        attributes: dict[str, Any] = {}
        self._modules.append((owner, attributes, True))
        attributes.update((name, self(value)) for name, value in source.items())

    def take_cell(self, cell: types.CellType) -> None:
        """What a closure holds; tensors, such as targets, are shared unless something stands in for them."""
        if id(cell) in self._cells:
            return
        value = self.contents.get(id(cell), _contents(cell))
        self._cells[id(cell)] = (cell, value)
        if value is _EMPTY:
            return
        copied = self.stand_ins.get(id(value), value) if isinstance(value, Tensor) else self(value)
        self._cells[id(cell)] = (cell, copied)

    def __call__(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOM_TYPES or isinstance(value, _FIXED):
            return value
        if id(value) in self._copies:
            return self._copies[id(value)][1]
        if len(self._copies) > LARGEST:
            return self._give_up(value, f"there are more than {LARGEST:,} objects in it")
        try:
            return self._copy(value, kind)
        except UncopiableStateError:
            raise
        except RecursionError:
            return self._give_up(value, "it is nested too deeply")
        except Exception as error:  # somebody else's __copy__ or __reduce__
            return self._give_up(value, f"{type(error).__name__}: {error}")

    def _give_up(self, value: Any, why: str) -> Any:
        if self.strict:
            raise UncopiableStateError(f"a {type(value).__module__}.{type(value).__qualname__}: {why}")
        return self._keep(value, value)

    def _keep(self, value: Any, copied: Any) -> Any:
        self._copies[id(value)] = (value, copied)
        return copied

    def _copy(self, value: Any, kind: type) -> Any:
        if isinstance(value, Tensor):
            return self._keep(value, self._tensor(value))
        if isinstance(value, nn.Module):
            self._keep(value, value)
            self.take(value)
            return value
        if kind in _PLAIN_DICTS:
            made = self._keep(value, kind())
            for key, item in value.items():
                made[key] = item if type(item) in _ATOM_TYPES else self(item)
            return made
        if kind is list or kind is collections.deque:
            made = self._keep(value, kind() if kind is list else collections.deque(maxlen=value.maxlen))
            made.extend(map(self, value))
            return made
        if kind is set:
            return self._keep(value, set(value))
        if isinstance(value, tuple):
            items = [self(item) for item in value]
            unchanged = all(a is b for a, b in zip(items, value, strict=True))
            made = value if unchanged else kind(items) if kind is tuple else kind(*items)
            return self._keep(value, made)
        if is_ours(value):
            return self._keep(value, value)
        return self._callable_or_object(value, kind)

    def _tensor(self, value: Tensor) -> Tensor:
        if id(value) in self.stand_ins:
            return self.stand_ins[id(value)]
        if isinstance(value, nn.Parameter) or value.is_meta:
            return value
        made = value.detach().clone(memory_format=torch.preserve_format)
        return made.requires_grad_(value.requires_grad) if value.is_leaf else made

    def _callable_or_object(self, value: Any, kind: type) -> Any:
        if kind is types.FunctionType:
            self._keep(value, value)
            for cell in value.__closure__ or ():
                self.take_cell(cell)
            return value
        if kind is types.MethodType:
            return self._keep(value, types.MethodType(value.__func__, self(value.__self__)))
        if kind is functools.partial:
            options = {name: self(item) for name, item in value.keywords.items()}
            return self._keep(value, functools.partial(self(value.func), *map(self, value.args), **options))
        if isinstance(value, torch.Generator):
            made = torch.Generator(value.device)
            made.set_state(value.get_state())
            return self._keep(value, made)
        if isinstance(value, np.ndarray | np.random.Generator | np.random.RandomState | random.Random):
            return self._keep(value, copy.deepcopy(value))
        if isinstance(value, io.IOBase | types.GeneratorType):
            return self._give_up(value, "what is written to it or read from it cannot be taken back")
        if kind.__module__ in ("_thread", "threading"):
            return self._keep(value, value)  # locks
        made = self._keep(value, copy.copy(value))
        if isinstance(value, dict | list):  # a subclass: what is in it counts as well
            for key, item in list(made.items() if isinstance(made, dict) else enumerate(made)):
                made[key] = self(item)
        for name, item in list(getattr(made, "__dict__", {}).items()):
            if type(item) not in _ATOM_TYPES:
                made.__dict__[name] = self(item)
        for name in _slots(kind):
            item = getattr(made, name, None)
            if type(item) not in _ATOM_TYPES:
                object.__setattr__(made, name, self(item))
        return made
