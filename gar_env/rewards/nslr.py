"""NSLR, the next-step loss reward."""

from __future__ import annotations

from torch import Tensor

from gar_env.rewards.signal import Evidence, Need, RewardSignal, register_reward


@register_reward("nslr")
class NextStepLossReward(RewardSignal):
    r"""``r_i = -L(theta_{t+1})``, the same for every slot: ``L`` is the mean loss of the next batch.

    Normalising it within a step would erase it; normalise over steps, or not at all.

    Source:
        Mueller, Biedenkapp & Hutter (2021), section 3, equation 2.
    """

    needs = Need.NEXT_LOSS
    shared = True

    def __call__(self, evidence: Evidence) -> Tensor:
        """Minus the next loss, ``[n]``."""
        return -evidence.next_loss.expand(evidence.n).clone()
