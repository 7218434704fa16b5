"""Slot environments: one row is one example's place in the mini-batch, and all rows share a network."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, cast

import torch
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn

from gar_env.alignment import BatchNormReading, Tape, dot
from gar_env.data import Batch, load_dataset, normalisation
from gar_env.envs.config import SlotConfig
from gar_env.envs.dashboard import Dashboard
from gar_env.envs.features import Feature, observation_box, observe
from gar_env.envs.together import Outcome, TogetherVectorEnv
from gar_env.errors import ConfigurationError, RewardError
from gar_env.learner import Learner
from gar_env.networks import build_network
from gar_env.rewards import REWARDS, Evidence, Need
from gar_env.seeding import named_generator

EVALUATION_BATCH = 1000
RUNNING = 0.9  # decay per step of the running loss and of the running size of rewards


class SlotVectorEnv(TogetherVectorEnv):
    """``num_envs`` slots of one mini-batch; one episode is one training run.

    Subclasses say what an action does to a slot's example (:meth:`_controlled_batch`), what a reference batch is,
    and which features they add.

    A step waits for the device a few times (divergence, conservation and finiteness checks); with ``output="torch"``
    nothing else leaves it.

    Args:
        num_envs: The batch size.
        config: All options.

    Raises:
        ConfigurationError: If the batch is larger than the training data, or options contradict each other.
        GarEnvError: Whatever building the data or the network raises.
    """

    common_features: ClassVar[tuple[Feature, ...]] = (
        Feature("progress", 0, 1, "steps taken / num_steps"),
        Feature("running_loss", 0, 1, "x / (1 + x) of the batch loss x in nats, decay 0.9"),
        Feature("last_reward", -1, 1, "tanh of the slot's last reward / running root mean square of rewards"),
    )

    def __init__(self, num_envs: int, config: SlotConfig) -> None:
        super().__init__(
            num_envs,
            autoreset_mode=config.autoreset_mode,
            output=config.output,
            device=config.device,
            render_mode=config.render_mode,
        )
        self.config = config
        self.reward_timing = config.reward_timing
        self.signal = REWARDS[config.reward]()
        self.reference = config.resolved_reference
        needs_heldout = self.reference == "heldout" or Need.HELDOUT_GRADIENT in self.signal.needs
        share = config.heldout_share if config.heldout_share is not None else 0.1 * needs_heldout
        if needs_heldout and share == 0:
            raise ConfigurationError(f"reward={config.reward!r} needs heldout_share above 0, for example 0.1.")
        self.heldout_share = share
        self.dataset = load_dataset(config.dataset, download=config.download, image_size=config.image_size)
        left = len(self.dataset.x_train) - int(share * len(self.dataset.x_train))
        if num_envs > left:
            raise ConfigurationError(
                f"A batch of {num_envs} examples is larger than the training data: {self.dataset.name} has "
                f"{left}{' beside the held-out part' if share else ''}. Lower num_envs (batch_size)."
            )
        self.normalise = normalisation(self.dataset.x_train.to(self.device), config.inputs)
        self.dashboard = Dashboard(type(self).__name__) if self.render_mode else None

    def _set_spaces(self, action_space: Any, batched_action_space: Any, features: tuple[Feature, ...]) -> None:
        """Called once by the subclass: spaces and the names of observation columns."""
        self.features = self.common_features + features
        self.single_action_space, self.action_space = action_space, batched_action_space
        self.single_observation_space = observation_box(self.features)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    @property
    def observation_names(self) -> tuple[str, ...]:
        """The name of each observation column."""
        return tuple(feature.name for feature in self.features)

    # What a subclass fills in

    @abstractmethod
    def _start_data(self, seed: int) -> None:
        """Cut, corrupt and move the data of one episode."""

    @abstractmethod
    def _controlled_batch(self, actions: Tensor) -> Batch:
        """The batch that the actions call for."""

    @abstractmethod
    def _reference_batch(self, actions: Tensor) -> Batch:
        """A batch for ``self.reference``."""

    @abstractmethod
    def _heldout_batch(self) -> Batch:
        """A clean held-out batch of ``num_envs`` examples."""

    @abstractmethod
    def _more_columns(self) -> list[float | Tensor]:
        """Values of the features that the subclass added."""

    # One episode

    def _begin(self, seed: int) -> None:
        config = self.config
        shape, classes = self.dataset.image_shape, len(self.dataset.classes)
        self.data_generator = named_generator(seed, "data", self.device)
        self._start_data(seed)
        self.learner = Learner(
            lambda: build_network(config.network, shape, classes),
            seed=seed,
            num_steps=config.sgd_steps,
            device=self.device,
            optimizer=config.optimizer,
            step_size=config.step_size,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            schedule=config.schedule,
            warmup_steps=config.warmup_steps,
            gradient_clip=config.gradient_clip,
        )
        if self.num_envs == 1 and any(isinstance(m, nn.BatchNorm1d) for m in self.learner.network.modules()):
            raise ConfigurationError(
                f"network={config.network!r} normalises over the batch, which needs at least 2 examples; num_envs is 1."
            )
        self.steps = 0
        self._waiting = False  # next_step: whether the last batch's slots wait to be paid, from this tape if needed
        self._unpaid_tape: Tape | None = None
        # A network that knows nothing answers uniformly; its loss is a fair value before the first step.
        self._running_loss = torch.tensor(float(classes), device=self.device).log()
        self._running_square = torch.zeros((), device=self.device)
        self._paid_steps = 0
        self._last_reward = torch.zeros(self.num_envs, device=self.device)
        if self.dashboard:
            self.dashboard.clear()

    def _advance(self, actions: Tensor) -> Outcome:
        batch = self._controlled_batch(actions)
        tape, losses = self._pass(batch)
        loss = losses.mean()
        if self.config.reward_timing == "same_step":
            self.learner.update()
            rewards = self._pay_with_reference(tape, actions)
        else:
            rewards = self._pay(self._unpaid_tape, loss, self.learner.gradient()) if self._waiting else None
            self.learner.update()
            self._waiting, self._unpaid_tape = True, tape
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
                self._note_rewards(rewards)
        if self.dashboard:
            self.dashboard.add(float(loss), float(rewards.mean()))
        accuracy = self.evaluate()["test_accuracy"] if ended and not diverged else 0.0
        infos = {
            "loss": (loss, True),
            "reward_valid": (valid, True),
            "diverged": (diverged, True),
            "test_accuracy": (accuracy, ended and not diverged),
        }
        return Outcome(rewards, ended, infos)

    def _blank_infos(self) -> dict[str, tuple[Any, Any]]:
        return {
            "loss": (0.0, False),
            "reward_valid": (False, False),
            "diverged": (False, False),
            "test_accuracy": (0.0, False),
        }

    def _pass(self, batch: Batch) -> tuple[Tape | None, Tensor]:
        if Need.TAPE not in self.signal.needs:
            return None, self.learner.plain_pass(batch)
        tape = self.learner.recorded_pass(batch, cast(BatchNormReading, self.config.batch_norm))
        return tape, tape.losses

    def _pay_with_reference(self, tape: Tape | None, actions: Tensor) -> Tensor:
        """Draw the reference batch at theta_{t+1}, pay for the step before it, and train on it unless held out."""
        if self.reference == "heldout":
            next_loss, next_gradient = self.learner.side_gradient(self._heldout_batch())
            return self._pay(tape, next_loss, next_gradient)
        next_loss = self.learner.plain_pass(self._reference_batch(actions)).mean()
        rewards = self._pay(tape, next_loss, self.learner.gradient())
        self.learner.update()
        return rewards

    def _pay(self, tape: Tape | None, next_loss: Tensor, next_gradient: dict[str, Tensor]) -> Tensor:
        needs = self.signal.needs
        heldout = None
        if Need.HELDOUT_GRADIENT in needs:
            heldout = self.learner.side_gradient(self._heldout_batch())[1]
        rewards = self.signal(
            Evidence(
                self.num_envs,
                next_loss,
                tape,
                next_gradient if Need.NEXT_GRADIENT in needs else None,
                heldout,
            )
        )
        if not isinstance(rewards, Tensor) or rewards.shape != (self.num_envs,) or not rewards.is_floating_point():
            found = f"{rewards.dtype} {list(rewards.shape)}" if isinstance(rewards, Tensor) else type(rewards).__name__
            raise RewardError(
                f"Reward signal {self.config.reward!r} returned {found}; expected floating point [{self.num_envs}], "
                "one number per slot."
            )
        if rewards.device.type != self.device.type:
            raise RewardError(
                f"Reward signal {self.config.reward!r} returned a tensor on {rewards.device}; expected {self.device}."
            )
        wrong = ~rewards.isfinite()
        # A loss or gradient that is no longer finite, or too long for its own square, is divergence, not a bad signal.
        if bool(wrong.any()) and bool((next_loss + dot(next_gradient, next_gradient)).isfinite()):
            raise RewardError(
                f"Reward signal {self.config.reward!r} returned NaN or infinity for {int(wrong.sum())} of "
                f"{self.num_envs} slots in step {self.steps + 1}, while loss and gradient are finite."
            )
        return rewards.detach()

    def _note_rewards(self, rewards: Tensor) -> None:
        """Keep what the ``last_reward`` feature shows."""
        self._paid_steps += 1
        self._running_square = RUNNING * self._running_square + (1 - RUNNING) * rewards.square().mean()
        size = (self._running_square / (1 - RUNNING**self._paid_steps)).sqrt()
        self._last_reward = torch.tanh(rewards / size.clamp_min(torch.finfo(torch.float32).tiny))

    def _observe(self) -> Tensor:
        progress = self.steps / self.config.num_steps
        running_loss = self._running_loss / (1 + self._running_loss)
        columns = [progress, running_loss, self._last_reward, *self._more_columns()]
        return observe(self.features, columns, self.num_envs, self.device)

    def evaluate(self) -> dict[str, float]:
        """Accuracy and mean cross entropy of the present network on the test data.

        Returns:
            ``{"test_accuracy": share in [0, 1], "test_loss": nats}``.

        Raises:
            ResetNeededError: Before the first :meth:`reset`.
        """
        self._check_started("evaluate")
        accuracy, loss = self.learner.evaluate(
            Batch(self.normalise(images.to(self.device)), labels.to(self.device))
            for images, labels in zip(
                self.dataset.x_test.split(EVALUATION_BATCH),
                self.dataset.y_test.split(EVALUATION_BATCH),
                strict=True,
            )
        )
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
