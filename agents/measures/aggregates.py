"""Many tasks, few seeds: the statistics that Agarwal et al. ask for, with their intervals.

Scores are one sequence per task, one number per seed. Intervals are 95 % percentile bootstrap intervals, stratified:
seeds are drawn again within each task, and tasks stay.

Source:
    Agarwal, Schwarzer, Castro, Courville & Bellemare (2021), "Deep Reinforcement Learning at the Edge of the
    Statistical Precipice".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import trim_mean

RESAMPLES = 2000
Strata = Sequence[Sequence[float]]


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interquartile_mean(scores: Strata) -> Estimate:
    """Mean of the middle half of all scores, the tasks' together.

    Example:
        >>> interquartile_mean([[0.0, 1.0], [2.0, 9.0]]).value
        1.5
    """
    return _estimate(lambda groups: trim_mean(np.concatenate(groups, axis=-1), 0.25, axis=-1), [scores])


def probability_of_improvement(scores: Strata, others: Strata) -> Estimate:
    """Chance that a run of the first does better than one of the second on a task, ties counting half.

    The mean over tasks of the Mann-Whitney statistic.

    Args:
        scores: Of the first, one sequence per task.
        others: Of the second, on the same tasks.

    Example:
        >>> probability_of_improvement([[1.0, 3.0]], [[2.0, 0.0]]).value
        0.75
    """

    def better(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
        gaps = [np.sign(a[..., :, None] - b[..., None, :]) for a, b in zip(first, second, strict=True)]
        return np.mean([((gap + 1) / 2).mean((-2, -1)) for gap in gaps], axis=0)

    return _estimate(better, [scores, others])


def _estimate(statistic: Callable[..., np.ndarray], samples: Sequence[Strata]) -> Estimate:
    """``statistic`` takes each sample as a list of arrays ``[..., seeds]``."""
    generator = np.random.default_rng(0)
    arrays = [[np.asarray(stratum, np.float64) for stratum in sample] for sample in samples]

    def again(stratum: np.ndarray) -> np.ndarray:
        return stratum[generator.integers(len(stratum), size=(RESAMPLES, len(stratum)))]

    resampled = statistic(*[[again(stratum) for stratum in sample] for sample in arrays])
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(statistic(*arrays)), float(low), float(high))
