"""Run environments: one row is a whole training run, with its own network, batches, length and end."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from gar_env.data import load_dataset, make_pool, normalisation
from gar_env.envs.config import RunConfig
from gar_env.envs.configured import ConfiguredVectorEnv
from gar_env.envs.features import Feature
from gar_env.envs.fitting import check_network
from gar_env.envs.outcome import Episode, Infos, Outcome
from gar_env.envs.runs.batches import RunBatches
from gar_env.envs.runs.instances import Instance
from gar_env.envs.runs.measures import Measures
from gar_env.errors import NoRenderingError
from gar_env.functional import own_surroundings
from gar_env.learner import LOSSES, LearnerStack, Loss, Rows, StackPass
from gar_env.networks import build_network
from gar_env.rewards import Evidence, Need, RunEvidence
from gar_env.rewards.runs import log_loss
from gar_env.seeding import lend_to_global, named_generator

LARGEST_LOSS = 1e4
"""A run whose loss is above this has diverged; above as many times its first loss, if that was above 1."""

DESCRIBED = {"num_steps": "num_steps", "initial_step_size": "step_size", "share": "share"}
"""What infos say of a run's instance when it ends: their names, and the instance's own."""


class Control(NamedTuple):
    """What the actions decide about the next step of each run.

    Args:
        step_sizes: ``[R]``: the update rule's direction is gone along so far.
    """

    step_sizes: Tensor


class RunVectorEnv(ConfiguredVectorEnv):
    """``num_envs`` training runs of one architecture at once; one row's episode is one run, and runs end apart.

    A step goes from the gradient that the last observation was about to the next one: the actions say how far
    (:meth:`control`), the networks move, each run's next batch is passed, and what changed pays. Subclasses add what is
    seen (:meth:`seen`, :attr:`features`, :meth:`columns`) and what runs there are (:meth:`instance`).

    A run that is no longer finite, or whose loss is above 10,000 (times its first, if that was above 1), ends alone,
    with ``infos["diverged"]``; it is paid ``divergence_reward`` (:meth:`diverged_rewards`).

    Args:
        num_envs: R.
        **options: Fields of :attr:`config_class`.

    Raises:
        ConfigurationError: If options contradict each other, or the signal needs what cannot be given.
        GarEnvError: Whatever building the data or the networks raises.
    """

    metadata: dict[str, Any] = {**ConfiguredVectorEnv.metadata, "render_modes": []}
    rows_end_together = False
    config_class: ClassVar[Any] = RunConfig

    provides: ClassVar[Need] = Need.ALIGNMENT | Need.NEXT_GRADIENT | Need.NEXT_LOSS | Need.RUN
    """What signals may ask for. ``alignment [R]`` is ``< g_t, g_{t+1} >`` of each run, for SGD minus the derivative of
    its next loss by its step size; ``next_loss`` is ``[R]``."""

    left_out = (
        *ConfiguredVectorEnv.left_out,
        *("dataset", "_x", "_y", "direction", "batches", "instances", "measures"),
    )

    @own_surroundings()
    def __init__(self, num_envs: int = 16, **options: Any) -> None:
        if options.get("render_mode") is not None:
            raise NoRenderingError(f"{type(self).__name__} draws nothing. Leave render_mode out.")
        super().__init__(num_envs, **options)
        config = self.config
        self.dataset = data = load_dataset(config.dataset, download=config.download)
        self.normalise = normalisation(data.x_train.to(self.device), config.inputs)
        self.check_data()
        if config.corrupt:  # behind the data as they are
            pool = make_pool(data, named_generator(0, "labels"), corrupt=config.corrupt)
            both = torch.cat([data.x_train, pool.inputs.all()]), torch.cat([data.y_train, pool.targets])
            data = replace(data, x_train=both[0], y_train=both[1], group_train=None)
        n, whole = self.num_envs, data.to(self.device)
        self._x, self._y = whole.x_train, whole.y_train
        self._check_network()
        self.stack = LearnerStack(
            partial(self.build, None),
            [0] * n,
            rule=config.rule,
            loss=partial(_losses, LOSSES[data.loss]),
            weight_decay=config.weight_decay,
            gradient_clip=config.gradient_clip,
            device=self.device,
        )
        self.measures = Measures(whole, self.normalise, config.loss_examples, config.test_examples)
        self.batches = RunBatches(n, len(self.dataset.x_train), config.batch_size, self.device)
        self.instances = [Instance() for _ in range(n)]
        self._draws = [torch.Generator(self.device) for _ in range(n)]  # of signals
        self.steps = torch.zeros(n, dtype=torch.int64, device=self.device)
        self.lengths = torch.ones(n, dtype=torch.int64, device=self.device)
        self.loss = torch.full((n,), math.nan, device=self.device)
        self.initial_loss = torch.full((n,), math.nan, device=self.device)
        self.step_sizes = torch.full((n,), math.nan, device=self.device)
        self._described: dict[str, Tensor] = {}
        self._return = torch.zeros(n, device=self.device)
        self._due = torch.ones(n, dtype=torch.bool, device=self.device)
        self.gradient: Rows | None = None
        self.prepare()
        self._open_first(list(range(n)))
        self.observe()

    def _check_network(self) -> None:
        first = slice(self.config.batch_size)
        with lend_to_global(named_generator(0, "initialisation")):
            network = self.build(None).to(self.device)
            check_network(self.config.network, self.dataset, self.normalise(self._x[first]), self._y[first], network)

    # What a subclass fills in

    @abstractmethod
    def action(self) -> Space[Any]:
        """What one run chooses from: ``Discrete`` or ``Box``."""

    @abstractmethod
    def control(self, actions: Tensor) -> Control:
        """What the actions, checked, say about the next step; of rows that are not live, anything.

        :attr:`step_sizes` holds those of the last step, at first of the run's :class:`~gar_env.envs.Instance`; this
        method changes nothing.
        """

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns of an observation."""
        return (Feature("progress", 0, 1, "steps taken / length of the run"),)

    def columns(self) -> list[float | Tensor]:
        """The values of :attr:`features`: ``[R]`` or ``[R, k]``."""
        return [self.steps / self.lengths]

    def check_data(self) -> None:
        """Called once, when the data set is there: refuse options that do not fit it.

        Raises:
            ConfigurationError: With what does not fit.
        """

    def begin(self, rows: Tensor, seeds: list[int]) -> None:
        """Called when runs start, bool ``[R]`` and a seed for each of them: draw what is theirs."""

    def instance(self, seed: int, row: int) -> Instance:
        """The run with this seed: how long it is, what it sees, where it starts.

        Args:
            seed: Of the run.
            row: For options that are given row by row.
        """
        return Instance(num_steps=self.config.num_steps)

    def build(self, instance: Instance | None) -> nn.Module:
        """The network of a run, or ``None``: the one whose shape all have."""
        return build_network(self.config.network, self.dataset.input_shape, self.dataset.outputs)

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The next batch of each run, inputs and targets ``[R, n, ...]``.

        Args:
            rows: bool ``[R]``: whose is due; of others anything, and their streams must stay where they are.
        """
        chosen = self.batches.of(self.steps, rows)
        examples, shape = chosen.flatten(), chosen.shape
        inputs, targets = self.normalise(self._x[examples]), self._y[examples]
        return inputs.view(*shape, *inputs.shape[1:]), targets.view(*shape, *targets.shape[1:])

    def seen(self, one: StackPass, direction: Rows, rows: Tensor) -> None:
        """Called after each pass, before anything moves: keep what :meth:`columns` shows, of these rows.

        Args:
            one: The pass; ``one.losses`` is ``[R, n]``.
            direction: Where the rule goes from here, per unit of step size.
            rows: bool ``[R]``: whose pass it was; what others have seen stays.
        """

    def diverged_rewards(self, returns: Tensor) -> Tensor:
        """What runs are paid in the step in which they diverge, ``[R]``.

        Args:
            returns: What each was paid before, ``[R]``.
        """
        return torch.full_like(returns, self.config.divergence_reward)

    # Episodes

    @own_surroundings()
    def start(self, rows: Tensor, seeds: list[int]) -> None:
        """See :meth:`RowVectorEnv.start`."""
        numbers, builds = rows.nonzero().flatten().tolist(), []
        for row, seed in zip(numbers, seeds, strict=True):
            self.instances[row] = instance = self.instance(seed, row)
            builds.append(partial(self.build, instance))
            self._draws[row] = named_generator(seed, "rewards", self.device)
            self.batches.start(row, seed, instance.share, first=len(self.dataset.x_train) * self._is_corrupted(seed))
        self.stack.restart(rows, seeds, builds)
        self._described = {
            name: torch.tensor([getattr(one, field) for one in self.instances], dtype=torch.float32, device=self.device)
            for name, field in DESCRIBED.items()
        }
        lengths = torch.tensor([one.num_steps for one in self.instances], device=self.device)
        self.lengths = torch.where(rows, lengths, self.lengths)
        self.step_sizes = torch.where(rows, self._described["initial_step_size"], self.step_sizes)
        self.steps = torch.where(rows, 0, self.steps)
        self._return = torch.where(rows, 0, self._return)
        self._due = self._due | rows
        self.initial_loss = self._training_loss(rows, self.initial_loss)
        self.begin(rows, seeds)

    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """See :meth:`RowVectorEnv.advance`."""
        self._look(live & self._due)
        assert self.gradient is not None
        gradient, loss = self.gradient, self.loss
        self.step_sizes = torch.where(live, self.control(actions).step_sizes, self.step_sizes)
        self.stack.move(self.direction, self.step_sizes, None if live.all() else live)
        self.steps = self.steps + live.long()
        self._due = self._due | live
        self._look(self._due)
        largest = LARGEST_LOSS * self.initial_loss.clamp_min(1)
        diverged = live & (self.stack.diverged | ~(self.loss <= largest))
        ended = live & (diverged | (self.steps >= self.lengths))
        whole = ended & ~diverged
        final_loss = self._training_loss(whole, torch.full_like(self.loss, math.nan))
        rewards = self._pay(gradient, loss, final_loss, live & ~diverged)
        rewards = torch.where(diverged, self.diverged_rewards(self._return), rewards)
        self._return = torch.where(live, self._return + rewards, self._return)
        accuracy = decrease = final_loss
        if bool(ended.any()):
            accuracy = self._accuracy(whole, torch.full_like(self.loss, math.nan))
            decrease = log_loss(self.initial_loss) - log_loss(final_loss)
            self._log(ended, diverged, final_loss, decrease, accuracy)
        infos = {
            "loss": (self.loss.clone(), self.loss.isfinite()),
            "step_size": (self.step_sizes.clone(), True),
            "reward_valid": (True, True),
            "diverged": (diverged, True),
            "final_loss": (final_loss, whole),
            "log_loss_decrease": (decrease, whole),
            "test_accuracy": (accuracy, whole),
            **{name: (value.clone(), ended) for name, value in self._described.items()},
        }
        return Outcome(rewards, ended, infos)

    def blank_infos(self) -> Infos:
        """See :meth:`RowVectorEnv.blank_infos`."""
        more = dict.fromkeys(("step_size", "final_loss", "log_loss_decrease", *DESCRIBED), (math.nan, False))
        return {**super().blank_infos(), **more}

    @own_surroundings()
    def observe(self) -> Tensor:
        """See :meth:`RowVectorEnv.observe`."""
        self._look(self._due)
        return super().observe()

    def last_step(self) -> dict[str, float]:
        """See :meth:`RowVectorEnv.last_step`; with the mean ``loss``."""
        return {"loss": float(self.loss.nanmean()), **super().last_step()}

    def _identity(self) -> dict[str, Any]:
        data = self.dataset
        sizes = [len(data.x_train), len(data.x_test), *data.input_shape, data.outputs]
        return {**super()._identity(), "data": sizes, "data_fingerprint": data.fingerprint}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        if self.gradient is not None:
            self.direction = self.stack.direction(self.gradient)

    def _is_corrupted(self, seed: int) -> bool:
        """Whether the run with this seed trains on corrupted data."""
        config = self.config
        if not config.corrupt:
            return False
        return bool(torch.rand((), generator=named_generator(seed, "corrupted")) < config.corrupt_share)

    def _look(self, rows: Tensor) -> None:
        """Pass the next batch of these rows: bool ``[R]``."""
        if not bool(rows.any()):
            return
        one = self.stack.run(*self.draw(rows), None if rows.all() else rows)
        whole = self.gradient is None or bool(rows.all())
        self.gradient = one.gradient if whole else one.gradient.where(rows, self.gradient)  # pyright: ignore
        self.loss = torch.where(rows, one.losses.mean(1), self.loss)
        self.direction = self.stack.direction(self.gradient)
        self.seen(one, self.direction, rows)
        self._due = self._due & ~rows

    def _pay(self, gradient: Rows, loss: Tensor, final_loss: Tensor, finite: Tensor) -> Tensor:
        assert self.gradient is not None
        needs, step = self.evaluator.signal.needs, int(self.steps.max())
        alignment = gradient.dot(self.gradient) if Need.ALIGNMENT in needs else None
        run = RunEvidence(loss, self.initial_loss, final_loss, self.steps) if Need.RUN in needs else None
        if not getattr(self.evaluator.signal, "draws", False):
            evidence = Evidence(self.num_envs, self.loss, alignment=alignment, next_gradient=self.gradient, run=run)
            return self.evaluator.rewards(evidence, step=step, finite=finite)
        # Each row by its own numbers: what it is paid must not depend on others.
        paid = torch.zeros(self.num_envs, device=self.device)
        for row in finite.nonzero().flatten().tolist():
            at = slice(row, row + 1)
            evidence = Evidence(
                1,
                self.loss[at],
                alignment=None if alignment is None else alignment[at],
                next_gradient={name: g[at] for name, g in self.gradient.items()}
                if Need.NEXT_GRADIENT in needs
                else None,
                run=None if run is None else RunEvidence(*(part[at] for part in run)),
                generator=self._draws[row],
            )
            paid[row] = self.evaluator.rewards(evidence, step=step, finite=finite[at])[0]
        return paid

    def _training_loss(self, rows: Tensor, others: Tensor) -> Tensor:
        """Mean loss of these rows' networks on their own parts of the training data, and ``others`` elsewhere."""
        if not bool(rows.any()):
            return others
        numbers = rows.nonzero().flatten()
        parts = [self.batches.part(row) for row in numbers.tolist()]
        return others.index_put((numbers,), self.measures.training_losses(self.stack, numbers, parts))

    def _accuracy(self, rows: Tensor, others: Tensor) -> Tensor:
        if not bool(rows.any()) or not self.config.test_examples:
            return others
        numbers = rows.nonzero().flatten()
        return others.index_put((numbers,), self.measures.test_accuracies(self.stack, numbers))

    def _log(self, ended: Tensor, diverged: Tensor, final_loss: Tensor, decrease: Tensor, accuracy: Tensor) -> None:
        """A line in :attr:`finished` for each run that has ended."""
        for row in ended.nonzero().flatten().tolist():
            values = {"steps": self.steps, "return": self._return, "diverged": diverged, "final_loss": final_loss}
            values |= {"log_loss_decrease": decrease, "test_accuracy": accuracy}
            found = {name: float(value[row]) for name, value in values.items()}
            self.finished.append(Episode(row, {**found, **self.metrics()}))

    @own_surroundings()
    def evaluate(self, row: int) -> dict[str, float]:
        """Accuracy and mean loss of one run's present network on all test data."""
        accuracy, loss = self.measures.test(self.stack.network(row))
        return {"test_accuracy": accuracy, "test_loss": loss}


def _losses(kind: type[Loss], outputs: Tensor, targets: Tensor) -> Tensor:
    return kind(targets)(outputs)
