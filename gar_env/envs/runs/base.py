"""Run environments: one row is a whole training run, with its own network, batches, length and end."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium.spaces import Space
from torch import Tensor

from gar_env.data import in_batches, load_dataset, normalisation
from gar_env.envs.config import RunConfig
from gar_env.envs.configured import ConfiguredVectorEnv
from gar_env.envs.features import Feature
from gar_env.envs.outcome import Episode, Outcome
from gar_env.errors import ConfigurationError
from gar_env.functional import own_surroundings
from gar_env.learner import LOSSES, LearnerStack, Loss, Rows, StackPass, measure
from gar_env.networks import build_network
from gar_env.rewards import Evidence, Need
from gar_env.seeding import named_generator


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
    seen (:meth:`seen`, :attr:`features`, :meth:`columns`) and how long a run is (:meth:`length`).

    A run that is no longer finite ends alone, with ``infos["diverged"]``; it is paid ``divergence_reward``.

    Args:
        num_envs: R.
        **options: Fields of :attr:`config_class`.

    Raises:
        ConfigurationError: If options contradict each other, or the signal needs what cannot be given.
        GarEnvError: Whatever building the data or the networks raises.
    """

    rows_end_together = False
    config_class: ClassVar[Any] = RunConfig

    provides: ClassVar[Need] = Need.ALIGNMENT | Need.NEXT_GRADIENT | Need.NEXT_LOSS
    """What signals may ask for. ``alignment [R]`` is ``< g_t, g_{t+1} >`` of each run, for SGD minus the derivative of
    its next loss by its step size; ``next_loss`` is ``[R]``."""

    left_out = (*ConfiguredVectorEnv.left_out, "dataset", "direction")

    @own_surroundings()
    def __init__(self, num_envs: int = 16, **options: Any) -> None:
        super().__init__(num_envs, **options)
        config = self.config
        if config.render_mode is not None:
            raise ConfigurationError(f"{type(self).__name__} draws nothing. Leave render_mode out.")
        self.dataset = load_dataset(config.dataset, download=config.download)
        self.normalise = normalisation(self.dataset.x_train.to(self.device), config.inputs)
        data = self.dataset
        self.stack = LearnerStack(
            partial(build_network, config.network, data.input_shape, data.outputs),
            [0] * num_envs,
            rule=config.rule,
            loss=partial(_losses, LOSSES[data.loss]),
            weight_decay=config.weight_decay,
            gradient_clip=config.gradient_clip,
            device=self.device,
        )
        self.prepare()
        n = self.num_envs
        self.generators = [torch.Generator(self.device) for _ in range(n)]
        self._draws = [torch.Generator(self.device) for _ in range(n)]  # of signals
        self.steps = torch.zeros(n, dtype=torch.int64, device=self.device)
        self.lengths = torch.full((n,), config.num_steps, device=self.device)
        self.loss = torch.full((n,), math.nan, device=self.device)
        self._return = torch.zeros(n, device=self.device)
        self._due = torch.ones(n, dtype=torch.bool, device=self.device)
        self.gradient: Rows | None = None
        self._open_first(list(range(n)))
        self.observe()

    # What a subclass fills in

    @abstractmethod
    def action(self) -> Space[Any]:
        """What one run chooses from: ``Discrete`` or ``Box``."""

    @abstractmethod
    def control(self, actions: Tensor) -> Control:
        """What the actions, checked, say about the next step; of rows that are not live, anything."""

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns of an observation."""
        return (Feature("progress", 0, 1, "steps taken / length of the run"),)

    def columns(self) -> list[float | Tensor]:
        """The values of :attr:`features`: ``[R]`` or ``[R, k]``."""
        return [self.steps / self.lengths]

    def begin(self, rows: Tensor, seeds: list[int]) -> None:
        """Called when runs start, bool ``[R]`` and a seed for each of them: draw what is theirs."""

    def length(self, seed: int) -> int:
        """Steps of the run with this seed."""
        return self.config.num_steps

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The next batch of each run, inputs and targets ``[R, n, ...]``.

        Args:
            rows: bool ``[R]``: whose is due; of others anything, and their streams must stay where they are.
        """
        n, size = len(self.dataset.x_train), self.config.batch_size
        chosen = torch.zeros(self.num_envs, size, dtype=torch.int64, device=self.device)
        for row in rows.nonzero().flatten().tolist():
            chosen[row] = torch.randint(n, (size,), generator=self.generators[row], device=self.device)
        examples = chosen.flatten().cpu()
        inputs = self.normalise(self.dataset.x_train[examples].to(self.device))
        targets = self.dataset.y_train[examples].to(self.device)
        shape = (self.num_envs, size)
        return inputs.view(*shape, *inputs.shape[1:]), targets.view(*shape, *targets.shape[1:])

    def seen(self, one: StackPass, direction: Rows, rows: Tensor) -> None:
        """Called after each pass, before anything moves: keep what :meth:`columns` shows, of these rows.

        Args:
            one: The pass; ``one.losses`` is ``[R, n]``.
            direction: Where the rule goes from here, per unit of step size.
            rows: bool ``[R]``: whose pass it was; what others have seen stays.
        """

    # Episodes

    @own_surroundings()
    def start(self, rows: Tensor, seeds: list[int]) -> None:
        """See :meth:`RowVectorEnv.start`."""
        self.stack.restart(rows, seeds)
        for row, seed in zip(rows.nonzero().flatten().tolist(), seeds, strict=True):
            self.generators[row] = named_generator(seed, "data", self.device)
            self._draws[row] = named_generator(seed, "rewards", self.device)
            self.lengths[row] = self.length(seed)
        self.steps = torch.where(rows, 0, self.steps)
        self._return = torch.where(rows, 0, self._return)
        self._due = self._due | rows
        self.begin(rows, seeds)

    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """See :meth:`RowVectorEnv.advance`."""
        self._look(live & self._due)
        assert self.gradient is not None
        before = self.gradient
        self.stack.move(self.direction, self.control(actions).step_sizes, live)
        self.steps = self.steps + live.long()
        self._due = self._due | live
        self._look(self._due)
        diverged = live & (self.stack.diverged | ~self.loss.isfinite())
        rewards = self._pay(before, live & ~diverged)
        rewards = torch.where(diverged, self.config.divergence_reward, rewards)
        ended = live & (diverged | (self.steps >= self.lengths))
        self._return = torch.where(live, self._return + rewards, self._return)
        accuracy = self._measure(ended, diverged)
        infos = {
            "loss": (self.loss.clone(), self.loss.isfinite()),
            "reward_valid": (True, True),
            "diverged": (diverged, True),
            "test_accuracy": (accuracy, ended & ~diverged),
        }
        return Outcome(rewards, ended, infos)

    @own_surroundings()
    def observe(self) -> Tensor:
        """See :meth:`RowVectorEnv.observe`."""
        self._look(self._due)
        return super().observe()

    def last_step(self) -> dict[str, float]:
        """See :meth:`RowVectorEnv.last_step`; with the mean ``loss``."""
        return {"loss": float(self.loss.nanmean()), **super().last_step()}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load(state)
        if self.gradient is not None:
            self.direction = self.stack.direction(self.gradient)

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

    def _pay(self, before: Rows, finite: Tensor) -> Tensor:
        assert self.gradient is not None
        needs, step = self.evaluator.signal.needs, int(self.steps.max())
        alignment = before.dot(self.gradient) if Need.ALIGNMENT in needs else None
        if not getattr(self.evaluator.signal, "draws", False):
            evidence = Evidence(self.num_envs, self.loss, alignment=alignment, next_gradient=self.gradient)
            return self.evaluator.rewards(evidence, step=step, finite=finite)
        # Each row by its own numbers: what it is paid must not depend on others.
        paid = torch.zeros(self.num_envs, device=self.device)
        for row in finite.nonzero().flatten().tolist():
            at = slice(row, row + 1)
            gradient = {name: g[at] for name, g in self.gradient.items()} if Need.NEXT_GRADIENT in needs else None
            one = None if alignment is None else alignment[at]
            evidence = Evidence(1, self.loss[at], alignment=one, next_gradient=gradient, generator=self._draws[row])
            paid[row] = self.evaluator.rewards(evidence, step=step, finite=finite[at])[0]
        return paid

    @torch.no_grad()
    def _measure(self, ended: Tensor, diverged: Tensor) -> Tensor:
        """Test accuracy of the runs that end now, NaN of others; and a line in :attr:`finished` for each."""
        found = torch.full((self.num_envs,), math.nan, device=self.device)
        for row in ended.nonzero().flatten().tolist():
            if not diverged[row]:
                found[row] = self.evaluate(row)["test_accuracy"]
            values = {"steps": float(self.steps[row]), "return": float(self._return[row])}
            values |= {"diverged": float(diverged[row]), "test_accuracy": float(found[row])}
            self.finished.append(Episode(row, {**values, **self.metrics()}))
        return found

    @own_surroundings()
    @torch.no_grad()
    def evaluate(self, row: int) -> dict[str, float]:
        """Accuracy and mean loss of one run's present network on the test data."""
        network = self.stack.network(row).eval()
        test = in_batches(self.dataset.x_test, self.dataset.y_test, self.normalise, self.device)
        accuracy, loss = measure(self.dataset.loss, ((network(batch.inputs), batch.targets) for batch in test))
        return {"test_accuracy": accuracy, "test_loss": loss}


def _losses(kind: type[Loss], outputs: Tensor, targets: Tensor) -> Tensor:
    return kind(targets)(outputs)
