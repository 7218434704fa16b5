"""Relative entropy policy search over the weights of a controller: no gradients, one number per run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.registry import check_positive, shown
from gar_env.seeding import named_generator


class Update(NamedTuple):
    """What one update came to.

    Args:
        temperature: Of the weights ``exp(score / temperature)``, in standard deviations of the scores.
        effective: How many samples the weights amount to: ``(sum w)^2 / sum w^2``.
        kl: Of the weighted samples from the unweighted ones, in nats; at most the bound.
    """

    temperature: float
    effective: float
    kl: float


class Reps:
    r"""Episodic relative entropy policy search with a Gaussian over weights.

    Each update minimises the dual ``g(T) = T eps + T log mean_i exp(r_i / T)`` for the temperature at which the
    weighted samples are a divergence of ``eps`` away from the unweighted ones, and fits mean and covariance to those by
    weighted maximum likelihood. Few effective samples ``m`` say little about a covariance: the new one is
    ``m / (m + d + 1)`` times the fitted one, and the old one for the rest.

    Args:
        mean: Where the search starts, ``d`` numbers.
        deviations: Standard deviations at the start, above 0.
        epsilon: The bound on the divergence, in nats, above 0.
        seed: Of the samples.

    Raises:
        ConfigurationError: If a number is out of range.

    Example:
        >>> search = Reps(mean=(0.0, 0.0), deviations=(1.0, 1.0))
        >>> for _ in range(20):
        ...     samples = search.sample(32)
        ...     _ = search.update(samples, -(samples - torch.tensor([1.0, -2.0])).square().sum(1))
        >>> search.mean.round(decimals=1).tolist()
        [1.0, -2.0]

    Source:
        Peters, Muelling & Altun (2010); episodic as in Daniel, Taylor & Nowozin (2016), who bound the divergence by 1.
    """

    def __init__(
        self, mean: Sequence[float], deviations: Sequence[float], *, epsilon: float = 1.0, seed: int = 0
    ) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float64)
        spread = torch.tensor(deviations, dtype=torch.float64)
        if self.mean.ndim != 1 or len(self.mean) == 0 or spread.shape != self.mean.shape:
            raise ConfigurationError(f"mean={shown(mean)} and deviations={shown(deviations)} must be as many numbers.")
        if not bool(self.mean.isfinite().all()) or not bool(((spread > 0) & spread.isfinite()).all()):
            raise ConfigurationError("mean must be finite, and deviations above 0.")
        check_positive("epsilon", epsilon)
        self.covariance, self.epsilon = torch.diag(spread.square()), epsilon
        self.generator = named_generator(seed, "weights")

    @property
    def fewest(self) -> int:
        """Samples that an update needs at least: two more than weights."""
        return len(self.mean) + 2

    def sample(self, n: int) -> Tensor:
        """Weights ``[n, d]``, float32."""
        root = torch.linalg.cholesky(self.covariance)
        noise = torch.randn(n, len(self.mean), dtype=torch.float64, generator=self.generator)
        return (self.mean + noise @ root.T).float()

    def update(self, samples: Tensor, scores: Tensor) -> Update:
        """Move towards the samples that scored more.

        Args:
            samples: Of :meth:`sample`, ``[n, d]``.
            scores: ``[n]``, more is better.

        Raises:
            ConfigurationError: If there are fewer than :attr:`fewest` samples, or scores are not finite, one for each.
        """
        samples, scores = torch.as_tensor(samples), torch.as_tensor(scores)
        n, d = len(samples), len(self.mean)
        if n < self.fewest:
            raise ConfigurationError(f"There are {n} samples for {d} weights; an update needs {self.fewest} at least.")
        r = scores.double()
        if r.shape != (n,) or samples.shape != (n, d) or not bool(r.isfinite().all()):
            raise ConfigurationError(
                f"samples are {shown(samples)} and scores {shown(scores)}; expected [n, {d}] and finite [n]."
            )
        spread = float(r.std(correction=0))
        if spread <= 1e-12 * max(1.0, float(r.abs().max())):
            return Update(math.inf, float(n), 0.0)  # all alike: nothing to learn from
        r = (r - r.max()) / spread

        def dual(log_temperature: float) -> float:
            temperature = math.exp(log_temperature)
            return temperature * (self.epsilon + float(torch.logsumexp(r / temperature, 0)) - math.log(n))

        found: Any = minimize_scalar(dual, bounds=(math.log(1e-4), math.log(1e4)), method="bounded")
        temperature = math.exp(float(found.x))
        weights = torch.softmax(r / temperature, 0)
        effective = float(1 / weights.square().sum())
        kl = float((weights * (weights * n).clamp_min(1e-300).log()).sum())
        x = samples.double()
        mean = weights @ x
        gaps = x - mean
        fitted = (gaps * weights[:, None]).T @ gaps
        trust = effective / (effective + d + 1)
        # What is fitted to few samples can be singular; the old covariance is not.
        self.mean, self.covariance = mean, trust * fitted + (1 - trust) * self.covariance
        return Update(temperature, effective, kl)

    def state_dict(self) -> dict[str, Any]:
        """All that goes on."""
        return {"mean": self.mean, "covariance": self.covariance, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`.

        Raises:
            CheckpointError: If it is of other weights.
        """
        if state["mean"].shape != self.mean.shape or state["covariance"].shape != self.covariance.shape:
            raise CheckpointError(f"The state is of {len(state['mean'])} weights; here there are {len(self.mean)}.")
        self.mean, self.covariance = state["mean"].double(), state["covariance"].double()
        self.generator.set_state(state["generator"])


def residuals(scores: np.ndarray, known: np.ndarray) -> np.ndarray:
    """What is left of scores ``[n]`` without the best linear guess from what is known of each run, ``[n, k]``.

    Some runs are longer than others, or start better; that says nothing about the weights they were run with.
    """
    design = np.column_stack([np.ones(len(scores)), known])
    return scores - design @ np.linalg.lstsq(design, scores, rcond=None)[0]
