"""Runs in processes of this machine, one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from agents.jobs.job import RETRIES, Job, Planned, RunFailedError, described, timed
from agents.jobs.ledger import Ledger
from agents.jobs.results import Row

KILLED = f"its worker was killed {RETRIES + 1} times, perhaps for lack of memory"
_steps_done: Any = None  # in a worker: the counter that the parent watches
_orphaned = threading.Event()  # in a worker: whether the parent is gone


def run_locally(todo: Sequence[Planned], ledger: Ledger, *, workers: int) -> None:
    """Run jobs, each in a process.

    A worker that dies takes those beside it along, for they share a pool. All of them are started again, now one at a
    time: what killed one, a lack of memory for example, takes no other with it a second time.

    Args:
        todo: What is not done yet.
        ledger: Who is told.
        workers: Processes at a time.
    """
    pool, counter = _new_pool(workers)
    counted = 0  # by workers of earlier pools
    left, alone = deque(todo), deque[Planned]()
    waiting: dict[Future[Row], Planned] = {}
    with ledger.open():
        try:
            while left or alone or waiting:
                # No more than there are workers: what waits in the pool's own queue could not be called back.
                queue, most = (alone, 1) if alone else (left, workers)
                broken = False
                while queue and len(waiting) < most and not broken:
                    try:
                        waiting[pool.submit(_run, queue[0].job)] = queue[0]
                        queue.popleft()
                    except BrokenProcessPool:
                        broken = True
                done, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                lost = []
                for future in done:
                    planned = waiting.pop(future)
                    try:
                        ledger.finished(planned, future.result())
                    except BrokenProcessPool:
                        lost.append(planned)
                    except RunFailedError as error:
                        ledger.failed(planned, str(error))
                    except Exception as error:  # its row could not be sent back, or written
                        ledger.failed(planned, described(error))
                if broken or lost:
                    lost += waiting.values()
                    waiting.clear()
                    pool.shutdown(wait=False, cancel_futures=True)
                    counted += _steps(counter)
                    pool, counter = _new_pool(workers)
                for planned in lost:
                    again = planned._replace(losses=planned.losses + 1)
                    if again.losses > RETRIES:
                        ledger.failed(planned, KILLED)
                    else:
                        alone.append(again)
                ledger.stepped(counted + _steps(counter))
        except KeyboardInterrupt:
            ledger.console.print("\nStopping; runs that can be resumed are saved first ...")
            for process in list(pool._processes.values()):
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    pool.shutdown()


def _new_pool(workers: int) -> tuple[ProcessPoolExecutor, Any]:
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)  # its own: a worker that was killed may have held the lock of the last one
    start = counter, os.getpid()
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=start), counter


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
    finally:
        if _orphaned.is_set():
            os._exit(1)  # nobody waits for the row, and the queue of jobs has no other end
