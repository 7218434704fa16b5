"""``GAR/DataWeight-v0``: for every example of a batch, choose whether, or how much, it counts."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from gymnasium.spaces import Discrete
from torch import Tensor

from gar_env.data import Pool, make_pool, parse_shares
from gar_env.envs.config import SlotConfig
from gar_env.envs.features import PROGRESS, RUNNING, Feature, RunningSize, squashed
from gar_env.envs.outcome import Infos, Outcome
from gar_env.envs.single import SingleAgentEnv
from gar_env.envs.slots.base import SlotBatch, SlotVectorEnv
from gar_env.envs.slots.nearest import nearest_rows
from gar_env.errors import ConfigurationError
from gar_env.learner import Pass, Start
from gar_env.networks import LastLinearInputs
from gar_env.registry import shown
from gar_env.rewards import Trained
from gar_env.seeding import named_generator


@dataclass(frozen=True)
class DataWeightConfig(SlotConfig):
    """Options of ``GAR/DataWeight-v0``: those of :class:`~gar_env.envs.config.SlotConfig`, and what is weighed.

    ``reference`` is ``"policy"``: the next batch, each example with the weight of the slot whose observation was
    nearest; ``"uniform"``: the next batch as it is drawn; ``"heldout"``; or ``"other_half"`` of the batch itself, what
    was dropped too. None is trained on, so an episode has one SGD step per environment step. With label noise,
    ``"uniform"`` pays a controller that drops wrong labels to take them back: once the network is not fitted to them,
    they are most of that batch's gradient. ``"policy"`` finds random mistakes, which cancel out; systematic ones
    (``"asymmetric_noise"``) agree with each other, and need ``"heldout"``, or ``reference_weights``.

    Args:
        corrupt: ``"name(share)"`` of all examples, comma-separated; without a share, all. ``"symmetric_noise"`` and
            ``"asymmetric_noise"`` give wrong labels; ``"label_noise"`` draws some that are right by chance, and counts
            them as corrupted; ``""`` or ``None`` for nothing.
        weight_levels: 2: drop or keep. More: action ``a`` is the weight ``a / (weight_levels - 1)``, and the tape that
            signals read is of the weighted losses.
        keep_all_steps: Steps at the start in which all examples count, whatever the actions are; slots are paid by
            their actions all the same, and a controller learns before it can lock the network in.
        keep_bonus: What keeping is paid beside the signal, in root mean squares of its rewards so far (times the
            weight): without it a signal that is noise has a controller drop half of the data.
        pay_dropped: Whether ``infos["reward_if_kept"]`` says what each example is paid, or would have been, had it been
            kept, ``keep_bonus`` included: rewards are then read from one more pass over the batch as it was drawn. With
            ``"same_step"``.
        penultimate: Whether slots also observe the input of the network's last linear layer, as ``x / (1 + |x|)``.
    """

    corrupt: str | None = "symmetric_noise(0.4)"
    weight_levels: int = 2
    keep_all_steps: int = 0
    keep_bonus: float = 0.0
    pay_dropped: bool = False
    penultimate: bool = False

    # Small and without momentum: an overshooting step makes the next gradient point back, clean examples are paid less
    # than wrong labels, and a controller learns to keep those (PPO with an entropy bonus of 0.05, FC_BN on digits, 8
    # runs each: accuracy 0.91 at 0.1, 0.95 at 0.05; an early version, one run: 0.59 with momentum 0.9, 0.96 without).
    step_size: float = 0.05

    sgd_momentum: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_shares(self.resolved_corrupt)
        if self.weight_levels < 2:
            raise ConfigurationError(f"weight_levels={self.weight_levels} must be at least 2: drop and keep.")
        for name in ("keep_all_steps", "keep_bonus"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be at least 0.")
        if self.pay_dropped and self.reward_timing == "next_step":
            raise ConfigurationError("pay_dropped needs reward_timing='same_step'.")

    @property
    def resolved_corrupt(self) -> str:
        """What is corrupted, in force."""
        return self.corrupt or ""

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
        >>> env = gymnasium.make_vec("GAR/DataWeight-v1", num_envs=4, num_steps=5)
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
        Feature("margin", -1, 1, "probability of its label minus the highest other; of tokens the mean"),
        Feature("entropy", 0, 1, "of the network's answer / that of a uniform one; of tokens the mean"),
        Feature("loss_rank", 0, 1, "share of the batch's other examples with a lower loss"),
        Feature("class_loss", 0, 1, "x / (1 + x) of the mean loss x of its label's (source's) examples, decay 0.9"),
    )

    def action(self) -> Discrete:
        """The example's weight."""
        return Discrete(self.config.weight_levels)

    @property
    def features(self) -> tuple[Feature, ...]:
        """See :class:`SlotVectorEnv`."""
        width = self._inputs_of_last.width if self._inputs_of_last else 0
        text = "x / (1 + |x|) of an input x of the last linear layer"
        return (*self.features_of_an_example, *(Feature(f"penultimate_{j}", -1, 1, text) for j in range(width)))

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

    def make_pool(self, seed: int) -> Pool:
        """See :class:`SlotVectorEnv`."""
        generator = named_generator(seed, "labels")
        return make_pool(self.dataset, generator, corrupt=self.config.resolved_corrupt, **self.put_aside)

    def begin(self) -> None:
        """See :class:`SlotVectorEnv`."""
        config = self.config
        if self.num_envs < self._fewest:
            raise ConfigurationError(
                f"network={shown(config.network)} normalises over the batch, which needs at least 2 examples; num_envs "
                "is 1."
            )
        data = self.dataset
        if not data.classes:
            raise ConfigurationError(
                f"{data.name} has no labels, and slots observe margins between classes. Use GAR/DataSplit-v1."
            )
        self._decided = torch.zeros(2, 2, dtype=torch.int64, device=self.device)  # [corrupted?, dropped?]
        kinds = len(data.classes) if data.has_labels else max(len(data.groups), 1)
        self._class_losses = torch.full((kinds,), float(self.running_loss), device=self.device)
        self._inputs_of_last = LastLinearInputs(self.learner.network) if config.penultimate else None
        self._before: tuple[Tensor, bool] | None = None
        self._if_kept = torch.zeros(self.num_envs, device=self.device)
        self._size_of_rewards = RunningSize(self.device)
        self._drawn = False  # whether the batch to be weighed next has been drawn: a reference batch is that batch

    def acted(self, actions: Tensor) -> None:
        """See :class:`SlotVectorEnv`."""
        cells = 2 * self.spoiled.long() + (actions == 0).long()
        self._decided = self._decided + torch.bincount(cells, minlength=4).view(2, 2)
        if self.dashboard:
            self.dashboard.usage = self.metrics()

    def load(self) -> None:
        """See :class:`SlotVectorEnv`."""
        super().load()
        if self.config.pay_dropped and self.evaluator.repeats:
            raise ConfigurationError(
                f"reward={self.evaluator.name!r} takes the step again, and pay_dropped pays what was not in it. Leave "
                "pay_dropped out."
            )

    @property
    def _keeps_all(self) -> bool:
        """Whether all count in this step, whatever the actions."""
        return self.steps < self.config.keep_all_steps

    def take(self, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`SlotVectorEnv`."""
        config, kept_all = self.config, self._keeps_all
        late = config.reward_timing == "next_step"
        paid_for, whole = (self._before if late else (actions, kept_all)) or (actions, kept_all)
        loss, rewards = super().take(actions)
        self._before = actions, kept_all
        if rewards is None:
            return loss, rewards
        weights = paid_for / (config.weight_levels - 1)
        if_kept = rewards
        if whole or config.pay_dropped:
            if self.evaluator.reads_examples:
                rewards = rewards * weights
            if self._token_rewards is not None:
                self._token_rewards = self._token_rewards * weights[:, None]
        if config.keep_bonus:
            bonus = config.keep_bonus * self._size_of_rewards.of(rewards)
            rewards, if_kept = rewards + bonus * weights, if_kept + bonus
        self._if_kept = if_kept
        return loss, rewards

    def _train(self, actions: Tensor, start: Start | None) -> tuple[Trained, Tensor]:
        if not self.config.pay_dropped:
            return super()._train(actions, start)
        drawn = self.look_at(self._batch, record=self.evaluator.reads_tape)
        self._chosen = self.batch(actions)
        passed = self._pass(self._chosen)
        return Trained(drawn, None, start), self.step_loss(passed and passed.losses)

    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """See :class:`SharedNetworkEnv`."""
        outcome = super().advance(actions, live)
        if not self.config.pay_dropped:
            return outcome
        return outcome._replace(
            infos={**outcome.infos, "reward_if_kept": (self._if_kept, bool(self._if_kept.isfinite().all()))}
        )

    def blank_infos(self) -> Infos:
        """See :meth:`RowVectorEnv.blank_infos`."""
        own = {"reward_if_kept": (math.nan, False)} if self.config.pay_dropped else {}
        return super().blank_infos() | own

    def batch(self, actions: Tensor) -> SlotBatch:
        """The examples that are kept, with their weights."""
        if self._keeps_all:
            actions = torch.full_like(actions, self.config.weight_levels - 1)
        weights = actions / (self.config.weight_levels - 1)
        slots = actions.nonzero().flatten()
        inputs, targets = self._batch.inputs[slots], self._batch.targets[slots]
        return SlotBatch(inputs, targets, None if self.config.weight_levels == 2 else weights[slots], slots)

    def reference_batch(self, actions: Tensor) -> SlotBatch:
        """The next batch; for ``"policy"``, each example with the weight of the slot that looked most like it."""
        self._drawn = True
        if self.reference == "uniform":
            self._draw()
            return self._batch
        observed = self.observe()
        self._draw()
        self.look_at(self._batch, backward=False)
        return self.batch(actions[nearest_rows(self.observe(), observed)])

    def step_loss(self, losses: Tensor | None) -> Tensor:
        """Of the batch as it was drawn."""
        return self._losses.mean()

    def look(self) -> None:
        """See :class:`SlotVectorEnv`."""
        if not self._drawn:
            self._draw()
            self.look_at(self._batch, backward=False)
        self._drawn = False
        kinds = self._kinds
        counts = torch.bincount(kinds, minlength=len(self._class_losses))
        means = torch.zeros_like(self._class_losses).index_add(0, kinds, self._losses) / counts.clamp_min(1)
        mixed = RUNNING * self._class_losses + (1 - RUNNING) * means
        self._class_losses = torch.where(counts > 0, mixed, self._class_losses)

    @property
    def _kinds(self) -> Tensor:
        """int64 ``[n]``: the labels of the batch now shown; of tokens, the sources of its sequences."""
        if self.dataset.has_labels:
            return self._batch.targets
        groups = self.dataset.group_train
        return torch.zeros_like(self._examples) if groups is None else groups.to(self.device)[self._examples]

    def _draw(self) -> None:
        """Draw the batch to be weighed next."""
        self._examples = self.pool.draw_uniformly(self.num_envs, self.data_generator)
        self._batch = self.gather(self._examples)

    def whole(self, batch: SlotBatch) -> SlotBatch:
        """See :class:`SlotVectorEnv`: the batch as it was drawn, what was dropped too."""
        return self._batch

    def look_at(self, batch: SlotBatch, **options: Any) -> Pass:
        """See :class:`SlotVectorEnv`; how the network answers to the batch to be weighed next is what slots observe."""
        shown = batch is self._batch
        with self._inputs_of_last if shown and self._inputs_of_last else nullcontext():
            side = super().look_at(batch, **options)
        if shown:
            assert side.outputs is not None
            self._logits, self._losses = side.outputs, side.losses
        return side

    def columns(self) -> list[float | Tensor]:
        """See :class:`SlotVectorEnv`."""
        losses = self._losses.nan_to_num(nan=1e30, posinf=1e30)
        margins, entropies = margins_and_entropies(self._logits, self._batch.targets)
        lower = torch.searchsorted(losses.sort().values, losses)
        columns: list[float | Tensor] = [
            self.progress,
            squashed(losses),
            margins,
            entropies,
            lower / max(self.num_envs - 1, 1),
            squashed(self._class_losses)[self._kinds],
        ]
        if self._inputs_of_last:
            columns.append(F.softsign(self._inputs_of_last.value.nan_to_num()))
        return columns


def margins_and_entropies(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Margin and entropy of each answer, ``[n]`` each; of sequences, the means over their tokens.

    Args:
        logits: ``[n, K]``, or of tokens ``[n, T, K]``.
        targets: int64 ``[n]`` or ``[n, T]``; -1 is no token.
    """
    probabilities, own = logits.softmax(-1).nan_to_num(), targets.clamp_min(0)[..., None]
    margins = probabilities.gather(-1, own)[..., 0] - probabilities.scatter(-1, own, -1).amax(-1)
    entropies = torch.special.entr(probabilities).sum(-1) / math.log(probabilities.shape[-1])
    if targets.ndim == 1:
        return margins, entropies
    there = (targets >= 0).to(margins.dtype)
    margins, entropies = ((each * there).sum(1) / there.sum(1).clamp_min(1) for each in (margins, entropies))
    return margins, entropies


class DataWeightEnv(SingleAgentEnv):
    """The single-agent view of :class:`DataWeightVectorEnv`: one agent weighs the whole batch.

    Args:
        batch_size: How many slots.
        **options: Fields of :class:`DataWeightConfig`, but for ``autoreset_mode`` and ``output``.
    """

    vector_env_class = DataWeightVectorEnv
