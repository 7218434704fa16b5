"""Reward signals, on a small network in training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gar_env.data import Batch
from gar_env.errors import ConformanceError, GarEnvError
from gar_env.learner import Learner
from gar_env.rewards import REWARDS, Evaluator, Evidence, Need, RewardSignal, RunEvidence, TaskEvidence, Trained


def check_reward(signal: str | RewardSignal, *, n: int = 6, steps: int = 3) -> None:
    """Hold a reward signal against what environments rely on.

    It pays one finite number for each example, asks for what it reads, leaves training as it is, does not write into
    what it is given, and pays the same again for the same step. The order of examples is none of its business, unless
    it draws.

    Args:
        signal: The signal, or its registered name.
        n: Examples in a batch.
        steps: How many are paid.

    Raises:
        ConformanceError: With what does not hold.

    Example:
        >>> check_reward("gar")
    """
    first = _pay(signal, n, steps, torch.arange(n))
    again = _pay(signal, n, steps, torch.arange(n))
    for step, (one, other) in enumerate(zip(first, again, strict=True), start=1):
        if not torch.equal(one, other):
            raise ConformanceError(f"In step {step} it pays other rewards when the same training is run again.")
    draws = getattr(REWARDS[signal] if isinstance(signal, str) else signal, "draws", False)
    order = torch.arange(n).flip(0)
    turned = _pay(signal, n, 1, order)[0]
    if not draws and not torch.allclose(turned, first[0][order], rtol=1e-3, atol=1e-5):
        raise ConformanceError("An example's reward depends on its place in the batch.")


def _pay(signal: str | RewardSignal, n: int, steps: int, order: Tensor) -> list[Tensor]:
    """Rewards of each step, of examples in this order."""
    try:
        evaluator = Evaluator(copy.deepcopy(signal), n)
    except GarEnvError as error:
        raise ConformanceError(f"It is no signal: {error}") from error
    for need, pay in ((Need.RUN, _pay_runs), (Need.TASKS, _pay_tasks)):
        if need in evaluator.signal.needs:
            return [pay(evaluator, n, step, order) for step in range(steps)]
    paid, plain = (_learner() for _ in range(2))
    evaluator.begin(paid, seed=0)
    rewards: list[Tensor] = []
    for step in range(steps):
        batch, following, heldout = (_batch(n, 3 * step + k) for k in range(3))
        batch = Batch(batch.inputs[order], batch.targets[order])
        start = evaluator.start()
        trained = Trained(paid.run(batch, record=evaluator.reads_tape), None, start)
        paid.update()
        with evaluator.collecting(trained) as collected:
            after = paid.run(following)
        needs_heldout = Need.HELDOUT_GRADIENT in evaluator.signal.needs
        aside = paid.run(heldout, aside=True).gradient if needs_heldout else None
        kept = None if aside is None else {name: g.clone() for name, g in aside.items()}
        evidence = Evidence(
            n,
            after.losses.mean(),
            next_gradient=paid.gradient(),
            heldout_gradient=aside,
        )
        try:
            rewards.append(evaluator.pay(trained, evidence, collected, step=step + 1, following=after))
        except GarEnvError as error:
            raise ConformanceError(str(error)) from error
        if aside and kept and any(not torch.equal(aside[name], g) for name, g in kept.items()):
            raise ConformanceError("It writes into the held-out gradient. Compute in tensors of its own.")
        paid.update()
        for one in (batch, following):
            plain.run(one)
            plain.update()
    left = zip(plain.network.state_dict().items(), paid.network.state_dict().values(), strict=True)
    moved = [name for (name, before), now in left if not torch.allclose(before, now, rtol=1e-4, atol=1e-6)]
    if moved:
        raise ConformanceError(
            f"Training goes another way with it: {moved[0]} differs. Read evidence, do not write to it."
        )
    return rewards


def _pay_runs(evaluator: Evaluator, n: int, step: int, order: Tensor) -> Tensor:
    """Rewards of ``n`` runs, a third of which have come to their end."""
    generator = torch.Generator().manual_seed(step)
    now, before, start, end, alignment = torch.rand(5, n, generator=generator)[:, order] + 0.1
    end = torch.where(order % 3 == 0, end, torch.nan)
    evidence = Evidence(
        n,
        now,
        alignment=alignment,
        next_gradient={"weight": torch.randn(n, 4, generator=generator)[order]},
        run=RunEvidence(before, start, end, torch.full((n,), step + 1)),
        generator=generator,
    )
    try:
        return evaluator.rewards(evidence, step=step + 1, finite=torch.ones(n, dtype=torch.bool))
    except GarEnvError as error:
        raise ConformanceError(str(error)) from error


def _pay_tasks(evaluator: Evaluator, n: int, step: int, order: Tensor) -> Tensor:
    """Rewards of ``n`` tasks of one meta-batch."""
    generator = torch.Generator().manual_seed(step)
    updates, direction = torch.randn(n, 4, generator=generator)[order], torch.randn(4, generator=generator)
    within = torch.rand(n, generator=generator)[order]
    evidence = Evidence(
        n,
        torch.rand((), generator=generator),
        alignment=updates @ direction,
        next_gradient={"weight": direction},
        heldout_gradient={"weight": torch.randn(4, generator=generator)},
        tasks=TaskEvidence({"weight": updates}, updates @ updates.T, within, torch.ones(n, dtype=torch.bool)),
        generator=generator,
    )
    try:
        return evaluator.rewards(evidence, step=step + 1, finite=torch.ones(n, dtype=torch.bool))
    except GarEnvError as error:
        raise ConformanceError(str(error)) from error


def _learner() -> Learner:
    return Learner(lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), seed=0, num_steps=100)


def _batch(n: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(n, 5, generator=generator), torch.randint(3, (n,), generator=generator))
