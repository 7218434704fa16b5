"""Rewards of tasks: how far what one taught agrees with itself, with the others, and with what comes next."""

from __future__ import annotations

from torch import Tensor

from gar_env.alignment.row_gradients import align_rows
from gar_env.rewards.gar import GradientAlignmentReward
from gar_env.rewards.signal import Evidence, Need, RewardSignal, TaskEvidence, register_reward


@register_reward("inner_gar")
class InnerGAR(RewardSignal):
    r"""Cosine of what a task taught with what it should have taught next: gradient alignment within the inner loop.

    For Reptile its first inner steps and its last ones, on other examples; for MAML its update and its query gradient
    at the parameters before. A task whose examples contradict each other teaches nothing that lasts, whatever the other
    tasks are.

    Source:
        Ours; the inner product between mini-batches of a task is what Nichol, Achiam & Schulman (2018), section 5, find
        that Reptile maximises.
    """

    needs = Need.TASKS

    def __call__(self, evidence: Evidence) -> Tensor:
        """One cosine per task, ``[n]``."""
        return _tasks(evidence).within


@register_reward("agreement")
class AgreementReward(RewardSignal):
    """``< g_i, mean of all g >``, the updates of this meta-batch, each task's own among them.

    Source:
        Eshratifar, Eigen & Pedram (2018), equation 8, without its scale.
    """

    needs = Need.TASKS

    def __call__(self, evidence: Evidence) -> Tensor:
        """One product per task, ``[n]``."""
        gram, finite = _tasks(evidence).gram, _tasks(evidence).finite
        return gram.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).sum(1) / finite.sum().clamp_min(1)


@register_reward("agreement_others")
class AgreementOthersReward(RewardSignal):
    """``< g_i, mean of the others' g >``; 0 of a task that is alone."""

    needs = Need.TASKS

    def __call__(self, evidence: Evidence) -> Tensor:
        """One product per task, ``[n]``."""
        tasks = _tasks(evidence)
        gram = tasks.gram.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        return (gram.sum(1) - gram.diagonal()) / (tasks.finite.sum() - 1).clamp_min(1)


@register_reward("next_update")
class NextUpdate(GradientAlignmentReward):
    """``< g_i, mean meta-gradient of the next meta-batch >`` at the parameters after the step: GAR between tasks.

    Source:
        Mueller, Biedenkapp & Hutter (2021), with tasks for examples.
    """

    needs = Need.ALIGNMENT | Need.TASKS


@register_reward("heldout_update")
class HeldoutUpdate(RewardSignal):
    """``< g_i, mean meta-gradient of a clean, held-out meta-batch >`` at the parameters after the step."""

    needs = Need.TASKS | Need.HELDOUT_GRADIENT

    def __call__(self, evidence: Evidence) -> Tensor:
        """One product per task, ``[n]``."""
        heldout = evidence.heldout_gradient
        assert heldout is not None
        return align_rows(_tasks(evidence).gradients, heldout)


def _tasks(evidence: Evidence) -> TaskEvidence:
    assert evidence.tasks is not None
    return evidence.tasks
