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
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gar_env.functional.owners import EMPTY, is_ours, read, slots_of

LARGEST = 20_000
"""Objects in one copy. A module that holds more holds a program, a trainer for example."""

WHOLE_STORAGE = 2**22
"""Bytes of memory up to which a view's base is copied with it, whatever else it holds: a data set is not."""

_ATOMS = (int, float, complex, bool, str, bytes, types.NoneType, torch.dtype, torch.device, torch.Size, range, slice)
_FIXED = (type, enum.Enum, PurePath, types.ModuleType, weakref.ref, logging.Logger)
_ATOM_TYPES = frozenset(_ATOMS)
_PLAIN_DICTS = frozenset((dict, collections.OrderedDict))


class UncopiableStateError(Exception):
    """State that cannot be copied, so what a pass does to it cannot be undone."""


class Copier:
    """Copies what owners hold; everything that is met twice is copied once.

    Args:
        stand_ins: ``{id(parameter): tensor}``, what takes a parameter's place.
        strict: Whether to refuse what cannot be copied, instead of leaving it shared.
        without_ours: Whether to leave out hooks of this package.
        sources: ``{id(owner): what it held}``, to copy instead of what it holds.
    """

    def __init__(
        self, stand_ins: Mapping[int, Tensor], *, strict: bool, without_ours: bool, sources: Mapping[int, Any]
    ) -> None:
        self.stand_ins, self.strict, self.without_ours, self.sources = stand_ins, strict, without_ours, sources
        self.owners: list[tuple[Any, Any]] = []
        """Modules, functions, closures' cells and other objects that stay, and copies of what they hold."""
        self._taken: set[int] = set()
        self._copies: dict[int, tuple[Any, Any]] = {}  # the original too, so that its id stays taken
        self._storages: dict[int, tuple[Tensor, torch.UntypedStorage]] = {}

    def take(self, owner: Any) -> None:
        """Something that is called: it stays, and what it holds is copied."""
        if id(owner) in self._taken:
            return
        kind = type(owner)
        if isinstance(owner, nn.Module):
            self._take_module(owner)
        elif kind is types.MethodType:
            self.take(owner.__self__)
        elif kind is not types.BuiltinFunctionType and not isinstance(owner, _FIXED) and not is_ours(owner):
            self._take_object(owner)

    def _take_module(self, module: nn.Module) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            return
        self._taken.add(id(module))
        source = self.sources.get(id(module)) or vars(module)
        attributes = dict(source)
        self.owners.append((module, attributes))
        for name, value in source.items():
            kind = type(value)
            if kind in _ATOM_TYPES:
                continue
            if (kind in _PLAIN_DICTS or kind is set) and not value:
                attributes[name] = kind()
            elif name == "_parameters" and not self.stand_ins:
                attributes[name] = kind(value)
            elif name == "_modules":
                attributes[name] = kind(value)
                for child in value.values():
                    if child is not None:
                        self.take(child)
            elif self.without_ours and name == "forward" and is_ours(value):
                del attributes[name]
            else:
                attributes[name] = self(value)
                if self.without_ours and kind in _PLAIN_DICTS and name.endswith("_hooks"):
                    kept = {key: hook for key, hook in attributes[name].items() if not is_ours(hook)}
                    attributes[name] = kind(kept)

    def _take_object(self, owner: Any) -> None:
        self._taken.add(id(owner))
        held = self.sources[id(owner)] if id(owner) in self.sources else read(owner)
        self._keep(owner, owner)
        if type(owner) is types.CellType:
            return self.owners.append((owner, self._given(held)))
        if not held:
            return
        contents: dict[str, Any] = {}
        self.owners.append((owner, contents))
        contents.update((name, self._given(value)) for name, value in held.items())

    def _given(self, value: Any) -> Any:
        """What a function holds: tensors, such as targets, are copied for those alone who must leave no trace."""
        if isinstance(value, Tensor) and not (self.strict and value.is_leaf and not value.requires_grad):
            return self.stand_ins.get(id(value), value)
        if type(value) is tuple:
            return tuple(map(self._given, value))
        return self(value)

    def __call__(self, value: Any) -> Any:
        """Its copy; the thing itself where it cannot change, or is an owner, whose contents are taken."""
        kind = type(value)
        if kind in _ATOM_TYPES or isinstance(value, _FIXED) or value is EMPTY:
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
        if isinstance(value, nn.Module) or kind in (types.FunctionType, types.CellType, functools.partial):
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
        return self._method_or_object(value, kind)

    def _tensor(self, value: Tensor) -> Tensor:
        if id(value) in self.stand_ins:
            return self.stand_ins[id(value)]
        if isinstance(value, nn.Parameter) or value.is_meta:
            return value
        made = self._in_copied_memory(value) if type(value) is Tensor and value.layout is torch.strided else None
        if made is None:
            made = (value.detach() if value.requires_grad else value).clone()
        return made.requires_grad_(value.requires_grad) if value.is_leaf else made

    def _in_copied_memory(self, value: Tensor) -> Tensor | None:
        """A view shares memory with its base, a buffer for example, and so do their copies."""
        storage = value.untyped_storage()
        if storage.data_ptr() in self._storages:
            memory = self._storages[storage.data_ptr()][1]
        else:
            if storage.nbytes() == value.nbytes:
                made = value.detach().clone()
                if made.stride() == value.stride():
                    self._storages[storage.data_ptr()] = (value, made.untyped_storage())
                    return made
            elif storage.nbytes() > max(WHOLE_STORAGE, 2 * value.nbytes):
                return None
            memory = storage.clone()
            self._storages[storage.data_ptr()] = (value, memory)
        made = torch.empty(0, dtype=value.dtype, device=value.device)
        return made.set_(memory, value.storage_offset(), value.shape, value.stride())  # pyright: ignore[reportArgumentType]

    def _method_or_object(self, value: Any, kind: type) -> Any:
        if kind is types.MethodType:
            return self._keep(value, types.MethodType(value.__func__, self(value.__self__)))
        if kind is types.BuiltinFunctionType:  # of a list, say
            owner = self(value.__self__)
            return self._keep(value, value if owner is value.__self__ else getattr(owner, value.__name__))
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
        for name in slots_of(kind):
            item = getattr(made, name, None)
            if type(item) not in _ATOM_TYPES:
                object.__setattr__(made, name, self(item))
        return made
