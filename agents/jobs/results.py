"""Results as JSON lines: one finished run a line, with what it took to get it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agents.files import append, lock, read_regular, sweep, write_whole
from gar_env.errors import CheckpointError, GarEnvError

Row = dict[str, Any]


class ResultsFile:
    """An append-only file of finished runs, open to one process at a time.

    A line is on disk before :meth:`append` returns. A last line that a killed process left half-written is dropped
    when the file is opened.

    Args:
        path: The file; its folder is made.

    Raises:
        CheckpointError: If another process has it open, or a line before the last is no JSON object.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.path.with_suffix(".lock"), self.path)
        sweep(self.path)
        self.rows: list[Row] = read_rows(self.path) if self.path.exists() else []
        if self.path.exists() and not read_regular(self.path).endswith(b"\n"):
            write_whole(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    def append(self, row: Row) -> None:
        """Write one row through to the disk."""
        append(self.path, (json.dumps(row) + "\n").encode())
        self.rows.append(row)

    def close(self) -> None:
        """Let another process open the file."""
        self._lock.close()


def read_rows(path: str | Path) -> list[Row]:
    """All whole rows of a results file.

    Raises:
        CheckpointError: If the file is not there, or a line before the last is no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"No results file at {path}. Make one with gar-env reproduce table1.")
    rows: list[Row] = []
    lines = read_regular(path).splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError
            if number == len(lines) and line.startswith(b"{") and not line.endswith(b"\n"):
                break
            raise CheckpointError(_foreign(path, number, str(error))) from error
        if not isinstance(row, dict):
            raise CheckpointError(_foreign(path, number, f"it is {type(row).__name__}"))
        rows.append(row)
    return rows


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Inside, rows of a results file are read; what they lack, or hold of another kind, is said of the file.

    Raises:
        CheckpointError: With what went wrong.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
        if isinstance(error, GarEnvError):
            raise
        raise CheckpointError(
            f"{path} holds rows of something else, or damaged ones: {type(error).__name__}: {str(error)[:200]}. Delete "
            "those lines, or the file, and run the same command again."
        ) from error


def check_columns(path: str | Path, rows: list[Row], columns: Iterable[str]) -> list[Row]:
    """The rows, if each has what is to be read from it.

    Raises:
        CheckpointError: With the first row that lacks something, and what.
    """
    for number, row in enumerate(rows, start=1):
        missing = [name for name in columns if name not in row]
        if missing:
            raise CheckpointError(
                f"{path}, line {number}, lacks {', '.join(missing)}: it is a results file of something else."
            )
    return rows


def _foreign(path: Path, number: int, why: str) -> str:
    return (
        f"{path}, line {number}, is no JSON object: {why}. If the file is a results file, delete that line; if it is "
        "something else, choose another folder."
    )
