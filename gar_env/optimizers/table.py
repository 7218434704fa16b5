"""Every function of one group, judged once and for all: what any controller's best can be held against.

Made by ``gar-env reproduce optimizers --enumerate``, with the children of :class:`ChildOptions`' defaults.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gar_env.errors import ConfigurationError
from gar_env.optimizers.rule import Rule

FILE = "one_group.npz"
PARTS = 65_535
"""Accuracies are kept as whole numbers of so many parts."""


class RuleTable(NamedTuple):
    """Validation accuracies of functions.

    Args:
        keys: uint64 ``[n]``, growing: :attr:`Rule.key` as a number.
        accuracies: float32 ``[n, seeds]``; 0 of a function that was screened out.
        trained: bool ``[n]``.
    """

    keys: np.ndarray
    accuracies: np.ndarray
    trained: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Over seeds, ``[n]``; chance, 0.1, of what was screened out."""
        return np.where(self.trained, self.accuracies.mean(1), 0.1)

    @property
    def best(self) -> float:
        """The highest mean: what regret is over."""
        return float(self.means.max())

    def of(self, rule: Rule) -> tuple[float, bool]:
        """A rule's mean accuracy, and whether it was trained.

        Raises:
            ConfigurationError: If it is no function of one group.
        """
        key = np.uint64(int(rule.key, 16))
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            raise ConfigurationError(f"{rule} is not in the table, which has the functions of one group. Use groups=1.")
        return float(self.means[at]), bool(self.trained[at])

    def save(self, path: Path) -> None:
        """Write it, compressed."""
        whole = np.round(self.accuracies * PARTS).astype(np.uint16)
        np.savez_compressed(path, keys=self.keys, accuracies=whole, trained=np.packbits(self.trained))

    @classmethod
    def load(cls, path: Path) -> RuleTable:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as found:
            keys = found["keys"]
            trained = np.unpackbits(found["trained"])[: len(keys)].astype(bool)
            return cls(keys, found["accuracies"].astype(np.float32) / PARTS, trained)


@lru_cache(maxsize=1)
def one_group() -> RuleTable:
    """The table that comes with the package."""
    with resources.as_file(resources.files("gar_env.optimizers") / FILE) as path:
        return RuleTable.load(path)
