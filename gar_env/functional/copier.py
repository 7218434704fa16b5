"""Copies of what modules and functions hold, where whatever was shared stays shared."""

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
from collections.abc import Callable, Mapping
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

EMPTY = object()
"""What a cell holds before its variable is set."""


class UncopiableStateError(Exception):
    """State that cannot be copied, so what a pass does to it cannot be undone."""


def is_ours(function: Any) -> bool:
    """Whether a function, or an object, belongs to this package."""
    function = getattr(function, "func", function)
    return (getattr(function, "__module__", None) or type(function).__module__).startswith("gar_env.")


class Copier:
    """Copies values; everything that is met twice is copied once."""

    def __init__(self, stand_ins: Mapping[int, Tensor], strict: bool, without_ours: bool) -> None:
        self.stand_ins, self.strict, self.without_ours = stand_ins, strict, without_ours
        self.sources: dict[int, dict[str, Any]] = {}  # where a module's attributes are copied from, if not from it
        self.partial: set[int] = set()  # of which sources do not hold all attributes
        self.contents: dict[int, Any] = {}
        self.modules: list[tuple[Any, dict[str, Any], bool]] = []
        self.modes: list[tuple[nn.Module, bool]] = []  # of layers of which no other attribute changes
        self._cells: dict[int, tuple[types.CellType, Any]] = {}
        self._taken: set[int] = set()
        self._copies: dict[int, tuple[Any, Any]] = {}  # the original too, so that its id stays taken
        self._memory: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    @property
    def cells(self) -> list[tuple[types.CellType, Any]]:
        """What closures hold, with its copy."""
        return list(self._cells.values())

    def take(self, module: nn.Module) -> None:
        """A module: it stays, and what it holds is copied."""
        if id(module) in self._taken or isinstance(module, torch.jit.ScriptModule):
            return
        self._taken.add(id(module))
        source = self.sources.get(id(module), vars(module))
        if not self.stand_ins and not self.without_ours and _is_stateless(module):
            self.modes.append((module, source["training"]))
            if source["_buffers"]:
                buffers = {name: self(buffer) for name, buffer in source["_buffers"].items()}
                self.modules.append((module, {"_buffers": buffers}, False))
            return
        attributes: dict[str, Any] = {}
        self.modules.append((module, attributes, id(module) not in self.partial))
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
        self.modules.append((owner, attributes, True))
        attributes.update((name, self(value)) for name, value in source.items())

    def take_cell(self, cell: types.CellType) -> None:
        """What a closure holds; tensors, such as targets, are shared unless something stands in for them."""
        if id(cell) in self._cells:
            return
        value = self.contents.get(id(cell), contents_of(cell))
        self._cells[id(cell)] = (cell, value)
        if value is EMPTY:
            return
        copied = self.stand_ins.get(id(value), value) if isinstance(value, Tensor) else self(value)
        self._cells[id(cell)] = (cell, copied)

    def __call__(self, value: Any) -> Any:
        """Its copy; the thing itself where it cannot change, or is a module or function, whose contents are taken."""
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
        made = self._part_of_copied(value)
        if made is None:
            made = (value.detach() if value.requires_grad else value).clone()
            if type(value) is Tensor and value.layout is torch.strided and made.stride() == value.stride():
                self._memory[value.untyped_storage().data_ptr(), value.dtype] = (value, made)
        return made.requires_grad_(value.requires_grad) if value.is_leaf else made

    def _part_of_copied(self, value: Tensor) -> Tensor | None:
        """A view shares memory with its base, a buffer for example, and so do their copies."""
        if not self._memory or type(value) is not Tensor or value.layout is not torch.strided or not value.numel():
            return None
        base, made = self._memory.get((value.untyped_storage().data_ptr(), value.dtype), (None, None))
        if base is None or made is None:
            return None
        start = value.storage_offset() - base.storage_offset()
        extent = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
        if start < 0 or start + extent >= base.numel():
            return None
        return made.detach().as_strided(value.shape, value.stride(), made.storage_offset() + start)

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


def _is_stateless(module: nn.Module) -> bool:
    if "forward" in vars(module) or not _has_stateless_kind(type(module)):
        return False
    tables = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return not any(hooks and not all(map(is_ours, hooks.values())) for hooks in tables)


@functools.lru_cache(1024)
def _has_stateless_kind(kind: type) -> bool:
    return kind.__module__.startswith(_STATELESS)


def contents_of(cell: types.CellType) -> Any:
    """What a closure's variable holds, :data:`EMPTY` if it has not been set."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def _slots(kind: type) -> list[str]:
    """The attributes that objects of a Python class keep in ``__slots__``."""
    return [
        name
        for base in kind.__mro__
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    ]
