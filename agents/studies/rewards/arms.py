"""Signals with another reference batch, or learned from by another policy: more arms of the reward benchmark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

UNIFORM: dict[str, Any] = {"reference": "uniform"}
HELDOUT: dict[str, Any] = {"reference": "heldout"}
WEIGHED: dict[str, Any] = {"reference": "other_half", "reference_weights": "mae"}


@dataclass(frozen=True)
class Arm:
    """How a signal is paid, and who learns from it.

    Args:
        signal: Registered.
        policy: Of :class:`~agents.controllers.native.ReinforceOptions`.
        options: Of the environment.
        trains_on_reference: Whether a reference batch is a training step; where it is not, a run has twice the
            environment steps, so that all networks take equally many. Of data splits.
        weighs: Whether it is an arm of weights of examples alone.
    """

    signal: str
    policy: Literal["inverted", "softmax", "keep"] = "inverted"
    options: dict[str, Any] = field(default_factory=dict)
    trains_on_reference: bool = True
    weighs: bool = False


ARMS: dict[str, Arm] = {
    "gar-keep": Arm("gar", "keep"),
    "gar-softmax": Arm("gar", "softmax"),
    "distinct_gar-keep": Arm("distinct_gar", "keep"),
    "distinct_gar-uniform": Arm("distinct_gar", "inverted", UNIFORM),
    "distinct_gar-uniform-keep": Arm("distinct_gar", "keep", UNIFORM),
    "distinct_gar-softmax": Arm("distinct_gar", "softmax"),
    "heldout": Arm("gar", "inverted", HELDOUT, trains_on_reference=False),
    "heldout-keep": Arm("gar", "keep", HELDOUT, trains_on_reference=False),
    "heldout-softmax": Arm("gar", "softmax", HELDOUT, trains_on_reference=False),
    "uniform_reference": Arm("gar", "inverted", UNIFORM),
    "other_half": Arm("gar", "inverted", {"reference": "other_half"}, trains_on_reference=False),
    "agree": Arm("gar", "inverted", {"reference_weights": "agree"}, trains_on_reference=False),
    "mae": Arm("gar", "inverted", {"reference_weights": "mae"}, trains_on_reference=False),
    "mae_half": Arm("gar", "inverted", WEIGHED, trains_on_reference=False),
    "mae_half-bonus": Arm("gar", options={**WEIGHED, "keep_bonus": 0.15}, weighs=True),
}
"""By the name in results. Policies are of splits: on weights of examples and on augmentations they change nothing."""
