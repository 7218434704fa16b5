"""What is trained, by which rules, and who searches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gar_env.optimizers import TABLE

RULES = (*TABLE, "AddSign")
"""Named or written."""

REFERENCES = ("SGD", "Momentum", "RMSProp", "Adam", "PowerSign", "AddSign", "Adam * exp(sign(g) * sign(m))")
"""What the best rule of a search is held against."""

CHILDREN: dict[str, dict[str, Any]] = {
    "digits": {},
    "digits-cnn": {"network": "cnn"},
    "cifar10": {
        "dataset": "cifar10", "network": "cnn", "inputs": "standardised", "train_examples": 2000,
        "validation_examples": 1000,
    },
    "wrn-16-2": {
        "dataset": "cifar10", "network": "wrn-16-2", "inputs": "standardised", "train_examples": 45_000,
        "validation_examples": 5_000, "test_examples": 10_000, "batch_size": 125, "epochs": 300, "step_size_epochs": 10,
    },
}  # fmt: skip
"""By name, what differs from the defaults of :class:`~gar_env.optimizers.child_options.ChildOptions`."""

TITLES = {
    "digits": "digits, fully connected, 32 units",
    "digits-cnn": "digits, three convolutions",
    "cifar10": "CIFAR-10 in small (2,000 examples), three convolutions",
    "wrn-16-2": "CIFAR-10, wide residual network 16-2, 300 epochs without augmentation",
}

PUBLISHED: dict[str, tuple[float, float]] = dict(
    zip(
        TABLE,
        (
            *((92.0, 91.8), (92.7, 92.1), (90.4, 90.1), (90.7, 90.3), (92.5, 92.4), (93.5, 92.5), (93.1, 92.4)),
            *((93.1, 92.8), (92.7, 92.2), (93.1, 92.5), (92.6, 92.4), (92.8, 92.4), (90.8, 90.8), (92.6, 92.0)),
            *((92.9, 92.8), (93.4, 92.9), (92.8, 92.7), (93.4, 92.8), (93.2, 92.5), (93.2, 93.0)),
        ),
        strict=True,
    )
)
"""Final validation and test accuracy in percent of Bello et al. (2017): a wide residual network on CIFAR-10."""

TRAINS = {"digits": 0.5, "digits-cnn": 0.5, "cifar10": 0.2, "wrn-16-2": 0.5}
"""A rule with more accuracy than this trains; on CIFAR-10 in small that is twice what guessing has."""

SEARCHED_ON = (0, 1, 2)
"""Seeds of the children that searches are paid by."""

FRESH = tuple(range(100, 108))
"""Seeds that nothing was chosen on."""

TRANSFER = tuple(range(200, 204))
"""Seeds that the best rule of all searches, chosen on :data:`FRESH`, is tried on at last, there and elsewhere."""

BESIDE = ("Adam", "PowerSign", "Adam * exp(sign(g) * sign(m))")
"""What stands beside it."""

ROWS = 32
"""Candidates of an episode."""

EQUAL = 100
"""Rules trained at which searches are compared once more: training is nearly all that they cost."""


@dataclass(frozen=True)
class Search:
    """Who searches.

    Args:
        agent: A registered controller.
        agent_options: Its own.
        encoding: Of the environment.
        screen: Likewise.
    """

    agent: str
    agent_options: dict[str, Any] = field(default_factory=dict)
    encoding: str = "flat"
    screen: float | None = 0.05


SEARCHES = {
    "random": Search("random-rules"),
    "random, no screen": Search("random-rules", screen=None),
    "evolution": Search("evolution"),
    "LSTM, REINFORCE": Search("lstm-reinforce"),
    "LSTM, PPO": Search("lstm-ppo"),
    "MaskablePPO (Stable-Baselines3)": Search(
        "sb3-maskable-ppo",
        {"n_steps": 10, "gamma": 1.0, "learning_rate": 1e-3, "normalize_reward": False, "ent_coef": 0.02},
        "tokens",
    ),
}
