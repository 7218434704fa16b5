"""Which runs there are."""

from __future__ import annotations

from collections.abc import Sequence

from agents.jobs.results import Row
from agents.studies.optimizers.cases import BESIDE, CHILDREN, RULES, SEARCHES, TRANSFER
from agents.studies.optimizers.jobs import OptimizerJob, children_of, references
from agents.studies.optimizers.study import OptimizersStudy
from gar_env.errors import ConfigurationError
from gar_env.registry import check_choice

PARTS = ("rules", "search", "rewards", "screen")
SCREENED_ON = 10
"""The seed of children and rules that the screen is tried on: its threshold was read off others."""


def optimizer_jobs(study: OptimizersStudy) -> list[OptimizerJob]:
    """All of them.

    Raises:
        ConfigurationError: If a name is unknown, or a number out of range.
        GarEnvError: Whatever loading the data raises.
    """
    for part in study.parts:
        check_choice("parts", part, PARTS)
    for child in study.children:
        check_choice("children", child, CHILDREN)
        children_of(child, study.cifar10, "cpu")  # what is wrong is said once and now
    for name in ("seeds", "proposals", "rules"):
        if getattr(study, name) < 1:
            raise ConfigurationError(f"{name}={getattr(study, name)} must be at least 1.")
    more = study.cifar10, study.device
    jobs: list[OptimizerJob] = []
    if "rules" in study.parts:
        jobs += [
            OptimizerJob("rules", child, rule, 0, study.seeds, *more) for child in study.children for rule in RULES
        ]
    if "search" in study.parts:
        for seed in range(study.seeds):
            jobs += [OptimizerJob("search", "digits", arm, seed, study.proposals, *more) for arm in SEARCHES]
        jobs += references("digits", *more)
    if "rewards" in study.parts:
        jobs.append(OptimizerJob("rewards", "digits", "cheap", 1, study.rules, *more))
    if "screen" in study.parts:
        for child in study.children:
            count = study.rules if child == "digits" else max(1, study.rules // 3)  # larger networks take longer
            jobs.append(OptimizerJob("screen", child, "screen", SCREENED_ON, count, *more))
    return jobs


def transfer_jobs(study: OptimizersStudy, rows: Sequence[Row]) -> list[OptimizerJob]:
    """The best rule of all searches, and what stands beside it, on seeds that it was not chosen on and on other data.

    Args:
        study: The study.
        rows: That there are.
    """
    found = [row for row in rows if row["part"] == "search"]
    if not found:
        return []
    best = max(found, key=lambda row: row["validation_accuracy"])["formula"]
    return [
        OptimizerJob("transfer", child, rule, TRANSFER[0], len(TRANSFER), study.cifar10, study.device)
        for child in dict.fromkeys(["digits", *study.children])
        for rule in (best, *BESIDE)
    ]
