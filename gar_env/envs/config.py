"""What every slot environment can be told, in one frozen dataclass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
from gymnasium.vector import AutoresetMode
from torch import nn

from gar_env.alignment import BatchNormReading, Way, check_way
from gar_env.data import Dataset
from gar_env.data.image_files import BACKGROUNDS
from gar_env.envs.options import check_types
from gar_env.errors import ConfigurationError
from gar_env.learner import Learner, check_precision, check_schedule
from gar_env.networks.build import NetworkBuilder
from gar_env.registry import check_choice, did_you_mean, shown
from gar_env.rewards import RewardSignal

SLOTS = ("batch_size", "num_envs", "num_env", "n_envs", "batch", "num_slots", "slots")
"""What people call the number of slots, where it has another name."""

REWARD_TIMINGS = ("same_step", "next_step")


@dataclass(frozen=True)
class SlotConfig:
    """Options of a slot environment. With strings, numbers and booleans alone, ``spec.to_json()`` works.

    Args:
        dataset: A registered name, an ``.npz`` path or an image folder: :func:`gar_env.data.load_dataset`; or a
            :class:`gar_env.data.Dataset`.
        download: Whether torchvision may fetch the data.
        image_size: Height and width to resize an image folder to.
        image_background: ``"white"`` or ``"black"``, under transparent images of a folder.
        inputs: ``"unit"`` [0, 1], ``"symmetric"`` [-1, 1] or ``"standardised"``.
        network: A name, or a function ``(image_shape, num_classes) -> nn.Module``:
            :func:`gar_env.networks.build_network`.
        optimizer: Any of ``torch.optim`` by name; ``"sgd"`` has Nesterov momentum.
        step_size: Of the optimizer.
        momentum: Of the optimizer; ``None`` is the environment's own for SGD, 0.9 unless it says otherwise.
        weight_decay: Of the optimizer.
        schedule: ``"constant"`` or ``"cosine"``.
        warmup_steps: SGD steps of linear warm-up.
        gradient_clip: Largest length of the gradient that the optimizer sees; rewards see the unclipped one.
        precision: ``"float32"``, or ``"bfloat16"``: mixed precision by ``torch.autocast``.
        channels_last: Whether images and convolutions are laid out channels-last, which is often faster.
        num_steps: Environment steps in an episode, that is, one training run.
        reward: A registered signal: ``"gar"``, ``"nslr"``, ``"module:name"``; or an object that is one.
        batch_norm: Reading of per-example gradients, ``"share"`` or ``"derivative"``:
            :class:`gar_env.alignment.Alignment`.
        way: How it is computed: ``"auto"``, ``"hooks"``, ``"forward"`` or ``"finite_difference"``, likewise. With the
            last, ``infos["alignment_error"]`` estimates its relative error.
        reward_timing: ``"same_step"``: after the controlled batch a reference batch is drawn, and its gradient pays
            the actions just taken. ``"next_step"``: the next controlled batch plays the reference, so the rewards of
            step ``t`` belong to the actions of step ``t - 1``; the first are 0 with ``info["reward_valid"]`` False.
        reference: For ``"same_step"``: ``"policy"`` (the actions just taken, on fresh examples), ``"uniform"`` (the
            training data as they are) - both are normal training steps too - or ``"heldout"`` (a clean held-out
            batch, which is not trained on).
        heldout_share: Share of the training data held out; ``None`` is 0.1 where something needs it, else 0.
        divergence_reward: Paid to every slot in the step in which training stopped being finite.
        autoreset_mode: ``"NextStep"``, ``"SameStep"`` or ``"Disabled"``, or Gymnasium's enum.
        output: ``"numpy"`` or ``"torch"`` (tensors on ``device``).
        device: Where network and data live.
        render_mode: ``"ansi"``, ``"rgb_array"`` or ``None``.

    Raises:
        ConfigurationError: If an option is unknown, out of range, or contradicts another.
    """

    dataset: str | Dataset = "digits"
    download: bool = False
    image_size: int | None = None
    image_background: str = "white"
    inputs: str = "symmetric"
    network: str | NetworkBuilder = "fc_bn"
    optimizer: str = "sgd"
    step_size: float = 0.1
    momentum: float | None = None
    weight_decay: float = 5e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    gradient_clip: float | None = None
    precision: str = "float32"
    channels_last: bool = False
    num_steps: int = 200
    reward: str | RewardSignal = "gar"
    batch_norm: str = "share"
    way: str = "auto"
    reward_timing: str = "same_step"
    reference: str | None = None
    heldout_share: float | None = None
    divergence_reward: float = -1.0
    autoreset_mode: str | AutoresetMode = "NextStep"
    output: str = "numpy"
    device: str = "cpu"
    render_mode: str | None = None

    sgd_momentum: ClassVar[float] = 0.9
    default_reference: ClassVar[str] = "policy"
    references: ClassVar[tuple[str, ...]] = ("policy", "uniform", "heldout")

    def __post_init__(self) -> None:
        check_types(self)
        check_choice("reward_timing", self.reward_timing, REWARD_TIMINGS)
        check_choice("image_background", self.image_background, BACKGROUNDS)
        check_way(self.way, self.batch_norm)
        check_precision(self.precision)
        if self.precision != "float32" and (self.batch_norm == "derivative" or self.way == "finite_difference"):
            raise ConfigurationError(
                f"precision={self.precision!r} is too coarse for derivatives through batch statistics and for finite "
                "differences. Use precision='float32', or batch_norm='share' and way='auto'."
            )
        if self.num_steps < 1:
            raise ConfigurationError(f"num_steps={self.num_steps} must be at least 1.")
        for name, low, high in (("momentum", 0, 1), ("weight_decay", 0, math.inf), ("heldout_share", 0, 1)):
            value = getattr(self, name)
            if value is not None and not low <= value < high:
                raise ConfigurationError(f"{name}={value} must be at least {low} and below {high}.")
        if self.reference is not None:
            check_choice("reference", self.reference, self.references)
            if self.reward_timing == "next_step":
                raise ConfigurationError(
                    f"reference={self.reference!r} has no meaning with reward_timing='next_step', where the next "
                    "controlled batch is the reference. Leave it out, or use reward_timing='same_step'."
                )
        check_schedule(self.schedule, warmup_steps=self.warmup_steps, num_steps=self.sgd_steps)
        if self.heldout_share == 0 and self.resolved_reference == "heldout":
            raise ConfigurationError("reference='heldout' needs heldout_share above 0, for example 0.1.")

    def build_learner(self, build: Callable[[], nn.Module], *, seed: int, device: torch.device) -> Learner:
        """The training run that these options describe, of the network that ``build`` makes."""
        return Learner(
            build,
            seed=seed,
            num_steps=self.sgd_steps,
            device=device,
            optimizer=self.optimizer,
            step_size=self.step_size,
            momentum=self.resolved_momentum,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            gradient_clip=self.gradient_clip,
            way=cast(Way, self.way),
            batch_norm=cast(BatchNormReading, self.batch_norm),
            precision=self.precision,
            channels_last=self.channels_last,
        )

    @property
    def resolved_momentum(self) -> float | None:
        """The momentum in force; ``None`` leaves an optimizer other than SGD its own."""
        return self.sgd_momentum if self.momentum is None and self.optimizer.lower() == "sgd" else self.momentum

    @property
    def resolved_reference(self) -> str | None:
        """The reference batch in force; ``None`` with ``"next_step"`` timing."""
        return (self.reference or self.default_reference) if self.reward_timing == "same_step" else None

    @property
    def trains_on_reference(self) -> bool:
        """Whether the reference batch is a normal training step too."""
        return self.resolved_reference not in (None, "heldout")

    @property
    def sgd_steps(self) -> int:
        """SGD steps in an episode: two per environment step when a reference batch is trained on."""
        return self.num_steps * (2 if self.trains_on_reference else 1)


ConfigType = TypeVar("ConfigType", bound=SlotConfig)


def config_from(kind: type[ConfigType], options: dict[str, Any]) -> ConfigType:
    """Build a config from keyword arguments.

    Raises:
        ConfigurationError: If an option has no such name; the message suggests one.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name == "max_episode_steps":
            raise ConfigurationError("An episode ends after num_steps. Pass num_steps instead of max_episode_steps.")
        if name in SLOTS:
            raise ConfigurationError(
                f"There is no option {name!r}. The number of slots, the batch size, is num_envs with make_vec and "
                "batch_size with make."
            )
        if name not in known:
            raise ConfigurationError(
                f"There is no option {shown(name)}.{did_you_mean(name, [*known, 'num_envs'])}\n"
                f"Known: {', '.join(known)}."
            )
    return kind(**options)
