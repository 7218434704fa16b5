"""Reward signals by name, one idea per file."""

from gar_env.rewards.controls import NegativeLoss, OwnLoss, RandomReward, SameBatchGAR
from gar_env.rewards.distinct import DistinctGAR
from gar_env.rewards.evaluator import Collected, Evaluator, Trained
from gar_env.rewards.exact import LeaveOneOut, MetaGradient
from gar_env.rewards.finite_difference import FiniteDifferenceDDS, LossDecrease
from gar_env.rewards.gar import CosineGAR, GradientAlignmentReward, LastLayerGAR, ValidationGAR
from gar_env.rewards.nslr import NextStepLossReward
from gar_env.rewards.runs import FinalLogLossDecrease, LogLossDecrease
from gar_env.rewards.signal import (
    READS_EXAMPLES,
    REWARDS,
    Evidence,
    Need,
    RewardSignal,
    RunEvidence,
    TaskEvidence,
    register_reward,
)
from gar_env.rewards.tasks import (
    AgreementOthersReward,
    AgreementReward,
    HeldoutUpdate,
    InnerGAR,
    NextUpdate,
)

__all__ = [
    "READS_EXAMPLES",
    "REWARDS",
    "AgreementOthersReward",
    "AgreementReward",
    "Collected",
    "CosineGAR",
    "DistinctGAR",
    "Evaluator",
    "Evidence",
    "FinalLogLossDecrease",
    "FiniteDifferenceDDS",
    "GradientAlignmentReward",
    "HeldoutUpdate",
    "InnerGAR",
    "LastLayerGAR",
    "LeaveOneOut",
    "LogLossDecrease",
    "LossDecrease",
    "MetaGradient",
    "Need",
    "NegativeLoss",
    "NextStepLossReward",
    "NextUpdate",
    "OwnLoss",
    "RandomReward",
    "RewardSignal",
    "RunEvidence",
    "SameBatchGAR",
    "TaskEvidence",
    "Trained",
    "ValidationGAR",
    "register_reward",
]
