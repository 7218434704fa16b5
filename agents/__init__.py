"""Controllers for :mod:`gar_env`, and the experiments that use them."""

from agents.agent import Agent, train
from agents.policies import DropSpoiled, FixedPolicy, InvertedSoftmax, SmallLoss
from agents.reinforce import Reinforce

__all__ = ["Agent", "DropSpoiled", "FixedPolicy", "InvertedSoftmax", "Reinforce", "SmallLoss", "train"]
