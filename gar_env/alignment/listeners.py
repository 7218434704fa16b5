"""Collectors that listen to every backward pass, and passes that are none of their business."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Pausable(Protocol):
    """Something that listens to gradients, unless it is paused."""

    paused: bool


class _Listeners(threading.local):
    """One list for each thread: what one thread probes is no business of another's collectors."""

    def __init__(self) -> None:
        self.all: list[Pausable] = []


_listeners = _Listeners()


@contextmanager
def pausable(listener: Pausable) -> Iterator[None]:
    """Inside, :func:`paused` reaches the listener."""
    _listeners.all.append(listener)
    try:
        yield
    finally:
        _listeners.all.remove(listener)


@contextmanager
def paused() -> Iterator[None]:
    """Inside, backward passes are heard by nobody: they probe the network, and are not training."""
    before = [(listener, listener.paused) for listener in _listeners.all]
    for listener in _listeners.all:
        listener.paused = True
    try:
        yield
    finally:
        for listener, was in before:
            listener.paused = was
