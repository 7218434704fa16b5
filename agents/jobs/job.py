"""What many runs are made of: a job, its identity, its row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from agents.jobs.results import Row
from gar_env.errors import GarEnvError

RETRIES = 3
"""How often a job whose worker died is started again; one that raised is not."""


class Job(Protocol):
    """One run of known length; must be picklable."""

    @property
    def steps(self) -> int:
        """How often it will call ``on_step``, unless it diverges."""
        ...

    @property
    def identity(self) -> Row:
        """What tells this run from others, and is equal for the same run: part of its row."""
        ...

    def run(self, on_step: Callable[[], None]) -> Row:
        """Do it; call ``on_step`` once a step."""
        ...


class Planned(NamedTuple):
    """A job and its identity, taken once: what it reads from a file may change meanwhile.

    Args:
        job: What to run.
        identity: :attr:`Job.identity`, as it was.
        losses: How many workers died of it, or beside it.
    """

    job: Job
    identity: Row
    losses: int = 0

    def __str__(self) -> str:
        return " ".join(str(value) for key, value in self.identity.items() if key != "config")


class RunFailedError(GarEnvError):
    """One run raised; the message says what."""


def timed(job: Job, on_step: Callable[[], None]) -> Row:
    """Its row, with the seconds it took.

    Raises:
        RunFailedError: Whatever it raises, in words: an exception of somebody else's class may not survive the way to
            the parent, and would then look like a worker that was killed, with the runs beside it.
    """
    start = time.perf_counter()
    try:
        row = job.run(on_step)
    except (Exception, SystemExit) as error:
        raise RunFailedError(described(error)) from None
    return {"seconds": round(time.perf_counter() - start, 2), **row}  # a resumed run knows better


def described(error: BaseException) -> str:
    """An exception in words, with its class."""
    return f"{type(error).__name__}: {error}"


def rows_of(rows: Sequence[Row], jobs: Sequence[Job]) -> list[Row]:
    """The row of each job that has one: of its identity, configuration included; never another's, never twice."""
    return rows_with(rows, [job.identity for job in jobs])


def rows_with(rows: Sequence[Row], identities: Sequence[Row]) -> list[Row]:
    """Likewise, of identities that were taken before: what a job reads from a file may have changed since."""
    found = []
    for identity in identities:
        for row in rows:
            if all(row.get(key) == value for key, value in identity.items()):
                found.append(row)
                break
    return found
