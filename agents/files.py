"""Files that survive a kill, and folders that belong to one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from gar_env.errors import CheckpointError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file aside and put it in place, so that there is always either the old one or the new one.

    Args:
        path: The file; its folder is made.
        content: All of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def lock(path: Path, what: Path) -> IO[str]:
    """An open file that no second process can lock. The system releases it when the process ends, killed or not.

    Args:
        path: The file to lock.
        what: What it stands for, in the message.

    Raises:
        CheckpointError: If another process has it.
    """
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise CheckpointError(
            f"Another process is writing to {what}. Wait for it, or choose another folder."
        ) from error
    return file
