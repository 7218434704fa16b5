"""Distributions over actions, and baselines that never learn."""

from agents.policies.augmentation import FixedAugmentation, OnlineAugmentation
from agents.policies.fixed import FixedPolicy
from agents.policies.inverted_softmax import InvertedSoftmax
from agents.policies.linear_softmax import LinearSoftmax
from agents.policies.selection import DropSpoiled, KeepHighest, SmallLoss

__all__ = [
    "DropSpoiled",
    "FixedAugmentation",
    "FixedPolicy",
    "InvertedSoftmax",
    "KeepHighest",
    "LinearSoftmax",
    "OnlineAugmentation",
    "SmallLoss",
]
