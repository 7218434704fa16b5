"""Slot environments: one row is one example's place in the mini-batch, and all rows share a network."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn

from gar_env.alignment import Tape
from gar_env.data import Batch, Pool, in_batches, load_dataset, normalisation
from gar_env.envs.config import SlotConfig
from gar_env.envs.dashboard import Dashboard
from gar_env.envs.features import RUNNING, Feature, RunningSize, observation_box, observe
from gar_env.envs.paying import Collected, Paying, Trained
from gar_env.envs.together import Outcome, TogetherVectorEnv
from gar_env.errors import ConfigurationError
from gar_env.functional import own_surroundings
from gar_env.learner import Pass
from gar_env.networks import build_network
from gar_env.registry import shown
from gar_env.rewards import Evidence, Need
from gar_env.seeding import named_generator


class SlotVectorEnv(TogetherVectorEnv):
    """``num_envs`` slots of one mini-batch; one episode is one training run.

    Subclasses say what an action does to a slot's example (:meth:`_train`), what pays for it (:meth:`_reference`), and
    which features they show.

    A step waits for the device a few times (divergence, conservation and finiteness checks); with ``output="torch"``
    nothing else leaves it.

    Args:
        num_envs: The batch size.
        config: All options.

    Raises:
        ConfigurationError: If the batch is larger than the training data, or options contradict each other.
        GarEnvError: Whatever building the data or the network raises.
    """

    @own_surroundings()
    def __init__(self, num_envs: int, config: SlotConfig) -> None:
        super().__init__(
            num_envs,
            autoreset_mode=config.autoreset_mode,
            output=config.output,
            device=config.device,
            render_mode=config.render_mode,
        )
        self.config = config
        self._network_fits = False  # not known yet
        self.reward_timing = config.reward_timing
        self.paying = Paying(config.reward, num_envs)
        self.signal = self.paying.signal
        self.reference = config.resolved_reference
        needs_heldout = self.reference == "heldout" or Need.HELDOUT_GRADIENT in self.signal.needs
        share = config.heldout_share if config.heldout_share is not None else 0.1 * needs_heldout
        if needs_heldout and share == 0:
            raise ConfigurationError(f"reward={self.paying.name!r} needs heldout_share above 0, for example 0.1.")
        self.heldout_share = share
        self.dataset = load_dataset(
            config.dataset,
            download=config.download,
            image_size=config.image_size,
            image_background=config.image_background,
        )
        left = len(self.dataset.x_train) - int(share * len(self.dataset.x_train))
        if num_envs > left:
            raise ConfigurationError(
                f"A batch of {num_envs} examples is larger than the training data: {self.dataset.name} has "
                f"{left}{' beside the held-out part' if share else ''}. Lower num_envs (batch_size)."
            )
        self.normalise = normalisation(self.dataset.x_train.to(self.device), config.inputs)
        self.device_images: Tensor | None = None
        """The data set's images on a GPU, once for all episodes; on the CPU the data set's own are used."""
        self.dashboard = Dashboard(type(self).__name__, self.dashboard_shares) if self.render_mode else None

    def _set_spaces(self, action_space: Any, batched_action_space: Any, features: tuple[Feature, ...]) -> None:
        """Called once by the subclass: spaces and the names of observation columns."""
        self.features = features
        self.single_action_space, self.action_space = action_space, batched_action_space
        self.single_observation_space = observation_box(self.features)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def _check_network(self) -> None:
        """Run a batch through the network of the first episode, which stays as it is: it must fit the images.

        Subclasses begin a first episode when they are made, so that it fails there.

        Raises:
            ConfigurationError: With what the network said.
        """
        n, classes, config = self.num_envs, len(self.dataset.classes), self.config
        name = config.network if isinstance(config.network, str) else "the builder"
        what = f"network={shown(name)} on {n} images {list(self.dataset.image_shape)}, as {self.dataset.name} has them"
        try:
            logits = self.learner.trial(self._gather(self.pool.members[:1].expand(n)).inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of somebody's forward pass
            first = next(iter(str(error).splitlines()), "")
            raise ConfigurationError(f"{what}, fails: {type(error).__name__}: {first}") from error
        fits = isinstance(logits, Tensor) and logits.layout is torch.strided and logits.shape == (n, classes)
        if not fits or not logits.is_floating_point() or logits.is_meta:
            found = f"{logits.dtype}, {logits.layout}" if isinstance(logits, Tensor) else type(logits).__name__
            shape = f" {list(logits.shape)}" if isinstance(logits, Tensor) else ""
            raise ConfigurationError(f"{what}, returns {found}{shape}; expected floating logits [{n}, {classes}].")
        if not logits.requires_grad:
            raise ConfigurationError(f"{what}, returns logits that depend on no trainable parameter.")

    @property
    def observation_names(self) -> tuple[str, ...]:
        """The name of each observation column."""
        return tuple(feature.name for feature in self.features)

    # What a subclass fills in

    dashboard_shares: ClassVar[str] = "draws"
    """What the shares on the dashboard are of."""

    config_class: ClassVar[type[SlotConfig]]
    """The options, for command lines and pages of documentation."""

    pool: Pool
    """The data of this episode."""

    finished: dict[str, float] | None = None
    """What the last finished episode came to: ``steps``, ``return`` (mean over slots), ``diverged``, ``test_accuracy``
    (NaN if it diverged) and :meth:`metrics` at its end."""

    @abstractmethod
    def _make_pool(self, seed: int) -> Pool:
        """Cut and corrupt the data of one episode, on the CPU; depends on ``seed`` alone."""

    @abstractmethod
    def _start_data(self) -> None:
        """Called when ``self.pool`` and the learner of a new episode are there."""

    @abstractmethod
    def _train(self, actions: Tensor) -> tuple[Trained, Tensor]:
        """The pass over the batch that the actions call for; its gradient is left waiting for the update.

        Returns:
            What is kept until the slots are paid, and the scalar loss.
        """

    @abstractmethod
    def _reference(self, actions: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and gradient of a batch for ``self.reference``, other than held-out ones; left waiting if trained on.

        From one ``plain_pass`` or ``side_pass`` of the learner, as it is: it pays meanwhile, and may be repeated.
        """

    @abstractmethod
    def _columns(self) -> list[float | Tensor]:
        """The values of ``self.features``."""

    def _look(self) -> None:
        """Called at the start of an episode and after each step, before :meth:`_columns`: see what comes next."""

    def metrics(self) -> dict[str, float]:
        """What is worth logging about this episode so far, by name. Waits for the device."""
        return {}

    def last_step(self) -> dict[str, float]:
        """``loss``, ``reward_mean`` and ``reward_std`` of the last step, also if it ended its episode."""
        loss, rewards = self._last_step
        return {
            "loss": float(loss),
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std(correction=0)),
        }

    # One episode

    @own_surroundings()
    def _begin(self, seed: int) -> None:
        config = self.config
        shape, classes = self.dataset.image_shape, len(self.dataset.classes)
        self.data_generator = named_generator(seed, "data", self.device)
        self.learner = config.build_learner(
            lambda: build_network(config.network, shape, classes), seed=seed, device=self.device
        )
        if self.num_envs == 1 and any(isinstance(m, nn.BatchNorm1d) for m in self.learner.network.modules()):
            raise ConfigurationError(
                f"network={shown(config.network)} normalises over the batch, which needs at least 2 examples; num_envs "
                "is 1."
            )
        self.paying.begin(self.learner, seed)
        self.steps = 0
        self._unpaid: Trained | None = None  # next_step: the last batch, whose slots wait to be paid
        # A network that knows nothing answers uniformly; its loss is a fair value before the first step.
        self._running_loss = torch.tensor(float(classes), device=self.device).log()
        self._reward_size = RunningSize(self.device)
        self._return = torch.zeros((), device=self.device)
        self._last_reward = torch.zeros(self.num_envs, device=self.device)
        if self.dashboard:
            self.dashboard.clear()
        self.episode_seed = seed
        self.pool = self.on_device(self._make_pool(seed))
        self._start_data()
        if not self._network_fits:
            self._check_network()
            self._network_fits = True
        self._look()

    def made_again(self) -> dict[str, Any]:
        """Large objects that the options and :attr:`episode_seed` make again, and checkpoints leave out, by name."""
        return {"dataset": self.dataset, "pool": self.pool, "device_images": self.device_images}

    def on_device(self, pool: Any) -> Any:
        """A pool made on the CPU; images that it shares with the data set are moved once."""
        if self.device.type == "cpu":
            return pool
        if self.device_images is None:
            self.device_images = pool.images.original.to(self.device)
        shared = replace(pool.images, original=self.device_images)
        return replace(pool, images=shared).to(self.device)

    def _advance(self, actions: Tensor) -> Outcome:
        start = self.paying.start()
        if self.config.reward_timing == "same_step":
            trained, loss = self._train(actions)
            trained = self.paying.passed(trained, start)
            self.learner.update()
            rewards = self._pay_with_reference(trained, actions)
        else:
            paid = self._unpaid
            with self.paying.collecting(paid) as collected:
                trained, loss = self._train(actions)
            self._unpaid = trained = self.paying.passed(trained, start)
            rewards = self._pay(paid, loss, self.learner.gradient(), collected, trained.passed) if paid else None
            self.learner.update()
        self.steps += 1

        finite = loss.isfinite() if rewards is None else loss.isfinite() & rewards.isfinite().all()
        diverged = not bool(finite) or self.learner.diverged
        ended = diverged or self.steps >= self.config.num_steps
        valid = rewards is not None
        if rewards is None:
            rewards = torch.zeros(self.num_envs, device=self.device)
        if diverged:
            rewards, valid = torch.full_like(rewards, self.config.divergence_reward), True
        else:
            self._running_loss = RUNNING * self._running_loss + (1 - RUNNING) * loss
            if valid:
                self._last_reward = torch.tanh(rewards / self._reward_size.of(rewards))
        if self.dashboard:
            self.dashboard.add(float(loss), float(rewards.mean()))
        self._look()
        accuracy = self.evaluate()["test_accuracy"] if ended and not diverged else math.nan
        self._last_step = (loss, rewards)
        self._return = self._return + rewards.mean()
        if ended:
            self.finished = {
                "steps": self.steps,
                "return": float(self._return),
                "diverged": float(diverged),
                "test_accuracy": accuracy,
                **self.metrics(),
            }
        infos = {
            "loss": (loss, True),
            "reward_valid": (valid, True),
            "diverged": (diverged, True),
            "test_accuracy": (accuracy, ended and not diverged),
        }
        return Outcome(rewards, ended, infos | self._error_infos())

    def _blank_infos(self) -> dict[str, tuple[Any, Any]]:
        return {
            "loss": (math.nan, False),
            "reward_valid": (False, False),
            "diverged": (False, False),
            "test_accuracy": (math.nan, False),
        } | dict.fromkeys(self._error_infos(), (math.nan, False))

    def _error_infos(self) -> dict[str, tuple[Any, Any]]:
        return self.paying.infos() if self.config.way == "finite_difference" else {}

    def _pass(
        self, batch: Batch, weights: Tensor | None = None, *, loss_scale: float = 1.0
    ) -> tuple[Tape | None, Tensor]:
        """Forward and backward, recorded if the signal needs a tape; losses ``[n]``."""
        if not self.paying.reads_tape:
            return None, self.learner.plain_pass(batch, weights, loss_scale=loss_scale)
        tape = self.learner.recorded_pass(batch, weights, loss_scale=loss_scale)
        return tape, tape.losses

    def _heldout_batch(self) -> Batch:
        return self._gather(self.pool.draw_heldout(self.num_envs, self.data_generator))

    def _gather(self, examples: Tensor) -> Batch:
        return Batch(self.normalise(self.pool.images[examples]), self.pool.labels[examples])

    def _pay_with_reference(self, trained: Trained, actions: Tensor) -> Tensor:
        """Pay the step before from a reference batch at theta_{t+1}, and train on that if it is training data."""
        with self.paying.collecting(trained) as collected:
            if self.reference == "heldout":
                side = self.learner.side_pass(self._heldout_batch())
                loss, gradient = side.losses.mean(), side.gradient
            else:
                loss, gradient = self._reference(actions)
        rewards = self._pay(trained, loss, gradient, collected, self.learner.last_pass)
        if self.config.trains_on_reference:
            self.learner.update()
        return rewards

    def _pay(
        self, trained: Trained, loss: Tensor, gradient: dict[str, Tensor], collected: Collected, following: Pass | None
    ) -> Tensor:
        """Rewards of all slots, ``[n]``, from the pass that follows: its loss and gradient."""
        heldout = None
        if Need.HELDOUT_GRADIENT in self.signal.needs:
            heldout = self.learner.side_pass(self._heldout_batch()).gradient
        evidence = Evidence(self.num_envs, loss, next_gradient=gradient, heldout_gradient=heldout)
        return self.paying.pay(trained, evidence, collected, step=self.steps + 1, following=following)

    def _observe(self) -> Tensor:
        return observe(self.features, self._columns(), self.num_envs, self.device)

    @property
    def progress(self) -> float:
        """Share of the episode's steps that are taken."""
        return self.steps / self.config.num_steps

    @own_surroundings()
    def evaluate(self) -> dict[str, float]:
        """Accuracy and mean cross entropy of the present network on the test data.

        Returns:
            ``{"test_accuracy": share in [0, 1], "test_loss": nats}``.

        Raises:
            ResetNeededError: Before the first :meth:`reset`.
        """
        self._check_started("evaluate")
        test = in_batches(self.dataset.x_test, self.dataset.y_test, self.normalise, self.device)
        accuracy, loss = self.learner.evaluate(test)
        return {"test_accuracy": accuracy, "test_loss": loss}

    def render(self) -> tuple[Any, ...] | None:
        """One frame per slot, all the same object, since they share a network: a string or uint8 ``[h, w, 3]``.

        Gymnasium's ``RecordVideo`` tiles them; pass it ``record_first_only=True``.
        """
        self._check_open()
        if self.dashboard is None:
            return None
        frame = self.dashboard.ansi() if self.render_mode == "ansi" else self.dashboard.rgb_array()
        return (frame,) * self.num_envs
