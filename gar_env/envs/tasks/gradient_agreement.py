"""``GAR/GradientAgreement-v0``: each row is a task of a meta-batch, and each action says how much it counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor

from gar_env.agreement import build_agreement_rule, combine, gram
from gar_env.agreement.combine import length, normalised
from gar_env.alignment.row_gradients import align_rows
from gar_env.data import Dataset
from gar_env.data.tasks import ClassTasks, Tasks, TaskSource, load_tasks
from gar_env.data.tasks.corruptions import parse_task_shares, spoil
from gar_env.envs.features import LAST_REWARD, PROGRESS, RUNNING, Feature, squashed
from gar_env.envs.fitting import check_network
from gar_env.envs.outcome import Infos, Outcome
from gar_env.envs.single import SingleAgentEnv
from gar_env.envs.tasks.base import TaskVectorEnv, finite_rows
from gar_env.envs.tasks.config import GradientAgreementConfig
from gar_env.errors import ConfigurationError
from gar_env.learner import Learner
from gar_env.learner.adaptation import Adapted, Adapter
from gar_env.networks import build_network
from gar_env.registry import shown
from gar_env.rewards import Evidence, Need, TaskEvidence
from gar_env.seeding import named_generator

TEST_NUMBERS = 2**24
"""Numbers of inputs that are tested at a time."""


class GradientAgreementVectorEnv(TaskVectorEnv):
    """A meta-batch of tasks is adapted to and shown; the actions say how much each counts; the network moves.

    Action: ``Discrete(weight_levels)``, 0 drops the task and the highest keeps it; or with ``weight_levels=0``
    ``Box(-1, 1)``, the weight. Observation, float32 ``[n, 11]``, of the task that the next action is about:
    :attr:`observation_names`. Reward: the task's weight times how much its signal is above ``baseline`` times the
    meta-batch's mean, so 0 if it is dropped; ``nslr`` pays all alike. Episode: one meta-training.

    ``infos``: ``length_ratio`` (the combined update's length over the mean's), ``negative_share`` (of the weights),
    ``uniform_fallback`` (whether the rule said nothing, as of updates that are all 0), ``update_finite``; at the end
    ``test_loss`` and ``test_accuracy`` of tasks that were not trained on (of regression: the share of variance
    explained). If all tasks are dropped the network stays where it is.

    Args:
        num_envs: Tasks in a meta-batch.
        **options: Fields of :class:`GradientAgreementConfig`.

    Raises:
        ConfigurationError: If options contradict each other, or the network does not fit the tasks.
        UnsupportedLayerError: If the network cannot keep tasks apart.

    Example:
        >>> import gymnasium, gar_env
        >>> env = gymnasium.make_vec("GAR/GradientAgreement-v0", num_envs=4, num_steps=5)
        >>> observations, infos = env.reset(seed=0)
        >>> observations, rewards, terminations, truncations, infos = env.step([1, 1, 0, 1])
        >>> float(rewards[2]), bool((rewards[:2] != 0).all())
        (0.0, True)

    Source:
        Eshratifar, Eigen & Pedram (2018), "Gradient Agreement as an Optimization Objective for Meta-Learning".

    Version history:
        v0: First version.
    """

    config: GradientAgreementConfig
    config_class = GradientAgreementConfig
    dashboard_shares = "tasks"
    provides = TaskVectorEnv.provides | Need.TASKS | Need.HELDOUT_GRADIENT
    left_out = (*TaskVectorEnv.left_out, "source", "test_source")

    features_of_a_task: ClassVar[tuple[Feature, ...]] = (
        PROGRESS,
        Feature("support_loss", 0, 1, "x / (1 + x) of its first inner batch's loss x before adapting"),
        Feature("loss_before", 0, 1, "x / (1 + x) of its query loss x before adapting; of Reptile as support_loss"),
        Feature(
            "loss_after", 0, 1, "x / (1 + x) of its query loss x after adapting; of Reptile of its last inner batch"
        ),
        Feature("fresh_ratio", 0, 1, "loss before / (before + after): above 1/2 if what it learned lasts"),
        Feature("length", 0, 1, "x / (1 + x) of its update's length x over the batch's mean"),
        Feature("agreement_others", -1, 1, "cosine of its update with the sum of the others'"),
        Feature("agreement_running", -1, 1, "cosine of its update with the running mean of combined ones, decay 0.9"),
        Feature("inner_gar", -1, 1, "cosine of its update with its own next, fresh one"),
        Feature("loss_rank", 0, 1, "share of the batch's other tasks with a lower loss after adapting"),
        LAST_REWARD,
    )

    # What there is

    def load(self) -> None:
        """See :class:`SharedNetworkEnv`."""
        config = self.config
        rule = build_agreement_rule(config.rule)
        if rule.compares and self.num_envs < 2:
            raise ConfigurationError(
                f"rule={shown(config.rule)} compares tasks with each other, and num_envs is 1. Use more, or "
                "rule='uniform'."
            )
        if self.evaluator.name == "inner_gar" and config.algorithm == "reptile" and config.inner_steps < 2:
            raise ConfigurationError(
                "reward='inner_gar' compares a task's first inner steps with its last, and inner_steps is 1. Use 2 or "
                "more, or an algorithm with queries."
            )
        self.rule, self.shares = rule, parse_task_shares(config.corrupt)
        own = {
            name: getattr(config, name) for name in ("ways", "queries", "rotations", "inputs", "download", "image_size")
        }
        if config.algorithm == "reptile":
            own["queries"] = 1
        self.source = load_tasks(config.tasks, shots=config.shots, **own)
        own["queries"] = config.queries
        self.test_source = load_tasks(config.tasks, shots=config.test_shots or config.shots, **own)
        self._check_batches()

    def _check_batches(self) -> None:
        config, there = self.config, self.source.support
        fresh = config.algorithm == "reptile" and self.evaluator.name == "inner_gar"
        wanted = (there if config.inner_batch is None else config.inner_batch) * (config.inner_steps if fresh else 1)
        if wanted > there:
            size, more = (there, " Pass inner_batch.") if config.inner_batch is None else (config.inner_batch, "")
            raise ConfigurationError(
                f"{config.inner_steps} inner steps on {size} fresh examples are {wanted}, and a task has {there} to "
                f"adapt to.{more} Use fewer, more shots, or another reward than inner_gar."
            )

    def test_batches(self) -> Iterator[Tasks]:
        """Tasks to test on, some at a time: the same whenever they are asked for."""
        config, source, generator = self.config, self.test_source, named_generator(0, "test tasks")
        queries = None if source.loss == "squared_error" else config.queries
        left = config.test_tasks
        examples = source.support + (source.ways * config.queries if isinstance(source, ClassTasks) else 50)
        size = max(1, TEST_NUMBERS // (examples * math.prod(source.input_shape)))
        while left:
            count = min(size, left)
            yield self._on_device(source.draw(count, generator, part="test", queries=queries))
            left -= count

    def action(self) -> Space[Any]:
        """The task's weight."""
        levels = self.config.weight_levels
        return Discrete(levels) if levels else Box(-1.0, 1.0, (1,), np.float32)

    @property
    def features(self) -> tuple[Feature, ...]:
        """See :class:`SharedNetworkEnv`."""
        return self.features_of_a_task

    @property
    def spoiled(self) -> Tensor:
        """bool ``[n]``: which tasks of the meta-batch now shown were corrupted. What an oracle knows."""
        return self.tasks.corrupted

    @property
    def decisions(self) -> Tensor:
        """float ``[2, 2]``: tasks so far that were clean or corrupted (row), and their weights' sizes (column 1)."""
        return self._decided

    def metrics(self) -> dict[str, float]:
        """Over the episode so far.

        Returns:
            ``corrupted_share`` of tasks; ``weight_on_corrupted``, their share of the weights' sizes; ``length_ratio``
            and ``negative_share``, means; ``test_loss`` at the end.
        """
        counts, sizes = self._decided[:, 0], self._decided[:, 1]
        ratios, negative = (np.array(values, float) for values in (self._ratios, self._negatives))
        return {
            "corrupted_share": float(counts[1] / counts.sum().clamp_min(1)),
            "weight_on_corrupted": float(sizes[1] / sizes.sum().clamp_min(1e-12)),
            "length_ratio": float(np.nanmean(ratios)) if np.isfinite(ratios).any() else math.nan,
            "negative_share": float(negative.mean()) if len(negative) else math.nan,
            "test_loss": self._test_loss,
        }

    # Training

    def build(self, seed: int) -> Learner:
        """See :class:`SharedNetworkEnv`."""
        config, source = self.config, self.source
        learner = Learner(
            lambda: build_network(config.network, source.input_shape, source.outputs),
            config.training,
            seed=seed,
            num_steps=config.num_steps,
            device=self.device,
            loss=source.loss,
        )
        self.adapter = Adapter(learner.network, config.adaptation, source.loss)
        return learner

    def open(self, seed: int) -> None:
        """See :class:`SharedNetworkEnv`."""
        super().open(seed)
        self._heldout_generator = named_generator(seed, "heldout")
        self._inner_generator = named_generator(seed, "inner batches")
        self._decided = torch.zeros(2, 2, device=self.device)
        self._mean_update = {name: torch.zeros_like(p) for name, p in self.learner.network.named_parameters()}
        self._ratio, self._negative, self._fallback = math.nan, 0.0, False
        self._ratios: list[float] = []
        self._negatives: list[float] = []

    def draw(self) -> Tasks:
        """See :class:`TaskVectorEnv`."""
        generator = self.data_generator
        tasks = self.source.draw(self.num_envs, generator, queries=self._queries)
        return self._on_device(spoil(tasks, self.shares, self.source.outputs, generator) if self.shares else tasks)

    @property
    def _queries(self) -> int | None:
        return 1 if self.config.algorithm == "reptile" else self.config.queries

    def adapt(self, tasks: Tasks) -> Adapted:
        """See :class:`TaskVectorEnv`."""
        return self.adapter.adapt(tasks, self._inner_generator)

    def weigh(self, actions: Tensor) -> Tensor:
        """See :class:`TaskVectorEnv`."""
        weights, finite = self.as_weights(actions), self.finite
        sound = (weights != 0) & finite
        every = self._table if self.config.algorithm == "reptile" else gram(self.shown.gradients)
        found = torch.zeros_like(weights)
        self._ratio, self._negative, self._fallback = math.nan, 0.0, False
        if not bool(sound.any()):
            return found
        table = every[sound][:, sound]
        found[sound] = self._combined(weights[sound].double(), table, sound).to(found.dtype)
        every = every[finite][:, finite]
        mean = length(torch.full_like(every[0], 1 / len(every)), every)
        self._ratio = float(length(found[finite].double(), every) / mean) if mean > 0 else math.nan
        self._negative = float((found[sound] < 0).double().mean())
        return found

    def _count(self, weights: Tensor) -> None:
        parts = (~self.spoiled & self.finite, self.spoiled & self.finite)
        self._decided = self._decided + torch.stack(
            [torch.stack([own.sum(), weights[own].abs().sum()]) for own in parts]
        )
        self._ratios.append(self._ratio)
        self._negatives.append(self._negative)

    def _combined(self, weights: Tensor, table: Tensor, sound: Tensor) -> Tensor:
        """Weights of the tasks that count, from those that the actions gave them."""
        rule, normalise = self.rule, self.config.resolved_normalise
        if not rule.compares or len(weights) < 2:
            own = torch.full_like(weights, 1 / self.num_envs)
        else:
            read = self._table[sound][:, sound] if rule.reads_updates else table
            own = rule(read * torch.outer(weights, weights))
            self._fallback = not bool(own.isfinite().all()) or not bool(own.any())
            own = torch.full_like(weights, 1 / len(weights)) if self._fallback else own
        return normalised(own * weights, table, normalise)

    def as_weights(self, actions: Tensor) -> Tensor:
        """What the actions say, ``[n]``, in [0, 1] or [-1, 1]."""
        levels = self.config.weight_levels
        return actions / (levels - 1) if levels else actions.view(-1)

    def move(self, weights: Tensor) -> None:
        """See :class:`TaskVectorEnv`."""
        self._count(weights)
        for name, g in combine(self.shown.updates, weights).items():
            self._mean_update[name] = RUNNING * self._mean_update[name] + (1 - RUNNING) * g
        super().move(weights)

    def evidence(self, following: Any) -> Evidence:
        """See :class:`TaskVectorEnv`."""
        found = super().evidence(following)
        needs, more = self.signal.needs, {}
        if Need.TASKS in needs:
            more["tasks"] = TaskEvidence(self.shown.gradients, self._table.float(), self._within, self.finite)
        if Need.HELDOUT_GRADIENT in needs:
            tasks = self.source.draw(self.num_envs, self._heldout_generator, queries=self._queries)
            adapted = self.adapter.adapt(self._on_device(tasks), self._heldout_generator, remember=False)
            finite = finite_rows(adapted.gradients)
            more["heldout_gradient"] = combine(adapted.gradients, finite / finite.sum().clamp_min(1))
        return Evidence(**{**{field.name: getattr(found, field.name) for field in fields(Evidence)}, **more})

    def pay(self, following: Any, weights: Tensor) -> Tensor:
        """The signal over its baseline, times each task's weight as the action gave it; to all what is one for all."""
        signal = super().pay(following, weights)
        if not self.signal.needs & (Need.TASKS | Need.ALIGNMENT):
            return signal
        if self.config.baseline:
            signal = signal - self.config.baseline * signal[self.finite].mean()
        return signal * self._acted

    def acted(self, actions: Tensor) -> None:
        """See :class:`SharedNetworkEnv`."""
        self._acted = self.as_weights(actions)
        if self.dashboard:
            self.dashboard.usage = self.metrics()

    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """See :meth:`RowVectorEnv.advance`."""
        outcome = super().advance(actions, live)
        more = {
            "length_ratio": (self._ratio, math.isfinite(self._ratio)),
            "negative_share": (self._negative, True),
            "uniform_fallback": (self._fallback, True),
            "test_loss": (self._test_loss, math.isfinite(self._test_loss)),
        }
        self._test_loss = math.nan
        return outcome._replace(infos={**outcome.infos, **more})

    def blank_infos(self) -> Infos:
        """See :meth:`RowVectorEnv.blank_infos`."""
        more: Infos = dict.fromkeys(("length_ratio", "negative_share", "test_loss"), (math.nan, False))
        return {**super().blank_infos(), **more, "uniform_fallback": (False, False)}

    def evaluate(self) -> dict[str, float]:
        """Accuracy and loss of tasks that were not trained on, the same for all seeds, after adapting to each."""
        losses, accuracies = [], []
        generator = named_generator(0, "test batches")
        steps = self.config.test_steps or self.config.inner_steps
        for some in self.test_batches():
            found = self.adapter.test(some, generator, steps=steps, transductive=self.config.transductive)
            losses.append(found[0])
            accuracies.append(found[1])
        self._test_loss = float(torch.cat(losses).mean())
        return {"test_accuracy": float(torch.cat(accuracies).mean()), "test_loss": self._test_loss}

    # Observing

    def begin(self) -> None:
        """See :class:`SharedNetworkEnv`."""
        self._test_loss = math.nan
        self._acted = torch.zeros(self.num_envs, device=self.device)
        if not self._network_fits:
            self.tasks = self.draw()
            x, t = self.tasks.inputs[0], self.tasks.targets[0]
            check_network(self.config.network, _as_dataset(self.source, self.tasks), x, t, self.learner.network)
            self._network_fits = True
            self.data_generator = named_generator(self.episode_seed, "data")
        super().begin()

    _network_fits = False

    def look(self) -> None:
        """See :class:`SharedNetworkEnv`."""
        shown: Adapted = self.shown
        self._table = gram(shown.updates)
        self._within = torch.zeros(self.num_envs, device=self.device)
        if shown.fresh is not None:
            self._within = _cosine(shown.first, shown.fresh)

    def columns(self) -> list[float | Tensor]:
        """See :class:`SharedNetworkEnv`."""
        shown: Adapted = self.shown
        table = self._table.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        lengths = table.diagonal().clamp_min(0).sqrt()
        others = table.sum(1) - table.diagonal()
        sums = table.sum() - 2 * table.sum(1) + table.diagonal()  # squared length of the others' sum
        running = torch.stack([g.square().sum() for g in self._mean_update.values()]).sum().sqrt().double()
        along = align_rows(shown.updates, self._mean_update).double()
        after = shown.after.nan_to_num(nan=1e30, posinf=1e30)
        ratio = shown.before / (shown.before + shown.after)
        lower = torch.searchsorted(after.sort().values, after)
        return [
            self.progress,
            squashed(shown.support),
            squashed(shown.before),
            squashed(shown.after),
            ratio.nan_to_num(nan=0.0, posinf=0.0),
            squashed(lengths / lengths.mean().clamp_min(1e-30)).float(),
            _safe_cosine(others, lengths * sums.clamp_min(0).sqrt()).float(),
            _safe_cosine(along, lengths * running).float(),
            self._within.nan_to_num(),
            lower / max(self.num_envs - 1, 1),
            self.last_reward,
        ]

    def _on_device(self, tasks: Tasks) -> Tasks:
        return Tasks(*(part.to(self.device) for part in tasks))


def _safe_cosine(products: Tensor, lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, products / lengths.clamp_min(1e-300), 0).nan_to_num().clamp(-1, 1)


def _cosine(one: dict[str, Tensor], other: dict[str, Tensor]) -> Tensor:
    """Of each row, ``[n]``; 0 where either is 0."""
    product, squares = torch.zeros(()), [torch.zeros(()), torch.zeros(())]
    for name, a in one.items():
        b = other[name]
        product = product + (a * b).reshape(len(a), -1).sum(1).double()
        squares = [
            total + x.square().reshape(len(x), -1).sum(1).double() for total, x in zip(squares, (a, b), strict=True)
        ]
    return _safe_cosine(product, (squares[0] * squares[1]).sqrt()).float()


def _as_dataset(source: TaskSource, tasks: Tasks) -> Dataset:
    """One task as data, for what is said about a network that does not fit."""
    x, y, x_test, y_test = (part[0].cpu() for part in tasks[:4])
    classes = () if source.loss == "squared_error" else tuple(map(str, range(source.outputs)))
    return Dataset(source.name, x, y, x_test, y_test, classes)


class GradientAgreementEnv(SingleAgentEnv):
    """The single-agent view of :class:`GradientAgreementVectorEnv`: one agent weighs the whole meta-batch.

    Args:
        batch_size: How many tasks.
        **options: Fields of :class:`GradientAgreementConfig`, but for ``autoreset_mode`` and ``output``.
    """

    vector_env_class = GradientAgreementVectorEnv
