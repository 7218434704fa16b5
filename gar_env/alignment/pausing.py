"""Collectors that listen to every backward pass, and passes that are none of their business."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Pausable(Protocol):
    """Something that listens to gradients, unless it is paused."""

    paused: bool


_listening: list[Pausable] = []


@contextmanager
def pausable(listener: Pausable) -> Iterator[None]:
    """Inside, :func:`paused` reaches the listener."""
    _listening.append(listener)
    try:
        yield
    finally:
        _listening.remove(listener)


@contextmanager
def paused() -> Iterator[None]:
    """Inside, backward passes are heard by nobody: they probe the network, and are not training."""
    before = [(listener, listener.paused) for listener in _listening]
    for listener in _listening:
        listener.paused = True
    try:
        yield
    finally:
        for listener, was in before:
            listener.paused = was
