"""What pays slots beside the next batch: held-out batches, and halves of the same batch. Which options go together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from gar_env.data import Batch, Dataset, Target, read_target
from gar_env.envs.config import SlotConfig
from gar_env.errors import ConfigurationError
from gar_env.registry import shown
from gar_env.rewards import Evaluator, Need
from gar_env.rewards.reference_weights import REFERENCE_WEIGHTS, Weigh

PAYING = Need.ALIGNMENT | Need.NEXT_GRADIENT
"""Needs of signals that read the gradient of the reference."""


def reads_heldout(config: SlotConfig, evaluator: Evaluator) -> bool:
    """Whether held-out batches are looked at."""
    return config.resolved_reference == "heldout" or Need.HELDOUT_GRADIENT in evaluator.signal.needs


def check_references(config: SlotConfig, evaluator: Evaluator) -> None:
    """Refuse options of references that mean nothing together.

    Raises:
        ConfigurationError: If one would be ignored, or what the reward reads cannot be had.
    """
    needs, name, heldout = evaluator.signal.needs, evaluator.name, reads_heldout(config, evaluator)
    halves = config.resolved_reference == "other_half"
    if heldout and config.heldout_share == 0 and config.target is None:
        raise ConfigurationError(f"reward={name!r} needs heldout_share above 0, for example 0.1.")
    if config.target is not None and not heldout:
        raise ConfigurationError(
            f"target={shown(config.target)} is what held-out batches are drawn from, and reward={name!r} with "
            f"reference={config.resolved_reference!r} reads none. Leave reference out, use 'heldout', or a reward such "
            "as 'validation_gar'."
        )
    if config.target_batch_size is not None and not heldout:
        raise ConfigurationError(
            f"target_batch_size={config.target_batch_size} is of held-out batches, and there are none. Use "
            "reference='heldout', or a target."
        )
    if halves and (needs & (Need.STEP | Need.NEXT_LOSS | Need.HELDOUT_GRADIENT) or not needs & PAYING):
        raise ConfigurationError(
            f"reward={name!r} does not read the gradient that pays, or reads the step that follows or held-out batches "
            "too; reference='other_half' pays by a gradient before the step. Use 'gar'."
        )
    if halves and evaluator.num_envs < 2:
        raise ConfigurationError(
            "reference='other_half', the default of GAR/DataWeight-v1, halves the batch, and num_envs is 1. Use 2 at "
            "least, or reference='policy'."
        )
    if config.resolved_weights != "all" and not needs & (PAYING | Need.HELDOUT_GRADIENT):
        raise ConfigurationError(
            f"reference_weights={config.resolved_weights!r} weighs the gradient that pays, and reward={name!r} reads "
            "none. Use 'all'."
        )


def heldout_share(config: SlotConfig, evaluator: Evaluator) -> float:
    """Of all training data, in [0, 1): as the options say, or a tenth where it is needed and there is no target."""
    if config.heldout_share is not None:
        return config.heldout_share
    return 0.1 * (reads_heldout(config, evaluator) and config.target is None)


def target_of(config: SlotConfig, dataset: Dataset) -> Target | None:
    """The options' target, read as the data set was.

    Raises:
        GarEnvError: Whatever :func:`gar_env.data.read_target` raises.
    """
    if config.target is None:
        return None
    reading = {"image_size": config.image_size, "sequence_length": config.sequence_length}
    return read_target(config.target, dataset, image_background=config.image_background, of_folders=reading)


def weigh_of(config: SlotConfig, dataset: Dataset) -> Weigh | None:
    """How the reference's examples are weighed; ``None`` if all alike.

    Raises:
        ConfigurationError: If it reads labels or tokens, and there are none.
        UnknownNameError: If there is none of that name.
    """
    if config.resolved_weights == "all":
        return None
    weigh = REFERENCE_WEIGHTS[config.resolved_weights]
    if not dataset.classes:
        raise ConfigurationError(
            f"reference_weights={config.resolved_weights!r} reads labels, and {dataset.name} has none. Use 'all'."
        )
    return weigh


def draw_of_sample(
    sample: Dataset, size: int, generator: Generator, normalise: Callable[[Tensor], Tensor], device: torch.device
) -> Batch:
    """``size`` training examples of a target sample, with replacement, as the network takes them."""
    rows = torch.randint(len(sample.x_train), (size,), generator=generator, device=generator.device).cpu()
    return Batch(normalise(sample.x_train[rows].to(device)), sample.y_train[rows].to(device))
