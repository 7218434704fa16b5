"""GAR, the gradient-alignment reward."""

from __future__ import annotations

from torch import Tensor

from gar_env.rewards.signal import Evidence, Need, RewardSignal, register_reward


@register_reward("gar")
class GradientAlignmentReward(RewardSignal):
    r"""``r_i = < grad l_i(theta_t), grad L(theta_{t+1}) >``, ``L`` the mean loss of the next batch.

    To first order, what a little more weight on example ``i`` in step ``t`` would have taken off the next loss. ``l_i``
    is the example's own loss, not divided by the batch size.

    Source:
        Mueller, Biedenkapp & Hutter (2021), sections 4 and 5.
    """

    needs = Need.ALIGNMENT

    def __call__(self, evidence: Evidence) -> Tensor:
        """One alignment per slot, ``[n]``."""
        assert evidence.alignment is not None
        return evidence.alignment
