"""Rewards on one scale, whatever a signal's is."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from agents.peers import Peers
from gar_env.registry import check_choice

Normalisation = Literal["step", "running", "size", "none"]
NORMALISATIONS = ("step", "running", "size", "none")


class Normaliser:
    """Minus mean, over standard deviation; or over mean size alone, which leaves every sign as it is.

    Args:
        kind: ``"step"``: of the rewards of one step. ``"running"``: of all steps so far. ``"size"``: over the mean
            absolute reward of the step. ``"none"``: not at all.
        peers: Whose rewards count too.

    Raises:
        ConfigurationError: If the kind is unknown.
    """

    def __init__(self, kind: Normalisation, peers: Peers) -> None:
        check_choice("normalise", kind, NORMALISATIONS)
        self.kind, self.peers = kind, peers
        self._count, self._mean, self._spread = 0, 0.0, 0.0  # Welford's, over all rewards of all steps

    def __call__(self, rewards: Tensor, count: int) -> Tensor:
        """Rewards ``[n]`` on their scale; ``count`` is how many there are in all processes."""
        if self.kind == "none":
            return rewards
        if self.kind == "size":
            size = self.peers.summed(rewards.abs().sum(dtype=torch.float64)) / count
            return rewards / size.clamp_min(torch.finfo(torch.float32).tiny).to(rewards)
        largest = self.peers.largest(rewards.abs().max() if len(rewards) else rewards.new_zeros(()))
        mean = self.peers.summed(rewards.sum(dtype=torch.float64)) / count
        spread = self.peers.summed((rewards - mean).square().sum(dtype=torch.float64))
        if self.kind == "running":
            total, gap = self._count + count, float(mean) - self._mean
            self._spread += float(spread) + gap**2 * self._count * count / total
            self._mean += gap * count / total
            self._count = total
            mean, spread, count = torch.tensor(self._mean), torch.tensor(self._spread), total
        return _standardised(rewards, mean.to(rewards), (spread / count).sqrt().to(rewards), largest)

    @property
    def running(self) -> tuple[int, float, float]:
        """How many rewards there were, their mean, and their sum of squares around it."""
        return self._count, self._mean, self._spread

    @running.setter
    def running(self, running: tuple[int, float, float]) -> None:
        count, mean, spread = running
        self._count, self._mean, self._spread = int(count), float(mean), float(spread)


def _standardised(rewards: Tensor, mean: Tensor, deviation: Tensor, largest: Tensor) -> Tensor:
    """``(rewards - mean) / deviation``, and 0 where all are equal.

    The mean of equal float32 values misses them by a rounding; divided by itself it would be a reward of 1 for all.
    """
    if bool(deviation <= 1e-6 * largest):
        return torch.zeros_like(rewards)
    return (rewards - mean) / deviation
