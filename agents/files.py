"""Files that survive a kill and a full disk, are never somebody else's, and folders that one process has at a time.

A folder may come from anybody: links in it are not followed, names of temporary files cannot be guessed, and what has
a second name elsewhere (a hard link) is replaced, not written into.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

from gar_env.errors import CheckpointError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file aside and put it in place, so that there is always either the old one or the new one.

    Args:
        path: The file; its folder is made. A link is replaced by the file.
        content: All of it.

    Raises:
        OSError: With the file's name: a full disk, for example. Nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = spare_name(path)
    try:
        with os.fdopen(_open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink()
        if isinstance(error, OSError):
            raise named(error, path) from error
        raise


def spare_name(path: Path) -> Path:
    """A name beside a file that nobody can have put there before."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


_SPARE = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")


def sweep(*paths: Path) -> None:
    """Remove what killed processes left behind under a :func:`spare_name` of these files; for who holds their lock."""
    for folder in {path.parent for path in paths}:
        for entry in folder.iterdir():
            match = _SPARE.fullmatch(entry.name)
            if match and folder / match[1] in paths and not entry.is_symlink() and entry.is_file():
                with suppress(OSError):  # another user's, say
                    entry.unlink()


def append(path: Path, content: bytes) -> None:
    """Add to a file, through to the disk; all of it or nothing.

    Raises:
        CheckpointError: If the name is a link, or no regular file.
        OSError: With the file's name; what was written of the content is taken back.
    """
    with os.fdopen(_open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab", buffering=0) as file:
        if _check_regular(file.fileno(), path).st_nlink > 1:
            return write_whole(path, read_regular(path) + content)  # its other name keeps what it had
        before = os.fstat(file.fileno()).st_size
        try:
            written = file.write(content)
            if written != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                file.truncate(before)
            raise named(error, path) from error


def read_regular(path: Path) -> bytes:
    """All of a file.

    Raises:
        CheckpointError: If it is a link, a folder, a pipe or a device.
        FileNotFoundError: If there is none.
    """
    with os.fdopen(_regular(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        return file.read()


def lock(path: Path, what: Path) -> IO[bytes]:
    """An open file that no second process can lock. The system releases it when the process ends, killed or not.

    Args:
        path: The file to lock; it stays as it is.
        what: What it stands for, in the message.

    Raises:
        CheckpointError: If another process has it, or it is a link.
    """
    file = os.fdopen(_regular(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise CheckpointError(
            f"Another process is writing to {what}. Wait for it, or choose another folder."
        ) from error
    except BaseException:
        file.close()
        raise
    return file


def check_writable(folder: Path) -> None:
    """Make a folder, and try it: what takes hours should fail now.

    Raises:
        OSError: With the folder's name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = spare_name(folder / "trial")
        os.close(_open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        aside.unlink()
    except OSError as error:
        raise named(error, folder) from error


def named(error: OSError, path: Path) -> OSError:
    """The same error with the file's name, which the system leaves out when a disk is full."""
    return type(error)(error.errno or errno.EIO, error.strerror or str(error), str(path))


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CheckpointError(
                f"{path} is a link, and what it leads to may be anybody's. Remove it, or put the file itself there."
            ) from error
        raise


def _regular(path: Path, flags: int) -> int:
    """Of a regular file: asked before Python makes a file of it, which would name a folder by its number."""
    number = _open(path, flags)
    try:
        _check_regular(number, path)
    except BaseException:
        os.close(number)
        raise
    return number


def _check_regular(number: int, path: Path) -> os.stat_result:
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is no regular file. Remove it, or choose another folder.")
    return status
