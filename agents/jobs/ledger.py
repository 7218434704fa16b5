"""What became of the jobs of one call: rows on disk, failures in words, a bar."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from agents.jobs.job import Planned
from agents.jobs.progress import step_progress
from agents.jobs.results import ResultsFile, Row


class Ledger:
    """Kept by an engine: a row is on disk as soon as its run ends.

    Args:
        todo: What is to be run.
        results: Where rows go.
        workers: How many run at a time, for the estimate of the time left.
        console: For the bar; without a terminal, a line per finished run.
    """

    def __init__(self, todo: Sequence[Planned], results: ResultsFile, workers: int, console: Console) -> None:
        self.results, self.workers, self.console = results, workers, console
        self.failures: list[str] = []
        self.runs, self.ended = len(todo), 0
        self.total = sum(planned.job.steps for planned in todo)
        self._first: tuple[float, int] | None = None
        self._told = False

    @contextmanager
    def open(self) -> Iterator[None]:
        """Inside, the bar is drawn, and a request to end raises ``KeyboardInterrupt``."""
        with interruptible(), step_progress(self.console) as self._bar:
            self._task = self._bar.add_task(f"0/{self.runs} runs", total=self.total)
            yield

    def finished(self, planned: Planned, row: Row) -> None:
        """A run came to its end."""
        self.results.append({**planned.identity, **row})
        self.ended += 1
        if not self.console.is_terminal:
            print(f"{self.ended}/{self.runs} {planned} {float(row['seconds']):.1f} s", flush=True)

    def failed(self, planned: Planned, why: str) -> None:
        """A run is given up."""
        self.ended += 1
        self.failures.append(f"{planned}: {why}")

    def stepped(self, steps: int) -> None:
        """So many steps are done, of all runs together."""
        self._estimate(steps)
        self._bar.update(self._task, completed=steps, description=f"{self.ended}/{self.runs} runs")

    def _estimate(self, steps: int) -> None:
        """Say once, after ten steps and ten seconds, how long all of it will take; not if it ends within a minute."""
        if self._told or steps == 0:
            return
        if self._first is None:
            self._first = time.monotonic(), steps  # what came before was starting up
            return
        taken, done = time.monotonic() - self._first[0], steps - self._first[1]
        if taken < 10 or done < 10 * self.workers:
            return
        self._told = True
        left = (self.total - steps) * taken / done
        if left < 60:
            return
        shown = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min"
        self.console.print(
            f"About {shown} to go: {self.total - steps:,} steps at {done / taken:.1f} per second, as measured over the "
            f"first {done}. Steps of other runs may take longer or shorter.",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, and a request to end such as a batch system sends, raise ``KeyboardInterrupt``.

    Also where the shell that started us in the background has told us to ignore Ctrl-C.
    """
    main = threading.current_thread() is threading.main_thread()  # only there can signals be caught
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    usual = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
