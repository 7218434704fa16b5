"""What every slot environment can be told, in one frozen dataclass."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from gymnasium.vector import AutoresetMode

from gar_env.data import Dataset, parse_shares
from gar_env.data.image_files import BACKGROUNDS
from gar_env.envs.options import check_types
from gar_env.errors import ConfigurationError
from gar_env.learner import TrainingOptions, check_schedule
from gar_env.networks.build import NetworkBuilder
from gar_env.registry import check_choice, did_you_mean, shown
from gar_env.rewards import REWARDS, Need, RewardSignal

SLOTS = ("batch_size", "num_envs", "num_env", "n_envs", "batch", "num_slots", "slots")
"""What people call the number of slots, where it has another name."""

REWARD_TIMINGS = ("same_step", "next_step")


@dataclass(frozen=True)
class BaseConfig:
    """Options of every environment. With strings, numbers and booleans alone, ``spec.to_json()`` works.

    Args:
        autoreset_mode: ``"NextStep"``, ``"SameStep"`` or ``"Disabled"``, or Gymnasium's enum.
        output: ``"numpy"`` or ``"torch"`` (tensors on ``device``).
        device: Where networks and data live.
        render_mode: ``"ansi"``, ``"rgb_array"`` or ``None``.
    """

    autoreset_mode: str | AutoresetMode = "NextStep"
    output: str = "numpy"
    device: str = "cpu"
    render_mode: str | None = None

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def row_options(self) -> dict[str, Any]:
        """What :class:`~gar_env.envs.RowVectorEnv` takes, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(BaseConfig)}


@dataclass(frozen=True)
class RowConfig(BaseConfig):
    """Options of environments in which a network trains while somebody acts.

    Args:
        num_steps: Environment steps in an episode, that is, one training run.
        reward: A registered signal: ``"gar"``, ``"nslr"``, ``"module:name"``; or an object that is one.
        divergence_reward: Paid to every row in the step in which its training stopped being finite.
    """

    num_steps: int = 200
    reward: str | RewardSignal = "gar"
    divergence_reward: float = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps is not None and self.num_steps < 1:
            raise ConfigurationError(f"num_steps={self.num_steps} must be at least 1.")

    @property
    def longest(self) -> int:
        """Most steps in an episode."""
        return self.num_steps


@dataclass(frozen=True)
class SharedConfig(RowConfig, TrainingOptions):
    """Options of environments whose rows share a network.

    Args:
        reward_timing: ``"same_step"``: after the controlled batch a reference batch is drawn, and its gradient pays
            the actions just taken. ``"next_step"``: the next controlled batch plays the reference, so the rewards of
            step ``t`` belong to the actions of step ``t - 1``; the first are 0 with ``info["reward_valid"]`` False.
    """

    reward_timing: str = "same_step"

    sgd_momentum: ClassVar[float] = 0.9

    def __post_init__(self) -> None:
        RowConfig.__post_init__(self)
        TrainingOptions.__post_init__(self)
        check_choice("reward_timing", self.reward_timing, REWARD_TIMINGS)
        check_schedule(self.schedule, warmup_steps=self.warmup_steps, num_steps=self.sgd_steps)

    @property
    def training(self) -> TrainingOptions:
        """How the network is trained, with the momentum in force."""
        return replace(super().training, momentum=self.resolved_momentum)

    @property
    def resolved_momentum(self) -> float | None:
        """The momentum in force; ``None`` leaves an optimizer other than SGD its own."""
        return self.sgd_momentum if self.momentum is None and self.optimizer.lower() == "sgd" else self.momentum

    @property
    def sgd_steps(self) -> int:
        """SGD steps in an episode."""
        return self.num_steps


@dataclass(frozen=True)
class SlotConfig(SharedConfig):
    """Options of a slot environment. With strings, numbers and booleans alone, ``spec.to_json()`` works.

    Args:
        dataset: A registered name, or the path of an ``.npz`` file or of a folder, of images, of text or of saved
            datasets: :func:`gar_env.data.load_dataset`; or a :class:`gar_env.data.Dataset`.
        download: Whether torchvision may fetch the data.
        image_size: Height and width to resize an image folder to.
        image_background: ``"white"`` or ``"black"``, under transparent images of a folder.
        sequence_length: Tokens in a sequence: with it a folder is read as text, one sub-folder a source; of datasets
            that Hugging Face saved, 128 by default.
        inputs: Of images: ``"unit"`` [0, 1], ``"symmetric"`` [-1, 1] or ``"standardised"``. Vectors are standardised
            with the last, and else taken as they are, as tokens always are.
        network: A name, or a function ``(input_shape, num_outputs) -> nn.Module``:
            :func:`gar_env.networks.build_network`.
        reference: For ``"same_step"``: ``"policy"`` (the actions just taken, on fresh examples), ``"uniform"`` (the
            training data as they are) - both are normal training steps too - ``"heldout"`` (a clean held-out
            batch, which is not trained on), or ``"other_half"``: no next step, each slot is paid by the gradient of a
            random other half of the same batch, at the same parameters.
        reference_weights: How much an example of the reference counts: ``"all"``, which ``None`` is; ``"agree"``, where
            its label is the network's own answer; ``"mae"``, by its label's probability; or a registered one. With any
            but the first the reference is not trained on: :mod:`gar_env.rewards.reference_weights`.
        heldout_share: Share of the training data held out; ``None`` is 0.1 where something needs it, else 0.
        target: Instead, what held-out batches are drawn from: shares of sources, ``"english(0.1), french"`` or
            ``"each(0.05)"``, which are not trained on; or a sample of one's own, a path or a data set, which may be
            small. If ``reference`` is left out it is ``"heldout"`` then, unless the reward itself reads held-out
            batches: :func:`gar_env.data.read_target`.
        target_batch_size: Examples in a held-out batch; ``None`` is as many as there are slots.
        pay_tokens: Of data that are tokens: whether ``infos["token_rewards"]``, ``[n, T]``, says what each token of a
            slot's sequence contributed to its alignment with the gradient that pays. They sum to the reward ``"gar"``
            (``"validation_gar"``); of ``"distinct_gar"`` they do not leave out what is identical, and of others they
            are the alignment all the same. Two more forward passes, in float32.

    Raises:
        ConfigurationError: If an option is unknown, out of range, or contradicts another.
    """

    dataset: str | Dataset = "digits"
    download: bool = False
    image_size: int | None = None
    image_background: str = "white"
    sequence_length: int | None = None
    inputs: str = "symmetric"
    network: str | NetworkBuilder = "fc_bn"
    reference: str | None = None
    reference_weights: str | None = None
    heldout_share: float | None = None
    target: str | Dataset | None = None
    target_batch_size: int | None = None
    pay_tokens: bool = False

    default_reference: ClassVar[str] = "policy"
    references: ClassVar[tuple[str, ...]] = ("policy", "uniform", "heldout", "other_half")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("image_background", self.image_background, BACKGROUNDS)
        if self.heldout_share is not None and not 0 <= self.heldout_share < 1:
            raise ConfigurationError(f"heldout_share={self.heldout_share} must be at least 0 and below 1.")
        if self.reference is not None:
            check_choice("reference", self.reference, self.references)
            if self.reward_timing == "next_step":
                raise ConfigurationError(
                    f"reference={self.reference!r} has no meaning with reward_timing='next_step', where the next "
                    "controlled batch is the reference. Leave it out, or use reward_timing='same_step'."
                )
        if self.resolved_weights != "all" and self.reward_timing == "next_step":
            raise ConfigurationError(
                f"reference_weights={self.resolved_weights!r} weighs a reference batch, and with "
                "reward_timing='next_step' there is none but the next controlled batch. Use 'same_step'."
            )
        if self.target_batch_size is not None and self.target_batch_size < 1:
            raise ConfigurationError(f"target_batch_size={self.target_batch_size} must be at least 1.")
        if self.pay_tokens and self.precision != "float32":
            raise ConfigurationError(
                f"pay_tokens takes a difference of two passes, for which precision={self.precision!r} is too coarse. "
                "Use 'float32'."
            )
        if self.target is not None and self.heldout_share:
            raise ConfigurationError(
                f"heldout_share={self.heldout_share} and target={shown(self.target)} both say what is held out. Leave "
                "one of them out."
            )
        if self.heldout_share == 0 and self.target is None and self.resolved_reference == "heldout":
            raise ConfigurationError("reference='heldout' needs heldout_share above 0, for example 0.1.")

    @property
    def resolved_reference(self) -> str | None:
        """The reference batch in force; ``None`` with ``"next_step"`` timing."""
        reads_heldout = Need.HELDOUT_GRADIENT in self.reward_needs
        usual = self.usual_reference if self.target is None or reads_heldout else "heldout"
        return (self.reference or usual) if self.reward_timing == "same_step" else None

    @property
    def usual_reference(self) -> str:
        """The reference if none is named, and there is no target."""
        return self.default_reference

    @property
    def resolved_weights(self) -> str:
        """How much an example of the reference counts, in force."""
        return "all" if self.reference_weights is None else self.reference_weights

    @property
    def reward_needs(self) -> Need:
        """What the reward asks for; nothing, where it is no signal."""
        named = REWARDS[self.reward] if isinstance(self.reward, str) else self.reward
        needs = getattr(named, "needs", None)
        return needs if isinstance(needs, Need) else Need(0)

    @property
    def trains_on_reference(self) -> bool:
        """Whether the reference batch is a normal training step too."""
        return self.resolved_reference not in (None, "heldout", "other_half") and self.resolved_weights == "all"

    @property
    def sgd_steps(self) -> int:
        """SGD steps in an episode: two per environment step when a reference batch is trained on."""
        return self.num_steps * (2 if self.trains_on_reference else 1)


@dataclass(frozen=True)
class RunConfig(RowConfig):
    """Options of environments whose rows are training runs.

    Args:
        dataset: A registered name, an ``.npz`` path or an image folder: :func:`gar_env.data.load_dataset`; or a
            :class:`gar_env.data.Dataset`.
        download: Whether torchvision may fetch the data.
        corrupt: Of the training data, the same examples for all runs: ``"label_noise(0.1)"``, as of
            :class:`DataWeightConfig`; none by default.
        corrupt_share: Of the runs, whose data are corrupted, in (0, 1]; the others train on the data as they are.
        inputs: Of images: ``"unit"`` [0, 1], ``"symmetric"`` [-1, 1] or ``"standardised"``; see :class:`SlotConfig`.
        network: A name, or a function ``(input_shape, num_outputs) -> nn.Module``; one architecture for all rows:
            :func:`gar_env.networks.build_network`.
        rule: A registered update rule: ``"sgd"``, ``"momentum"``, ``"nesterov"``, ``"rmsprop"``, ``"adam"``.
        batch_size: Examples in a step of one run.
        weight_decay: Times the parameters, added to the gradient that the rule sees.
        gradient_clip: Largest length of the gradient that the rule sees.
        loss_examples: Most examples of a run's part of the data that its loss is measured on, at its start and end.
        test_examples: Most test examples, evenly over all, that its accuracy is measured on at its end; 0 for none.
    """

    dataset: str | Dataset = "digits"
    download: bool = False
    corrupt: str = ""
    corrupt_share: float = 1.0
    inputs: str = "symmetric"
    network: str | NetworkBuilder = "fc"
    rule: str = "sgd"
    batch_size: int = 32
    weight_decay: float = 0.0
    gradient_clip: float | None = None
    loss_examples: int = 1000
    test_examples: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("batch_size", 1), ("loss_examples", 1), ("test_examples", 0)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be at least {least}.")
        parse_shares(self.corrupt)
        if not 0 < self.corrupt_share <= 1:
            raise ConfigurationError(f"corrupt_share={self.corrupt_share} must be above 0, and at most 1.")


ConfigType = TypeVar("ConfigType", bound=BaseConfig)


def config_from(kind: type[ConfigType], options: dict[str, Any]) -> ConfigType:
    """Build a config from keyword arguments.

    Raises:
        ConfigurationError: If an option has no such name; the message suggests one.
    """
    known = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name == "max_episode_steps":
            raise ConfigurationError("An episode ends after num_steps. Pass num_steps instead of max_episode_steps.")
        if name in SLOTS and name not in known:
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
