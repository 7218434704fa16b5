"""What the benchmark has to know about a signal beside its name."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path

from agents.jobs.provenance import fingerprint
from agents.normaliser import Normalisation
from gar_env.rewards import REWARDS, Need, RewardSignal

LARGEST_EXACT = 64
"""Slots up to which signals that take a training step per example are run."""


def short(signal: str) -> str:
    """The name in results: without the module that registers it."""
    return signal.rpartition(":")[2]


def signals_of_slots() -> list[str]:
    """All registered ones that pay slots of a batch."""
    return [name for name in REWARDS if not REWARDS[name].needs & (Need.RUN | Need.TASKS)]


def fits(signal: str, batch_size: int) -> bool:
    """Whether a signal can be afforded at a batch size."""
    return batch_size <= LARGEST_EXACT or not REWARDS[signal].for_small_batches


def normalisation_of(signal: str) -> Normalisation:
    """Over all steps for what all slots share, which normalising within a step would erase; else within each."""
    return "running" if REWARDS[signal].shared else "step"


def code_of(signal: str) -> str:
    """A fingerprint of the modules that a signal's class and its bases are written in: changed, it is another.

    What those modules import is not in it, the rest of this package in particular: each row says its commit, and a
    benchmark of another version belongs in another folder.
    """
    texts = []
    for kind in REWARDS[signal].__mro__:
        if kind.__module__ in ("builtins", "abc", RewardSignal.__module__):
            continue
        try:
            texts.append(hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest())
        except (OSError, TypeError):  # typed into a console
            texts.append(kind.__qualname__)
    return fingerprint(texts)
