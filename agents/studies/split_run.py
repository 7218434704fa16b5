"""One training run on ``GAR/DataSplit-v0`` with one controller: the unit of the demo and of table 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import gar_env  # noqa: F401 - registers the environments
from agents.agent import Agent, train
from agents.policies import FixedPolicy, InvertedSoftmax
from agents.reinforce import Reinforce
from gar_env.envs import DataSplitVectorEnv

FIXED_ARMS = ("uniform", "oracle")
ARMS = ("gar", "nslr", *FIXED_ARMS)


class SplitRun(NamedTuple):
    """What one run left behind; ``T`` steps, ``k`` splits.

    Args:
        keep: ``1 - softmax(s)`` before each step, ``[T, k]``; for fixed policies ``(k - 1)`` times their probabilities.
            A run that diverged keeps its last policy to the end.
        losses: Mean loss of each controlled batch, ``[T]``; NaN after divergence.
        usage: Share of all draws from each split, ``[k]``.
        split_names: ``k`` names.
        corrupted: Indices of corrupted splits.
        test_accuracy: At the end; chance for a run that diverged.
        num_classes: Of the data.
        diverged: Whether training stopped being finite.
    """

    keep: Tensor
    losses: Tensor
    usage: Tensor
    split_names: tuple[str, ...]
    corrupted: tuple[int, ...]
    test_accuracy: float
    num_classes: int
    diverged: bool

    @property
    def corrupted_auc(self) -> float:
        """Mean over training of ``1 - softmax(s)`` over the corrupted splits: the paper's area under the curve."""
        return float(self.keep.mean(0)[list(self.corrupted)].mean())

    @property
    def other_auc(self) -> float:
        """The same over the clean splits."""
        clean = [i for i in range(self.keep.shape[1]) if i not in self.corrupted]
        return float(self.keep.mean(0)[clean].mean())

    @property
    def died(self) -> bool:
        """Whether the network ended as good as constant: accuracy at most 1.2 times chance, or diverged."""
        return self.test_accuracy <= 1.2 / self.num_classes


def run_split(
    arm: str,
    seed: int,
    *,
    num_envs: int,
    env_options: dict[str, Any],
    agent_options: dict[str, Any],
    on_step: Callable[[], None] = lambda: None,
) -> SplitRun:
    """Train one network while one controller chooses splits.

    Args:
        arm: A reward signal's name (learned with :class:`~agents.Reinforce`), ``"uniform"`` or ``"oracle"`` (never
            draws a corrupted split).
        seed: Of environment and controller.
        num_envs: Batch size.
        env_options: Of ``GAR/DataSplit-v0``, but for ``reward`` and ``output``.
        agent_options: Of :class:`~agents.Reinforce`.
        on_step: Called after each step.
    """
    fixed = arm in FIXED_ARMS
    # Fixed arms ask for the reward that needs no tape: they are not paid, and train on the same number of batches.
    options = {**env_options, "reward": "nslr" if fixed else arm, "output": "torch"}
    env = DataSplitVectorEnv(num_envs, **options)
    slots = env.unwrapped
    assert isinstance(slots, DataSplitVectorEnv)
    k = slots.num_splits
    agent: Agent
    if fixed:
        avoided = slots.corrupted_splits if arm == "oracle" else ()
        agent = FixedPolicy.never(k, avoided, seed=seed)
        keep_now = (agent.probabilities * (k - 1)).float
    else:
        policy = InvertedSoftmax(k, slots.device)
        agent = Reinforce(policy, reward_timing=slots.reward_timing, seed=seed, **agent_options)
        keep_now = policy.keep
    keep, losses = [keep_now().cpu()], []

    def note(rewards: Tensor, infos: dict[str, Any]) -> None:
        keep.append(keep_now().cpu())
        losses.append(infos["loss"][0].cpu())
        on_step()

    final = train(env, agent, seed=seed, on_step=note)
    num_classes = len(slots.dataset.classes)
    diverged = bool(final["diverged"][0])
    missing = slots.config.num_steps - len(losses)
    keep = [*keep[:-1], *keep[-1:] * missing]
    losses += [torch.tensor(torch.nan)] * missing
    run = SplitRun(
        torch.stack(keep),
        torch.stack(losses),
        slots.usage.cpu(),
        slots.split_names,
        slots.corrupted_splits,
        1 / num_classes if diverged else float(final["test_accuracy"][0]),
        num_classes,
        diverged,
    )
    env.close()
    return run
