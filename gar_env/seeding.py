"""One seed, many named generators; global generators are left as they were found, one thread at a time."""

from __future__ import annotations

import os
import random
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gar_env.errors import ConfigurationError, DeviceError

# initialisation: the network's first parameters      labels: who is in which split, corruptions
# data: which examples a batch draws                   network: dropout and other randomness in forward
STREAMS = ("initialisation", "labels", "data", "network")


def named_generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose. Different names give independent streams for the same seed.

    Args:
        seed: A non-negative integer.
        name: The purpose, for example one of :data:`STREAMS`.
        device: Where the numbers will be drawn.
    """
    return torch.Generator(device).manual_seed(int(_sequence(seed, name).generate_state(1, np.uint64)[0] >> 1))


def numpy_generator(seed: int, name: str) -> np.random.Generator:
    """:func:`named_generator` of NumPy."""
    return np.random.default_rng(_sequence(seed, name))


def _sequence(seed: int, name: str) -> np.random.SeedSequence:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ConfigurationError(f"seed={seed!r} must be a whole number, at least 0."[:300])
    # crc32, not hash(): hash() of a string differs between processes, and then no run could be repeated.
    return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))


class Turns:
    """A lock around what torch keeps once for the whole process: global generators, default types, backend switches.

    A thread that holds it may take it again, and so may a thread that works for the holder: on GPUs, torch runs hooks
    of a backward pass in threads of its own while the caller waits.

    Example:
        >>> turns = Turns()
        >>> with turns, turns:
        ...     turns.held
        True
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):  # the holder does not come along into a forked process
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        me, depth = self.me, self._depth
        mine = self._holder == me
        self._reset()
        if mine:
            self._lock.acquire()
            self._holder, self._depth = me, depth

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._holder: int | None = None
        self._depth = 0

    @property
    def me(self) -> int:
        """The thread that the calling one works for: itself, unless :meth:`working_for` says otherwise."""
        return getattr(self._local, "worked_for", None) or threading.get_ident()

    @property
    def held(self) -> bool:
        """Whether the calling thread has its turn."""
        return self._holder == self.me

    @contextmanager
    def working_for(self, thread: int) -> Iterator[None]:
        """Inside, the calling thread shares the turn of another, which waits for it."""
        before = getattr(self._local, "worked_for", None)
        self._local.worked_for = thread
        try:
            yield
        finally:
            self._local.worked_for = before

    def __enter__(self) -> None:
        me = self.me
        if self._holder != me:
            self._lock.acquire()
            self._holder = me
        self._depth += 1

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._holder = None
            self._lock.release()


TURNS = Turns()
"""Held wherever this package touches global state. Other code that draws from a global generator meanwhile, in another
thread, cannot be kept from it."""


@contextmanager
def lend_to_global(generator: torch.Generator) -> Iterator[None]:
    """Run code that draws from torch's global generator (initialisers, dropout) on ``generator`` instead.

    The generator advances; the global one is put back as it was, also after an exception. Other threads wait for their
    :data:`TURNS`.
    """
    if generator.device.type == "cuda":
        default = torch.cuda.default_generators[generator.device.index or 0]
    elif generator.device.type == "cpu":
        default = torch.default_generator
    else:
        raise DeviceError(f"Device {generator.device} has no global generator to lend to. Use the CPU or CUDA.")
    with TURNS:
        before = default.get_state()
        default.set_state(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(default.get_state())
            default.set_state(before)


@dataclass(frozen=True, eq=False)
class RandomState:
    """The states of all global generators at one moment: torch's on the CPU and on ``device``, NumPy's, Python's."""

    device: torch.device
    cpu: torch.Tensor
    cuda: torch.Tensor | None
    numpy: Any
    python: Any

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """As they are; a copy."""
        return cls(
            device,
            torch.get_rng_state(),
            torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            np.random.get_state(legacy=False),  # noqa: NPY002 - what other people's forward passes draw from
            random.getstate(),
        )

    def set(self) -> None:
        """Make them so."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Run code as if it were that moment again; afterwards the generators are as they were found."""
        with TURNS:
            before = RandomState.now(self.device)
            self.set()
            try:
                yield
            finally:
                before.set()
