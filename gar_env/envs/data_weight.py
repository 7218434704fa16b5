"""``GAR/DataWeight-v0``: for every example of a batch, choose whether, or how much, it counts."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete, MultiDiscrete
from torch import Tensor

from gar_env.data import Batch, Pool, make_pool, parse_shares
from gar_env.envs.base import SlotVectorEnv
from gar_env.envs.config import SlotConfig, config_from
from gar_env.envs.features import PROGRESS, RUNNING, Feature, squashed
from gar_env.envs.nearest import nearest_rows
from gar_env.envs.paying import Trained
from gar_env.envs.single import SingleAgentEnv
from gar_env.errors import ConfigurationError
from gar_env.functional import own_surroundings
from gar_env.learner import SidePass
from gar_env.networks import LastLinearInputs
from gar_env.registry import shown
from gar_env.seeding import named_generator


@dataclass(frozen=True)
class DataWeightConfig(SlotConfig):
    """Options of ``GAR/DataWeight-v0``: those of :class:`~gar_env.envs.config.SlotConfig`, and what is weighed.

    ``reference`` is ``"policy"``: the next batch, each example with the weight of the slot whose observation was
    nearest; ``"uniform"``: the next batch as it is drawn; or ``"heldout"``. None is trained on, so an episode has one
    SGD step per environment step. With label noise, ``"uniform"`` pays a controller that drops wrong labels to take
    them back: once the network is not fitted to them, they are most of that batch's gradient. ``"policy"`` finds random
    mistakes, which cancel out; systematic ones (``"asymmetric_noise"``) agree with each other, and need ``"heldout"``.

    Args:
        corrupt: ``"name(share)"`` of all examples, comma-separated; without a share, all. ``"symmetric_noise"`` and
            ``"asymmetric_noise"`` give wrong labels; ``"label_noise"`` draws some that are right by chance, and counts
            them as corrupted.
        weight_levels: 2: drop or keep. More: action ``a`` is the weight ``a / (weight_levels - 1)``, and the tape that
            signals read is of the weighted losses.
        penultimate: Whether slots also observe the input of the network's last linear layer, as ``x / (1 + |x|)``.
    """

    corrupt: str = "symmetric_noise(0.4)"
    weight_levels: int = 2
    penultimate: bool = False

    # Small and without momentum: an overshooting step makes the next gradient point back, clean examples are paid less
    # than wrong labels, and a controller learns to keep those (PPO with an entropy bonus of 0.05, FC_BN on digits, 8
    # runs each: accuracy 0.91 at 0.1, 0.95 at 0.05; an early version, one run: 0.59 with momentum 0.9, 0.96 without).
    step_size: float = 0.05

    sgd_momentum: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_shares(self.corrupt)
        if self.weight_levels < 2:
            raise ConfigurationError(f"weight_levels={self.weight_levels} must be at least 2: drop and keep.")

    @property
    def trains_on_reference(self) -> bool:
        """Never: its examples have no weights yet."""
        return False


class DataWeightVectorEnv(SlotVectorEnv):
    """A batch is drawn uniformly and shown; the actions weigh its examples; what is left of it trains the network.

    Action: ``Discrete(weight_levels)``; 0 drops the example, the highest keeps it. The loss is ``sum_i w_i l_i / n``,
    so a slot's reward is what its weight did, to first order, and fewer examples make a smaller step. Dropped examples
    are not in the pass at all, nor in batch statistics. Observation, float32 ``[n, d]``, of the example that the next
    action is about: :attr:`observation_names`. Reward: the example's weight times its alignment, so 0 if it is dropped;
    a signal that reads no tape, such as NSLR, pays all slots alike. Episode: one training run.

    A step in which fewer than 2 examples are kept (fewer than 1 without batch normalisation) trains nothing, and
    signals that read a tape pay 0. ``infos["loss"]`` is the mean loss of the batch as it was drawn.

    Args:
        num_envs: The batch size.
        **options: Fields of :class:`DataWeightConfig`.

    Example:
        >>> import gymnasium, gar_env
        >>> env = gymnasium.make_vec("GAR/DataWeight-v0", num_envs=4, num_steps=5)
        >>> observations, infos = env.reset(seed=0)
        >>> env.unwrapped.observation_names
        ('progress', 'loss', 'margin', 'entropy', 'loss_rank', 'class_loss')
        >>> observations, rewards, terminations, truncations, infos = env.step([0, 0, 1, 1])
        >>> (rewards != 0).tolist()
        [False, False, True, True]
    """

    config: DataWeightConfig
    config_class = DataWeightConfig
    dashboard_shares = "examples"

    features_of_an_example: ClassVar[tuple[Feature, ...]] = (
        PROGRESS,
        Feature("loss", 0, 1, "x / (1 + x) of the example's cross entropy x in nats"),
        Feature("margin", -1, 1, "probability of its label minus the highest other"),
        Feature("entropy", 0, 1, "of the network's answer / that of a uniform one"),
        Feature("loss_rank", 0, 1, "share of the batch's other examples with a lower loss"),
        Feature("class_loss", 0, 1, "x / (1 + x) of the mean loss x of its label's examples, decay 0.9 per batch"),
    )

    @own_surroundings()
    def __init__(self, num_envs: int = 128, **options: Any) -> None:
        config = config_from(DataWeightConfig, options)
        super().__init__(num_envs, config)
        # A run is built once already here, so that a wrong option fails when the environment is made, not at reset.
        self._begin(seed=0)
        penultimate = [
            Feature(f"penultimate_{j}", -1, 1, "x / (1 + |x|) of an input x of the last linear layer")
            for j in range(self._inputs_of_last.width if self._inputs_of_last else 0)
        ]
        self._set_spaces(
            Discrete(config.weight_levels),
            MultiDiscrete([config.weight_levels] * num_envs),
            (*self.features_of_an_example, *penultimate),
        )

    @property
    def spoiled(self) -> Tensor:
        """bool ``[n]``: which examples of the batch now shown were corrupted. What an oracle knows."""
        return self.pool.spoiled[self._examples]

    @property
    def decisions(self) -> Tensor:
        """int64 ``[2, 2]``: examples so far that were clean or corrupted (row), kept or dropped (column)."""
        return self._decided

    def metrics(self) -> dict[str, float]:
        """Over the episode so far: share of examples kept, and how well dropping finds the corrupted ones.

        Returns:
            ``kept_share``; ``drop_precision`` (share of the dropped that were corrupted) and ``drop_recall`` (share of
            the corrupted that were dropped), each 0 where nothing was dropped or corrupted.
        """
        kept, dropped = self._decided[:, 0].tolist(), self._decided[:, 1].tolist()
        return {
            "kept_share": sum(kept) / max(sum(kept) + sum(dropped), 1),
            "drop_precision": dropped[1] / max(sum(dropped), 1),
            "drop_recall": dropped[1] / max(kept[1] + dropped[1], 1),
        }

    def _make_pool(self, seed: int) -> Pool:
        generator = named_generator(seed, "labels")
        return make_pool(self.dataset, generator, corrupt=self.config.corrupt, heldout_share=self.heldout_share)

    def _start_data(self) -> None:
        config = self.config
        self._fewest = self.learner.fewest_examples
        if self.num_envs < self._fewest:
            raise ConfigurationError(
                f"network={shown(config.network)} normalises over the batch, which needs at least 2 examples; num_envs "
                "is 1."
            )
        self._decided = torch.zeros(2, 2, dtype=torch.int64, device=self.device)  # [corrupted?, dropped?]
        classes = len(self.dataset.classes)
        self._class_losses = torch.full((classes,), float(self._running_loss), device=self.device)
        self._inputs_of_last = LastLinearInputs(self.learner.network) if config.penultimate else None
        self._drawn = False  # whether the batch to be weighed next has been drawn: a reference batch is that batch

    def _train(self, actions: Tensor) -> tuple[Trained, Tensor]:
        spoiled, weights = self.spoiled, actions / (self.config.weight_levels - 1)
        cells = 2 * spoiled.long() + (actions == 0).long()
        self._decided = self._decided + torch.bincount(cells, minlength=4).view(2, 2)
        if self.dashboard:
            self.dashboard.usage = self.metrics()
        loss = self._losses.mean()
        slots = actions.nonzero().flatten()
        if len(slots) < self._fewest:
            return Trained(None, slots[:0]), loss  # no gradient waits, so the update leaves the parameters alone
        batch, uneven = self._weighed(weights)
        # The pass takes the mean over the m kept examples; over the whole batch it is m / n of that. The tape is of
        # w_i times the losses all the same.
        tape, _ = self._pass(batch, uneven, loss_scale=len(slots) / self.num_envs)
        return Trained(tape, slots), loss

    def _weighed(self, weights: Tensor) -> tuple[Batch, Tensor | None]:
        """The ``m`` examples that are left, and their weights unless all are 1."""
        kept = weights > 0
        batch = Batch(self._batch.inputs[kept], self._batch.targets[kept])
        return batch, None if self.config.weight_levels == 2 else weights[kept]

    def _reference(self, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self._drawn = True
        if self.reference == "uniform":
            side = self._draw(gradient=True)
            return side.losses.mean(), side.gradient
        observed = self._observe()
        self._draw(gradient=False)
        nearest = nearest_rows(self._observe(), observed)
        weights = actions[nearest] / (self.config.weight_levels - 1)
        left = int((weights > 0).sum())
        if left < self._fewest:
            return self._losses.mean(), self.learner.gradient()  # zeros: nothing points anywhere
        side = self.learner.side_pass(*self._weighed(weights), loss_scale=left / self.num_envs)
        return self._losses.mean(), side.gradient

    def _look(self) -> None:
        if not self._drawn:
            self._draw(gradient=False)
        self._drawn = False
        targets = self._batch.targets
        counts = torch.bincount(targets, minlength=len(self._class_losses))
        means = torch.zeros_like(self._class_losses).index_add(0, targets, self._losses) / counts.clamp_min(1)
        mixed = RUNNING * self._class_losses + (1 - RUNNING) * means
        self._class_losses = torch.where(counts > 0, mixed, self._class_losses)

    def _draw(self, *, gradient: bool) -> SidePass:
        """Draw the batch to be weighed next, and see how the network answers to it in training mode."""
        self._examples = self.pool.draw_uniformly(self.num_envs, self.data_generator)
        self._batch = self._gather(self._examples)
        with self._inputs_of_last or nullcontext():
            side = self.learner.side_pass(self._batch, gradient=gradient)
        self._logits, self._losses = side.logits, side.losses
        return side

    def _columns(self) -> list[float | Tensor]:
        probabilities = self._logits.softmax(1).nan_to_num()
        losses, own = self._losses.nan_to_num(nan=1e30, posinf=1e30), self._batch.targets[:, None]
        margins = probabilities.gather(1, own)[:, 0] - probabilities.scatter(1, own, -1).amax(1)
        entropies = torch.special.entr(probabilities).sum(1) / math.log(probabilities.shape[1])
        lower = torch.searchsorted(losses.sort().values, losses)
        columns: list[float | Tensor] = [
            self.progress,
            squashed(losses),
            margins,
            entropies,
            lower / max(self.num_envs - 1, 1),
            squashed(self._class_losses)[self._batch.targets],
        ]
        if self._inputs_of_last:
            columns.append(F.softsign(self._inputs_of_last.value.nan_to_num()))
        return columns


class DataWeightEnv(SingleAgentEnv):
    """The single-agent view of :class:`DataWeightVectorEnv`: one agent weighs the whole batch.

    Args:
        batch_size: How many slots.
        **options: Fields of :class:`DataWeightConfig`, but for ``autoreset_mode`` and ``output``.
    """

    vector_env_class = DataWeightVectorEnv
