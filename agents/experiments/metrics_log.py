"""Metrics of one run: a CSV file, and TensorBoard."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from agents.files import write_whole
from gar_env.errors import MissingExtraError

STEP = "time/total_timesteps"


class MetricsLog:
    """Rows of numbers by name, as Stable-Baselines3 calls them: ``rollout/ep_rew_mean``, ``time/fps``, ...

    A row survives a kill of the process once :meth:`write` has returned. A name that appears later widens the file.

    Args:
        folder: Of the run; holds ``progress.csv`` and ``tensorboard/``.
        after: Go on after this many timesteps: later rows are of a run that was cut off, and are dropped.
        tensorboard: Whether to write for TensorBoard too.

    Raises:
        MissingExtraError: If TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, *, after: int = 0, tensorboard: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "progress.csv"
        self.rows: list[dict[str, Any]] = []
        if after and self.path.exists():
            self.rows = [row for row in read_metrics(self.path) if int(float(row[STEP])) <= after]
        self.names = list(self.rows[0]) if self.rows else []
        self._rewrite()
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
            # TensorBoard drops what a run that was cut off wrote after the checkpoint, or before its first one.
            self._board = SummaryWriter(str(board), purge_step=after + 1 if board.exists() else None)

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
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.names).writerow(row)
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

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
    with Path(path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row.get(STEP) and None not in row.values()]
