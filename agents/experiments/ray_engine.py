"""Runs on a Ray cluster, for sweeps that outgrow one machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console

from agents.experiments.progress import step_progress
from agents.experiments.results import ResultsFile, Row
from agents.experiments.runner import Job, RunFailedError, described, interruptible, label, timed
from gar_env.errors import ConfigurationError

RETRIES = 3
"""How often a run whose worker died is started again."""


def run_on_ray(jobs: Sequence[tuple[Job, Row]], results: ResultsFile, *, workers: int, console: Console) -> list[str]:
    """Run jobs on the Ray cluster that ``RAY_ADDRESS`` names, or on one started here for the time being.

    Each is a task on one CPU with one thread. A run whose worker was killed, or whose machine went away, starts again
    elsewhere, up to :data:`RETRIES` times; one that raised does not. Rows come back to this process, which writes them.
    Machines of a cluster need this package, and the packages of signals of your own.

    Args:
        jobs: What is not done yet, each with its identity.
        results: Where rows go.
        workers: CPUs of a cluster that is started here; an existing one is used as it is.
        console: As in :func:`~agents.experiments.runner.run_jobs`.

    Returns:
        One line per failed run.

    Raises:
        ConfigurationError: If Ray is not installed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayError, RayTaskError  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigurationError("engine='ray' needs Ray. Install it with: pip install 'gar-env[ray]'") from error
    started_here = not ray.is_initialized()
    failures: list[str] = []
    waiting: dict[Any, tuple[Job, Row]] = {}
    try:
        with interruptible(), step_progress(console) as bar:
            if started_here:
                ray.init(**_options(workers))
            remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
            waiting = {remote.remote(job): (job, identity) for job, identity in jobs}
            task = bar.add_task(f"0/{len(jobs)} runs", total=sum(job.steps for job, _ in jobs))
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                (job, identity), row = waiting.pop(done), None
                finished = len(jobs) - len(waiting)
                try:
                    row = ray.get(done)
                except RayTaskError as error:
                    ours = isinstance(error.cause, RunFailedError)
                    failures.append(f"{label(job)}: {error.cause if ours else str(error).strip().splitlines()[-1]}")
                except RayError as error:
                    failures.append(f"{label(job)}: its worker was lost {RETRIES + 1} times: {error}")
                if row is not None:
                    results.append({**identity, **row})
                    if not console.is_terminal:
                        print(f"{finished}/{len(jobs)} {label(job)} {row['seconds']:.1f} s", flush=True)
                bar.update(task, advance=job.steps, description=f"{finished}/{len(jobs)} runs")
    except KeyboardInterrupt:
        for one in waiting:
            ray.cancel(one, force=True)
        console.print(f"\nStopped. Finished runs are in {results.path}; the same command goes on from there.")
        sys.exit(130)
    finally:
        if started_here:
            ray.shutdown()
    return failures


def _options(workers: int) -> dict[str, Any]:
    if os.environ.get("RAY_ADDRESS"):
        return {}
    # Without the dashboard's server, and without telling anybody that it was used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return {"num_cpus": workers, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}


def _run(job: Job) -> Row:
    """In a worker of Ray."""
    torch.set_num_threads(1)
    try:
        return timed(job, lambda: None)
    except (Exception, SystemExit) as error:
        raise RunFailedError(described(error)) from None
