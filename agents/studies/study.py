"""What a study is: a dataclass whose fields are its command's options, and how any of them is run."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

# Nothing here loads torch: the command line reads all studies before it knows which one is asked for.
if TYPE_CHECKING:
    from rich.console import Console

    from agents.jobs.job import Job
    from agents.jobs.results import Row


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """Jobs, each a row of one results file, and what is made of the rows.

    A field's own text is its help on the command line.
    """

    workers: int | None = None
    """Runs at a time, one thread each; by default one per core, and one on a GPU."""
    engine: Literal["local", "ray"] = "local"
    """ray runs on the Ray cluster of RAY_ADDRESS, or on one that it starts."""
    markdown: bool = False
    """Print tables as Markdown."""

    command: ClassVar[str]
    """What follows ``gar-env`` on the command line."""

    columns: ClassVar[tuple[str, ...]] = ()
    """What every row is read for."""

    @property
    def processes(self) -> int:
        """Runs at a time."""
        return (os.cpu_count() or 1) if self.workers is None else self.workers

    @property
    @abstractmethod
    def results(self) -> Path:
        """The results file."""

    @abstractmethod
    def jobs(self) -> Sequence[Job]:
        """All runs.

        Raises:
            GarEnvError: If an option is wrong: once and now, and not by every worker.
        """

    def jobs_after(self, rows: Sequence[Row]) -> Sequence[Job]:
        """Those that depend on what the others came to, ``rows``: a step size that was tuned, say."""
        return ()

    def jobs_alone(self) -> Sequence[Job]:
        """Those that are timed: they run after the others, on this machine, one at a time."""
        return ()

    def opening(self, jobs: Sequence[Job]) -> str:
        """What is said before it begins, if anything."""
        return ""

    @abstractmethod
    def report(self, rows: Sequence[Row], console: Console) -> None:
        """Print and write what the rows come to."""


def run_study(study: Study, console: Console) -> None:
    """Run what its results file does not hold yet, and report on all of it.

    Raises:
        JobsFailedError: If some runs raised; the others are reported first.
        GarEnvError: Whatever :meth:`Study.jobs` raises.
    """
    from agents.jobs.job import rows_with
    from agents.jobs.results import ResultsFile, check_columns, reading
    from agents.jobs.run import Engine, JobsFailedError, run_jobs

    jobs, alone = study.jobs(), study.jobs_alone()
    wanted = [job.identity for job in (*jobs, *alone)]
    if opening := study.opening(jobs):
        console.print(opening, highlight=False, soft_wrap=True)
    failed: list[str] = []
    with closing(ResultsFile(study.results)) as results:

        def run(some: Sequence[Job], workers: int, engine: Engine) -> None:
            try:
                run_jobs(some, results, workers=workers, console=console, engine=engine)
            except JobsFailedError as error:
                failed.append(str(error))

        run(jobs, study.processes, study.engine)
        after = study.jobs_after(rows_with(results.rows, wanted))
        if after:
            wanted += [job.identity for job in after]
            run(after, study.processes, study.engine)
        run(alone, 1, "local")
        rows = check_columns(study.results, rows_with(results.rows, wanted), study.columns)
    if rows:
        with reading(study.results):
            study.report(rows, console)
    if failed:
        raise JobsFailedError("\n".join(failed))
