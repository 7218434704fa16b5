"""Signals from a second forward pass over the paid batch, at other parameters."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gar_env.rewards.signal import Evidence, Need, RewardSignal, register_reward


@register_reward("dds_finite_difference")
class FiniteDifferenceDDS(RewardSignal):
    r"""``r_i = (l_i(theta_t + eps d) - l_i(theta_t)) / eps``, ``d`` a clean held-out batch's gradient at theta_{t+1}.

    What ``validation_gar`` is, for the price of a forward pass instead of per-example gradients; under batch
    normalisation in the derivative reading. ``eps = LENGTH / |d|``, between rounding and curvature: on digits and
    CIFAR-10 the vector of rewards is off by 0.1 to 1.6 % of its length (fc, fc_bn, cnn; float32), single small ones by
    more. Mixed precision rounds it away in part: a correlation of 0.95 with float32.

    Source:
        Wang et al. (2020), "Optimizing Data Usage via Differentiable Rewards": the two forward passes by which they
        avoid per-example gradients. Theirs step by a constant eps; a constant length does not drown in rounding as
        gradients vanish.
    """

    needs = Need.PARAMETERS | Need.PASS | Need.HELDOUT_GRADIENT

    LENGTH: ClassVar[float] = 3e-3
    """Of the step in parameter space."""

    @torch.no_grad()
    def __call__(self, evidence: Evidence) -> Tensor:
        """One difference quotient per slot, ``[n]``; 0 along a gradient that vanished."""
        repeat, direction, paid = evidence.repeat, evidence.heldout_gradient, evidence.paid
        assert repeat is not None
        assert direction is not None
        assert paid is not None
        length = torch.stack([g.square().sum() for g in direction.values()]).sum().sqrt()
        epsilon = self.LENGTH / length
        moved = {n: p + epsilon * direction[n] if n in direction else p for n, p in repeat.before.items()}
        change = (repeat.losses(moved) - paid.losses) / epsilon
        return change if float(length) > 0 else torch.zeros_like(change)


@register_reward("loss_decrease")
class LossDecrease(RewardSignal):
    """``r_i = l_i(theta_t) - l_i(theta_{t+1})``: what the step took off the example's own loss.

    It rewards what is learned quickly, the example itself included, and knows of no other batch.

    Source:
        The prediction gain of Graves et al. (2017), "Automated Curriculum Learning for Neural Networks".
    """

    needs = Need.PARAMETERS | Need.PASS

    @torch.no_grad()
    def __call__(self, evidence: Evidence) -> Tensor:
        """One difference in nats per slot, ``[n]``; both losses with batch statistics."""
        assert evidence.repeat is not None
        assert evidence.paid is not None
        return evidence.paid.losses - evidence.repeat.losses(evidence.repeat.after)
