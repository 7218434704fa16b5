"""Metrics of one run: a CSV file, and TensorBoard."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from agents.files import append, read_regular, write_whole
from gar_env.errors import CheckpointError, MissingExtraError

STEP = "time/total_timesteps"


class MetricsLog:
    """Rows of numbers by name, as Stable-Baselines3 calls them: ``rollout/ep_rew_mean``, ``time/fps``, ...

    A row survives a kill of the process once :meth:`write` has returned. A name that appears later widens the file.

    Args:
        folder: Of the run; holds ``progress.csv`` and ``tensorboard/``.
        after: Go on after this many timesteps: later rows are of a run that was cut off, and are dropped.
        tensorboard: Whether to write for TensorBoard too.
        seal: Of the log that is gone on with: :attr:`seal`, as it was then; ``None`` to take what is there.

    Raises:
        CheckpointError: If the rows up to ``after`` are not those that were sealed; nothing is written then.
        MissingExtraError: If TensorBoard is wanted and not installed.
    """

    def __init__(
        self, folder: Path, *, after: int = 0, tensorboard: bool = True, seal: dict[str, Any] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "progress.csv"
        self.rows: list[dict[str, Any]] = []
        if after and self.path.exists():
            self.rows = [row for row in read_metrics(self.path) if int(float(row[STEP])) <= after]
        if seal is not None and self.seal != seal:
            raise CheckpointError(
                f"{self.path} is not as the checkpoint left it: it has {len(self.rows)} of {seal.get('rows')} rows up "
                f"to step {after}, or other numbers in them. Put it back, or train again in another folder."
            )
        self.names = list(self.rows[0]) if self.rows else []
        self._board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError(
                    f"TensorBoard logs need tensorboard, which cannot be imported ({error}): pip install "
                    "'gar-env[cli]', or leave them out with --no-tensorboard."
                ) from error
            board = folder / "tensorboard"
            if board.is_symlink():
                raise CheckpointError(f"{board} is a link. Remove it, or leave these logs out with --no-tensorboard.")
            # TensorBoard drops what a run that was cut off wrote after the checkpoint, or before its first one.
            self._board = SummaryWriter(str(board), purge_step=after + 1 if board.exists() else None)
        self._rewrite()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a row.

        Args:
            step: Timesteps so far, steps times slots.
            values: By name.
        """
        row = {STEP: step, **values}
        self.rows.append(row)
        new = [name for name in row if name not in self.names]
        if new:
            self.names += new
            self._rewrite()
        else:
            text = io.StringIO(newline="")
            csv.DictWriter(text, self.names).writerow(row)
            append(self.path, text.getvalue().encode())
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    @property
    def seal(self) -> dict[str, Any]:
        """How many rows there are, and a hash of what they say, whatever columns came later."""
        said = [
            sorted((name, str(value)) for name, value in row.items() if value not in ("", None)) for row in self.rows
        ]
        return {"rows": len(said), "sha256": hashlib.sha256(json.dumps(said).encode()).hexdigest()}

    def close(self) -> None:
        """Close the files."""
        if self._board:
            self._board.close()

    def _rewrite(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self.names)
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, text.getvalue().encode())  # a kill in between must not cost the rows that are there


def read_metrics(path: str | Path) -> list[dict[str, str]]:
    """The rows of a ``progress.csv``, as text; a last line that was cut off is left out."""
    try:
        text = read_regular(Path(path)).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        if any(None in row for row in rows):
            raise ValueError("a row has more cells than there are columns")
        _ = [int(float(row[STEP])) for row in rows if row.get(STEP)]
    except (UnicodeDecodeError, csv.Error, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} is no progress.csv of a run: {error}.") from error
    return [row for row in rows if row.get(STEP) and None not in row.values()]
