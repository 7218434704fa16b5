"""Controllers for :mod:`gar_env`, and the experiments that use them."""

from agents.agent import Agent, train
from agents.policies import FixedPolicy, InvertedSoftmax
from agents.reinforce import Reinforce

__all__ = ["Agent", "FixedPolicy", "InvertedSoftmax", "Reinforce", "train"]
