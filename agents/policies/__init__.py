"""Distributions over actions."""

from agents.policies.fixed import FixedPolicy
from agents.policies.inverted_softmax import InvertedSoftmax

__all__ = ["FixedPolicy", "InvertedSoftmax"]
