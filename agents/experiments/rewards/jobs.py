"""All runs of the reward benchmark."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agents.experiments.rewards.cost import CostJob
from agents.experiments.rewards.fidelity import FidelityJob
from agents.experiments.rewards.outcome import BASELINES, OutcomeJob
from agents.experiments.rewards.signals import fits, short
from agents.experiments.rewards.tasks import ENVIRONMENTS, check_hard
from gar_env.data import load_dataset
from gar_env.errors import ConfigurationError
from gar_env.networks import build_network
from gar_env.registry import check_choice
from gar_env.rewards import REWARDS


@dataclass(frozen=True)
class RewardBench:
    """What to run; every field is an option of ``gar-env bench rewards``.

    Args:
        signals: Registered, all of ours by default; ``"module:name"`` for others. ``random`` is always among them.
        tasks: Of ``ENVIRONMENTS``; none for fidelity and cost alone.
        seeds: Runs per signal, task and batch size; intervals of fewer than five mean little.
        batch_sizes: Slots, for outcomes and costs. Signals that take a training step per example are run up to 64.
        fidelity_batch_sizes: Slots, for fidelity.
        dataset: Of all tasks but ``arrows``.
        network: Of all runs.
        cost_networks: What costs are measured on; ``network`` by default.
        steps: Environment steps of a run for outcomes.

    Raises:
        ConfigurationError: If a number is out of range, a name would break tables or is taken twice, or the data make
            no task.
        MissingExtraError: If the task ``labels`` is asked for without Stable-Baselines3.
        UnknownNameError: If there is no such signal, task, data set or network.
    """

    signals: tuple[str, ...] = ()
    tasks: tuple[str, ...] = tuple(ENVIRONMENTS)
    seeds: int = 5
    batch_sizes: tuple[int, ...] = (64, 256)
    fidelity_batch_sizes: tuple[int, ...] = (16, 64, 256, 1024)
    dataset: str = "digits"
    network: str = "fc_bn"
    cost_networks: tuple[str, ...] = ()
    steps: int = 200

    def __post_init__(self) -> None:
        for name in ("signals", "tasks", "batch_sizes", "fidelity_batch_sizes", "cost_networks"):
            object.__setattr__(self, name, tuple(dict.fromkeys(getattr(self, name))))  # twice is once
        for name, fewest in (("seeds", 1), ("steps", 20)):
            if getattr(self, name) < fewest:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be at least {fewest}.")
        for size in (*self.batch_sizes, *self.fidelity_batch_sizes):
            if size < 4:
                raise ConfigurationError(f"A batch of {size} is too small to rank its examples; use at least 4 slots.")
        for task in self.tasks:
            check_choice("tasks", task, ENVIRONMENTS)
        for signal in self.signals:
            _ = REWARDS[signal]
        named = [short(signal) for signal in self.all_signals]
        odd = [name for name in named if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name)]
        if odd:
            raise ConfigurationError(
                f"The signal's name {odd[0]!r} would break tables and plots. Use letters and digits, and '_', '-' or "
                "'.' after the first."
            )
        twice = [name for name in BASELINES if name in named] + [n for n in set(named) if named.count(n) > 1]
        if twice:
            raise ConfigurationError(f"The name {twice[0]!r} is taken twice in this benchmark. Give a signal another.")
        data = load_dataset(self.dataset)
        largest = max((*self.batch_sizes, *self.fidelity_batch_sizes), default=0)
        left = len(data.x_train) - len(data.x_train) // 10  # a tenth is held out
        if largest > left:
            raise ConfigurationError(
                f"A batch of {largest} is more than the {left} examples of {data.name} that are trained on. Lower "
                "batch_sizes and fidelity_batch_sizes."
            )
        for network in (self.network, *self.cost_networks):
            build_network(network, data.image_shape, len(data.classes))
        if "hard" in self.tasks:
            check_hard(data)
        if "labels" in self.tasks:
            importlib.import_module("agents.sb3")  # PPO; says what to install

    @property
    def all_signals(self) -> tuple[str, ...]:
        """Those that were asked for, or all registered, and chance to hold them against."""
        return tuple(dict.fromkeys([*(self.signals or tuple(REWARDS)), "random"]))

    def parallel_jobs(self) -> list[OutcomeJob | FidelityJob]:
        """Outcomes and fidelity, one seed after the other, so that an interrupted benchmark has whole seeds."""
        jobs: list[OutcomeJob | FidelityJob] = []
        for seed in range(self.seeds):
            for size in self.fidelity_batch_sizes:
                chosen = [signal for signal in self.all_signals if fits(signal, size)]
                jobs += [
                    FidelityJob(signal, seed, size, dataset=self.dataset, network=self.network) for signal in chosen
                ]
            for task in self.tasks:
                for size in self.batch_sizes:
                    chosen = [signal for signal in self.all_signals if fits(signal, size)]
                    arms = [*chosen, *(arm for arm in BASELINES if (task, arm) != ("arrows", "oracle"))]
                    jobs += [OutcomeJob(task, arm, seed, size, self.steps, self.dataset, self.network) for arm in arms]
        return jobs

    def cost_jobs(self) -> list[CostJob]:
        """Costs, to be run one at a time with nothing beside them."""
        networks = self.cost_networks or (self.network,)
        return [
            CostJob(signal, size, dataset=self.dataset, network=network)
            for network in networks
            for size in self.batch_sizes
            for signal in self.all_signals
            if fits(signal, size)
        ]


def tasks_of(tasks: Sequence[str], envs: Sequence[str]) -> tuple[str, ...]:
    """Those of some environments, in the order of ``ENVIRONMENTS``.

    Args:
        tasks: By name; all by default.
        envs: Ids; all by default.

    Raises:
        ConfigurationError: If a task or an environment is unknown, or nothing is left.
    """
    for task in tasks:
        check_choice("tasks", task, ENVIRONMENTS)
    for env in envs:
        check_choice("env", env, dict.fromkeys(ENVIRONMENTS.values()))
    chosen = [t for t, env in ENVIRONMENTS.items() if (not tasks or t in tasks) and (not envs or env in envs)]
    if not chosen:
        raise ConfigurationError(f"None of the tasks {', '.join(tasks)} is on {', '.join(envs)}.")
    return tuple(chosen)
