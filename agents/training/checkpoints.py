"""A run's checkpoint: all that its next steps depend on, as data, less what its options make again."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents import container
from agents.files import read_regular, spare_name, write_whole
from agents.jobs.results import Row
from gar_env.errors import CheckpointError


def save_checkpoint(path: Path, header: Row, state: Any) -> None:
    """Write a run's state and the global generators to a file, aside first; keep the file before it.

    Args:
        path: The file; the one that was there becomes ``<stem>.previous<suffix>``.
        header: JSON, readable by itself.
        state: See :func:`gar_env.state.as_data`.

    Raises:
        NotDataError: If something in the state is no data.
    """
    content = container.packed("checkpoint", header, {"run": state, "generators": _global_generators()})
    if os.path.lexists(path):
        # A second name for the old file, not a move: at no moment is there no checkpoint.
        spare = spare_name(path)
        try:
            os.link(path, spare, follow_symlinks=False)
            os.replace(spare, previous(path))
        except OSError:  # a file system without hard links
            with suppress(OSError):
                spare.unlink()
            write_whole(previous(path), read_regular(path))
    write_whole(path, content)


def previous(path: Path) -> Path:
    """Where the checkpoint before the last is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def read_header(path: Path) -> Row:
    """What a checkpoint says of itself.

    Raises:
        CheckpointError: If there is none, it is cut short or altered, or has another format.
    """
    return container.read_header(path, "checkpoint", _other(path))


def load_checkpoint(path: Path) -> tuple[Any, Callable[[], None]]:
    """The state of :func:`save_checkpoint`, and what sets the global generators of torch, NumPy and Python.

    Returns:
        ``(state, restore)``: call ``restore()`` when all else is in place, for building things draws numbers.

    Raises:
        CheckpointError: As :func:`read_header`, or if it holds anything but data.
    """
    whole = container.read_state(path, "checkpoint", _other(path))
    if not isinstance(whole, dict) or set(whole) != {"run", "generators"}:
        raise CheckpointError(f"{path} holds no run.{_other(path)}")
    return whole["run"], lambda: _set_global_generators(whole["generators"])


def _other(path: Path) -> str:
    other = previous(path)
    return f" The one before it is at {other}: rename it to {path.name} to go on from there." if other.exists() else ""


def _global_generators() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - Stable-Baselines3 draws from it
        "python": random.getstate(),
    }


def _set_global_generators(generators: dict[str, Any]) -> None:
    torch.set_rng_state(generators["torch"])
    if generators["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(generators["cuda"])
    np.random.set_state(generators["numpy"])  # noqa: NPY002
    random.setstate(generators["python"])
