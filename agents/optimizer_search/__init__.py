"""Controllers of ``GAR/OptimizerSearch-v0``: random, evolution, and a recurrent network."""

from agents.optimizer_search.evolution import Evolution
from agents.optimizer_search.lstm import PAPER, LSTMAgent, LSTMOptions
from agents.optimizer_search.strings import RandomStrings, StringAgent

__all__ = ["PAPER", "Evolution", "LSTMAgent", "LSTMOptions", "RandomStrings", "StringAgent"]
