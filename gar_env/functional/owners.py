"""What things that are called hold, read and written as a whole: modules, functions, closures, partials, objects."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from torch import nn

Function = Callable[..., Any]

EMPTY = object()
"""What a closure's cell holds before its variable is set."""


def is_ours(function: Any) -> bool:
    """Whether a function, or an object, belongs to this package."""
    function = getattr(function, "func", function)
    return (getattr(function, "__module__", None) or type(function).__module__).startswith("gar_env.")


def read(owner: Any) -> Any:
    """A shallow copy of what it holds, by name; of a closure's cell, the one thing.

    Of a function: its defaults, its attributes, and the cells of its closure; of a partial, what it calls with what.
    """
    if isinstance(owner, nn.Module):
        return dict(vars(owner))
    kind = type(owner)
    if kind is types.CellType:
        try:
            return owner.cell_contents
        except ValueError:
            return EMPTY
    if kind is types.FunctionType:
        held = {name: getattr(owner, name) for name in ("__defaults__", "__kwdefaults__", "__closure__")}
        held["__dict__"] = dict(vars(owner))
        return {name: value for name, value in held.items() if value}
    if kind is functools.partial:
        return {"func": owner.func, "args": owner.args, "keywords": dict(owner.keywords), "__dict__": dict(vars(owner))}
    slots = {name: getattr(owner, name) for name in slots_of(kind) if hasattr(owner, name)}
    return {**getattr(owner, "__dict__", {}), **slots}


def write(owner: Any, held: Any) -> None:
    """Make it hold that, and nothing else."""
    if isinstance(owner, nn.Module):
        vars(owner).clear()
        vars(owner).update(held)
        return
    kind = type(owner)
    if kind is types.CellType:
        if held is not EMPTY:
            owner.cell_contents = held
        elif read(owner) is not EMPTY:
            del owner.cell_contents
    elif kind is types.FunctionType:
        for name in ("__defaults__", "__kwdefaults__", "__dict__"):
            if name in held:
                setattr(owner, name, held[name])
    elif kind is functools.partial:
        owner.__setstate__((held["func"], held["args"], held["keywords"], held["__dict__"]))  # pyright: ignore
    else:
        slots = slots_of(kind)
        if hasattr(owner, "__dict__"):
            vars(owner).clear()
            vars(owner).update((name, value) for name, value in held.items() if name not in slots)
        for name in slots:
            if name in held:
                object.__setattr__(owner, name, held[name])


@functools.lru_cache(1024)
def slots_of(kind: type) -> tuple[str, ...]:
    """The attributes that objects of a Python class keep in ``__slots__``."""
    return tuple(
        name
        for base in kind.__mro__
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    )
