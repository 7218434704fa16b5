"""Rewards of whole training runs: how much their loss has decreased, on a logarithmic scale."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.rewards.signal import Evidence, Need, RewardSignal, register_reward

LEAST_LOSS = 1e-30
"""Where the logarithm of a loss ends: a float32 loss can be 0."""


def log_loss(loss: Tensor) -> Tensor:
    """The natural logarithm, finite of a loss of 0."""
    return loss.clamp_min(LEAST_LOSS).log()


@register_reward("log_loss_decrease")
class LogLossDecrease(RewardSignal):
    r"""``r_t = log L(theta_t) - log L(theta_{t+1})`` of each run, batch losses, step by step.

    In the first step and in the last, the loss over the run's part of the training data stands in for the batch's, so
    that a run's rewards add up to ``log E_0 - log E_S`` exactly: whatever noise the batches have between cancels.

    Source:
        The terms of the reward of Daniel, Taylor & Nowozin (2016), paid when they are due.
    """

    needs = Need.RUN

    def __call__(self, evidence: Evidence) -> Tensor:
        """Decrease of each run in nats, ``[n]``."""
        run = evidence.run
        assert run is not None
        before = torch.where(run.steps == 1, run.initial_loss, run.loss)
        after = torch.where(run.final_loss.isnan(), evidence.next_loss, run.final_loss)
        return log_loss(before) - log_loss(after)


@register_reward("final_log_loss_decrease")
class FinalLogLossDecrease(RewardSignal):
    r"""``(log E_0 - log E_S) / S`` after the last of ``S`` steps, 0 before: the mean decrease per step.

    Source:
        Daniel, Taylor & Nowozin (2016): their reward, a mean of differences, is its last loss over its first.
    """

    needs = Need.RUN

    def __call__(self, evidence: Evidence) -> Tensor:
        """Mean decrease of each run that ends, in nats per step, ``[n]``."""
        run = evidence.run
        assert run is not None
        mean = (log_loss(run.initial_loss) - log_loss(run.final_loss)) / run.steps
        return torch.where(run.final_loss.isnan(), 0.0, mean)
