"""Time and memory, side by side."""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def seconds(call: Callable[[], object], device: str) -> float:
    """Wall-clock seconds of one call, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the profiler writes to standard error from below Python: that it starts, that there is no GPU."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def peak_bytes(call: Callable[[], object], device: str) -> int:
    """Most bytes of tensors alive at once, of those made inside ``call``: build there what is to be counted."""
    gc.collect()  # what is freed inside must have been made inside
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    results: Any = recorded.profiler and recorded.profiler.kineto_results
    alive = peak = 0
    for event in sorted(results.events(), key=lambda event: event.start_ns()):
        if event.name() != "[memory]":
            continue
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def interleaved(
    calls: dict[str, Callable[[], object]], plain: str, rounds: int, device: str, *, warm_up: int = 2
) -> dict[str, list[float]]:
    """Time every call once a round, and divide by the plain one of the same round.

    Returns:
        ``{name: one ratio per round}``; the first ``warm_up`` rounds, which allocate, are left out.
    """
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + warm_up):
        taken = {name: seconds(call, device) for name, call in calls.items()}
        if round_ >= warm_up:
            for name in calls:
                ratios[name].append(taken[name] / taken[plain])
    return ratios


def median_and_quartiles(values: list[float]) -> tuple[float, float, float]:
    """``(median, lower quartile, upper quartile)``."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high
