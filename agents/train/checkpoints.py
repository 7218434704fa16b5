"""A whole run in one file: everything its next steps depend on, less what can be made again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch

from agents.files import read_regular, spare_name, write_whole
from agents.jobs.results import Row
from gar_env import __version__
from gar_env.errors import CheckpointError

MAGIC = b"gar-env checkpoint "
FORMAT = 2
"""1 had its header outside of its hash."""


def save_checkpoint(path: Path, header: Row, graph: Any, shared: dict[str, Any]) -> None:
    """Write a run's objects and the global generators to a file, aside first; keep the file before it.

    Args:
        path: The file; the one that was there becomes ``<stem>.previous<suffix>``.
        header: JSON, readable without unpickling.
        graph: The objects; whatever they share stays shared.
        shared: Objects in the graph that are left out, by name: data that can be made again, open files.
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, shared).dump({"graph": graph, "generators": _global_generators()})
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise CheckpointError(
            f"The run cannot be saved: {error}. Keep locks, files, lambdas and classes made inside functions out of "
            "controllers, networks and rewards, or leave them out in __getstate__."
        ) from error
    content = buffer.getvalue()
    line = json.dumps({**header, "version": __version__, "bytes": len(content)}).encode()
    digest = hashlib.sha256(line + b"\n" + content).hexdigest().encode()
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
    write_whole(path, b"%s%d\n%s\n%s\n%s" % (MAGIC, FORMAT, digest, line, content))


def previous(path: Path) -> Path:
    """Where the checkpoint before the last is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def read_header(path: Path) -> Row:
    """What a checkpoint says of itself.

    Raises:
        CheckpointError: If there is none, it is cut short or altered, or another version wrote it.
    """
    return _read(path)[0]


def load_checkpoint(path: Path, shared: dict[str, Any]) -> Any:
    """The graph of :func:`save_checkpoint`; sets the global generators of torch, numpy and Python.

    Unpickles: load only files that you trust.

    Args:
        path: The file.
        shared: The objects that were left out, made again, by the same names.

    Raises:
        CheckpointError: As :func:`read_header`, or if the file does not fit the code.
    """
    _, content = _read(path)
    try:
        state = _Unpickler(io.BytesIO(content), shared).load()
    except (pickle.UnpicklingError, AttributeError, ImportError, KeyError, TypeError, EOFError) as error:
        raise CheckpointError(f"{path} was written by other code: {type(error).__name__}: {error}.") from error
    torch.set_rng_state(state["generators"]["torch"])
    if state["generators"]["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["generators"]["cuda"])
    np.random.set_state(state["generators"]["numpy"])  # noqa: NPY002 - Stable-Baselines3 draws from it
    random.setstate(state["generators"]["python"])
    return state["graph"]


def _read(path: Path) -> tuple[Row, bytes]:
    try:
        first, _, rest = read_regular(path).partition(b"\n")
    except FileNotFoundError as error:
        raise CheckpointError(f"No checkpoint at {path}.") from error
    if not (first + b" ").startswith(MAGIC):
        raise CheckpointError(f"{path} is no checkpoint of gar-env.{_other(path)}")
    if first != MAGIC + b"%d" % FORMAT:
        written = first[len(MAGIC) :].decode(errors="replace") or "1"
        raise CheckpointError(
            f"{path} has format {written[:20]}; this version reads format {FORMAT}. Go on with the version that wrote "
            f"it, or train again.{_other(path)}"
        )
    digest, _, signed = rest.partition(b"\n")
    if hashlib.sha256(signed).hexdigest().encode() != digest:
        raise CheckpointError(f"{path} is cut short or altered: its hash is another.{_other(path)}")
    line, _, content = signed.partition(b"\n")
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no checkpoint of gar-env.{_other(path)}")
    if header.get("version") != __version__:
        raise CheckpointError(
            f"{path} was written by gar-env {header.get('version')}; this is {__version__}. Go on with that version, "
            "or train again."
        )
    return header, content


def _other(path: Path) -> str:
    other = previous(path)
    return f" The one before it is at {other}: rename it to {path.name} to go on from there." if other.exists() else ""


def _global_generators() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None,
        "numpy": np.random.get_state(),  # noqa: NPY002
        "python": random.getstate(),
    }


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: dict[str, Any]) -> None:
        super().__init__(file)
        self.names = {id(thing): name for name, thing in shared.items()}

    def persistent_id(self, obj: Any) -> str | None:
        return self.names.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: dict[str, Any]) -> None:
        super().__init__(file)
        self.shared = shared

    def persistent_load(self, name: str) -> Any:
        return self.shared[name]
