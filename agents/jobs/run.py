"""Run many training runs in parallel, keep what is finished, show how far it is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

from rich.console import Console

from agents.jobs.job import Job, Planned, rows_with
from agents.jobs.ledger import Ledger
from agents.jobs.local_engine import run_locally
from agents.jobs.ray_engine import run_on_ray
from agents.jobs.results import ResultsFile
from gar_env.errors import ConfigurationError, GarEnvError
from gar_env.registry import check_choice

Engine = Literal["local", "ray"]
ENGINES = {"local": run_locally, "ray": run_on_ray}
MOST_WORKERS = 1024


class JobsFailedError(GarEnvError):
    """Some runs raised; the others are saved."""


def run_jobs(
    jobs: Sequence[Job], results: ResultsFile, *, workers: int, console: Console, engine: Engine = "local"
) -> None:
    """Run what is not in the results file yet.

    A row is on disk as soon as its run ends. After Ctrl-C, a kill or an error, the same call goes on with what is left.
    A run whose worker was killed is started again, up to :data:`~agents.jobs.job.RETRIES` times.

    Args:
        jobs: All runs of the study.
        results: Where rows go.
        workers: Processes at a time, one thread each.
        console: For the progress bar; without a terminal, a line per finished run.
        engine: ``"local"``: processes of this machine. ``"ray"``: a Ray cluster, see
            :func:`agents.jobs.ray_engine.run_on_ray`.

    Raises:
        JobsFailedError: After all others have finished, if some raised.
        ConfigurationError: If there is no worker, or no such engine.
    """
    check_choice("engine", engine, ENGINES)
    if not 1 <= workers <= MOST_WORKERS:
        raise ConfigurationError(f"workers={workers} must be at least 1, and at most {MOST_WORKERS}.")
    planned = [Planned(job, job.identity) for job in jobs]
    todo = [one for one in planned if not rows_with(results.rows, [one.identity])]
    if len(todo) < len(jobs):
        console.print(f"{len(jobs) - len(todo)} of {len(jobs)} runs are in {results.path} already.")
    if not todo:
        return
    ledger = Ledger(todo, results, workers, console)
    try:
        ENGINES[engine](todo, ledger, workers=workers)
    except KeyboardInterrupt:
        console.print(f"Stopped. Finished runs are in {results.path}; the same command goes on from there.")
        sys.exit(130)
    if ledger.failures:
        raise JobsFailedError(
            f"{len(ledger.failures)} of {len(todo)} runs failed; what finished is in {results.path}:\n"
            + "\n".join(ledger.failures)
        )
