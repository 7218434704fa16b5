"""A benchmark with a known answer: does a policy find out which image operations turn labels into lies?

``synthetic_invariances`` are arrows in four diagonal directions. Flips turn every arrow into one of another class,
rotations by more than 30 degrees and strong shears some or all; colours do not matter. Of what a policy by chance
applies from WideLong, 16 % are lies. The score is by how much of that a policy has got rid of in the last quarter of
training:

    score = 1 - (share of lies among applied operations, last quarter) / (the same of a policy that draws by chance)

0 is chance, 1 is perfect. What changes nothing (the identity, a rotation by 0) does not count as applied, so applying
less, harmful and others alike, gains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import gymnasium
import torch
from torch import Tensor

import gar_env  # noqa: F401 - registers the environments
from agents.agent import Agent, train
from agents.jobs.provenance import data_fingerprint, fingerprint, provenance
from agents.jobs.results import Row
from agents.measures.intervals import summarise
from agents.measures.tables import Table
from agents.policies import FixedAugmentation, OnlineAugmentation
from agents.reinforce import Reinforce
from agents.studies.rewards.signals import signals_of_slots
from gar_env.augment import STRENGTHS, SearchSpace, load_space
from gar_env.data.arrows import share_of_lies
from gar_env.envs import AugmentVectorEnv
from gar_env.errors import ConfigurationError
from gar_env.rewards import REWARDS

DATASET = "synthetic_invariances"
FIXED: dict[str, Callable[..., FixedAugmentation]] = {
    "random": FixedAugmentation.random,
    "uniform-augment": FixedAugmentation.uniform_augment,
}
ARMS = ("gar", "nslr", *FIXED)
NUM_ENVS, NUM_STEPS = 128, 200

# No crop, flip or Cutout: what happens to an image is the policy's alone.
ENV_OPTIONS: dict[str, Any] = {
    "dataset": DATASET,
    "network": "fc_bn",
    "space": "wl",
    "crop_padding": 0,
    "flip": False,
    "cutout": 0,
}


@dataclass(frozen=True)
class InvarianceJob:
    """One policy for one seed; see :class:`~agents.jobs.job.Job`.

    Args:
        arm: A reward signal's name, learned by the online policy, or one of ``FIXED``.
        seed: Of environment and policy.
        num_envs: Batch size.
        steps: Environment steps, two SGD steps each.
        env_options: More options of ``GAR/Augment-v0``.
    """

    arm: str
    seed: int
    num_envs: int = NUM_ENVS
    steps: int = NUM_STEPS
    env_options: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Of the environment."""
        # Fixed policies ask for the reward that needs no tape: they are not paid.
        reward = "nslr" if self.arm in FIXED else self.arm
        return {**ENV_OPTIONS, **self.env_options, "reward": reward, "num_steps": self.steps}

    @property
    def agent_options(self) -> dict[str, Any]:
        """Of :class:`~agents.Reinforce`; standardising per step would erase a reward that all slots share."""
        return {"normalise": "running" if REWARDS[self.arm].shared else "step", "step_size": 0.1, "gradient_clip": 5.0}

    @property
    def identity(self) -> Row:
        """The run, and a fingerprint of all that could change its result."""
        agent = {} if self.arm in FIXED else self.agent_options
        space = load_space(self.options["space"]).to_json()  # a file's content, not its name
        config = fingerprint([self.options, space, data_fingerprint(DATASET), agent, self.num_envs])
        return {"arm": self.arm, "seed": self.seed, "config": config}

    def run(self, on_step: Callable[[], None]) -> Row:
        """Train one network, and count what was applied."""
        fixed = FIXED.get(self.arm)

        def agent_for(slots: AugmentVectorEnv) -> Agent:
            return fixed(seed=self.seed) if fixed else online(slots, seed=self.seed, **self.agent_options)

        row = run_arrows(agent_for, self.seed, num_envs=self.num_envs, options=self.options, on_step=on_step)
        return {**row, **provenance()}


def online(slots: AugmentVectorEnv, **options: Any) -> Reinforce:
    """The paper's online policy for an environment; options of :class:`~agents.Reinforce`."""
    return Reinforce(OnlineAugmentation(slots.space, slots.layout.places, slots.device), **options)


def run_arrows(
    agent_for: Callable[[AugmentVectorEnv], Agent],
    seed: int,
    *,
    num_envs: int,
    options: dict[str, Any],
    on_step: Callable[[], None] = lambda: None,
) -> Row:
    """Train one network on arrows, and count what was applied.

    Args:
        agent_for: Builds the controller.
        seed: Of the environment.
        num_envs: Batch size.
        options: Of ``GAR/Augment-v0``, but for ``output``.
        on_step: Called after each step.
    """
    env = gymnasium.make_vec("GAR/Augment-v0", num_envs=num_envs, output="torch", **options)
    slots = env.unwrapped
    assert isinstance(slots, AugmentVectorEnv)
    counts = [torch.zeros(len(slots.space), STRENGTHS)]

    def note(rewards: Tensor, infos: dict[str, Any]) -> None:
        counts.append(slots.decisions.cpu().float())
        on_step()

    final = train(env, agent_for(slots), seed=seed, on_step=note)
    taken = len(counts) - 1
    ends = [quarter * taken // 4 for quarter in range(5)]
    by_quarter = [counts[end] - counts[start] for start, end in pairwise(ends)]
    examples = num_envs * max(ends[4] - ends[3], 1)
    space, last = slots.space, applied(by_quarter[3], slots.space)
    env.close()
    return {
        "score": score(by_quarter[3], space),
        "score_by_quarter": [score(count, space) for count in by_quarter],
        "lies_per_example": float((last * lies(space)).sum()) / examples,
        "operations_per_example": float(last.sum()) / examples,
        "test_accuracy": float(final["test_accuracy"][0]),
        "diverged": bool(final["diverged"][0]),
    }


def lies(space: SearchSpace) -> Tensor:
    """Share of arrows that each operation at each strength turns into one of another class, ``[operations, 31]``."""
    shares = [[share_of_lies(c.name, c.value(k)) for k in range(STRENGTHS)] for c in space.choices]
    return torch.tensor(shares, dtype=torch.float64)


def applied(counts: Tensor, space: SearchSpace) -> Tensor:
    """Counts ``[operations, 31]`` without those that changed nothing."""
    changes = [[not c.is_noop(k) for k in range(STRENGTHS)] for c in space.choices]
    return counts.double() * torch.tensor(changes)


def score(counts: Tensor, space: SearchSpace) -> float | None:
    """By how much the share of lies is below that of chance: 1 for none, 0 for as many, negative for more.

    Args:
        counts: How often each operation was applied at each strength, ``[operations, 31]``.
        space: Whose operations.

    Returns:
        ``None`` if nothing was changed.

    Raises:
        ConfigurationError: If no operation of the space lies.

    Example:
        >>> from gar_env.augment import SPACES
        >>> space = SPACES["wl"].subset(["flip_lr", "color"])
        >>> score(torch.tensor([[1.0] * 31, [3.0] * 31]), space)
        0.5
    """
    wrong, everything = lies(space), applied(torch.ones(len(space), STRENGTHS), space)
    if not wrong.any():
        raise ConfigurationError(f"No operation of {space.name!r} turns arrows into others; there is nothing to score.")
    by_chance = float((everything * wrong).sum() / everything.sum())
    changed = applied(counts, space)
    total = float(changed.sum())
    return None if total == 0 else 1 - float((changed * wrong).sum()) / total / by_chance


def invariance_jobs(
    *, seeds: int, arms: Sequence[str] = ARMS, num_envs: int = NUM_ENVS, steps: int = NUM_STEPS, space: str = "wl"
) -> list[InvarianceJob]:
    """All runs, one seed after the other.

    Raises:
        ConfigurationError: If a number is out of range.
        UnknownNameError: If an arm is neither a reward signal nor a fixed policy.
    """
    if seeds < 1 or steps < 4:
        raise ConfigurationError(f"seeds={seeds} must be at least 1, steps={steps} at least 4: quarters are compared.")
    if not arms:
        raise ConfigurationError(
            f"There are no arms. Name some of {', '.join(dict.fromkeys([*signals_of_slots(), *FIXED]))}."
        )
    chosen = load_space(space)
    score(torch.ones(len(chosen), STRENGTHS), chosen)
    for arm in arms:
        if arm not in FIXED:
            _ = REWARDS[arm]
    jobs = [InvarianceJob(arm, seed, num_envs, steps, {"space": space}) for seed in range(seeds) for arm in arms]
    for job in jobs[: len(arms)]:
        # A wrong option is said once and now, not by every worker.
        gymnasium.make_vec("GAR/Augment-v0", num_envs=num_envs, **job.options).close()
    return jobs


def invariance_table(rows: Sequence[Row]) -> Table:
    """Scores, means over seeds with 95 % bootstrap intervals."""
    table = Table(
        "synthetic_invariances: lies that a policy got rid of (0: chance, 1: all)",
        ["policy", "score", "first quarter", "lies per example", "operations per example", "test accuracy", "seeds"],
    )
    there = dict.fromkeys(row["arm"] for row in rows)
    for arm in [arm for arm in ARMS if arm in there] + [arm for arm in there if arm not in ARMS]:
        own = [row for row in rows if row["arm"] == arm]
        early = [row["score_by_quarter"][0] for row in own]
        columns = [[row["score"] for row in own], early]
        columns += [[row[name] for row in own] for name in ("lies_per_example", "operations_per_example")]
        columns.append([row["test_accuracy"] for row in own])
        cells = []
        for column in columns:
            values = [value for value in column if value is not None]
            cells.append(summarise(values).with_interval() if values else "")
        table.append([arm, *cells, str(len(own))])
    return table
