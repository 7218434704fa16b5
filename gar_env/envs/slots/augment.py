"""``GAR/Augment-v0``: for every example, choose the image operations it goes through, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import MultiDiscrete
from torch import Tensor

from gar_env.augment import (
    BACKENDS,
    STRENGTHS,
    ActionLayout,
    Plan,
    StandardAugmentation,
    apply,
    load_space,
)
from gar_env.data import Dataset, Pool, make_pool
from gar_env.envs.config import SlotConfig
from gar_env.envs.features import LAST_REWARD, PROGRESS, RUNNING_LOSS, Feature, squashed
from gar_env.envs.single import SingleAgentEnv
from gar_env.envs.slots.base import SlotBatch, SlotVectorEnv
from gar_env.errors import ConfigurationError
from gar_env.networks.build import NetworkBuilder
from gar_env.seeding import named_generator


@dataclass(frozen=True)
class AugmentConfig(SlotConfig):
    """Options of ``GAR/Augment-v0``: those of :class:`~gar_env.envs.config.SlotConfig`, and how images are changed.

    ``reference`` is ``"plain"``: a fresh batch without the policy's operations, a normal training step too (the
    paper's interleaving); ``"policy"``: the actions just taken, on a fresh batch; or ``"heldout"``: clean held-out
    images as they are.

    Args:
        space: A registered search space (``"wl"``, ``"ra"``, ``"ra-translate"``, ``"ta-wide"``, ``"module:name"``),
            some of its operations (``"wl[rotate,color]"``), or a file that
            :meth:`~gar_env.augment.SearchSpace.to_json` filled (``"my.json"``).
        max_operations: The most operations that an image can get; ``None`` for 4, or all if there are fewer.
        corrupt: As for ``GAR/DataWeight-v0``: ``"symmetric_noise(0.2)"``; ``""`` for nothing.
        subset: Train on this many examples only, drawn once, the same for every seed; ``None`` for all.
        crop_padding: After the policy, on every step: random crops of images padded by this many pixels; 0 for none,
            ``None`` for an eighth of the shorter side (4 of 32).
        flip: Likewise: random left-right flips; ``None`` flips where the data set says that a mirrored image keeps its
            label.
        cutout: Likewise, on the inputs: side of the square that is set to 0; 0 for none, ``None`` for half the shorter
            side (16 of 32).
        backend: What applies the operations: ``"torch"``, ``"masked"`` or ``"pillow"``, see
            :func:`gar_env.augment.apply`.
    """

    dataset: str | Dataset = "synthetic_invariances"
    network: str | NetworkBuilder = "cnn"
    space: str = "wl"
    max_operations: int | None = None
    corrupt: str = ""
    subset: int | None = None
    crop_padding: int | None = None
    flip: bool | None = None
    cutout: int | None = None
    backend: str = "torch"

    default_reference: ClassVar[str] = "plain"
    references: ClassVar[tuple[str, ...]] = ("plain", "policy", "heldout", "other_half")

    def __post_init__(self) -> None:
        super().__post_init__()
        space = load_space(self.space)
        _ = BACKENDS[self.backend]
        if self.max_operations is not None and not 1 <= self.max_operations <= len(space):
            raise ConfigurationError(
                f"max_operations={self.max_operations} must be in 1..{len(space)}, the size of {self.space!r}."
            )
        if self.subset is not None and self.subset < 1:
            raise ConfigurationError(f"subset={self.subset} must be at least 1, or None for all examples.")


class AugmentVectorEnv(SlotVectorEnv):
    """Every slot's example goes through the image operations that its action names, then through the usual ones.

    Action: ``MultiDiscrete``, one row ``(r - 1, operation, keep, strength, operation, keep, strength, ...)`` per slot:
    the first ``r`` operations are applied in order, those with ``keep`` 1, at strengths 0..30; an operation that has
    come before in the row is not applied again (:class:`gar_env.augment.ActionLayout`, :attr:`action_names`). Signs
    and places are drawn by the environment. Then, on plain steps too: random crop, flip, normalisation, Cutout.

    Observation, float32 ``[n, d]``: :attr:`observation_names`, among them the class of the example that the next action
    is about. Reward: what the signal pays for the augmented example, raw. Episode: one training run.

    Args:
        num_envs: The batch size.
        **options: Fields of :class:`AugmentConfig`.

    Example:
        >>> import gymnasium, gar_env
        >>> env = gymnasium.make_vec("GAR/Augment-v0", num_envs=16, num_steps=5)
        >>> observations, infos = env.reset(seed=0)
        >>> rotate = env.unwrapped.space.index("rotate")
        >>> row = [0, rotate, 1, 20] + [0, 0, 0] * 3  # one operation: rotate by 90 degrees, to either side
        >>> observations, rewards, terminations, truncations, infos = env.step([row] * 16)
        >>> env.unwrapped.plan.describe(0)
        ['rotate 90 degrees']

    Source:
        Mueller, Biedenkapp & Hutter (2021), the application to augmentation, and table 3 for the operations.
    """

    config: AugmentConfig
    config_class = AugmentConfig
    dashboard_shares = "examples it was applied to"

    plan: Plan | None = None
    """What was done to the last batch: ``env.unwrapped.plan.describe(0)``; ``None`` before the first step."""

    def prepare(self) -> None:
        """See :class:`SlotVectorEnv`."""
        config = self.config
        self.space = load_space(config.space)
        self.layout = ActionLayout(self.space, config.max_operations or min(4, len(self.space)))
        if self.dataset.kind != "images":
            raise ConfigurationError(
                f"{self.dataset.name} holds {self.dataset.kind}; image operations are for images. Use another "
                "environment."
            )
        side = min(self.dataset.image_shape[1:])
        self.standard = StandardAugmentation(
            side // 8 if config.crop_padding is None else config.crop_padding,
            self.dataset.mirrored_is_same if config.flip is None else config.flip,
            side // 2 if config.cutout is None else config.cutout,
        )
        if self.dataset.image_shape[0] not in (1, 3):
            raise ConfigurationError(
                f"{self.dataset.name} has {self.dataset.image_shape[0]} channels; image operations are defined for "
                "gray (1) and RGB (3)."
            )

    def action(self) -> MultiDiscrete:
        """How many operations, and which, how strong, how likely."""
        return MultiDiscrete(np.array(self.layout.nvec))

    @property
    def features(self) -> tuple[Feature, ...]:
        """See :class:`SlotVectorEnv`."""
        text = "1 if the example to be augmented next is of class"
        classes = [Feature(f"class_{i}", 0, 1, f"{text} {name}") for i, name in enumerate(self.dataset.classes)]
        return (PROGRESS, RUNNING_LOSS, LAST_REWARD, *classes)

    @property
    def action_names(self) -> tuple[str, ...]:
        """The name of each entry of a slot's action."""
        return self.layout.names

    @property
    def decisions(self) -> Tensor:
        """int64 ``[operations, 31]``: how often each was applied at each strength so far."""
        return self._applied

    def metrics(self) -> dict[str, float]:
        """Over the episode so far, per example of the policy's batches; plain ones in between do not count.

        Returns:
            ``operations``: how many changed it, on average; ``applied_NAME``: the share of examples to which that
            operation was applied.
        """
        examples = max(self._examples, 1)
        per_operation = (self._applied.sum(1) / examples).tolist()
        named = {f"applied_{name}": share for name, share in zip(self.space.names, per_operation, strict=True)}
        return {"operations": self._changed.item() / examples, **named}

    @cached_property
    def _training_data(self) -> Dataset:
        """The data set, or the subset that is trained on."""
        dataset, subset, examples = self.dataset, self.config.subset, len(self.dataset.x_train)
        if subset is None:
            return dataset
        if subset > examples:
            raise ConfigurationError(f"subset={subset} is more than {dataset.name} has: {examples} training examples.")
        # From a seed of its own: every run, whatever its seed, has the same examples.
        return dataset.taking(torch.randperm(examples, generator=named_generator(0, "subset"))[:subset])

    left_out = (*SlotVectorEnv.left_out, "_training_data", "plan")

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "space": self.space.to_json()}  # what a file holds, not its name

    def make_pool(self, seed: int) -> Pool:
        """See :class:`SlotVectorEnv`."""
        generator = named_generator(seed, "labels")
        return make_pool(self._training_data, generator, corrupt=self.config.corrupt, **self.put_aside)

    def begin(self) -> None:
        """See :class:`SlotVectorEnv`."""
        if self.num_envs > len(self.pool.members):
            raise ConfigurationError(
                f"A batch of {self.num_envs} examples is larger than the {len(self.pool.members)} that are left to "
                "train on. Raise subset, or lower num_envs (batch_size)."
            )
        self.augmentation_generator = named_generator(self.episode_seed, "augmentation", self.device)
        self.plan = None
        self._applied = torch.zeros(len(self.space), STRENGTHS, dtype=torch.int64, device=self.device)
        self._changed = torch.zeros((), dtype=torch.int64, device=self.device)
        self._examples = 0

    def look(self) -> None:
        """See :class:`SlotVectorEnv`."""
        self._drawn = self.pool.draw_uniformly(self.num_envs, self.data_generator)

    def batch(self, actions: Tensor) -> SlotBatch:
        """The examples that were shown, through their slots' operations."""
        batch = self._augmented(self._drawn, actions, count=True)
        if self.dashboard:
            applied = {name: share for name, share in self.metrics().items() if name.startswith("applied_")}
            self.dashboard.usage = {name.removeprefix("applied_"): share for name, share in applied.items()}
        return batch

    def reference_batch(self, actions: Tensor) -> SlotBatch:
        """Fresh examples, for ``"policy"`` through the same choices."""
        fresh = self.pool.draw_uniformly(self.num_envs, self.data_generator)
        return self._augmented(fresh, actions) if self.reference == "policy" else self._finish(fresh)

    def _augmented(self, examples: Tensor, actions: Tensor, *, count: bool = False) -> SlotBatch:
        _, height, width = self.dataset.image_shape
        plan = self.layout.plan(actions, height=height, width=width, generator=self.augmentation_generator)
        if count:
            self._count(plan)
        return self._finish(examples, apply(plan, self.pool.inputs[examples], backend=self.config.backend))

    def _count(self, plan: Plan) -> None:
        self.plan = plan
        cells = plan.operations * STRENGTHS + plan.strengths
        self._applied.view(-1).scatter_add_(0, cells.flatten(), plan.keep.flatten().long())
        self._changed += plan.applied.sum()
        self._examples += plan.n

    def _finish(self, examples: Tensor, images: Tensor | None = None) -> SlotBatch:
        """What every image goes through; of those examples as they are, if not told otherwise."""
        images = self.pool.inputs[examples] if images is None else images
        inputs = self.normalise(self.standard.crop_and_flip(images, self.augmentation_generator))
        return SlotBatch(self.standard.cut_out(inputs, self.augmentation_generator), self.pool.targets[examples])

    def columns(self) -> list[float | Tensor]:
        """See :class:`SlotVectorEnv`."""
        return [
            self.progress,
            squashed(self.running_loss),
            self.last_reward,
            F.one_hot(self.pool.targets[self._drawn], len(self.dataset.classes)),
        ]


class AugmentEnv(SingleAgentEnv):
    """The single-agent view of :class:`AugmentVectorEnv`: one agent chooses for the whole batch.

    Args:
        batch_size: How many slots.
        **options: Fields of :class:`AugmentConfig`, but for ``autoreset_mode`` and ``output``.
    """

    vector_env_class = AugmentVectorEnv
