"""How far runs come under a controller, or under an optimizer of somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import nn

import gar_env  # noqa: F401 - registers the environments
from gar_env.envs.runs.base import LARGEST_LOSS
from gar_env.errors import ConfigurationError
from gar_env.learner import LOSSES

DIVERGED = 2.0
"""What stands for the log10 of the final loss of a run that diverged."""

SEED = 5000
"""The runs that controllers are held against each other on begin with this seed, and those they learn on end before."""


class Runs(NamedTuple):
    """What runs came to, one entry for each.

    Args:
        log_losses: log10 of the final loss on their part of the training data; :data:`DIVERGED` if there is none, or at
            most that.
        diverged: bool.
        accuracies: On test data; NaN of those that diverged.
        step_sizes: ``[steps, n]``; NaN after the end.
    """

    log_losses: np.ndarray
    diverged: np.ndarray
    accuracies: np.ndarray
    step_sizes: np.ndarray


def run_all(
    agent: Any, initial_step_sizes: Sequence[float], seeds: Sequence[int], *, action: str = "absolute", **options: Any
) -> Runs:
    """One run for each initial step size and seed.

    Args:
        agent: With ``begin(env)`` and ``act(observations)``.
        initial_step_sizes: Of each run.
        seeds: Of each run: two with the same seed differ only in their initial step size.
        action: That the agent takes.
        **options: Of ``GAR/StepSize-v0``.
    """
    n = len(seeds)
    fixed = {"action": action, "initial_step_sizes": tuple(initial_step_sizes), "autoreset_mode": "SameStep"}
    env: Any = gymnasium.make_vec(
        "GAR/StepSize-v0", num_envs=n, **{"observed": "all", "instances": "fixed", **options, **fixed}
    )
    observations, _ = env.reset(seed=list(seeds))
    agent.begin(env)
    losses, accuracies = np.full(n, np.nan), np.full(n, np.nan)
    done, diverged, step_sizes = np.zeros(n, bool), np.zeros(n, bool), []
    while not done.all():
        observations, _, terminations, truncations, infos = env.step(agent.act(observations))
        ended = terminations | truncations
        final, fresh = infos.get("final_info", infos), ended & ~done
        now = np.where(ended, final["step_size"], infos["step_size"]) if ended.any() else infos["step_size"]
        step_sizes.append(np.where(done, np.nan, now))
        losses[fresh], accuracies[fresh] = final["final_loss"][fresh], final["test_accuracy"][fresh]
        diverged[fresh] = final["diverged"][fresh]
        done |= ended
    env.close()
    return Runs(log_losses(losses), diverged, accuracies, np.stack(step_sizes))


def log_losses(losses: np.ndarray) -> np.ndarray:
    """log10 of losses, from the smallest that float32 tells from 0 up to :data:`DIVERGED`."""
    return np.log10(np.nan_to_num(losses, nan=10.0**DIVERGED).clip(1e-30, 10.0**DIVERGED))


def run_optimizer(make: Callable[[Iterable[nn.Parameter]], Any], seeds: Sequence[int], **options: Any) -> Runs:
    """The same runs, one after the other, under an optimizer of ``torch.optim``'s kind.

    Networks, batches and measures are those of :func:`run_all` with the same seeds.

    Args:
        make: From parameters to the optimizer. If it has ``train()`` and ``eval()``, as those of ``schedulefree``, they
            are called.
        seeds: Of each run.
        **options: Of ``GAR/StepSize-v0``.

    Raises:
        ConfigurationError: If an option is what the optimizer decides.
    """
    for name in ("rule", "weight_decay", "gradient_clip", "action", "initial_step_sizes"):
        if name in options:
            raise ConfigurationError(f"{name} is the optimizer's business here. Leave it out.")
    fixed = {"autoreset_mode": "Disabled"}
    env: Any = gymnasium.make_vec(
        "GAR/StepSize-v0", num_envs=len(seeds), **{"instances": "fixed", **options, **fixed}
    ).unwrapped
    env.reset(seed=list(seeds))
    kind, every = LOSSES[env.dataset.loss], torch.ones(len(seeds), dtype=torch.bool)
    networks = [env.stack.network(row) for row in range(len(seeds))]
    optimizers = [make(network.parameters()) for network in networks]
    for optimizer in optimizers:
        if hasattr(optimizer, "train"):
            optimizer.train()
    for step in range(int(env.lengths.max())):
        env.steps = torch.full_like(env.steps, step)
        inputs, targets = env.draw(every)
        for row in (env.lengths > step).nonzero().flatten().tolist():
            kind(targets[row])(networks[row](inputs[row])).mean().backward()
            optimizers[row].step()
            optimizers[row].zero_grad()
    losses, accuracies = [], []
    for row, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
        if hasattr(optimizer, "eval"):
            optimizer.eval()
        network.eval()
        with torch.no_grad():
            part = env.batches.part(row)[: env.config.loss_examples]
            outputs = network(env.normalise(env._x[part]))
            losses.append(float(kind(env._y[part])(outputs).mean()))
            accuracies.append(env.measures.test_accuracy(network))
    largest = LARGEST_LOSS * env.initial_loss.clamp_min(1).numpy()
    env.close()
    found = np.array(losses)
    diverged = ~(found <= largest)
    measured = np.where(diverged, np.nan, accuracies)
    return Runs(log_losses(found), diverged, measured, np.full((1, len(seeds)), np.nan))
