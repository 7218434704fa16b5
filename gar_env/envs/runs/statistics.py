"""What a step-size controller sees of a run: statistics over its batches, discounted over its steps."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.envs.features import Feature
from gar_env.errors import ConfigurationError
from gar_env.registry import check_choice, did_you_mean, shown
from gar_env.state import plain

LOWEST, HIGHEST = -60.0, 40.0
"""Of logarithms: those of a network that is dead, and of one that is no longer finite."""

SIGNALS = {
    "predicted_change": "log Var_i(<grad l_i, step>), step the present direction times the last step size",
    "disagreement": "log Var_i(l_i)",
    "direction_change": "log Var_i(<grad l_i, direction>), per unit of step size",
    "coherence": "log (mean_i <grad l_i, direction>)^2 / Var_i: how far the examples agree on the direction",
    "relative_disagreement": "log Var_i(l_i) / (mean_i l_i)^2",
}
"""What each batch is summed up to, by name; each is observed as its discounted mean, and its discounted variance."""

UNCERTAINTY = "_uncertainty"

FEATURES: dict[str, Feature] = {
    **{
        name + end: Feature(name + end, low, high, f"{words} of {meaning}")
        for name, meaning in SIGNALS.items()
        for end, low, high, words in (
            ("", LOWEST, HIGHEST, "discounted mean"),
            (UNCERTAINTY, 0.0, (HIGHEST - LOWEST) ** 2, "discounted variance"),
        )
    },
    "log_step_size": Feature("log_step_size", LOWEST, HIGHEST, "log of the last step size"),
    "log_loss": Feature("log_loss", LOWEST, HIGHEST, "log of the last batch's mean loss"),
    "progress": Feature("progress", 0.0, 1.0, "steps taken / length of the run"),
}
"""All that can be observed, by name."""

OBSERVED = {
    "paper": ("predicted_change", "predicted_change_uncertainty", "disagreement", "disagreement_uncertainty"),
    "direction": ("direction_change", "direction_change_uncertainty", "disagreement", "disagreement_uncertainty"),
    "all": tuple(FEATURES),
}
"""Sets of them: the four of Daniel, Taylor & Nowozin (2016); the same without the step size; everything."""


def observed_names(observed: str) -> tuple[str, ...]:
    """Names of features, from the name of a set, or from names with commas between them.

    Raises:
        ConfigurationError: If one is unknown, or comes twice.
    """
    if observed in OBSERVED:
        return OBSERVED[observed]
    names = tuple(name.strip() for name in observed.split(","))
    if len(names) == 1 and names[0] not in FEATURES:
        check_choice("observed", observed, (*OBSERVED, *FEATURES))
    for name in names:
        if name not in FEATURES:
            raise ConfigurationError(
                f"observed={shown(observed)} has {name!r}.{did_you_mean(name, FEATURES)} Known: {', '.join(FEATURES)}."
            )
    if len(set(names)) < len(names):
        raise ConfigurationError(f"observed={shown(observed)} names a feature twice.")
    return names


def signals(losses: Tensor, changes: Tensor, step_sizes: Tensor) -> Tensor:
    """The :data:`SIGNALS` of one batch of each run.

    Args:
        losses: Of the examples, ``[R, n]``, n at least 2.
        changes: Predicted changes per unit of step size, ``[R, n]``:
            :meth:`~gar_env.learner.LearnerStack.predicted_changes`, ``gar_env.alignment.align``.
        step_sizes: The last ones, ``[R]``.

    Returns:
        ``[R, signals]``, finite whatever the losses are.

    Source:
        Daniel, Taylor & Nowozin (2016), predicted change in function value and disagreement of function values.
    """
    direction_change, disagreement = (values.var(1).log().clamp_min(LOWEST) for values in (changes, losses))
    coherence = changes.mean(1).square().log() - direction_change
    relative = disagreement - losses.mean(1).square().log()
    predicted_change = direction_change + 2 * step_sizes.log()
    found = torch.stack([predicted_change, disagreement, direction_change, coherence, relative], 1)
    return found.nan_to_num(nan=HIGHEST, posinf=HIGHEST, neginf=LOWEST).clamp(LOWEST, HIGHEST)


@plain
class Discounted:
    r"""Discounted mean and variance of what R runs showed.

    ``m <- decay m + (1 - decay) x`` and ``u <- decay u + (1 - decay) (x - mean)^2``, each divided by ``1 - decay^t``,
    so that the first step counts fully; ``mean`` is the corrected ``m`` of this step.

    Args:
        rows: R.
        decay: At least 0, below 1.
        device: Of what it is shown.

    Attributes:
        means: ``[R, signals]``; 0 of runs that have shown nothing.
        variances: Likewise.

    Source:
        Daniel, Taylor & Nowozin (2016), discounted average and its uncertainty; the corrections are those of the code
        of "Automated dynamic algorithm configuration" (Adriaensen et al., 2022).
    """

    state_fields = ("decay", "_sums", "_squares", "_left", "means", "variances")

    def __init__(self, rows: int, decay: float, device: torch.device | str = "cpu") -> None:
        self.decay = decay
        # In float64, where the first steps of a slow mean are divided by very little.
        nothing = torch.zeros(rows, len(SIGNALS), dtype=torch.float64, device=device)
        self._sums = self._squares = self.means = self.variances = nothing
        self._left = torch.ones(rows, 1, dtype=torch.float64, device=device)  # decay^t

    def restart(self, rows: Tensor) -> None:
        """Forget what these rows showed, bool ``[R]``."""
        self._sums, self._squares, self.means, self.variances = (
            torch.where(rows[:, None], 0, kept) for kept in (self._sums, self._squares, self.means, self.variances)
        )
        self._left = torch.where(rows[:, None], 1, self._left)

    def show(self, values: Tensor, rows: Tensor) -> None:
        """Take in :func:`signals` ``[R, signals]`` of these rows, bool ``[R]``."""
        values, left = values.double(), self._left * self.decay
        sums = self._sums.lerp(values, 1 - self.decay)
        means = sums / (1 - left)
        squares = self._squares.lerp((values - means).square(), 1 - self.decay)
        now = left, sums, means, squares, squares / (1 - left)
        before = self._left, self._sums, self.means, self._squares, self.variances
        if not bool(rows.all()):
            now = (torch.where(rows[:, None], new, old) for new, old in zip(now, before, strict=True))
        self._left, self._sums, self.means, self._squares, self.variances = now

    def column(self, name: str) -> Tensor:
        """One of the :data:`FEATURES` that are made of signals, ``[R]``."""
        values = self.variances if name.endswith(UNCERTAINTY) else self.means
        return values[:, tuple(SIGNALS).index(name.removesuffix(UNCERTAINTY))].float()
