"""Signals to hold others against: what costs nothing, and what must fail."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.alignment import align
from gar_env.rewards.signal import Evidence, Need, RewardSignal, register_reward


@register_reward("random")
class RandomReward(RewardSignal):
    """``r_i ~ N(0, 1)``, independent: chance."""

    needs = Need(0)
    draws = True

    def __call__(self, evidence: Evidence) -> Tensor:
        """One draw per slot, ``[n]``."""
        return torch.randn(evidence.n, generator=evidence.generator, device=evidence.next_loss.device)


@register_reward("loss")
class OwnLoss(RewardSignal):
    """``r_i = l_i(theta_t)``: hard examples first, wrong labels among them.

    Source:
        Loshchilov & Hutter (2016), "Online Batch Selection for Faster Training of Neural Networks", as a reward.
    """

    needs = Need.PASS

    def __call__(self, evidence: Evidence) -> Tensor:
        """Each example's loss in nats, times its weight if it has one, ``[n]``."""
        assert evidence.paid is not None
        return evidence.paid.losses


@register_reward("negative_loss")
class NegativeLoss(RewardSignal):
    """``r_i = -l_i(theta_t)``: easy examples first. A cheap trick where what is wrong is high in loss; else a trap.

    Source:
        Kumar, Packer & Koller (2010), "Self-Paced Learning for Latent Variable Models", as a reward.
    """

    needs = Need.PASS

    def __call__(self, evidence: Evidence) -> Tensor:
        """Minus each example's loss in nats, times its weight if it has one, ``[n]``."""
        assert evidence.paid is not None
        return -evidence.paid.losses


@register_reward("same_batch_gar")
class SameBatchGAR(RewardSignal):
    r"""``r_i = < grad l_i(theta_t), grad L_t(theta_t) >``, ``L_t`` the mean loss of the batch that ``i`` is in.

    A control: example ``i`` is part of what it is compared with, so the product holds ``|grad l_i|^2 / n``, which is
    large for whatever fits badly.

    Source:
        Mueller, Biedenkapp & Hutter (2021) align with the *next* batch; this is that without its point.
    """

    needs = Need.TAPE

    def __call__(self, evidence: Evidence) -> Tensor:
        """One alignment per slot, ``[n]``."""
        assert evidence.tape is not None
        return align(evidence.tape, evidence.tape.batch_gradient)
