"""Means with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 9999


@dataclass(frozen=True)
class Summary:
    """Mean over seeds.

    Args:
        mean: Arithmetic mean.
        deviation: Sample standard deviation (n - 1), NaN for one seed.
        low: Lower end of the 95 % bootstrap interval of the mean, NaN for one seed.
        high: Upper end, likewise.
        n: Seeds.
    """

    mean: float
    deviation: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}{self.spread()}{self.interval()}"

    def spread(self) -> str:
        """`` ± 0.012``, or nothing for one seed."""
        return "" if self.n < 2 else f" ± {self.deviation:.3f}"

    def interval(self, form: str = ".3f") -> str:
        """`` [0.310, 0.402]``, or nothing for one seed, of which there is none."""
        return "" if self.n < 2 else f" [{self.low:{form}}, {self.high:{form}}]"

    def with_interval(self, form: str = ".3f") -> str:
        """The mean and its interval."""
        return f"{self.mean:{form}}{self.interval(form)}"


def summarise(values: Sequence[float] | np.ndarray) -> Summary:
    """Mean, standard deviation and 95 % percentile bootstrap interval, 9,999 resamples, fixed seed.

    Args:
        values: One number per seed, at least one.

    Example:
        >>> str(summarise([0.1, 0.2, 0.3]))
        '0.200 ± 0.100 [0.100, 0.300]'
        >>> str(summarise([0.1]))
        '0.100'
    """
    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Summary(mean, math.nan, math.nan, math.nan, len(array))
    low, high = _interval((array,), np.mean)
    return Summary(mean, float(array.std(ddof=1)), low, high, len(array))


def gap(one: Sequence[float], other: Sequence[float]) -> Summary:
    """Mean of one group minus that of another that has nothing in common with it, with its 95 % bootstrap interval.

    Example:
        >>> gap([0.5, 0.7], [0.1, 0.1]).with_interval("+.2f")
        '+0.50 [+0.40, +0.60]'
    """
    arrays = [np.asarray(values, np.float64) for values in (one, other)]
    mean = float(arrays[0].mean() - arrays[1].mean())
    if min(map(len, arrays)) < 2:
        return Summary(mean, math.nan, math.nan, math.nan, 1)

    def difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return a.mean(axis) - b.mean(axis)

    low, high = _interval(tuple(arrays), difference)
    return Summary(mean, math.nan, low, high, min(map(len, arrays)))


def share_of_gain(
    baseline: Sequence[float], method: Sequence[float], oracle: Sequence[float]
) -> tuple[float, float, float] | None:
    """``(method - baseline) / (oracle - baseline)`` of the means, with its 95 % bootstrap interval.

    Args:
        baseline: One number per seed; seeds are paired: entry ``i`` of each belongs to the same data, labels and
            initial network.
        method: Likewise.
        oracle: Likewise.

    Returns:
        ``(share, low, high)``, or ``None`` where the oracle's own gain is not above 0 with 95 % confidence, and a share
        of it would mean nothing: one seed gives no confidence.

    Example:
        >>> share_of_gain([0.5, 0.6], [0.55, 0.65], [0.6, 0.7])[0]
        0.5
    """
    arrays = [np.asarray(x, np.float64) for x in (baseline, method, oracle)]
    if not summarise(arrays[2] - arrays[0]).low > 0:
        return None

    def share(b: np.ndarray, m: np.ndarray, o: np.ndarray, axis: int = -1) -> Any:
        return (m.mean(axis) - b.mean(axis)) / (o.mean(axis) - b.mean(axis))

    value = round(float(share(arrays[0], arrays[1], arrays[2])), 12)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _interval(tuple(arrays), share, paired=True)
    return value, low, high


def _interval(arrays: tuple, statistic: Callable, paired: bool = False) -> tuple[float, float]:
    interval = bootstrap(
        arrays,
        statistic,
        n_resamples=RESAMPLES,
        paired=paired,
        vectorized=True,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)
