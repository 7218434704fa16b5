"""What is trained, by which rules, under which controllers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

SEEDS_TO_TUNE = 1000
"""Outer step sizes are chosen on seeds from here on; what is reported is on others."""

STEP_SIZES = {"sgd": (0.1, 0.3, 0.6, 1.0, 1.5, 2.5, 4.0), "adam": (3e-4, 1e-3, 3e-3, 1e-2)}
"""Outer step sizes that each rule may choose from, by optimizer."""


class Rule(NamedTuple):
    """A rule and how long its update is.

    Args:
        rule: Of the environment.
        normalise: Likewise.
    """

    rule: str
    normalise: str


RULES = {
    "uniform": Rule("uniform", "mean"),
    "agreement (the paper)": Rule("agreement", "l1"),
    "agreement, mean's length": Rule("agreement", "length"),
    "agreement with others, mean's length": Rule("agreement_others", "length"),
    "damped 0.1, mean's length": Rule("damped(0.1)", "length"),
    "PCGrad": Rule("pcgrad", "none"),
}

UNIFORM, PAPER = "uniform", "agreement (the paper)"


class Protocol(NamedTuple):
    """What is trained.

    Args:
        title: For people.
        options: Of the environment.
        tasks: In a meta-batch.
        common: The outer step size that all rules have in common.
    """

    title: str
    options: dict[str, Any]
    tasks: int
    common: float


SINE = {
    "tasks": "sine", "network": "tanh-64-64", "inner_steps": 5, "inner_step_size": 0.02, "test_steps": 5,
    "test_shots": 10, "test_tasks": 1000, "schedule": "linear",
}  # fmt: skip
REPTILE = {"algorithm": "reptile", "shots": 50, "inner_batch": 10, "optimizer": "sgd"}
CONV = {
    "ways": 5,
    "shots": 1,
    "queries": 1,
    "rotations": True,
    "inner_steps": 1,
    "inner_step_size": 0.4,
    "test_steps": 3,
}

PROTOCOLS = {
    "sine": {
        "reptile-10": Protocol("sine, Reptile, N = 10", {**SINE, **REPTILE, "num_steps": 3000}, 10, 2.5),
        "reptile-5": Protocol("sine, Reptile, N = 5", {**SINE, **REPTILE, "num_steps": 3000}, 5, 2.5),
    },
    "omniglot": {
        "5-way": Protocol(
            "Omniglot in small, 5-way 1-shot, FOMAML",
            {**CONV, "network": "conv4-32-strided", "num_steps": 300, "test_tasks": 200, "optimizer": "adam"}, 8, 3e-3,
        ),
        "20-way": Protocol(
            "Omniglot in small, 20-way 1-shot, FOMAML",
            {
                **CONV, "ways": 20, "network": "conv4-32-strided", "num_steps": 300, "test_tasks": 100,
                "optimizer": "adam",
            }, 4, 3e-3,
        ),
    },
}  # fmt: skip
"""By kind of tasks."""

PUBLISHED = {
    "omniglot": {
        "5-way, published": Protocol(
            "Omniglot, 5-way 1-shot, MAML",
            {
                **CONV, "algorithm": "maml", "network": "conv4-64-strided", "num_steps": 60_000, "test_tasks": 600,
                "optimizer": "adam", "schedule": "constant",
            }, 32, 1e-3,
        ),
        "20-way, published": Protocol(
            "Omniglot, 20-way 1-shot, MAML",
            {
                **CONV, "ways": 20, "algorithm": "maml", "network": "conv4-64-strided", "num_steps": 60_000,
                "test_tasks": 600, "optimizer": "adam", "schedule": "constant", "inner_steps": 5,
                "inner_step_size": 0.1, "test_steps": 5,
            }, 16, 1e-3,
        ),
    },
    "miniimagenet": {
        "5-way, published": Protocol(
            "miniImageNet, 5-way 1-shot, MAML",
            {
                "ways": 5, "shots": 1, "queries": 15, "inner_steps": 5, "inner_step_size": 0.01, "test_steps": 10,
                "algorithm": "maml", "network": "conv4-32", "num_steps": 60_000, "test_tasks": 600,
                "optimizer": "adam", "schedule": "constant",
            }, 4, 1e-3,
        ),
    },
}  # fmt: skip
"""Of Finn, Abbeel & Levine (2017), whom the paper follows: a GPU's job."""

CONFOUND_STEPS = 30_000
"""Meta-batches of the demonstration."""

CONFOUND = {
    "agreement (the paper)": 0.1,
    "uniform": 0.1,
    "uniform, three times the step": 0.3,
    "agreement, mean's length": 0.1,
}
"""The demonstration's outer step size, and what the paper's rule makes of it."""

CORRUPTED: dict[str, tuple[str, dict[str, Any], int]] = {
    "sine": (
        "sine, FOMAML, 30 % of tasks with shuffled targets",
        {**SINE, "shots": 10, "queries": 10, "num_steps": 600, "corrupt": "shuffled_targets(0.3)"},
        20,
    ),
    "omniglot": (
        "Omniglot in small, 5-way 1-shot, FOMAML, 40 % of tasks with random labels",
        {**PROTOCOLS["omniglot"]["5-way"].options, "corrupt": "random_labels(0.4)"},
        20,
    ),
}
"""Title, options, and tasks in a meta-batch."""


@dataclass(frozen=True)
class Arm:
    """What weighs tasks.

    Args:
        agent: A registered controller.
        agent_options: Its own.
        env_options: Of the environment, beside the case's.
        told: Whether it is told the share of corrupted tasks, as ``drop_share``.
    """

    agent: str
    agent_options: dict[str, Any] = field(default_factory=dict)
    env_options: dict[str, Any] = field(default_factory=dict)
    told: bool = False


LEARNS: dict[str, Any] = {"normalise": "none", "aggregate": 1, "step_size": 0.1}
"""Of REINFORCE on cosines; products have any scale, and are divided by it. Its step size, PPO's options and the
baselines of their rewards were chosen on seeds 1000 and 1001, on sine waves and Omniglot."""

SCALED = {**LEARNS, "normalise": "step"}

ARMS = {
    "uniform": Arm("keep-all"),
    "agreement (the paper)": Arm("keep-all", {}, {"rule": "agreement", "normalise": "l1"}),
    "agreement, mean's length": Arm("keep-all", {}, {"rule": "agreement", "normalise": "length"}),
    "damped 0.1, mean's length": Arm("keep-all", {}, {"rule": "damped(0.1)", "normalise": "length"}),
    "PCGrad": Arm("keep-all", {}, {"rule": "pcgrad", "normalise": "none"}),
    "REINFORCE by inner_gar": Arm("reinforce-linear", LEARNS, {"reward": "inner_gar", "baseline": 0.8}),
    "REINFORCE by agreement with others": Arm(
        "reinforce-linear", SCALED, {"reward": "agreement_others", "baseline": 0.8}
    ),
    "REINFORCE by the next meta-batch": Arm("reinforce-linear", SCALED, {"reward": "next_update", "baseline": 0.8}),
    "PPO by inner_gar": Arm("sb3-ppo", {"n_steps": 4, "learning_rate": 1e-2}, {"reward": "inner_gar", "baseline": 0.6}),
    "highest inner_gar, told the share": Arm("keep-highest", told=True),
    "lowest loss, told the share": Arm("small-loss", {"ramp": 0.0}, told=True),
    "oracle": Arm("oracle"),
}
"""Weighing tasks of which some are corrupted."""
