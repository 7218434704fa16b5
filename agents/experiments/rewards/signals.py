"""What the benchmark has to know about a signal beside its name."""

from __future__ import annotations

import inspect

from agents.reinforce import Normalisation
from gar_env.rewards import REWARDS

LARGEST_EXACT = 64
"""Slots up to which signals that take a training step per example are run."""


def short(signal: str) -> str:
    """The name in results: without the module that registers it."""
    return signal.rpartition(":")[2]


def fits(signal: str, batch_size: int) -> bool:
    """Whether a signal can be afforded at a batch size."""
    return batch_size <= LARGEST_EXACT or not REWARDS[signal].for_small_batches


def normalisation_of(signal: str) -> Normalisation:
    """Over all steps for what all slots share, which normalising within a step would erase; else within each."""
    return "running" if REWARDS[signal].shared else "step"


def code_of(signal: str) -> str:
    """The source of somebody else's signal: changed, it is another. Ours are told apart by the commit in each row."""
    kind = REWARDS[signal]
    if kind.__module__.startswith("gar_env."):
        return ""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed into a console
        return kind.__qualname__
