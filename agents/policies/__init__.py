"""Distributions over actions, and baselines that never learn."""

from agents.policies.augmentation import FixedAugmentation, OnlineAugmentation
from agents.policies.fixed import FixedPolicy
from agents.policies.inverted_softmax import InvertedSoftmax
from agents.policies.keep import Keep
from agents.policies.linear_softmax import LinearSoftmax
from agents.policies.selection import DropSpoiled, KeepHighest, SmallLoss
from agents.policies.softmax import Softmax

__all__ = [
    "DropSpoiled",
    "FixedAugmentation",
    "FixedPolicy",
    "InvertedSoftmax",
    "Keep",
    "KeepHighest",
    "LinearSoftmax",
    "OnlineAugmentation",
    "SmallLoss",
    "Softmax",
]
