"""What the features cost: a step with predicted changes and statistics over the same step without."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import torch

from agents.jobs.provenance import data_fingerprint, fingerprint, provenance
from agents.jobs.results import Row
from agents.measures.timing import interleaved
from agents.studies.step_size.cases import Test
from gar_env.envs.runs.statistics import Discounted, signals

WARM_UP, EACH = 3, 10


@dataclass(frozen=True)
class OverheadJob:
    """One test, rule and number of runs; run it alone. See :class:`~agents.jobs.job.Job`.

    Args:
        name: Of the test.
        test: What is trained.
        rule: The update rule.
        rows: Runs at once.
        rounds: That are timed, of 10 steps each.
    """

    name: str
    test: Test
    rule: str
    rows: int
    rounds: int = 15

    @property
    def steps(self) -> int:
        """Rounds, the first ones included."""
        return self.rounds + WARM_UP

    @property
    def identity(self) -> Row:
        """The measurement, and a fingerprint of what could change it, but for the machine."""
        test = self.test._replace(dataset=data_fingerprint(self.test.dataset))
        found = fingerprint([list(test), self.rounds, EACH])
        return {"arm": "overhead", "rule": self.rule, "seed": self.rows, "test": self.name, "config": found}

    def run(self, on_step: Callable[[], None]) -> Row:
        """Time both."""
        options: dict[str, Any] = {**self.test.options, "rule": self.rule, "instances": "fixed"}
        env: Any = gymnasium.make_vec("GAR/StepSize-v0", num_envs=self.rows, **options).unwrapped
        env.reset(seed=0)
        every, sizes = torch.ones(self.rows, dtype=torch.bool), torch.full((self.rows,), 1e-3)
        seen = Discounted(self.rows, 0.9)

        def steps(features: bool) -> None:
            for _ in range(EACH):
                one = env.stack.run(*env.draw(every))
                direction = env.stack.direction(one.gradient)
                if features:
                    seen.show(signals(one.losses, env.stack.predicted_changes(one, direction), sizes), every)
                env.stack.move(direction, sizes)

        def plain() -> None:
            on_step()
            steps(False)

        ratios = interleaved(
            {"plain": plain, "features": lambda: steps(True)}, "plain", self.rounds, "cpu", warm_up=WARM_UP
        )["features"]
        low, middle, high = statistics.quantiles(ratios, n=4)
        env.close()
        return {"tests": {}, "learning_seconds": 0, "ratio": middle, "quartiles": [low, high], **provenance()}
