"""What a controller that a signal pays comes to: one training run on one task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import gar_env  # noqa: F401 - registers the environments
from agents.agent import Agent, train
from agents.controllers import CONTROLLERS
from agents.controllers.native import ReinforceOptions
from agents.jobs.provenance import data_fingerprint, fingerprint, fingerprint_of, provenance
from agents.jobs.results import Row
from agents.policies import FixedAugmentation, FixedPolicy
from agents.studies.controllers.jobs import Watch, weights_row
from agents.studies.invariances.jobs import ENV_OPTIONS as ARROWS, online, run_arrows
from agents.studies.rewards.arms import ARMS, Arm
from agents.studies.rewards.signals import code_of, normalisation_of, short
from agents.studies.rewards.tasks import HELDOUT_SHARE, SPLIT_TASKS, TRAINING
from agents.training.loops import start_session
from gar_env.envs import DataSplitVectorEnv, DataWeightVectorEnv

UNIFORM, ORACLE = "uniform", "oracle"
BASELINES = (UNIFORM, ORACLE)
"""Controllers that learn from no signal: one that treats all alike, and one that knows the answer."""


def baselines_of(task: str) -> tuple[str, ...]:
    """Those that a task has."""
    has_oracle = SPLIT_TASKS[task].has_oracle if task in SPLIT_TASKS else task != "arrows"
    return BASELINES if has_oracle else (UNIFORM,)


LEARNING: dict[str, Any] = {"step_size": 0.1}
"""Of REINFORCE on splits and augmentations."""

CLIP: dict[str, Any] = {"gradient_clip": 5.0}
"""Of REINFORCE on augmentations."""


@dataclass(frozen=True)
class OutcomeJob:
    """One signal, or a baseline, on one task for one seed; see :class:`~agents.jobs.job.Job`.

    Args:
        task: One of ``ENVIRONMENTS``.
        signal: Registered, or one of ``BASELINES`` or of ``ARMS``.
        seed: Of environment and controller.
        batch_size: Slots.
        steps: Environment steps; twice as many where the reference is not trained on.
        dataset: Of tasks on data splits and weights.
        network: Likewise.
        env_options: More options of the environment.
    """

    task: str
    signal: str
    seed: int
    batch_size: int = 64
    steps: int = 200
    dataset: str = "digits"
    network: str = "fc_bn"
    env_options: dict[str, Any] = field(default_factory=dict)

    @property
    def arm(self) -> Arm:
        """How it is paid."""
        return ARMS.get(self.signal) or Arm(self.signal)

    @property
    def env_steps(self) -> int:
        """Environment steps, so that networks of all arms take equally many SGD steps."""
        once = self.arm.trains_on_reference or self.task not in SPLIT_TASKS
        return self.steps * (1 if once else 2)

    @property
    def options(self) -> dict[str, Any]:
        """Of the environment, but for its data."""
        own: dict[str, Any] = {"network": self.network}
        if self.task in SPLIT_TASKS:
            own |= {**TRAINING, **SPLIT_TASKS[self.task].options}
        elif self.task == "arrows":
            own |= {name: value for name, value in ARROWS.items() if name != "network"}
        # Baselines are not paid; they ask for what needs no tape.
        reward = "random" if self.signal in BASELINES else self.arm.signal
        common = {"heldout_share": HELDOUT_SHARE, "num_steps": self.env_steps}
        return {**own, **common, **self.arm.options, **self.env_options, "reward": reward}

    @property
    def controller(self) -> dict[str, Any]:
        """What learns from the signal, or does not, and what of the task is no option of the environment."""
        if self.task == "labels":
            name = {UNIFORM: "keep-all", ORACLE: "oracle"}.get(self.signal, "sb3-ppo")
            return {"name": name, **dataclasses.asdict(CONTROLLERS[name]())}  # pyright: ignore[reportArgumentType]
        own: dict[str, Any] = {"start": SPLIT_TASKS[self.task].start} if self.task in SPLIT_TASKS else CLIP
        if self.signal in BASELINES:
            return {"name": self.signal, **own}
        learns = {"name": "reinforce", "normalise": self.normalisation, **LEARNING, **own}
        return learns if self.arm.policy == "inverted" else {**learns, "policy": self.arm.policy}

    @property
    def normalisation(self) -> str:
        """Of rewards."""
        return "size" if self.arm.policy == "keep" else normalisation_of(self.arm.signal)

    @property
    def identity(self) -> Row:
        """The run, and a fingerprint of all that could change its result."""
        code = "" if self.signal in BASELINES else code_of(self.arm.signal)
        config = fingerprint([self.options, self._data_fingerprint, code, self.controller])
        return {
            "measure": "outcome",
            "task": self.task,
            "signal": short(self.signal),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "config": config,
        }

    def run(self, on_step: Callable[[], None]) -> Row:
        """Train one network."""
        if self.task in SPLIT_TASKS:
            row = self._splits(on_step)
        elif self.task == "labels":
            row = self._weights(on_step)
        else:
            row = self._arrows(on_step)
        return {**row, "dataset": self.data, "network": self.options["network"], **provenance()}

    @property
    def data(self) -> str:
        """What it trains on."""
        if self.task == "arrows":
            return "synthetic_invariances"
        own = SPLIT_TASKS[self.task].own if self.task in SPLIT_TASKS else None
        return own().name if own else self.dataset

    @property
    def _data_fingerprint(self) -> str:
        own = SPLIT_TASKS[self.task].own if self.task in SPLIT_TASKS else None
        return fingerprint_of(own()) if own else data_fingerprint(self.data)

    def _splits(self, on_step: Callable[[], None]) -> Row:
        task = SPLIT_TASKS[self.task]
        options = {**self.options, "dataset": task.dataset(self.dataset), "output": "torch"}
        env = DataSplitVectorEnv(self.batch_size, **options)
        slots: Any = env.unwrapped
        assert isinstance(slots, DataSplitVectorEnv)
        k, learned = slots.num_splits, self.signal not in BASELINES
        agent: Any
        if learned:
            options = {"normalise": self.normalisation, **LEARNING}
            agent = ReinforceOptions(self.arm.policy, **options).build(env, self.seed)
        elif self.signal == ORACLE and task.oracle:
            agent = FixedPolicy(task.oracle(slots.dataset), seed=self.seed)
        else:
            agent = FixedPolicy.never(k, task.bad if self.signal == ORACLE else (), seed=self.seed)
        decisions, keep = [torch.zeros(k)], []
        ranks = learned and self.arm.policy == "inverted"

        def note(rewards: Tensor, infos: dict[str, Any]) -> None:
            decisions.append(slots.decisions.clone())
            if ranks:
                keep.append(float(agent.policy.keep()[0]))
            on_step()

        final = train(env, agent, seed=self.seed, on_step=note)
        env.close()
        counted = decisions[-1] - decisions[min(int(task.start * self.env_steps), len(decisions) - 2)]
        diverged = bool(final["diverged"][0])
        return {
            "score": task.score(counted, slots.dataset),
            "auc": sum(keep) / len(keep) if ranks else None,
            "test_accuracy": None if diverged else float(final["test_accuracy"][0]),
            "diverged": diverged,
        }

    def _weights(self, on_step: Callable[[], None]) -> Row:
        options = {**self.options, "dataset": self.dataset}
        slots = env = DataWeightVectorEnv(self.batch_size, autoreset_mode="SameStep", **options)
        controller = CONTROLLERS[self.controller["name"]]()
        session = start_session(env, controller.build, self.seed)  # pyright: ignore[reportAttributeAccessIssue]
        watch = Watch(slots, on_step)
        session.run(self.env_steps, watch)
        env.close()
        diverged = bool(watch.finished["diverged"])
        row = weights_row(watch)
        return {
            # 0 for dropping at random or nothing, 1 for all wrong labels and no others.
            "score": (row["recall_late"] or 0.0) - (row["false_alarms_late"] or 0.0),
            **row,
            "test_accuracy": None if diverged else watch.finished["test_accuracy"],
            "diverged": diverged,
        }

    def _arrows(self, on_step: Callable[[], None]) -> Row:
        def agent_for(slots: Any) -> Agent:
            if self.signal in BASELINES:
                return FixedAugmentation.random(seed=self.seed)
            return online(slots, normalise=normalisation_of(self.arm.signal), seed=self.seed, **LEARNING, **CLIP)

        row = run_arrows(agent_for, self.seed, num_envs=self.batch_size, options=self.options, on_step=on_step)
        # A policy that changes nothing at all has got rid of nothing; a network that diverged has no accuracy.
        accuracy = None if row["diverged"] else row["test_accuracy"]
        return {**row, "score": 0.0 if row["score"] is None else row["score"], "test_accuracy": accuracy}
