"""Figures. They read results only; nothing is computed that a results file does not hold."""

from agents.plots.augmentation import augmented_grid, operations_grid, policy_figure, strengths_figure
from agents.plots.figures import save
from agents.plots.splits import figure2, split_probabilities

__all__ = [
    "augmented_grid",
    "figure2",
    "operations_grid",
    "policy_figure",
    "save",
    "split_probabilities",
    "strengths_figure",
]
