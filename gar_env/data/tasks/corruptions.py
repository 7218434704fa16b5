"""Ways to spoil tasks, by name. What weighs tasks should find the spoiled ones by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from gar_env.data.corruptions import parse_shares
from gar_env.data.tasks.source import Tasks
from gar_env.errors import ConfigurationError
from gar_env.registry import Registry

TaskCorruption = Callable[[Tensor, int, Generator], Tensor]
"""Targets ``[m, S + Q, ...]`` of m tasks and how many outputs there are, to other targets."""

TASK_CORRUPTIONS: Registry[TaskCorruption] = Registry("corruption of tasks")
register_task_corruption = TASK_CORRUPTIONS.register


@register_task_corruption("shuffled_targets")
def shuffled_targets(targets: Tensor, outputs: int, generator: Generator) -> Tensor:
    """Each example gets the target of another one of its task, support and query together."""
    order = torch.rand(targets.shape[:2], generator=generator).argsort(1)
    return torch.take_along_dim(targets, order.view(*order.shape, *(1,) * (targets.ndim - 2)), 1)


@register_task_corruption("noise")
def noise(targets: Tensor, outputs: int, generator: Generator) -> Tensor:
    """Normal numbers with a standard deviation of 6, a little more than the largest sine wave."""
    if not targets.is_floating_point():
        raise ConfigurationError("noise replaces numbers, and targets are labels. Use random_labels.")
    return 6 * torch.randn(targets.shape, generator=generator)


@register_task_corruption("random_labels")
def random_labels(targets: Tensor, outputs: int, generator: Generator) -> Tensor:
    """Labels drawn uniformly, the right one included."""
    if targets.is_floating_point():
        raise ConfigurationError("random_labels replaces labels, and targets are numbers. Use shuffled_targets.")
    return torch.randint(outputs, targets.shape, generator=generator)


def spoil(tasks: Tasks, shares: list[tuple[str, float]], outputs: int, generator: Generator) -> Tasks:
    """Spoil each task with the chance that its corruption has.

    Args:
        tasks: Clean ones; not changed.
        shares: Of :func:`parse_task_shares`.
        outputs: Of the network.
        generator: On the CPU.
    """
    n, support = len(tasks.corrupted), tasks.targets.shape[1]
    chance, low = torch.rand(n, generator=generator), 0.0
    targets, corrupted = torch.cat([tasks.targets, tasks.query_targets], 1), tasks.corrupted.clone()
    for name, share in shares:
        other = TASK_CORRUPTIONS[name](targets, outputs, generator)  # of all: what is drawn does not depend on chance
        own = (chance >= low) & (chance < low + share)
        targets = torch.where(own.view(-1, *(1,) * (targets.ndim - 1)), other.to(targets.dtype), targets)
        corrupted, low = corrupted | own, low + share
    return Tasks(tasks.inputs, targets[:, :support], tasks.query_inputs, targets[:, support:], corrupted)


def parse_task_shares(text: str) -> list[tuple[str, float]]:
    """Read ``"shuffled_targets(0.3)"`` as ``[(name, chance of a task)]``.

    Raises:
        ConfigurationError: If the text is not of that form, or the chances add up to more than 1.
        UnknownNameError: If a corruption has no such name.
    """
    return parse_shares(text, TASK_CORRUPTIONS)
