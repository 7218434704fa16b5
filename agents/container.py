"""One file of ours: what it is, a header of JSON, and state as data. Nothing in it is executed when it is read."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from agents.files import read_regular
from gar_env import __version__
from gar_env.errors import CheckpointError
from gar_env.state import as_data, from_data

FORMATS = {"checkpoint": 3, "controller": 2}
"""The format that is written and read, of each kind of file. What came before is in :data:`OLDER`."""

OLDER = {
    ("checkpoint", "1"): "its header is outside of its hash, and the rest is a pickle, which could run any code",
    ("checkpoint", "2"): "it is a pickle, which could run any code",
}


def packed(kind: str, header: dict[str, Any], state: Any) -> bytes:
    """The content of a file.

    Args:
        kind: ``"checkpoint"`` or ``"controller"``.
        header: JSON.
        state: See :func:`gar_env.state.as_data`.

    Raises:
        NotDataError: If something in the state is no data.
    """
    buffer = io.BytesIO()
    torch.save(as_data(state), buffer)
    content = buffer.getvalue()
    line = json.dumps({**header, "version": __version__, "bytes": len(content)}).encode()
    digest = hashlib.sha256(line + b"\n" + content).hexdigest().encode()
    return b"gar-env %s %d\n%s\n%s\n%s" % (kind.encode(), FORMATS[kind], digest, line, content)


def read_header(path: Path, kind: str, hint: str = "") -> dict[str, Any]:
    """What a file says of itself.

    Args:
        path: The file.
        kind: What it should be.
        hint: A sentence for the end of what goes wrong.

    Raises:
        CheckpointError: If there is none, it is cut short or altered, or has another format.
    """
    return _opened(path, kind, hint)[0]


def read_state(path: Path, kind: str, hint: str = "") -> Any:
    """The state in a file, as it was given to :func:`packed`.

    Raises:
        CheckpointError: As :func:`read_header`, or if it holds anything but data.
    """
    content = _opened(path, kind, hint)[1]
    try:
        return from_data(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except Exception as error:  # of torch, zipfile, and the unpickler of weights
        first = next(iter(str(error).splitlines()), "")[:200]
        raise CheckpointError(
            f"{path} holds something else than numbers, text and tensors, and is not read: {type(error).__name__}: "
            f"{first}"
        ) from error


def _opened(path: Path, kind: str, hint: str) -> tuple[dict[str, Any], bytes]:
    try:
        first, _, rest = read_regular(path).partition(b"\n")
    except FileNotFoundError as error:
        raise CheckpointError(f"No {kind} at {path}.") from error
    magic = f"gar-env {kind}".encode()
    if not (first + b" ").startswith(magic + b" "):
        raise CheckpointError(f"{path} is no {kind} of gar-env.{hint}")
    written = first[len(magic) + 1 :].decode(errors="replace")[:20] or "1"
    if written != str(FORMATS[kind]):
        why = OLDER.get((kind, written))
        raise CheckpointError(
            f"{path} has format {written}{f': {why}' if why else ''}. This version reads format {FORMATS[kind]}. Go on "
            f"with the version that wrote it, or train again.{hint}"
        )
    digest, _, signed = rest.partition(b"\n")
    if hashlib.sha256(signed).hexdigest().encode() != digest:
        raise CheckpointError(f"{path} is cut short or altered: its hash is another.{hint}")
    line, _, content = signed.partition(b"\n")
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no {kind} of gar-env.{hint}")
    return header, content
