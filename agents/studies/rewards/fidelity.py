"""How close a signal comes to what it approximates, and how noisy it is, along one training run.

A network trains while every split is drawn equally often. At some points of training ``theta_t`` is held and a step is
drawn again and again: examples, reference batch and rewards are fresh each time, the network is put back. From these
draws:

=====================  ===============================================================================================
measure                what it is
=====================  ===============================================================================================
rank correlation       Spearman's, over the slots of one draw, with :class:`~gar_env.rewards.LeaveOneOut`
cosine                 of one draw's policy gradient with the exact meta-gradient, mean over draws
cosine of the mean     the same for the mean over draws: what is wrong beside noise
cosine, clean          as ``cosine``, with the exact meta-gradient of a clean held-out loss
signal to noise        squared length of the mean policy gradient over its variance; 1: one draw is half noise
=====================  ===============================================================================================

The exact meta-gradient is ``d -L(theta_{t+1}) / d s`` of the policy's logits ``s``, with the step's loss replaced by
its expectation under the policy, enumerated: every example of every split, weighted by its chance to be drawn; and
``L`` the mean loss over the reference's distribution, enumerated likewise. It is what GAR's policy gradient tends to as
batches grow (Mueller, Biedenkapp & Hutter, theorem 1), and nothing in it is sampled. Under batch normalisation the
statistics are those of all examples, unweighted: how they depend on the policy is left out. On the digits, that leaves
a cosine of 0.87 to 1.00 with the derivative through them too, so theorem 1 is best seen on a network without.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

import gar_env  # noqa: F401 - registers the environments
from agents.jobs.provenance import data_fingerprint, fingerprint, provenance
from agents.jobs.results import Row
from agents.policies import InvertedSoftmax
from agents.studies.rewards.signals import LARGEST_EXACT, code_of, short
from agents.studies.rewards.tasks import HELDOUT_SHARE, TRAINING
from gar_env.data import Batch
from gar_env.envs import DataSplitVectorEnv
from gar_env.learner import Pass, Repeat
from gar_env.rewards import REWARDS, Evidence, LeaveOneOut, RewardSignal
from gar_env.seeding import named_generator

# Splits that differ in all that the tasks are about, so that there is something to align with.
CORRUPT = "0:label_noise, 1:easy, 2:repeated, 3:label_noise(0.5), 4:pixel_noise(0.5)"
DRAWS = 16
COMPARED = 2  # of them, per point, held against leave-one-out


class Witness(RewardSignal):
    """Pays what a signal pays, and notes what leaving each example out would have done, when it is asked to.

    Args:
        signal: That pays.
        name: What it is called in messages.
        compares: Whether it will be asked.
    """

    def __init__(self, signal: RewardSignal, name: str, *, compares: bool) -> None:
        self.signal, self.truth, self.name = signal, LeaveOneOut(), name
        self.needs = signal.needs | (self.truth.needs if compares else signal.needs)
        self.draws = signal.draws
        self.asked = False
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, evidence: Evidence) -> Tensor:
        """The signal's rewards, ``[n]``."""
        rewards = self.signal(evidence)
        if self.asked:
            self.seen.append((rewards.detach().clone(), self.truth(evidence)))
        return rewards


@dataclass(frozen=True)
class FidelityJob:
    """One signal for one seed and batch size; see :class:`~agents.jobs.job.Job`.

    Args:
        signal: Registered.
        seed: Of environment and draws.
        batch_size: Slots. Above :data:`LARGEST_EXACT` nothing is held against leave-one-out.
        length: Environment steps of training.
        points: At how many of them draws are repeated, evenly.
        draws: How often, at least 2.
        dataset: To train on.
        network: To train.
    """

    signal: str
    seed: int
    batch_size: int
    length: int = 100
    points: int = 6
    draws: int = DRAWS
    dataset: str = "digits"
    network: str = "fc_bn"

    @property
    def steps(self) -> int:
        """Of the environment, repeated ones included."""
        return self.length + self.points * self.draws

    @property
    def options(self) -> dict[str, Any]:
        """Of the environment, but for data and reward."""
        own = {**TRAINING, "corrupt": CORRUPT, "network": self.network, "heldout_share": HELDOUT_SHARE}
        return {**own, "num_steps": self.steps + 1}

    @property
    def identity(self) -> Row:
        """The run, and a fingerprint of all that could change its result."""
        lengths = [self.length, self.points, self.draws, COMPARED]
        config = fingerprint([self.options, data_fingerprint(self.dataset), code_of(self.signal), lengths])
        return {
            "measure": "fidelity",
            "signal": short(self.signal),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "config": config,
        }

    def run(self, on_step: Callable[[], None]) -> Row:
        """Train, hold, draw and compare."""
        compares = self.batch_size <= LARGEST_EXACT
        witness = Witness(REWARDS[self.signal](), short(self.signal), compares=compares)
        env = DataSplitVectorEnv(
            self.batch_size,
            output="torch",
            dataset=self.dataset,
            reward=witness,
            **self.options,
        )
        slots: Any = env.unwrapped
        assert isinstance(slots, DataSplitVectorEnv)
        witness = slots.signal
        assert isinstance(witness, Witness)
        env.reset(seed=self.seed)
        policy, generator = InvertedSoftmax(slots.num_splits), named_generator(self.seed, "policy")
        at = [round((point + 0.5) * self.length / self.points) for point in range(self.points)]
        found: list[dict[str, float | None]] = []
        for step in range(self.length):
            if step in at:
                found.append(self._hold(env, slots, witness, policy, generator, on_step, compares=compares))
            env.step(policy.sample(self.batch_size, generator))
            on_step()
        env.close()
        row: Row = {"at": at}
        for name in found[0]:
            column = [point[name] for point in found]
            there = [value for value in column if value is not None]
            row[name] = statistics.fmean(there) if there else None
            row[f"{name}_over_training"] = column
        return {**row, "dataset": self.dataset, "network": self.network, **provenance()}

    def _hold(
        self,
        env: Any,
        slots: DataSplitVectorEnv,
        witness: Witness,
        policy: InvertedSoftmax,
        generator: torch.Generator,
        on_step: Callable[[], None],
        *,
        compares: bool,
    ) -> dict[str, float | None]:
        """Repeat the coming step, putting the network back each time."""
        learner = slots.learner
        before = learner.state_dict()
        exact, clean = exact_meta_gradients(slots, policy)
        drawn: list[tuple[Tensor, Tensor]] = []
        witness.seen.clear()
        for draw in range(self.draws):
            actions = policy.sample(self.batch_size, generator)
            witness.asked = compares and draw < COMPARED
            drawn.append((actions, env.step(actions)[1]))
            witness.asked = False
            learner.load_state_dict(before)
            on_step()
        gradients = policy_gradients(policy, drawn, shared=type(witness.signal).shared)
        mean = gradients.mean(0)
        noise = float((gradients - mean).square().sum(1).mean()) * self.draws / (self.draws - 1)
        strength = max(float(mean.square().sum()) - noise / self.draws, 0.0)  # the mean's own noise is not signal
        ranks = [rank_correlation(rewards, truth) for rewards, truth in witness.seen]
        known = [rank for rank in ranks if rank is not None]
        return {
            "rank_correlation": statistics.fmean(known) if known else None,
            "cosine": statistics.fmean(cosine(gradient, exact) for gradient in gradients),
            "cosine_of_mean": cosine(mean, exact),
            "cosine_clean": statistics.fmean(cosine(gradient, clean) for gradient in gradients),
            "signal_to_noise": strength / noise if noise > 0 else None,
        }


def exact_meta_gradients(slots: DataSplitVectorEnv, policy: InvertedSoftmax) -> tuple[Tensor, Tensor]:
    """``d -L(theta_{t+1}) / d s`` at the present network, for the reference's loss and for a clean held-out one.

    Args:
        slots: Whose next step is meant; its network stays as it is.
        policy: Over splits; the reference batch is drawn from it too, and not differentiated through.

    Returns:
        Two tensors ``[k]``.

    Source:
        Mueller, Biedenkapp & Hutter (2021), section 3 for the meta-gradient; the expectation is enumerated here.
    """
    splits, learner = slots.splits, slots.learner
    examples = splits.members
    owner = torch.repeat_interleave(torch.arange(slots.num_splits), splits.sizes)
    everything = Batch(slots.normalise(splits.inputs[examples]), splits.targets[examples])
    state, no_losses = learner.generator.get_state(), torch.zeros(len(examples))
    chances = policy.probabilities()[owner] / splits.sizes[owner]  # of each example, in one draw
    paid = Pass(everything, None, 1.0, losses=no_losses, random_state=state)
    reference = Pass(everything, chances * len(examples), 1.0, losses=no_losses, random_state=state)
    heldout = Batch(slots.normalise(splits.inputs[splits.heldout]), splits.targets[splits.heldout])
    clean = Pass(heldout, None, 1.0, losses=torch.zeros(len(splits.heldout)), random_state=state)
    logits = policy.logits.detach().clone().requires_grad_()
    weights = policy.log_probabilities(logits).exp()[owner] / splits.sizes[owner] * len(examples)
    start = learner.start(optimizer=True)
    moved = Repeat(learner, start, paid, reference).step(weights)
    losses = [Repeat(learner, start, paid, one).next_loss(moved) for one in (reference, clean)]
    first, second = (-torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses)
    return first, second


def policy_gradients(policy: InvertedSoftmax, drawn: list[tuple[Tensor, Tensor]], *, shared: bool) -> Tensor:
    """``sum_i (r_i - b) grad log p(a_i)`` of each draw, ``[draws, k]``.

    Args:
        policy: That all actions were drawn from.
        drawn: Actions and rewards, ``[n]`` each.
        shared: Whether all slots of a draw are paid the same: the baseline ``b`` is then the mean over all draws, else
            over the slots of each.
    """
    logits = policy.logits.detach().clone()
    scores: Any = torch.autograd.functional.jacobian(policy.log_probabilities, logits)  # [k, k], row a: grad log p(a)
    mean = torch.stack([rewards.mean() for _, rewards in drawn]).mean()
    gradients = [(r - (mean if shared else r.mean())) @ scores[actions] for actions, r in drawn]
    return torch.stack(gradients)


def rank_correlation(rewards: Tensor, truth: Tensor) -> float | None:
    """Spearman's, in [-1, 1]; ``None`` where one of the two is the same everywhere and ranks nothing."""
    a, b = rewards.double().numpy(), truth.double().numpy()
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    found: Any = spearmanr(a, b)
    return float(found.statistic)


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the angle between two vectors; 0 where one vanishes."""
    product = float(a.norm() * b.norm())
    return float(a @ b) / product if product > 0 else 0.0
