"""What a candidate's network is, and how long it trains."""

from __future__ import annotations

from dataclasses import dataclass

from gar_env.data import Dataset
from gar_env.errors import ConfigurationError
from gar_env.networks.build import NetworkBuilder
from gar_env.optimizers.interpreter import Semantics
from gar_env.registry import check_positive, shown

STEP_SIZES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Of the paper."""

COUNTS = ("train_examples", "validation_examples", "test_examples", "batch_size", "epochs", "step_size_epochs")
"""Options that are whole numbers, at least 1."""


@dataclass(frozen=True)
class ChildOptions:
    """What a candidate's network is, and how long it trains.

    Args:
        dataset: Name or path, or a :class:`~gar_env.data.Dataset`.
        download: Whether torchvision may fetch it.
        network: Name, or a function; ``"mlp-32"`` is the fully connected one of the published small experiments.
        inputs: Of images: ``"unit"``, ``"symmetric"`` or ``"standardised"``.
        train_examples: Of the training data, chosen once.
        validation_examples: Of the rest of the training data.
        test_examples: Most of the test data; no reward reads them.
        batch_size: Examples of a step.
        epochs: Of a whole training.
        step_sizes: To choose from; the one with the best mean validation accuracy goes on.
        step_size_epochs: After so many epochs; at most ``epochs``.
        betas: See :class:`Semantics`.
        bias_correction: See :class:`Semantics`.

    Raises:
        ConfigurationError: If an option is out of range.

    Source:
        Bello, Zoph, Vasudevan & Le (2017), section 4.1: the best of seven step sizes after one epoch, five in all.
    """

    dataset: str | Dataset = "digits"
    download: bool = False
    network: str | NetworkBuilder = "mlp-32"
    inputs: str = "unit"
    train_examples: int = 1000
    validation_examples: int = 400
    test_examples: int = 1000
    batch_size: int = 100
    epochs: int = 5
    step_sizes: tuple[float, ...] = STEP_SIZES
    step_size_epochs: int = 1
    betas: tuple[float, ...] = (0.9, 0.999, 0.999)
    bias_correction: bool = True

    def __post_init__(self) -> None:
        for name in COUNTS:
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigurationError(f"{name}={shown(getattr(self, name))} must be a whole number, at least 1.")
        if self.step_size_epochs > self.epochs:
            raise ConfigurationError(
                f"step_size_epochs={self.step_size_epochs} must be at most epochs={self.epochs}: step sizes are "
                "compared in the same training."
            )
        if self.batch_size > self.train_examples:
            raise ConfigurationError(
                f"batch_size={self.batch_size} is more than train_examples={self.train_examples}. Use a smaller one."
            )
        if (
            not isinstance(self.step_sizes, tuple | list)
            or not self.step_sizes
            or len(set(self.step_sizes)) < len(self.step_sizes)
        ):
            raise ConfigurationError(f"step_sizes={shown(self.step_sizes)} must be at least one number, each once.")
        for step_size in self.step_sizes:
            check_positive("A step size", step_size)
        self.semantics  # noqa: B018 - refuses betas that are none

    @property
    def semantics(self) -> Semantics:
        """What formulas leave open."""
        return Semantics(tuple(self.betas), bias_correction=self.bias_correction)  # pyright: ignore[reportArgumentType]

    @property
    def steps_of_epoch(self) -> int:
        """Whole batches of an epoch."""
        return self.train_examples // self.batch_size

    @property
    def total_steps(self) -> int:
        """T of decays."""
        return self.epochs * self.steps_of_epoch
