"""Controllers for :mod:`gar_env`, and the experiments that use them."""

from agents.agent import Agent, train
from agents.policies import (
    DropSpoiled,
    FixedAugmentation,
    FixedPolicy,
    InvertedSoftmax,
    OnlineAugmentation,
    SmallLoss,
)
from agents.reinforce import Reinforce

DISTRIBUTION = "gar-env"
"""Other packages are imported as ``agents`` too; this tells ours."""

__all__ = [
    "Agent",
    "DropSpoiled",
    "FixedAugmentation",
    "FixedPolicy",
    "InvertedSoftmax",
    "OnlineAugmentation",
    "Reinforce",
    "SmallLoss",
    "train",
]
