"""What was found out about a network, for as long as it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from gar_env.alignment.inputs import Losses, rows_of
from gar_env.alignment.pausing import paused
from gar_env.alignment.probe import check_separation
from gar_env.alignment.replayed import unwrapped
from gar_env.errors import LostGradientError, MixedExamplesError


@dataclass
class Findings:
    """Whether the rows of every layer are examples.

    Args:
        probed: Examples in the largest batch that was looked at; a single one shows nothing about mixing.
        separate: What was found; ``None`` before.
    """

    probed: int = 0
    separate: bool | None = None

    def probe(self, network: nn.Module, inputs: tuple | Mapping[str, Any], loss: Losses, *, may_fail: bool) -> None:
        """Look, once for a network.

        Raises:
            LostGradientError: Unless it ``may_fail``.
            MixedExamplesError: Likewise.
        """
        n = rows_of(inputs) or 2
        settled = self.separate or may_fail  # what failed before fails again, for those who cannot do without
        if settled and (self.probed > 1 or self.probed == n):
            return
        if getattr(network, "static_graph", False):
            return  # DistributedDataParallel would count the probe's passes as training
        try:
            # The network inside a wrapper, which would wait for other processes.
            with paused():
                check_separation(unwrapped(network), inputs, loss)
        except (LostGradientError, MixedExamplesError):
            if not may_fail:
                raise
            self.separate = False
        else:
            self.separate = True
        self.probed = n


_found: WeakKeyDictionary[nn.Module, Findings] = WeakKeyDictionary()


def findings_of(network: nn.Module) -> Findings:
    """The network's own, to be written to."""
    return _found.setdefault(network, Findings())
