"""What is trained with what was learned."""

from __future__ import annotations

from typing import Any, NamedTuple

GRID = tuple(10 ** (k / 2) for k in range(-10, 1))
"""Initial step sizes, from 1e-5 to 1."""


class Test(NamedTuple):
    """What is trained.

    Args:
        title: For people.
        dataset: Name or path.
        network: Name.
        num_steps: Of each run, with batches of 32.
    """

    title: str
    dataset: str
    network: str
    num_steps: int

    @property
    def options(self) -> dict[str, Any]:
        """Of the environment."""
        return {"dataset": self.dataset, "network": self.network, "num_steps": self.num_steps}


TESTS = {
    "digits": Test("digits 64-32-10", "digits", "mlp-32", 300),
    "digits-wide": Test("digits 64-128-10", "digits", "mlp-128", 600),
    "digits-cnn": Test("digits CNN 4-8-32", "digits", "cpcpcrcs-4-8-32", 300),
    "fashion": Test("Fashion 784-32-10", "fashion_mnist", "mlp-32", 300),
    "fashion-cnn": Test("Fashion CNN 6-15-50", "fashion_mnist", "cpcpcrcs-6-15-50", 300),
    "cifar10": Test("CIFAR 3072-64-10", "cifar10", "mlp-64", 200),
}

LEARNED: dict[str, tuple[str, dict[str, Any]]] = {
    "constant, learned": ("constant", {}),
    "absolute": ("absolute", {}),
    "direction": ("direction", {}),
    "multiply": ("multiply", {}),
    "multiply-fast": ("multiply-fast", {}),
    "relative": ("relative", {}),
    "relative, few noisy labels": ("relative", {"corrupt": "label_noise(0.05)"}),
    "relative, noisy labels": ("relative", {"corrupt": "label_noise(0.1)"}),
    "relative, half noisy": ("relative", {"corrupt": "label_noise(0.2)", "corrupt_share": 0.5}),
}
"""Arm: the form of controller, and what it is learned on beside small digits networks."""

LEARNING_SEED = 100
"""Of the first learning: forms and options were chosen on learnings with others."""
