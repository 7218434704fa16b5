"""Name -> object, one decorator, no second list to keep."""

from __future__ import annotations

import difflib
import importlib
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

from gar_env.errors import ConfigurationError, DuplicateNameError, UnknownNameError, UntrustedNameError

T = TypeVar("T")
U = TypeVar("U")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The half sentence ``" Did you mean 'x'?"``, or nothing when no known name is close.

    Example:
        >>> did_you_mean("uniforn", ["uniform", "oracle"])
        " Did you mean 'uniform'?"
    """
    if len(name) > 100:
        return ""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """``repr`` for a message: short, and of tensors and arrays the type and shape, never the numbers.

    Example:
        >>> import torch
        >>> shown(torch.zeros(2, 3)), shown("x" * 1000)[:8]
        ('a torch.float32 Tensor [2, 3]', "'xxxxxxx")
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"a {dtype} {type(value).__name__} {list(shape)}"
    short = reprlib.Repr()
    short.maxstring = short.maxother = 120
    text = short.repr(value)
    return text if len(text) <= 300 and "tensor(" not in text else f"a {type(value).__name__}"


def check_choice(option: str, value: object, choices: Iterable[str]) -> None:
    """Refuse an option that is none of its choices.

    Raises:
        ConfigurationError: With the choices, and the closest one.

    Example:
        >>> check_choice("output", "numpi", ("numpy", "torch"))
        Traceback (most recent call last):
        gar_env.errors.ConfigurationError: output='numpi' is unknown. Did you mean 'numpy'? Choose one of numpy, torch.
    """
    choices = tuple(choices)
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        words = ", ".join(repr(choice) if "," in choice else choice for choice in choices)
        raise ConfigurationError(f"{option}={shown(value)} is unknown.{hint} Choose one of {words}.")


def check_positive(option: str, value: object) -> None:
    """Refuse what is no finite number above 0, as far as float32 goes.

    Raises:
        ConfigurationError: With what was found.

    Example:
        >>> check_positive("step_size", float("nan"))
        Traceback (most recent call last):
        gar_env.errors.ConfigurationError: step_size=nan must be above 0, and a number below 1e+37.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e37:
        raise ConfigurationError(f"{option}={shown(value)} must be above 0, and a number below 1e+37.")


_NAMES = ContextVar("what names may do", default="import")


@contextmanager
def known_names_only() -> Iterator[None]:
    """Inside, a name never imports a module: for names that stand in files, which anybody may have written.

    Example:
        >>> with known_names_only():
        ...     import_module_of("reward signal", "somebody.elses:signal")
        Traceback (most recent call last):
        gar_env.errors.UntrustedNameError: Reward signal 'somebody.elses:signal' stands in a file, and importing its \
module runs it. Import somebody.elses first, or say that you trust the file: --trust.
    """
    token = _NAMES.set(_NAMES.get() if _NAMES.get() == "trusted" else "known only")
    try:
        yield
    finally:
        _NAMES.reset(token)


@contextmanager
def trusted_names() -> Iterator[None]:
    """Inside, names in files may import modules too."""
    token = _NAMES.set("trusted")
    try:
        yield
    finally:
        _NAMES.reset(token)


def import_module_of(kind: str, name: str) -> str:
    """Import the module of ``"package.module:name"``, whose decorators register what it has.

    Args:
        kind: What is named, in the words of the error message.
        name: With or without a module.

    Returns:
        The name after the colon.

    Raises:
        UnknownNameError: If there is no such module, or it cannot be read.
        UntrustedNameError: Inside :func:`known_names_only`, if it is not imported already.
    """
    if not isinstance(name, str):
        raise UnknownNameError(f"A {kind} is named by a string; found {shown(name)}.")
    module, colon, short = name.rpartition(":")
    if colon and not all(part.isidentifier() for part in module.split(".")):
        raise UnknownNameError(
            f"{kind.capitalize()} {shown(name)} names no module before the colon. Write package.module:name."
        )
    if module and _NAMES.get() == "known only" and module not in sys.modules:
        raise UntrustedNameError(
            f"{kind.capitalize()} {shown(name)} stands in a file, and importing its module runs it. "
            f"Import {module} first, or say that you trust the file: --trust."
        )
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UnknownNameError(
                f"{kind.capitalize()} {shown(name)} names the module {module!r}, which cannot be "
                f"imported: {error}. Install it, or put its folder on the Python path."
            ) from error
        except (Exception, SystemExit) as error:  # whatever its code does
            raise UnknownNameError(
                f"{kind.capitalize()} {shown(name)} names the module {module!r}, which is there but cannot be "
                f"imported: {type(error).__name__}: {error}"
            ) from error
    return short


class Registry(Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: What the objects are, in the words of the error messages: ``"reward signal"``.

    Example:
        >>> rewards = Registry[type]("reward signal")
        >>> @rewards.register("constant")
        ... class Constant: ...
        >>> rewards["constant"] is Constant
        True
        >>> rewards["constnt"]
        Traceback (most recent call last):
        gar_env.errors.UnknownNameError: No reward signal is called 'constnt'. Did you mean 'constant'?
        Known: constant.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._objects: dict[str, T] = {}

    def register(self, name: str) -> Callable[[U], U]:
        """Decorator that makes the decorated object known as ``name``.

        Raises:
            DuplicateNameError: If another object has that name.
        """

        def decorate(thing: U) -> U:
            if name in self._objects and self._objects[name] is not thing:
                article = "An" if self.kind[0] in "aeiou" else "A"
                raise DuplicateNameError(
                    f"{article} {self.kind} called {shown(name)} is registered already: {shown(self._objects[name])}. "
                    "Choose another name."
                )
            self._objects[name] = thing  # pyright: ignore[reportArgumentType] - U is T, with its own type kept
            return thing

        return decorate

    def __getitem__(self, name: str) -> T:
        """The object of that name; ``"package.module:name"`` imports the module first.

        Raises:
            UnknownNameError: If there is none; the message lists the known names.
        """
        short = import_module_of(self.kind, name)
        if short not in self._objects:
            raise UnknownNameError(
                f"No {self.kind} is called {shown(short)}.{did_you_mean(short, self._objects)}\n"
                f"Known: {', '.join(self)}."
            )
        return self._objects[short]

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def __iter__(self):
        return iter(sorted(self._objects))
