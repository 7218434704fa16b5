"""State as data: numbers, text and tensors, which a file can hold and nothing in which is executed when it is read.

An object's state is what its attributes hold. Attributes that are no data - networks, functions, open files - are made
again by whoever builds the object: they are left out if they were there when it was built, and refused otherwise, for a
state that lacks them would be another one.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium.spaces import Space
from torch import Generator, Tensor

from gar_env.errors import CheckpointError, DuplicateNameError
from gar_env.registry import shown

Data = Any
"""``None``, bool, int, float, str, tensors; lists and tuples of such; dicts with an entry ``"is"``."""

PLAIN: dict[str, type] = {}
"""Classes whose instances are nothing but their fields, by name."""

Kind = TypeVar("Kind", bound=type)

_SIMPLE = (bool, int, float, str)
_BIT_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


class NotDataError(CheckpointError):
    """A value that a file cannot hold as data."""


def plain(kind: Kind) -> Kind:
    """Decorator: instances of this class are nothing but their fields, and are made again from those.

    A dataclass, a ``NamedTuple``, or a class that names its attributes in ``state_fields``.

    Raises:
        DuplicateNameError: If another class of that name is one.
    """
    known = PLAIN.setdefault(kind.__name__, kind)
    if known is not kind and (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise DuplicateNameError(f"{kind.__name__} is {known.__module__}'s already. Choose another name.")
    PLAIN[kind.__name__] = kind
    return kind


def as_data(value: Any) -> Data:
    """A value as data.

    Raises:
        NotDataError: If it is none, or something in it is none.

    Example:
        >>> as_data({"seen": (1, 2.5)})
        {'is': 'dict', 'items': [('seen', (1, 2.5))]}
    """
    if value is None or type(value) in _SIMPLE:
        return value
    if isinstance(value, Tensor):
        return _tensor(value)
    if type(value) is bytes:
        return {"is": "bytes", "value": torch.frombuffer(bytearray(value), dtype=torch.uint8) if value else None}
    if type(value) in (list, tuple):
        return type(value)(as_data(entry) for entry in value)
    if type(value) in (dict, OrderedDict):
        return {"is": "dict", "items": [(as_data(key), as_data(entry)) for key, entry in value.items()]}
    if type(value) is deque:
        return {"is": "deque", "items": [as_data(entry) for entry in value], "maxlen": value.maxlen}
    if isinstance(value, np.ndarray | np.generic):
        return _array(value)
    if isinstance(value, Generator):
        return {"is": "generator", "state": value.get_state(), "device": value.device.type}
    if isinstance(value, np.random.Generator):
        return {"is": "numpy_generator", "state": as_data(dict(value.bit_generator.state))}
    if isinstance(value, Space):
        # Of a space only what it draws next can change.
        return {"is": "space", "draws": as_data(value._np_random)}
    if isinstance(value, torch.device | torch.dtype):
        return {"is": "torch", "name": str(value).removeprefix("torch."), "kind": type(value).__name__}
    if PLAIN.get(type(value).__name__) is type(value):
        fields = value._asdict() if isinstance(value, tuple) else vars(value)  # pyright: ignore[reportAttributeAccessIssue]
        return {"is": "object", "class": type(value).__name__, "fields": as_data(dict(fields))}
    if not isinstance(value, type) and has_state(value):
        return {"is": "state", "value": as_data(value.state_dict())}
    raise NotDataError(f"{shown(value)} is no data.")


def has_state(thing: Any) -> bool:
    """Whether it has ``state_dict()`` and ``load_state_dict()``."""
    return all(callable(getattr(thing, name, None)) for name in ("state_dict", "load_state_dict"))


def from_data(data: Data, there: Any = None, *, device: torch.device | str = "cpu") -> Any:
    """The value again.

    Args:
        data: Of :func:`as_data`.
        there: What stands in its place now. Generators, spaces and objects with a state are changed in place: others
            may hold them too.
        device: Where tensors and new generators go.

    Raises:
        CheckpointError: If it is no such data, or something needs an object that is not there.
    """
    if data is None or type(data) in _SIMPLE:
        return data
    if isinstance(data, Tensor):
        return data.to(device)
    if type(data) in (list, tuple):
        same = type(there) is type(data) and len(there) == len(data)
        return type(data)(
            from_data(entry, old, device=device)
            for entry, old in zip(data, there if same else [None] * len(data), strict=True)
        )
    kind = data.get("is") if isinstance(data, dict) else None
    try:
        read = _READERS[kind]  # pyright: ignore[reportArgumentType]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{shown(data)} is no state: it is of no kind that is known.") from error
    try:
        return read(data, there, device)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"A state of the kind {kind!r} is damaged: {type(error).__name__}: {error}") from error


def attributes(thing: Any, *, made: Iterable[str] = (), left_out: Iterable[str] = ()) -> dict[str, Data]:
    """The attributes of an object, as data.

    Args:
        thing: The object.
        made: Names of attributes that were there when it was built: those that are no data are made again.
        left_out: Names of others that are made again.

    Raises:
        NotDataError: If another one is no data.
    """
    found, made, left_out = {}, set(made), set(left_out)
    for name, value in getattr(thing, "__dict__", {}).items():
        if name in left_out:
            continue
        try:
            found[name] = as_data(value)
        except NotDataError as error:
            if name not in made:
                raise NotDataError(
                    f"{type(thing).__name__}.{name} cannot be saved: {error} Make it when the object is built, keep "
                    "what changes in numbers and tensors, or give it state_dict() and load_state_dict()."
                ) from error
    return found


def set_attributes(
    thing: Any, state: Mapping[str, Data], *, device: torch.device | str = "cpu", shapes: bool = True
) -> None:
    """Give an object that was built alike the attributes of :func:`attributes`.

    Args:
        thing: The object.
        state: What it gets.
        device: Where tensors go.
        shapes: Whether tensors and arrays have the types and shapes of those that stand there.

    Raises:
        CheckpointError: If a name is that of a method, or of what is no data here; or a value is of another type, or of
            another shape, than what stands there.
    """
    own = vars(thing)
    for name, data in state.items():
        if not isinstance(name, str) or (name not in own and not _is_plain(getattr(type(thing), name, None))):
            raise CheckpointError(f"{type(thing).__name__} keeps no {shown(name)}: something else made the state.")
        if name in own:
            _check_like(f"{type(thing).__name__}.{name}", data, own[name], shapes)
        setattr(thing, name, from_data(data, own.get(name), device=device))


def _is_plain(value: Any) -> bool:
    """Whether it is a value that a class may stand in for until there is one of the instance's own."""
    return value is None or type(value) in _SIMPLE


def _check_like(name: str, data: Data, there: Any, shapes: bool) -> None:
    try:
        here = as_data(there)
    except NotDataError:
        raise CheckpointError(f"{name} is made by its options, and no part of a state.") from None
    if here is None or data is None:
        return
    numbers = (int, float)
    if type(data) is not type(here) and not (type(data) in numbers and type(here) in numbers):
        raise CheckpointError(f"{name} was saved as {shown(data)}; here it is {shown(there)}.")
    if isinstance(here, dict) and data.get("is") != here["is"]:
        raise CheckpointError(f"{name} was saved as {shown(data.get('is'))}; here it is {shown(here['is'])}.")
    pairs = [(data, here)] if isinstance(here, Tensor) else []
    if isinstance(here, dict) and here["is"] == "array":
        pairs = [(data.get("value"), here["value"])]
    for saved, own in pairs if shapes else ():
        if not isinstance(saved, Tensor) or saved.dtype != own.dtype or saved.shape != own.shape:
            raise CheckpointError(f"{name} was saved as {shown(saved)}; here it is {shown(own)}.")


def _tensor(value: Tensor) -> Tensor:
    if value.layout is not torch.strided or value.is_nested or value.is_meta:
        raise NotDataError(f"{shown(value)} is no plain tensor.")
    value = value.detach().cpu()
    if value.numel() * value.element_size() == value.untyped_storage().nbytes():
        return value.contiguous()
    # A view would take all that it is a view of into the file.
    return value.clone(memory_format=torch.contiguous_format)


def _array(value: np.ndarray | np.generic) -> Data:
    if value.dtype.kind not in "biuf" or not value.dtype.isnative:
        raise NotDataError(f"{shown(value)} is no array of numbers.")
    return {"is": "array", "value": torch.from_numpy(np.array(value)), "scalar": isinstance(value, np.generic)}


def _read_array(data: Data, there: Any, device: Any) -> Any:
    array = data["value"].numpy()
    return array[()] if data["scalar"] else array


def _read_generator(data: Data, there: Any, device: Any) -> Generator:
    generator = there if isinstance(there, Generator) else Generator(device if data["device"] != "cpu" else "cpu")
    generator.set_state(data["state"])
    return generator


def _read_numpy_generator(data: Data, there: Any, device: Any) -> np.random.Generator:
    state = from_data(data["state"])
    name = state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise CheckpointError(f"{shown(name)} is no generator of NumPy.")
    if not isinstance(there, np.random.Generator) or type(there.bit_generator).__name__ != name:
        there = np.random.Generator(getattr(np.random, name)())
    there.bit_generator.state = state
    return there


def _read_space(data: Data, there: Any, device: Any) -> Space[Any]:
    there = _present(data, there, Space)
    there._np_random = from_data(data["draws"], there._np_random)
    return there


def _read_torch(data: Data, there: Any, device: Any) -> Any:
    if data["kind"] == "device":
        return torch.device(data["name"])
    found = getattr(torch, data["name"])
    if not isinstance(found, torch.dtype):
        raise CheckpointError(f"torch.{data['name']} is no type.")
    return found


def _read_object(data: Data, there: Any, device: Any) -> Any:
    if data["class"] not in PLAIN:
        raise CheckpointError(f"No class {shown(data['class'])} can be read from a file.")
    kind: Any = PLAIN[data["class"]]
    fields = from_data(data["fields"], device=device)
    if set(fields) != _fields_of(kind):
        raise CheckpointError(f"A {data['class']} was saved with other fields: {shown(sorted(fields))}.")
    if issubclass(kind, tuple):
        return kind(**fields)
    made = kind.__new__(kind)
    vars(made).update(fields)
    return made


def _fields_of(kind: Any) -> set[str]:
    if issubclass(kind, tuple):
        return set(kind._fields)  # pyright: ignore[reportAttributeAccessIssue]
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    return set(kind.state_fields)


def _read_state(data: Data, there: Any, device: Any) -> Any:
    there = _present(data, there, object)
    there.load_state_dict(from_data(data["value"]))
    return there


def _present(data: Data, there: Any, kind: type) -> Any:
    if there is None or not isinstance(there, kind):
        raise CheckpointError("A state belongs to an object that is not there: it was built in another way.")
    return there


def _read_dict(data: Data, there: Any, device: Any) -> dict[Any, Any]:
    old = there if isinstance(there, dict) else {}
    return {(key := from_data(k)): from_data(entry, old.get(key), device=device) for k, entry in data["items"]}


def _read_deque(data: Data, there: Any, device: Any) -> deque[Any]:
    return deque((from_data(entry, device=device) for entry in data["items"]), data["maxlen"])


def _read_bytes(data: Data, there: Any, device: Any) -> bytes:
    return b"" if data["value"] is None else data["value"].numpy().tobytes()


_READERS = {
    "bytes": _read_bytes,
    "dict": _read_dict,
    "deque": _read_deque,
    "array": _read_array,
    "generator": _read_generator,
    "numpy_generator": _read_numpy_generator,
    "space": _read_space,
    "torch": _read_torch,
    "object": _read_object,
    "state": _read_state,
}
