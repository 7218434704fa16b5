"""A whole run in one file: everything its next steps depend on, less what can be made again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch

from agents.experiments.results import Row
from agents.files import write_whole
from gar_env import __version__
from gar_env.errors import CheckpointError

MAGIC = b"gar-env checkpoint\n"


def save_checkpoint(path: Path, header: Row, graph: Any, shared: dict[str, Any]) -> None:
    """Write a run's objects and the global generators to a file, aside first; keep the file before it.

    Args:
        path: The file; the one that was there becomes ``<stem>.previous<suffix>``.
        header: JSON, readable without unpickling.
        graph: The objects; whatever they share stays shared.
        shared: Objects in the graph that are left out, by name: data that can be made again, open files.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, shared).dump({"graph": graph, "generators": _global_generators()})
    content = buffer.getvalue()
    line = json.dumps(
        {**header, "version": __version__, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    )
    if path.exists():
        # A second name for the old file, not a move: at no moment is there no checkpoint.
        spare = path.with_name(path.name + ".old")
        spare.unlink(missing_ok=True)
        try:
            os.link(path, spare)
        except OSError:  # a file system without hard links
            shutil.copy2(path, spare)
        os.replace(spare, previous(path))
    write_whole(path, MAGIC + line.encode() + b"\n" + content)


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
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}.")
    magic, _, rest = path.read_bytes().partition(b"\n")
    line, _, content = rest.partition(b"\n")
    header: Any = None
    if magic + b"\n" == MAGIC:
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
    if len(content) != header["bytes"] or hashlib.sha256(content).hexdigest() != header["sha256"]:
        raise CheckpointError(
            f"{path} is cut short or altered: {len(content)} of {header['bytes']} bytes.{_other(path)}"
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
