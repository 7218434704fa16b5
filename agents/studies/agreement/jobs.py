"""Runs of ``gar-env reproduce agreement``: one meta-training each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

import gar_env  # noqa: F401 - registers the environments
from agents.controllers import CONTROLLERS
from agents.jobs.provenance import data_fingerprint, fingerprint, provenance
from agents.jobs.results import Row
from agents.studies.agreement.cases import ARMS, RULES
from agents.studies.controllers.jobs import Watch
from agents.training.loops import start_session
from gar_env.alignment.row_gradients import align_rows
from gar_env.data.tasks.corruptions import parse_task_shares
from gar_env.rewards import Evidence, Need, RewardSignal

LATE = 0.7
"""What is said of corrupted tasks is of the steps after this share of training."""


@dataclass(frozen=True)
class AgreementJob:
    """One meta-training; see :class:`~agents.jobs.job.Job`.

    Args:
        part: ``"rules"``, ``"confound"``, ``"corrupted"`` or ``"signals"``.
        case: Of what, by name.
        arm: Of :data:`RULES`, :data:`ARMS`, or a line of the confound.
        seed: Of tasks, network and controller.
        options: Of the environment, data and outer step size among them.
        tasks: In a meta-batch.
    """

    part: str
    case: str
    arm: str
    seed: int
    options: dict[str, Any]
    tasks: int

    @property
    def steps(self) -> int:
        """Meta-batches."""
        return self.options["num_steps"]

    @property
    def env_options(self) -> dict[str, Any]:
        """Of the environment, all of them."""
        own: dict[str, Any] = dict(self.options)
        if self.part == "corrupted":
            return {**own, **ARMS[self.arm].env_options}
        if self.part == "signals":
            return {**own, "baseline": 0.0}
        name = self.arm.removesuffix(", three times the step")
        return {**own, "reward": "random", "rule": RULES[name].rule, "normalise": RULES[name].normalise}

    @property
    def agent_options(self) -> dict[str, Any]:
        """Of what weighs the tasks."""
        arm = ARMS[self.arm]
        share = sum(share for _, share in parse_task_shares(self.options["corrupt"]))
        return {**arm.agent_options, **({"drop_share": share} if arm.told else {})}

    @property
    def identity(self) -> Row:
        """The run, and a fingerprint of all that could change its result."""
        data = self.options["tasks"]
        data = data if data.startswith("sine") else data_fingerprint(data)
        agent = [ARMS[self.arm].agent, self.agent_options] if self.part == "corrupted" else []
        found = fingerprint([self.env_options, data, agent, self.tasks])
        size = self.options["step_size"]
        return {
            "part": self.part,
            "case": self.case,
            "arm": self.arm,
            "step_size": size,
            "seed": self.seed,
            "config": found,
        }

    def seconds_a_step(self, steps: int = 5) -> float:
        """Of this run, tests left out: the fastest of its first steps but one."""
        options = {**self.env_options, "test_tasks": 1}
        env: Any = gymnasium.make_vec("GAR/GradientAgreement-v0", num_envs=self.tasks, **options)
        env.reset(seed=0)
        taken = []
        for _ in range(min(steps, self.steps - 1)):
            start = time.perf_counter()
            env.step(np.ones(self.tasks, np.int64))
            taken.append(time.perf_counter() - start)
        env.close()
        return min(taken[1:] or taken)

    def run(self, on_step: Callable[[], None]) -> Row:
        """Train, and test on tasks that were not trained on."""
        start = time.process_time()
        options, watched = self.env_options, None
        if self.part == "signals":
            options["reward"] = watched = Watched(self.steps)
        env: Any = gymnasium.make_vec(
            "GAR/GradientAgreement-v0", num_envs=self.tasks, autoreset_mode="SameStep", **options
        )
        if watched is not None:
            watched.env = env.unwrapped
        arm = ARMS[self.arm] if self.part == "corrupted" else ARMS["uniform"]
        controller = CONTROLLERS[arm.agent](**(self.agent_options if self.part == "corrupted" else {}))
        session = start_session(env, controller.build, self.seed)  # pyright: ignore[reportAttributeAccessIssue]
        watch = Watch(env.unwrapped, on_step)
        session.run(self.steps, watch)
        env.close()
        episode, late = watch.finished, watch.window(LATE, 1.0)
        diverged = bool(episode["diverged"])
        return {
            "test_loss": None if diverged else episode["test_loss"],
            "test_accuracy": None if diverged else episode["test_accuracy"],
            "diverged": diverged,
            "length_ratio": episode["length_ratio"],
            "negative_share": episode["negative_share"],
            "weight_on_corrupted": float(late[1, 1] / late[:, 1].sum().clamp_min(1e-12)),
            "cpu_seconds": round(time.process_time() - start, 2),
            "auc": {} if watched is None else watched.areas(),
            **provenance(),
        }


class Watched(RewardSignal):
    """Every signal at once, held against which tasks were corrupted; it pays nothing.

    Args:
        steps: Of the run: the first half does not count.
    """

    needs = Need.TASKS | Need.NEXT_GRADIENT | Need.HELDOUT_GRADIENT

    def __init__(self, steps: int) -> None:
        self.steps, self.env, self.found = steps, None, {}

    def __call__(self, evidence: Evidence) -> Tensor:
        """Zeros ``[n]``."""
        env: Any = self.env
        paid, spoiled = evidence.tasks, env.spoiled
        following, heldout = evidence.next_gradient, evidence.heldout_gradient
        assert paid is not None
        assert following is not None
        assert heldout is not None
        if env.steps >= self.steps // 2 and bool(spoiled.any()) and not bool(spoiled.all()):
            gram, lengths = paid.gram, paid.gram.diagonal().sqrt()
            others = gram.sum(1) - gram.diagonal()
            own = torch.stack([g.square().reshape(len(g), -1).sum(1) for g in paid.gradients.values()]).sum(0).sqrt()
            after, nxt = (align_rows(paid.gradients, direction) for direction in (heldout, following))
            signals = {
                "inner_gar": paid.within,
                "agreement (the paper's)": gram.sum(1),
                "agreement_others": others,
                "agreement_others, cosine": others / lengths,
                "next_update": nxt,
                "next_update, cosine": nxt / own,
                "heldout_update": after,
                "heldout_update, cosine": after / own,
                "loss before over after": env.shown.before / env.shown.after,
                "low loss after": -env.shown.after,
            }
            for name, values in signals.items():
                self.found.setdefault(name, []).append(area(values, ~spoiled))
        return torch.zeros(evidence.n, device=spoiled.device)

    def areas(self) -> dict[str, float]:
        """Under the curve, the mean over meta-batches, by signal."""
        return {name: round(float(np.mean(values)), 4) for name, values in self.found.items()}


def area(values: Tensor, clean: Tensor) -> float:
    """How often a clean task has more than a corrupted one: the area under the curve, ties counted half.

    Args:
        values: ``[n]``; those that are lengths' cosines need no common scale within a meta-batch.
        clean: bool ``[n]``.
    """
    gaps = values[clean][:, None] - values[~clean][None]
    return float(((gaps > 0).double() + 0.5 * (gaps == 0).double()).mean())
