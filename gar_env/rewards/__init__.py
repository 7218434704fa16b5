"""Reward signals by name, one per file."""

from gar_env.rewards.gar import GradientAlignmentReward
from gar_env.rewards.nslr import NextStepLossReward
from gar_env.rewards.signal import REWARDS, Evidence, Need, RewardSignal, register_reward

__all__ = [
    "REWARDS",
    "Evidence",
    "GradientAlignmentReward",
    "Need",
    "NextStepLossReward",
    "RewardSignal",
    "register_reward",
]
