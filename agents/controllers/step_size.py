"""Controllers of ``GAR/StepSize-v0``, made with ``action="absolute"``: a search over controllers, and schedules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from agents.agent import Agent
from agents.controllers.registry import register_controller
from agents.step_sizes import Controlled, RepsAgent, Scheduled, StepSizeController


class SavedReps(RepsAgent):
    """:class:`~agents.step_sizes.RepsAgent` that leaves what it learned in the folder of its run."""

    options: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write ``controller.json``, for :meth:`~agents.step_sizes.StepSizeController.load`."""
        self.controller(**self.options, learned={"scores": self.scores}).save(folder / "controller.json")


@register_controller("reps")
@dataclass(frozen=True)
class RepsOptions:
    """Relative entropy policy search over step-size controllers: Daniel, Taylor & Nowozin (2016).

    Args:
        form: "constant", "absolute" (the paper's), "direction", "multiply", "multiply-fast" or "relative".
        rows: Runs for an update; by default as many as train at once.
        epsilon: Bound on the divergence of an update, in nats.
    """

    form: str = "multiply"
    rows: int | None = None
    epsilon: float = 1.0

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A search that has not begun."""
        agent = SavedReps(self.form, rows=self.rows, epsilon=self.epsilon, seed=seed)
        agent.begin(env)
        runs: Any = env.unwrapped
        names = ("decay", "min_step_size", "max_step_size")
        agent.options = {name: getattr(runs.config, name) for name in names}
        return agent


@register_controller("step-size-controller")
@dataclass(frozen=True)
class StepSizeControllerOptions:
    """A learned step-size controller from a file.

    Args:
        path: Of what was saved: controller.json.
    """

    path: str = "controller.json"

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that does not learn."""
        agent = Controlled(StepSizeController.load(self.path))
        agent.begin(env)
        return agent


@register_controller("schedule")
@dataclass(frozen=True)
class ScheduleOptions:
    """A schedule of step sizes by time alone, from each run's initial one.

    Args:
        schedule: "constant", "exponential", "waterfall", "power", "cosine" or "warmup-cosine".
    """

    schedule: str = "constant"

    def build(self, env: VectorEnv, seed: int) -> Agent:
        """A controller that does not learn."""
        agent = Scheduled(self.schedule)
        agent.begin(env)
        return agent
