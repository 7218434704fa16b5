"""Search spaces: which operations there are to choose from, and what the strengths 0..30 of each mean."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gar_env.augment.operation import OPERATIONS, Operation
from gar_env.errors import ConfigurationError, GarEnvError, UnknownNameError
from gar_env.registry import Registry, did_you_mean, known_names_only, shown

STRENGTHS = 31
"""How many strengths every operation has: k = 0..30."""


@dataclass(frozen=True)
class Choice:
    """One operation of a search space, and its range.

    Args:
        operation: A registered name; ``"module:name"`` imports the module first.
        start: The value at strength 0.
        span: What is added up to strength 30; negative for a range that goes down.
        whole: Whether what is added is cut to a whole number, towards 0: ``int(k * span / 30)``.
        signed: Whether a fair coin turns the value around, at each application.

    Raises:
        UnknownNameError: If there is no such operation.
        ConfigurationError: If a number is none, or its values are not those of the operation.

    Example:
        >>> Choice("rotate", span=135, whole=True, signed=True).value(10)
        45
    """

    operation: str
    start: float = 0.0
    span: float = 0.0
    whole: bool = False
    signed: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.operation, str):
            raise ConfigurationError(f"operation={self.operation!r} must be the name of an operation.")
        op = OPERATIONS[self.operation]
        for name in ("start", "span"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigurationError(f"{name}={value!r} of {self.operation} must be a finite number.")
        for name in ("whole", "signed"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name}={getattr(self, name)!r} of {self.operation} must be True or False.")
        if op.whole and self.span and not self.whole:
            raise ConfigurationError(
                f"{self.operation} takes whole {op.unit}, but goes up by {self.span / (STRENGTHS - 1):.3g} from one "
                "strength to the next. Pass whole=True."
            )
        ends = [self.value(k, minus) for k in (0, STRENGTHS - 1) for minus in (False, True)]
        if not op.limits[0] <= min(ends) <= max(ends) <= op.limits[1]:
            raise ConfigurationError(
                f"{self.operation} goes from {min(ends):g} to {max(ends):g} {op.unit}; there are "
                f"{op.limits[0]:g} to {op.limits[1]:g}. Change start or span."
            )

    @property
    def op(self) -> Operation:
        """What is registered under the name."""
        return OPERATIONS[self.operation]

    @property
    def name(self) -> str:
        """Of the operation, without its module."""
        return self.op.name

    def value(self, strength: int, negative: bool = False) -> float:
        """What Pillow is given at a strength: a whole number where ``whole`` says so.

        Raises:
            ConfigurationError: If the strength is out of range.
        """
        check_strength(strength)
        added = strength * self.span / (STRENGTHS - 1)
        value = int(self.start) + int(added) if self.whole else self.start + added
        return -value if negative and self.signed else value

    def is_noop(self, strength: int) -> bool:
        """Whether an image is the same after it, whatever the image."""
        if self.op.identity is None:
            return False
        # Kernels and Pillow blend with a float32 factor.
        either = {np.float32(self.value(strength, negative)) for negative in (False, True)}
        return either == {np.float32(self.op.identity)}


def is_whole(number: object) -> bool:
    """Whether it is a whole number, and no truth value."""
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def check_strength(strength: int) -> None:
    """Refuse a strength that is no whole number in 0..30.

    Raises:
        ConfigurationError: With what was found.
    """
    if not is_whole(strength) or not 0 <= strength < STRENGTHS:
        raise ConfigurationError(f"strength={strength!r} must be a whole number in 0..{STRENGTHS - 1}.")


@dataclass(frozen=True)
class SearchSpace:
    """Operations to choose from, in order; plain data.

    Args:
        name: What it is called.
        choices: At least one; no operation twice.

    Raises:
        ConfigurationError: If it is empty, or an operation is in it twice.
        UnknownNameError: If there is no such operation.

    Example:
        >>> space = SPACES["wl"].subset(["rotate", "color"])
        >>> space.describe("rotate", 10, negative=True), space.is_noop("rotate", 0)
        ('rotate -45 degrees', True)
        >>> SearchSpace.from_json(space.to_json()) == space
        True
    """

    name: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigurationError(f"name={self.name!r} must be what the search space is called.")
        several = isinstance(self.choices, Iterable)
        object.__setattr__(self, "choices", tuple(self.choices) if several else (self.choices,))  # hashable
        wrong = [choice for choice in self.choices if not isinstance(choice, Choice)]
        if wrong:
            raise ConfigurationError(f"choices has {wrong[0]!r}; expected Choice('name', ...) for each operation.")
        if not self.choices:
            raise ConfigurationError(f"The search space {self.name!r} is empty. Give it at least one operation.")
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigurationError(f"The search space {self.name!r} has {', '.join(twice)} more than once.")

    def __len__(self) -> int:
        return len(self.choices)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One per operation."""
        return tuple(choice.name for choice in self.choices)

    def index(self, name: str) -> int:
        """The number of an operation.

        Raises:
            UnknownNameError: If it is not in this space; the message suggests one.
        """
        if name not in self.names:
            raise UnknownNameError(
                f"The search space {self.name!r} has no operation {name!r}.{did_you_mean(name, self.names)}\n"
                f"It has: {', '.join(self.names)}."
            )
        return self.names.index(name)

    def __getitem__(self, name: str) -> Choice:
        return self.choices[self.index(name)]

    def value(self, name: str, strength: int, *, negative: bool = False) -> float:
        """What an operation is given at a strength, in its unit. Errors as :meth:`index` and :meth:`Choice.value`."""
        return self[name].value(strength, negative)

    def is_noop(self, name: str, strength: int) -> bool:
        """Whether an operation changes nothing at a strength. Errors as :meth:`value`."""
        return self[name].is_noop(strength)

    def describe(self, name: str, strength: int, *, negative: bool = False) -> str:
        """For people: ``"rotate -45 degrees"``. Errors as :meth:`value`."""
        return self[name].op.describe(self.value(name, strength, negative=negative))

    def subset(self, names: Iterable[str], *, name: str | None = None) -> SearchSpace:
        """Some of the operations, in the order given.

        Raises:
            UnknownNameError: If one is not in this space.
            ConfigurationError: If there are none.
        """
        chosen = (names,) if isinstance(names, str) else tuple(names)
        return SearchSpace(name or f"{self.name}[{','.join(chosen)}]", tuple(self[each] for each in chosen))

    def to_json(self) -> str:
        """All of it, as text."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        """From the text of :meth:`to_json`.

        Raises:
            ConfigurationError: If it is no search space.
            UnknownNameError: If it names an operation that is not registered.
            UntrustedNameError: If it names one of a module that is not imported.
        """
        try:
            plain = json.loads(text)
            with known_names_only():
                return cls(plain["name"], tuple(Choice(**choice) for choice in plain["choices"]))
        except GarEnvError:
            raise
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ConfigurationError(
                f"The text is no search space: {error}. Expected an object with name, and choices with operation, "
                "start, span, whole and signed, as SearchSpace.to_json() writes it."
            ) from error


SPACES: Registry[SearchSpace] = Registry("search space")


def register_space(space: SearchSpace) -> SearchSpace:
    """Make a space known by its name, to environments and command lines too.

    Raises:
        DuplicateNameError: If another has that name.
        ConfigurationError: If its name reads like a choice of operations, or like a file.
    """
    if "[" in space.name or space.name.endswith(".json"):
        raise ConfigurationError(f"name={space.name!r} means something else: 'wl[rotate]' a choice, 'my.json' a file.")
    return SPACES.register(space.name)(space)


def load_space(name: str) -> SearchSpace:
    """A search space from one string, as options of environments and commands give it.

    Args:
        name: A registered name, some of its operations (``"wl[rotate,color]"``), or a ``.json`` file.

    Raises:
        UnknownNameError: If there is no such space, or operation in it.
        ConfigurationError: If the file is not there, or holds no search space; if the choice of operations is empty.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"space={shown(name)} must be a name, or the path of a .json file.")
    if name.endswith(".json"):
        try:
            path = Path(name).expanduser()
            if path.exists() and not path.is_file():
                raise ConfigurationError(f"space={shown(name)} is no file.")
            return SearchSpace.from_json(path.read_text())
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"space={shown(name)} cannot be read: it is no text.") from error
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, GarEnvError):
                raise
            why = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
            raise ConfigurationError(f"space={shown(name)} cannot be read: {why}. Check the path.") from error
    base, bracket, inside = name.partition("[")
    space = SPACES[base]
    if not bracket:
        return space
    if not inside.endswith("]"):
        raise ConfigurationError(f"space={shown(name)} has no closing bracket. Write for example 'wl[rotate,color]'.")
    return space.subset([each.strip() for each in inside[:-1].split(",") if each.strip()], name=name)
