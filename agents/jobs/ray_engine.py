"""Runs on a Ray cluster, for studies that outgrow one machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from agents.jobs.job import RETRIES, Job, Planned, RunFailedError, described, timed
from agents.jobs.ledger import Ledger
from agents.jobs.results import Row
from gar_env.errors import ConfigurationError


def run_on_ray(todo: Sequence[Planned], ledger: Ledger, *, workers: int) -> None:
    """Run jobs on the Ray cluster that ``RAY_ADDRESS`` names, or on one started here for the time being.

    Each is a task on one CPU with one thread. A run whose worker was killed, or whose machine went away, starts again
    elsewhere. Rows come back to this process, which writes them. Machines of a cluster need this package, the packages
    of signals of your own, and the folders that the jobs name.

    Args:
        todo: What is not done yet.
        ledger: Who is told.
        workers: CPUs of a cluster that is started here; an existing one is used as it is.

    Raises:
        ConfigurationError: If Ray is not installed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayError, RayTaskError  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigurationError("engine='ray' needs Ray. Install it with: pip install 'gar-env[ray]'") from error
    started_here = not ray.is_initialized()
    waiting: dict[Any, Planned] = {}
    steps = 0
    try:
        with ledger.open():
            if started_here:
                ray.init(**_options(workers))
            remote = ray.remote(num_cpus=1, max_retries=RETRIES)(_run)
            waiting = {remote.remote(planned.job): planned for planned in todo}
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                planned, row = waiting.pop(done), None
                try:
                    row = ray.get(done)
                except RayTaskError as error:
                    ours = isinstance(error.cause, RunFailedError)
                    ledger.failed(planned, str(error.cause if ours else str(error).strip().splitlines()[-1]))
                except RayError as error:
                    ledger.failed(planned, f"its worker was lost {RETRIES + 1} times: {error}")
                if row is not None:
                    try:
                        ledger.finished(planned, row)
                    except (TypeError, ValueError) as error:  # it cannot be written
                        ledger.failed(planned, described(error))
                steps += planned.job.steps
                ledger.stepped(steps)
    except KeyboardInterrupt:
        for one in waiting:
            ray.cancel(one, force=True)
        raise
    finally:
        if started_here:
            ray.shutdown()


def _options(workers: int) -> dict[str, Any]:
    if os.environ.get("RAY_ADDRESS"):
        return {}
    # Without the dashboard's server, and without telling anybody that it was used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return {"num_cpus": workers, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}


def _run(job: Job) -> Row:
    """In a worker of Ray."""
    torch.set_num_threads(1)
    return timed(job, lambda: None)
