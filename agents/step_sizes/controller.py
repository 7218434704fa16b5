"""A learned controller by itself: a form and its weights, in anybody's training loop."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.files import read_regular, write_whole
from agents.step_sizes.forms import FORMS, Form
from gar_env.envs.runs.statistics import Discounted, signals
from gar_env.envs.runs.step_size import LEAST_STEP_SIZE
from gar_env.errors import CheckpointError, ConfigurationError, GarEnvError
from gar_env.registry import shown

FORMAT = 1

LARGEST_WEIGHT = 1e30
"""Times the largest feature it is still a float32."""


@dataclass(eq=False)
class StepSizeController:
    """Says after each batch how far to go.

    Args:
        form: A registered form: :data:`~agents.step_sizes.FORMS`.
        weights: Of its features, the bias last.
        initial_step_size: What the first batch takes for the last step size.
        decay: Of discounted means, as it was learned with.
        min_step_size: No step size is smaller.
        max_step_size: Or larger.
        learned: For people: on what it was learned.

    Raises:
        ConfigurationError: If the weights do not fit the form, or a number is out of range.

    Example:
        >>> controller = StepSizeController("multiply", weights=(-0.1, 0.0, 0.1, 0.0, -0.2), initial_step_size=0.01)
        >>> losses, changes = torch.tensor([2.0, 2.4, 1.9]), torch.tensor([-3.0, -2.0, 1.0])
        >>> round(controller.step_size(losses, changes), 6)
        0.013613

    Source:
        Daniel, Taylor & Nowozin (2016).
    """

    form: str
    weights: tuple[float, ...]
    initial_step_size: float = 0.01
    decay: float = 0.9
    min_step_size: float = 1e-7
    max_step_size: float = 10.0
    learned: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind: type[Form] = FORMS[self.form]
        for name in _NUMBERS:
            if not _is_number(getattr(self, name)):
                raise ConfigurationError(f"{name}={shown(getattr(self, name))} must be a number.")
        fits = isinstance(self.weights, list | tuple) and len(self.weights) == len(kind.names())
        if not fits or not all(_is_number(weight) and abs(weight) <= LARGEST_WEIGHT for weight in self.weights):
            raise ConfigurationError(
                f"weights={shown(self.weights)} must be {len(kind.names())} numbers for {self.form!r}, at most "
                f"{LARGEST_WEIGHT:g} in size: {', '.join(kind.names())}."
            )
        self.weights = tuple(map(float, self.weights))
        if not LEAST_STEP_SIZE <= self.min_step_size < self.max_step_size:
            raise ConfigurationError(
                f"min_step_size={self.min_step_size} must be at least {LEAST_STEP_SIZE}, and max_step_size="
                f"{self.max_step_size} above it."
            )
        if not 0 <= self.decay < 1:
            raise ConfigurationError(f"decay={self.decay} must be at least 0 and below 1.")
        self.start(self.initial_step_size)

    def start(self, step_size: float) -> StepSizeController:
        """A new run begins; returns itself.

        Args:
            step_size: What its first batch takes for the last step size.

        Raises:
            ConfigurationError: If it is out of bounds.
        """
        if not _is_number(step_size) or not self.min_step_size <= step_size <= self.max_step_size:
            raise ConfigurationError(
                f"step_size={shown(step_size)} must be from {self.min_step_size} to {self.max_step_size}."
            )
        self.last_step_size = float(step_size)
        self._statistics = Discounted(1, self.decay)
        return self

    @torch.no_grad()
    def step_size(self, losses: Tensor, predicted_changes: Tensor) -> float:
        """The next step size; what it saw of earlier batches counts too.

        Args:
            losses: Of the examples of this batch, ``[n]``.
            predicted_changes: ``< grad l_i, direction >``, ``[n]``: how each loss changes per unit of step size, along
                the direction that the optimizer is about to go.

        Raises:
            ConfigurationError: If they are not as many real numbers, or fewer than 2.
        """
        fits = all(_is_row(values) for values in (losses, predicted_changes))
        if not fits or losses.shape != predicted_changes.shape or len(losses) < 2:
            raise ConfigurationError(
                f"losses are {shown(losses)}, predicted_changes {shown(predicted_changes)}; expected both [n], one for "
                "each of at least 2 examples."
            )
        last = torch.tensor([self.last_step_size])
        values = signals(losses[None].float().cpu(), predicted_changes[None].float().cpu(), last)
        self._statistics.show(values, torch.ones(1, dtype=torch.bool))
        kind = FORMS[self.form]
        seen = {
            name: self._statistics.column(name) for name in (*kind.features, *kind.reads) if name != "log_step_size"
        }
        found = kind.log_step_size(torch.tensor([self.weights]), {**seen, "log_step_size": last.log()})
        self.last_step_size = float(found.exp().clamp(self.min_step_size, self.max_step_size))
        return self.last_step_size

    def state_dict(self) -> dict[str, Any]:
        """What it remembers of the present run: numbers and tensors."""
        return {"last_step_size": self.last_step_size, "statistics": dict(vars(self._statistics))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`.

        Raises:
            CheckpointError: If it is none, or of a controller with other options; nothing is changed then.
        """
        wanted = self.state_dict()
        found = state.get("statistics") if isinstance(state, dict) and state.keys() == wanted.keys() else None
        if not isinstance(found, dict) or found.keys() != wanted["statistics"].keys():
            raise CheckpointError(f"{shown(state)} is no state of a step-size controller. Pass what state_dict() gave.")
        size, decay = state["last_step_size"], found["decay"]
        if decay != self.decay or not _is_number(size) or not self.min_step_size <= size <= self.max_step_size:
            raise CheckpointError(
                f"The state is of another controller: decay={shown(decay)}, last_step_size={shown(size)}; here "
                f"decay={self.decay}, and step sizes go from {self.min_step_size} to {self.max_step_size}."
            )
        for name, kept in wanted["statistics"].items():
            if isinstance(kept, Tensor) and not (_is_row(found[name], kept.ndim) and found[name].shape == kept.shape):
                raise CheckpointError(f"The state's {name} is {shown(found[name])}; expected {list(kept.shape)}.")
        self.last_step_size = float(size)
        vars(self._statistics).update(found)

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, weights by name."""
        weights = dict(zip(FORMS[self.form].names(), self.weights, strict=True))
        options = {name: getattr(self, name) for name in _NUMBERS}
        content = {"step_size_controller": FORMAT, "form": self.form, "weights": weights, **options}
        write_whole(
            Path(path), (json.dumps({**content, "learned": self.learned}, indent=2, default=_plain) + "\n").encode()
        )
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> StepSizeController:
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: If it is not there, something else, damaged, or of another format.
        """
        try:
            content = json.loads(read_regular(Path(path)))
        except OSError as error:
            raise CheckpointError(f"No step-size controller at {shown(str(path))}: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} is no JSON: {error}") from error
        found = content.get("step_size_controller") if isinstance(content, dict) else None
        if type(found) is not int or found != FORMAT:
            what = "is no step-size controller" if found is None else f"has format {shown(found)}"
            raise CheckpointError(f"{path} {what}; this version reads format {FORMAT}.")
        try:
            form, weights = content["form"], content["weights"]
            if not isinstance(form, str) or form not in FORMS:
                raise CheckpointError(f"{path} has the form {shown(form)}. Known: {', '.join(FORMS)}.")
            names = FORMS[form].names()
            if set(weights) != set(names):
                raise CheckpointError(f"{path} has weights {shown(sorted(weights))}; {form!r} has {', '.join(names)}.")
            options = {name: content[name] for name in _NUMBERS}
            if not isinstance(content["learned"], dict):
                raise CheckpointError(f"{path} is damaged: learned is {shown(content['learned'])}, and no table.")
            return cls(form, tuple(weights[name] for name in names), **options, learned=content["learned"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            why = error if isinstance(error, GarEnvError) else f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{path} is damaged: {why}") from error


_NUMBERS = ("initial_step_size", "decay", "min_step_size", "max_step_size")


def _plain(value: Any) -> Any:
    """Of NumPy and torch, what JSON knows.

    Raises:
        ConfigurationError: If it is none.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ConfigurationError(f"learned holds {shown(value)}, which is no number, text, list or table.")


def _is_number(value: Any) -> bool:
    # Python compares an int of any length with a float, and turns it into one only up to its largest.
    return type(value) in (int, float) and abs(value) <= LARGEST_WEIGHT


def _is_row(values: Any, ndim: int = 1) -> bool:
    """Whether these are real numbers that are there."""
    if not isinstance(values, Tensor) or values.ndim != ndim or values.is_meta or values.layout is not torch.strided:
        return False
    return values.is_floating_point()
