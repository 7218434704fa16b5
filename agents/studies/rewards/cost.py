"""What a signal costs: time and memory of an environment step, over those of one that pays nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import gar_env  # noqa: F401 - registers the environments
from agents.jobs.provenance import data_fingerprint, fingerprint, provenance
from agents.jobs.results import Row
from agents.measures.timing import interleaved, peak_bytes
from agents.studies.rewards.signals import code_of, short
from agents.studies.rewards.tasks import HELDOUT_SHARE
from gar_env.envs import DataSplitVectorEnv
from gar_env.rewards import REWARDS, Evidence, Need, RewardSignal

WARM_UP, PEAKS = 2, 3


class Nothing(RewardSignal):
    """Pays 0 and asks for nothing: what the plain step does."""

    needs = Need(0)

    def __call__(self, evidence: Evidence) -> Tensor:
        """Zeros, ``[n]``."""
        return torch.zeros(evidence.n, device=evidence.next_loss.device)


@dataclass(frozen=True)
class CostJob:
    """One signal at one batch size, side by side with the plain step; see :class:`~agents.jobs.job.Job`.

    Both environments train in turn in one process: a controlled batch and a reference batch per step, two SGD steps.
    Run it alone: other work on the machine does not slow the two down alike.

    Args:
        signal: Registered.
        batch_size: Slots.
        rounds: Steps of each that are timed; a fifth where a step takes a training step per example.
        dataset: To train on.
        network: To train.
    """

    signal: str
    batch_size: int
    rounds: int = 15
    dataset: str = "digits"
    network: str = "fc_bn"

    @property
    def steps(self) -> int:
        """Rounds, the first ones included, and two that stand for memory's."""
        return self.timed + WARM_UP + 2

    @property
    def timed(self) -> int:
        """Rounds, as many as this signal gets."""
        return max(self.rounds // 5, 3) if REWARDS[self.signal].for_small_batches else self.rounds

    @property
    def options(self) -> dict[str, Any]:
        """Of both environments, but for data and reward."""
        return {"network": self.network, "heldout_share": HELDOUT_SHARE, "num_steps": 2 * self.steps + 6}

    @property
    def identity(self) -> Row:
        """The measurement, and a fingerprint of all that could change it, but for the machine."""
        config = fingerprint(
            [self.options, data_fingerprint(self.dataset), code_of(self.signal), self.rounds, WARM_UP, PEAKS]
        )
        return {
            "measure": "cost",
            "signal": short(self.signal),
            "network": self.network,
            "batch_size": self.batch_size,
            "config": config,
        }

    def run(self, on_step: Callable[[], None]) -> Row:
        """Time both, and count what they allocate."""
        steps: dict[str, Callable[[], object]] = {}
        for name, reward in (("plain", Nothing()), ("paid", self.signal)):
            env = DataSplitVectorEnv(
                self.batch_size,
                output="torch",
                dataset=self.dataset,
                reward=reward,
                **self.options,
            )
            env.reset(seed=0)
            actions = torch.arange(self.batch_size) % env.unwrapped.num_splits  # pyright: ignore[reportAttributeAccessIssue]
            steps[name] = partial(env.step, actions)
        plain = steps["plain"]

        def plain_counted() -> None:
            on_step()
            plain()

        ratios = interleaved({**steps, "plain": plain_counted}, "plain", self.timed, "cpu", warm_up=WARM_UP)
        low, middle, high = statistics.quantiles(ratios["paid"], n=4)
        # What is freed of the step before makes the first count too high.
        peaks = {name: statistics.median(peak_bytes(step, "cpu") for _ in range(PEAKS)) for name, step in steps.items()}
        on_step()
        on_step()
        return {
            "dataset": self.dataset,
            "time_ratio": middle,
            "time_ratio_quartiles": [low, high],
            "memory_ratio": peaks["paid"] / peaks["plain"],
            "memory_bytes": peaks["paid"],
            **provenance(),
        }
