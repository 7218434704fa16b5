"""All runs of the reward benchmark."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import TypeVar

from agents.studies.rewards.arms import ARMS
from agents.studies.rewards.cost import CostJob
from agents.studies.rewards.fidelity import FidelityJob
from agents.studies.rewards.outcome import BASELINES, OutcomeJob, baselines_of
from agents.studies.rewards.signals import fits, short, signals_of_slots
from agents.studies.rewards.study import RewardsStudy
from agents.studies.rewards.tasks import ENVIRONMENTS, SOURCES, SPLIT_TASKS, check_hard
from gar_env.data import load_dataset
from gar_env.errors import ConfigurationError
from gar_env.networks import build_network
from gar_env.registry import check_choice
from gar_env.rewards import REWARDS

Named = TypeVar("Named")


def once(named: Sequence[Named]) -> tuple[Named, ...]:
    """Twice is once."""
    return tuple(dict.fromkeys(named))


def check(study: RewardsStudy) -> None:
    """Refuse options that make no benchmark.

    Raises:
        ConfigurationError: If a number is out of range, a name would break tables or is taken twice, or the data make
            no task.
        MissingExtraError: If the task ``labels`` is asked for without Stable-Baselines3.
        UnknownNameError: If there is no such signal, task, data set or network.
    """
    for name, fewest in (("seeds", 1), ("steps", 20), ("first_seed", 0)):
        if getattr(study, name) < fewest:
            raise ConfigurationError(f"{name}={getattr(study, name)} must be at least {fewest}.")
    for size in (*study.batch_sizes, *study.fidelity_batch_sizes):
        if size < 4:
            raise ConfigurationError(f"A batch of {size} is too small to rank its examples; use at least 4 slots.")
    tasks = tasks_of(study)
    for signal in study.signals:
        _ = REWARDS[signal]
    named = [short(signal) for signal in signals_of(study)]
    odd = [name for name in named if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name)]
    if odd:
        raise ConfigurationError(
            f"The signal's name {odd[0]!r} would break tables and plots. Use letters and digits, and '_', '-' or "
            "'.' after the first."
        )
    for arm in study.arms:
        check_choice("arms", arm, ARMS)
    twice = [name for name in (*BASELINES, *ARMS) if name in named] + [n for n in set(named) if named.count(n) > 1]
    if twice:
        raise ConfigurationError(f"The name {twice[0]!r} is taken twice in this benchmark. Give a signal another.")
    data = load_dataset(study.dataset)
    largest = max((*study.batch_sizes, *study.fidelity_batch_sizes), default=0)
    left = len(data.x_train) - len(data.x_train) // 10  # a tenth is held out
    if largest > left:
        raise ConfigurationError(
            f"A batch of {largest} is more than the {left} examples of {data.name} that are trained on. Lower "
            "batch_sizes and fidelity_batch_sizes."
        )
    for network in (study.network, *study.cost_networks):
        build_network(network, data.image_shape, len(data.classes))
    if "hard" in tasks:
        check_hard(data)
    if "labels" in tasks:
        importlib.import_module("agents.sb3")  # PPO; says what to install


def signals_of(study: RewardsStudy) -> tuple[str, ...]:
    """Those that were asked for, or all registered, and chance to hold them against."""
    return tuple(dict.fromkeys([*(study.signals or signals_of_slots()), "random"]))


def parallel_jobs(study: RewardsStudy) -> list[OutcomeJob | FidelityJob]:
    """Outcomes and fidelity, one seed after the other, so that an interrupted benchmark has whole seeds."""
    jobs: list[OutcomeJob | FidelityJob] = []
    for seed in range(study.first_seed, study.first_seed + study.seeds):
        for size in once(study.fidelity_batch_sizes):
            chosen = [signal for signal in signals_of(study) if fits(signal, size)]
            jobs += [FidelityJob(signal, seed, size, dataset=study.dataset, network=study.network) for signal in chosen]
        for task in tasks_of(study):
            for size in once(study.batch_sizes):
                chosen = [signal for signal in signals_of(study) if fits(signal, size)]
                arms = [*chosen, *(arm for arm in once(study.arms) if suits(arm, task)), *baselines_of(task)]
                jobs += [OutcomeJob(task, arm, seed, size, study.steps, study.dataset, study.network) for arm in arms]
    return jobs


def suits(arm: str, task: str) -> bool:
    """Whether an arm is another one than its signal there: policies are of splits."""
    if task in SPLIT_TASKS:
        return not ARMS[arm].weighs
    return task == "labels" and ARMS[arm].policy == "inverted"


def cost_jobs(study: RewardsStudy) -> list[CostJob]:
    """Costs, to be run one at a time with nothing beside them."""
    networks = once(study.cost_networks) or (study.network,)
    return [
        CostJob(signal, size, dataset=study.dataset, network=network)
        for network in networks
        for size in once(study.batch_sizes)
        for signal in signals_of(study)
        if fits(signal, size)
    ]


def tasks_of(study: RewardsStudy) -> tuple[str, ...]:
    """Those of some environments, in the order of ``ENVIRONMENTS``.

    Raises:
        ConfigurationError: If a task or an environment is unknown, or nothing is left.
    """
    for task in study.tasks:
        check_choice("tasks", task, ENVIRONMENTS)
    for env in study.env:
        check_choice("env", env, dict.fromkeys(ENVIRONMENTS.values()))
    usual = [task for task in ENVIRONMENTS if task not in SOURCES]
    tasks, envs = study.tasks or usual, study.env or ENVIRONMENTS.values()
    chosen = [task for task, env in ENVIRONMENTS.items() if task in tasks and env in envs]
    if not chosen:
        raise ConfigurationError(f"None of the tasks {', '.join(study.tasks)} is on {', '.join(study.env)}.")
    return tuple(chosen)
