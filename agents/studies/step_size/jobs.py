"""Runs of ``gar-env reproduce stepsize``: learn, and test; or test what is not learned."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch

from agents.jobs.provenance import data_fingerprint, fingerprint, provenance
from agents.jobs.results import Row
from agents.step_sizes import SCHEDULES, Controlled, Scheduled, StepSizeController, learn
from agents.step_sizes.evaluation import SEED, Runs, run_all, run_optimizer
from agents.studies.step_size.cases import GRID, LEARNED, LEARNING_SEED, TESTS, Test
from agents.studies.step_size.optimizers import OPTIMIZERS
from agents.studies.step_size.overhead import OverheadJob
from agents.studies.step_size.per_step import PER_STEP, SEEN, STEPS
from agents.studies.step_size.study import StepSizeStudy
from gar_env.data import load_dataset
from gar_env.errors import ConfigurationError
from gar_env.registry import check_choice

PERTURBED = 32
"""Controllers around each learned one, every weight times 0.8 to 1.2."""


@dataclass(frozen=True)
class StepSizeJob:
    """One arm under one update rule; see :class:`~agents.jobs.job.Job`.

    Args:
        arm: Of :data:`LEARNED`, of :data:`PER_STEP`, a schedule, or of :data:`OPTIMIZERS`.
        rule: The update rule; optimizers have their own.
        seed: Of the learning; 0 where nothing is learned.
        tests: What is trained with it, by name.
        updates: Of the search.
        runs: From each initial step size.
    """

    arm: str
    rule: str
    seed: int
    tests: tuple[tuple[str, Test], ...]
    updates: int
    runs: int

    @property
    def steps(self) -> int:
        """Learning is one, and each test."""
        return 1 + len(self.tests)

    @property
    def identity(self) -> Row:
        """The arm, and a fingerprint of all that could change its result."""
        tests = [[name, *test._replace(dataset=data_fingerprint(test.dataset))] for name, test in self.tests]
        options: Any = LEARNED.get(self.arm, "")
        if self.arm in PER_STEP:
            options = [dataclasses.asdict(PER_STEP[self.arm].options), STEPS, SEEN]
        found = fingerprint([tests, self.updates, self.runs, options, GRID, PERTURBED])
        return {"arm": self.arm, "rule": self.rule, "seed": self.seed, "config": found}

    def run(self, on_step: Callable[[], None]) -> Row:
        """Learn, and test."""
        start = time.process_time()
        agent, action, learned = self._learned()
        seconds = time.process_time() - start
        on_step()
        tests, curves = {}, {}
        for name, test in self.tests:
            found = self._test(agent, action, test)
            shape = (-1, self.runs)
            columns = {"log_losses": found.log_losses, "diverged": found.diverged, "accuracies": found.accuracies}
            tests[name] = {key: _rounded(value.astype(float).reshape(shape)) for key, value in columns.items()}
            if name == "digits" and self.arm not in OPTIMIZERS:
                every = found.step_sizes[::5, :: 2 * self.runs]  # of whole decades, the first run
                curves = {"step_sizes": [[_number(size) for size in line] for line in every.T]}
            on_step()
        perturbed = self._perturbed(learned) if learned else {}
        weights = {"weights": list(learned.weights), "scores": learned.learned["scores"]} if learned else {}
        return {"tests": tests, "learning_seconds": round(seconds, 2), **weights, **curves, **perturbed, **provenance()}

    def _learned(self) -> tuple[Any, str, StepSizeController | None]:
        """The agent, the action that it takes, and the controller behind it, if there is one."""
        if self.arm in LEARNED:
            form, options = LEARNED[self.arm]
            controller = learn(form, rule=self.rule, seed=self.seed, updates=self.updates, **options)
            return Controlled(controller), "absolute", controller
        if self.arm in PER_STEP:
            kind = PER_STEP[self.arm]
            return kind.learn(self.rule, self.seed), kind.action, None
        return (None if self.arm in OPTIMIZERS else Scheduled(self.arm)), "absolute", None

    def _test(self, agent: Any, action: str, test: Test) -> Runs:
        seeds = [SEED + run for run in range(self.runs)]
        if agent is None:
            return run_optimizer(OPTIMIZERS[self.arm], seeds, **test.options)
        starts = [size for size in GRID for _ in seeds]
        more = {"observed": SEEN} if self.arm in PER_STEP else {}
        return run_all(agent, starts, seeds * len(GRID), action=action, rule=self.rule, **test.options, **more)

    def _perturbed(self, controller: StepSizeController) -> Row:
        """Final losses on the first test of controllers whose weights are up to 20 % away: the paper's test."""
        generator = torch.Generator().manual_seed(self.seed)
        agent = Controlled(controller)
        factors = 0.8 + 0.4 * torch.rand(PERTURBED, agent.weights.shape[1], generator=generator)
        agent.weights = agent.weights * factors
        starts = np.resize(GRID, PERTURBED).tolist()
        found = run_all(agent, starts, [SEED] * PERTURBED, rule=self.rule, **self.tests[0][1].options)
        return {"perturbed": _rounded(found.log_losses)}


def step_size_jobs(study: StepSizeStudy) -> list[StepSizeJob]:
    """All runs, one seed after the other.

    Raises:
        ConfigurationError: If a name is unknown, or a number out of range.
        GarEnvError: Whatever loading the data raises.
    """
    known = [*PER_STEP, *LEARNED, *SCHEDULES, *OPTIMIZERS]
    for arm in study.arms:
        check_choice("arms", arm, known)
    for test in study.tests:
        check_choice("tests", test, TESTS)
    for name, least in (("seeds", 1), ("updates", 1), ("runs", 1)):
        if getattr(study, name) < least:
            raise ConfigurationError(f"{name}={getattr(study, name)} must be at least {least}.")
    if not study.tests or not study.rules:
        raise ConfigurationError("There are no tests, or no rules. Name some.")
    tests = tests_of(study)
    # Insensitivity alone is no achievement: what forgets its start is as even as a constant.
    arms = (*study.arms, "constant", "constant, learned") if study.arms else known
    for arm in arms:  # what is wrong or missing is said once and now, not by every worker
        if arm in OPTIMIZERS:
            OPTIMIZERS[arm]([torch.nn.Parameter(torch.zeros(1))])
    for rule in study.rules:
        gymnasium.make_vec("GAR/StepSize-v0", num_envs=2, rule=rule).close()
    jobs = []
    for seed in range(study.seeds):
        for rule in dict.fromkeys(study.rules):
            for arm in dict.fromkeys(arms):
                learns, own = arm in LEARNED or arm in PER_STEP, arm in OPTIMIZERS
                if (seed and not learns) or (own and rule != study.rules[0]):
                    continue
                seed_, rule_ = LEARNING_SEED + seed if learns else 0, "its own" if own else rule
                jobs.append(StepSizeJob(arm, rule_, seed_, tests, study.updates, study.runs))
    return jobs


def overhead_jobs(study: StepSizeStudy) -> list[OverheadJob]:
    """The cost of features, of one run and of 64."""
    return [
        OverheadJob(name, test, rule, rows)
        for name, test in tests_of(study)
        for rule in dict.fromkeys(study.rules)
        for rows in (1, 64)
    ]


def tests_of(study: StepSizeStudy) -> tuple[tuple[str, Test], ...]:
    """What is trained; all data are there then."""
    found = []
    for name in dict.fromkeys(study.tests):
        test = TESTS[name] if name != "cifar10" else TESTS[name]._replace(dataset=study.cifar10)
        load_dataset(test.dataset, download=study.download)
        found.append((name, test))
    return tuple(found)


def _number(value: float) -> float | None:
    return None if not np.isfinite(value) else float(f"{value:.4g}")


def _rounded(values: np.ndarray) -> Any:
    """Nested lists, to four decimals; ``None`` where there is no number."""
    if values.ndim > 1:
        return [_rounded(value) for value in values]
    return [None if not np.isfinite(value) else round(float(value), 4) for value in values]
