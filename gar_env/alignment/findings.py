"""What was found out about a network, for as long as it lives."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from gar_env.alignment.differences import check_differences
from gar_env.alignment.inputs import Losses, lengths_of, rows_of
from gar_env.alignment.listeners import paused
from gar_env.alignment.rerun import FiniteDifferenceTape, unwrapped
from gar_env.alignment.separation import check_separation
from gar_env.errors import AlignmentError, GarEnvError, LossShapeError, NonFiniteGradientError
from gar_env.functional import Structure, UncopiableStateError, structure_of

AGAIN = 10
"""A network is looked at in its 1st, 10th, 100th, ... pass of a mode: what a branch hides at first may show later."""


@dataclass
class Finding:
    """About a network in one mode.

    Args:
        passes: How many were recorded in this mode.
        due: The number of the pass to look at next.
        examples: In the largest batch that was looked at; a single one shows nothing about mixing.
        alone: Lengths of inputs with which there was a single example.
        precise: Whether it was looked at as precisely as it can run: in float32, unless it was written for less.
        separate: Whether the rows of every layer are examples, or differences those of what is trained on; ``None``
            if that could not be seen.
        gap: Relative error of finite differences, as measured, with a margin.
        step_dtype: Whose machine epsilon gives their step.
    """

    passes: int = 0
    due: int = 1
    examples: int = 0
    alone: list[tuple[int, ...]] = field(default_factory=list)
    precise: bool = True
    separate: bool | None = None
    gap: float = 0.0
    step_dtype: str | None = None

    def is_due(self, inputs: tuple | Mapping[str, Any], *, precise: bool) -> bool:
        """Count a pass; whether to look at it."""
        self.passes += 1
        if self.passes >= self.due:
            self.due = AGAIN * self.due
            return True
        if precise and not self.precise:
            return True
        if self.examples > 1:
            return False
        several = (rows_of(inputs) or max(lengths_of(inputs), default=2)) > 1
        return several and tuple(lengths_of(inputs)) not in self.alone


class Findings:
    """What was found out about a network, by mode: which of its modules train."""

    def __init__(self) -> None:
        self.of_layers: dict[bytes, Finding] = {}
        self.of_differences: dict[bytes, Finding] = {}

    def look_at_layers(
        self, structure: Structure, inputs: tuple | Mapping[str, Any], loss: Losses, *, may_fail: bool
    ) -> bool | None:
        """Whether the rows of every layer are examples, as far as it is known; looks when it is due.

        Raises:
            AlignmentError: If not, unless it ``may_fail``.
        """
        network = structure.network
        finding = self.of_layers.setdefault(structure.key, Finding())
        outside = not torch.is_autocast_enabled(next(iter(structure.parameters.values())).device.type)
        due = finding.is_due(inputs, precise=outside)
        # What failed before fails again, for those who cannot do without.
        if not due and (finding.separate is not False or may_fail):
            return finding.separate
        first = finding.passes == 1 or finding.separate is None
        try:
            with paused():
                examples, precise = check_separation(unwrapped(network), inputs, loss, perturbed=False)
                if first:
                    check_separation(unwrapped(network), inputs, loss, perturbed=True)
        except (LossShapeError, NonFiniteGradientError):
            raise
        except AlignmentError:
            finding.separate = False
            if not may_fail:
                raise
        except Exception as error:
            _say_unseen(finding, error)
        else:
            finding.separate, finding.precise = True, precise or outside
            finding.examples = max(finding.examples, examples)
            if examples == 1:
                finding.alone.append(tuple(lengths_of(inputs)))
        return finding.separate

    def look_at_differences(self, network: nn.Module, inputs: tuple | Mapping[str, Any], loss: Losses) -> Finding:
        """What finite differences of this network are off by; looks when it is due.

        Raises:
            UnsupportedLayerError: If they are differences of something else than what is trained on.
        """
        finding = self.of_differences.setdefault(_mode(network), Finding(examples=2))
        if finding.is_due(inputs, precise=True) or finding.separate is False:
            try:
                with paused():
                    finding.gap, dtype = check_differences(unwrapped(network), inputs, loss)
            except AlignmentError:
                finding.separate = False
                raise
            except Exception as error:
                _say_unseen(finding, error)
            else:
                finding.separate, finding.step_dtype = True, str(dtype).removeprefix("torch.")
        return finding

    def state_dict(self) -> dict[str, dict[bytes, dict[str, Any]]]:
        """A copy, of plain values."""
        return {
            kind: {mode: {**vars(finding), "alone": list(finding.alone)} for mode, finding in found.items()}
            for kind, found in vars(self).items()
        }

    def load_state_dict(self, state: dict[str, dict[bytes, dict[str, Any]]]) -> None:
        """Go on from a :meth:`state_dict`."""
        for kind, found in state.items():
            setattr(self, kind, {mode: Finding(**values) for mode, values in found.items()})


def apply(finding: Finding, tape: FiniteDifferenceTape) -> None:
    """Tell a tape what its differences are off by."""
    tape.measured = finding.gap
    if finding.step_dtype:
        tape.coarsest = getattr(torch, finding.step_dtype)


def _say_unseen(finding: Finding, error: Exception) -> None:
    """A probe that cannot be undone, or fails where a plain pass may not, is none; it is said once."""
    if isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, GarEnvError) and not isinstance(error, UncopiableStateError)
    ):
        raise error
    if finding.passes == 1:
        warnings.warn(
            f"The network could not be looked at on a copy ({type(error).__name__}: {error}), so nobody checks that "
            "its layers keep examples apart. Sums over the batch are checked all the same. probe=False says no more.",
            stacklevel=2,
        )


def _mode(network: nn.Module) -> bytes:
    return structure_of(network).key


_found: WeakKeyDictionary[nn.Module, Findings] = WeakKeyDictionary()


def findings_of(network: nn.Module) -> Findings:
    """The network's own, to be written to."""
    return _found.setdefault(network, Findings())
