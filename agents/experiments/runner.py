"""Run many training runs in parallel, keep what is finished, show how far it is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from rich.console import Console

from agents.experiments.progress import step_progress
from agents.experiments.results import ResultsFile, Row
from gar_env.errors import ConfigurationError, GarEnvError
from gar_env.registry import check_choice

Engine = Literal["local", "ray"]
ENGINES = ("local", "ray")
_steps_done: Any = None  # in a worker: the counter that the parent watches
MOST_WORKERS = 1024
KILLED = "its worker was killed, or one beside it, perhaps for lack of memory"
_orphaned = threading.Event()  # in a worker: whether the parent is gone


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


class JobsFailedError(GarEnvError):
    """Some runs raised; the others are saved."""


class RunFailedError(GarEnvError):
    """One run raised; the message says what."""


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


def run_jobs(
    jobs: Sequence[Job], results: ResultsFile, *, workers: int, console: Console, engine: Engine = "local"
) -> None:
    """Run what is not in the results file yet, each in its own process, one thread each.

    A row is on disk as soon as its run ends. After Ctrl-C, a kill or an error, the same call goes on with what is left.

    Args:
        jobs: All runs of the experiment.
        results: Where rows go.
        workers: Processes at a time.
        console: For the progress bar; without a terminal, a line per finished run.
        engine: ``"local"``: processes of this machine. ``"ray"``: a Ray cluster, see
            :func:`agents.experiments.ray_engine.run_on_ray`.

    Raises:
        JobsFailedError: After all others have finished, if some raised.
        ConfigurationError: If there is no worker, or no such engine.
    """
    check_choice("engine", engine, ENGINES)
    if not 1 <= workers <= MOST_WORKERS:
        raise ConfigurationError(f"workers={workers} must be at least 1, and at most {MOST_WORKERS}.")
    # Taken once: a signal's source that is edited meanwhile must not give old rows a new identity.
    planned = [(job, job.identity) for job in jobs]
    todo = [(job, identity) for job, identity in planned if not rows_with(results.rows, [identity])]
    if len(todo) < len(jobs):
        console.print(f"{len(jobs) - len(todo)} of {len(jobs)} runs are in {results.path} already.")
    if not todo:
        return
    if engine == "ray":
        from agents.experiments.ray_engine import run_on_ray

        return _report(run_on_ray(todo, results, workers=workers, console=console), len(todo), results)
    context = multiprocessing.get_context("spawn")
    failures: list[str] = []
    total = sum(job.steps for job, _ in todo)

    def new_pool() -> tuple[ProcessPoolExecutor, Any]:
        counter = context.Value("q", 0)  # its own: a worker that was killed may have held the lock of the last one
        start = counter, os.getpid()
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=start), counter

    pool, counter = new_pool()
    counted = 0  # by workers of earlier pools
    estimate = _Estimate(total)
    with interruptible(), step_progress(console) as bar:
        task = bar.add_task(f"0/{len(todo)} runs", total=total)
        left, finished = deque(todo), 0
        waiting: dict[Future[Row], tuple[Job, Row]] = {}
        try:
            while left or waiting:
                # No more than there are workers: what waits in the pool's own queue could not be called back.
                broken = False
                while left and len(waiting) < workers and not broken:
                    try:
                        waiting[pool.submit(_run, left[0][0])] = left[0]
                        left.popleft()
                    except BrokenProcessPool:
                        broken = True
                done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    job, identity = waiting.pop(future)
                    finished += 1
                    try:
                        row = future.result()
                    except BrokenProcessPool:
                        broken = True
                        failures.append(f"{label(job)}: {KILLED}")
                        continue
                    except RunFailedError as error:
                        failures.append(f"{label(job)}: {error}")
                        continue
                    except Exception as error:  # its row could not be sent back
                        failures.append(f"{label(job)}: {described(error)}")
                        continue
                    results.append({**identity, **row})
                    if not console.is_terminal:
                        print(f"{finished}/{len(todo)} {label(job)} {row['seconds']:.1f} s", flush=True)
                if broken:  # all of its runs are lost with it; the others get new workers
                    failures += [f"{label(job)}: {KILLED}" for job, _ in waiting.values()]
                    finished += len(waiting)
                    waiting.clear()
                    pool.shutdown(wait=False, cancel_futures=True)
                    counted += _steps(counter)
                    pool, counter = new_pool()
                estimate.tell(counted + _steps(counter), workers, console)
                bar.update(task, completed=counted + _steps(counter), description=f"{finished}/{len(todo)} runs")
        except KeyboardInterrupt:
            console.print("\nStopping; runs that can be resumed are saved first ...")
            for process in list(pool._processes.values()):
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            console.print(f"Stopped. Finished runs are in {results.path}; the same command goes on from there.")
            sys.exit(130)
    pool.shutdown()
    _report(failures, len(todo), results)


def _report(failures: Sequence[str], runs: int, results: ResultsFile) -> None:
    if failures:
        raise JobsFailedError(
            f"{len(failures)} of {runs} runs failed; what finished is in {results.path}:\n" + "\n".join(failures)
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


class _Estimate:
    """Says once, after the first steps, how long all of it will take.

    Args:
        total: Steps of all runs.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.first: tuple[float, int] | None = None
        self.told = False

    def tell(self, steps: int, workers: int, console: Console) -> None:
        """Print it, when ten steps and ten seconds of them are over; not if it ends within a minute."""
        if self.told or steps == 0:
            return
        if self.first is None:
            self.first = time.monotonic(), steps  # what came before was starting up
            return
        taken, done = time.monotonic() - self.first[0], steps - self.first[1]
        if taken < 10 or done < 10 * workers:
            return
        self.told = True
        left = (self.total - steps) * taken / done
        if left < 60:
            return
        shown = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min"
        console.print(
            f"About {shown} to go: {self.total - steps:,} steps at {done / taken:.1f} per second, as measured over the "
            f"first {done}. Steps of other runs may take longer or shorter.",
            highlight=False,
            soft_wrap=True,
        )


def label(job: Job) -> str:
    """A run in messages."""
    return " ".join(str(value) for key, value in job.identity.items() if key != "config")


def _start_worker(counter: Any, parent: int) -> None:
    global _steps_done
    _steps_done = counter
    if os.getppid() != parent:
        os._exit(1)  # it was killed while we were importing
    # One thread each: two processes of two threads on two cores are slower than four of one.
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """A worker whose parent was killed asks itself to end: a run that can be resumed is saved, others stop."""
    while os.getppid() == parent:
        time.sleep(1)
    _orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)


def _steps(counter: Any) -> int:
    """Without the lock, which a worker that was killed never gives back."""
    return counter.get_obj().value


def _count_step() -> None:
    with _steps_done.get_lock():
        _steps_done.value += 1


def _run(job: Job) -> Row:
    try:
        return timed(job, _count_step)
    except (Exception, SystemExit) as error:
        # In words: an exception of somebody else's class may not survive the way to the parent, and would then look
        # like a worker that was killed, with the runs beside it.
        raise RunFailedError(described(error)) from None
    finally:
        if _orphaned.is_set():
            os._exit(1)  # nobody waits for the row, and the queue of jobs has no other end


def timed(job: Job, on_step: Callable[[], None]) -> Row:
    """Its row, with the seconds it took."""
    start = time.perf_counter()
    row = job.run(on_step)
    return {"seconds": round(time.perf_counter() - start, 2), **row}  # a resumed run knows better
