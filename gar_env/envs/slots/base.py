"""Slot environments: one row is one example's place in the mini-batch, and all rows share a network."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium.spaces import Space
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn

from gar_env.data import Batch, Pool, in_batches, load_dataset, make_pool, normalisation
from gar_env.envs.config import SlotConfig, config_from
from gar_env.envs.dashboard import Dashboard
from gar_env.envs.features import LAST_REWARD, PROGRESS, RUNNING, Feature, RunningSize, observation_box, observe
from gar_env.envs.vector import Infos, Outcome, RowVectorEnv
from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.functional import own_surroundings
from gar_env.learner import Learner, Pass, Start
from gar_env.networks import build_network
from gar_env.registry import shown
from gar_env.rewards import REWARDS, Evidence, Need
from gar_env.rewards.evaluator import Collected, Evaluator, Trained
from gar_env.seeding import named_generator
from gar_env.state import as_data, from_data, plain


@plain
class SlotBatch(NamedTuple):
    """What slots are trained on, or paid by.

    Args:
        inputs: ``[m, ...]``, as the network takes them.
        targets: ``[m, ...]``.
        weights: ``[m]``, ``None`` if all are 1: the loss is ``sum_i w_i l_i / n`` over the ``n`` slots.
        slots: int64 ``[m]``, the slots of these examples; ``None`` if they are all of them, in order.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None
    slots: Tensor | None = None

    @property
    def examples(self) -> Batch:
        """Inputs and targets alone."""
        return Batch(self.inputs, self.targets)


class SlotVectorEnv(RowVectorEnv):
    """``num_envs`` slots of one mini-batch; one episode is one training run.

    Subclasses name batches (:meth:`batch`, :meth:`reference_batch`) and features; this class makes the passes, pays,
    and runs episodes.

    A step waits for the device a few times (divergence, conservation and finiteness checks); with ``output="torch"``
    nothing else leaves it.

    Args:
        num_envs: The batch size.
        **options: Fields of :attr:`config_class`.

    Raises:
        ConfigurationError: If the batch is larger than the training data, or options contradict each other.
        GarEnvError: Whatever building the data or the network raises.
    """

    @own_surroundings()
    def __init__(self, num_envs: int = 128, **options: Any) -> None:
        config = config_from(self.config_class, options)
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
        self.evaluator = Evaluator(config.reward, num_envs)
        self._check_provided()
        self.signal = self.evaluator.signal
        self.reference = config.resolved_reference
        needs_heldout = self.reference == "heldout" or Need.HELDOUT_GRADIENT in self.signal.needs
        share = config.heldout_share if config.heldout_share is not None else 0.1 * needs_heldout
        if needs_heldout and share == 0:
            raise ConfigurationError(f"reward={self.evaluator.name!r} needs heldout_share above 0, for example 0.1.")
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
        self.device_inputs: Tensor | None = None
        """The data set's inputs on a GPU, once for all episodes; on the CPU the data set's own are used."""
        self.dashboard = Dashboard(type(self).__name__, self.dashboard_shares) if self.render_mode else None
        self.prepare()
        self._made = tuple(vars(self))
        # A first episode starts here, so that a wrong option fails when the environment is made, not at reset.
        self.start(torch.ones(num_envs, dtype=torch.bool, device=self.device), [0])
        self.single_action_space = self.action()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.single_observation_space = observation_box(self.features)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def _check_provided(self) -> None:
        """Refuse a signal that needs what this environment cannot give.

        Raises:
            ConfigurationError: With the registered signals that fit.
        """
        missing = self.evaluator.signal.needs & ~self.provides
        if missing:
            needs = {name: getattr(REWARDS[name], "needs", None) for name in REWARDS}
            fit = [name for name, own in needs.items() if isinstance(own, Need) and not own & ~self.provides]
            words = ", ".join(f"Need.{need.name}" for need in missing)
            raise ConfigurationError(
                f"reward={shown(self.evaluator.name)} needs {words}, which {type(self).__name__} cannot give. "
                f"Signals that fit: {', '.join(fit)}."
            )

    def _check_network(self) -> None:
        """Run a batch through the network of the first episode, which stays as it is: it must fit the data.

        Raises:
            ConfigurationError: With what the network said.
        """
        n, data, config = self.num_envs, self.dataset, self.config
        name = config.network if isinstance(config.network, str) else "the builder"
        what = f"network={shown(name)} on {n} {data.kind} {list(data.input_shape)}, as {data.name} has them"
        batch = self.gather(self.pool.members[:1].expand(n))
        try:
            outputs = self.learner.trial(batch.inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of somebody's forward pass
            first = next(iter(str(error).splitlines()), "")
            raise ConfigurationError(f"{what}, fails: {type(error).__name__}: {first}") from error
        shape = (n, data.outputs) if data.has_labels or not data.classes else (*batch.targets.shape, data.outputs)
        fits = isinstance(outputs, Tensor) and outputs.layout is torch.strided and outputs.shape == shape
        words = "floating logits" if data.classes else "floating outputs"
        if not fits or not outputs.is_floating_point() or outputs.is_meta:
            found = f"{outputs.dtype}, {outputs.layout}" if isinstance(outputs, Tensor) else type(outputs).__name__
            found += f" {list(outputs.shape)}" if isinstance(outputs, Tensor) else ""
            raise ConfigurationError(f"{what}, returns {found}; expected {words} {list(shape)}.")
        if not outputs.requires_grad:
            raise ConfigurationError(f"{what}, returns {words[9:]} that depend on no trainable parameter.")

    @property
    def observation_names(self) -> tuple[str, ...]:
        """The name of each observation column."""
        return tuple(feature.name for feature in self.features)

    rows_end_together = True

    # What a subclass fills in, and may look at

    config_class: ClassVar[type[SlotConfig]] = SlotConfig
    """The options, for command lines and pages of documentation."""

    provides: ClassVar[Need] = ~Need(0)
    """What signals may ask for; one that needs more is refused when the environment is made."""

    dashboard_shares: ClassVar[str] = "draws"
    """What the shares on the dashboard are of."""

    pool: Pool
    """The data of this episode."""

    last_reward: Tensor
    """``[n]``, of the last step that was paid, scaled to about 1 and squashed."""

    running_loss: Tensor
    """Scalar, over the last steps."""

    finished: dict[str, float] | None = None
    """What the last finished episode came to: ``steps``, ``return`` (mean over slots), ``diverged``, ``test_accuracy``
    (NaN if it diverged) and :meth:`metrics` at its end."""

    @abstractmethod
    def action(self) -> Space[Any]:
        """What one slot chooses from: ``Discrete`` or ``MultiDiscrete``."""

    @abstractmethod
    def batch(self, actions: Tensor) -> SlotBatch:
        """What the actions make of the next examples: the batch that is trained on."""

    def draw(self) -> SlotBatch:
        """The next examples as they come: drawn from all training data alike."""
        return self.gather(self.pool.draw_uniformly(self.num_envs, self.data_generator))

    def reference_batch(self, actions: Tensor) -> SlotBatch:
        """The batch whose loss and gradient pay, for the references ``"policy"`` and ``"uniform"``."""
        return self.batch(actions) if self.reference == "policy" else self.draw()

    @property
    def features(self) -> tuple[Feature, ...]:
        """The columns of an observation."""
        return (PROGRESS, LAST_REWARD)

    def columns(self) -> list[float | Tensor]:
        """The values of :attr:`features`: numbers, ``[n]`` or ``[n, k]``."""
        return [self.progress, self.last_reward]

    def prepare(self) -> None:
        """Called once, when options and data set are there: make what all episodes share."""

    def make_pool(self, seed: int) -> Pool:
        """Cut and corrupt the data of one episode, on the CPU; depends on ``seed`` alone."""
        return make_pool(self.dataset, named_generator(seed, "labels"), heldout_share=self.heldout_share)

    def begin(self) -> None:
        """Called when ``pool`` and ``learner`` of a new episode are there."""

    def acted(self, actions: Tensor) -> None:
        """Called at each step with what was chosen, before :meth:`batch`: count it."""

    def look(self) -> None:
        """Called at the start of an episode and after each step, before :meth:`columns`: see what comes next."""

    def step_loss(self, losses: Tensor | None) -> Tensor:
        """The loss of a step or of a reference, scalar: of its batch.

        Args:
            losses: ``[m]``; ``None`` if too few examples were left to make a pass.
        """
        return torch.zeros((), device=self.device) if losses is None else losses.mean()

    def look_at(self, batch: SlotBatch, *, backward: bool = True, loss_scale: float = 1.0) -> Pass:
        """A pass over a batch that is not trained on."""
        return self.learner.run(batch.examples, batch.weights, aside=True, backward=backward, loss_scale=loss_scale)

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
    def start(self, rows: Tensor, seeds: list[int]) -> None:
        """See :meth:`RowVectorEnv.start`."""
        (seed,) = seeds
        config = self.config
        data = self.dataset
        self.data_generator = named_generator(seed, "data", self.device)
        self.learner = Learner(
            lambda: build_network(config.network, data.input_shape, data.outputs),
            config.training,
            seed=seed,
            num_steps=config.sgd_steps,
            device=self.device,
            loss=data.loss,
        )
        if self.num_envs == 1 and any(isinstance(m, nn.BatchNorm1d) for m in self.learner.network.modules()):
            raise ConfigurationError(
                f"network={shown(config.network)} normalises over the batch, which needs at least 2 examples; num_envs "
                "is 1."
            )
        self.evaluator.begin(self.learner, seed)
        late = self.config.reward_timing == "next_step" and self.evaluator.reads_tape
        self.learner.remembers = self.resumable and late
        self.steps = 0
        self._unpaid: Trained | None = None  # next_step: the last batch, whose slots wait to be paid
        # The loss of a network that knows nothing is a fair value before the first step.
        self.running_loss = torch.tensor(data.guess, device=self.device)
        self._reward_size = RunningSize(self.device)
        self._return = torch.zeros((), device=self.device)
        self.last_reward = torch.zeros(self.num_envs, device=self.device)
        if self.dashboard:
            self.dashboard.clear()
        self.episode_seed = seed
        self.pool = self.on_device(self.make_pool(seed))
        self._fewest = self.learner.fewest_examples
        self.begin()
        if not self._network_fits:
            self._check_network()
            self._network_fits = True
        self.look()

    left_out = (*RowVectorEnv.left_out, "observation_space", "dataset", "pool", "device_inputs", "_unpaid", "_origin")

    resumable = False
    """Whether the state of an environment whose rewards come a step late can be taken: the batch that waits to be paid
    is then remembered, with copies of the parameters that it was trained at. Set it before :meth:`reset`."""

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`RowVectorEnv.state_dict`.

        Raises:
            CheckpointError: If a batch waits to be paid and the environment is not :attr:`resumable`.
        """
        waiting, origin = self._unpaid, self.learner.origin
        if waiting and waiting.tape and origin is None:
            raise CheckpointError("A batch waits to be paid. Set env.resumable = True before reset().")
        passed = waiting and waiting.passed and replace(waiting.passed, tape=None)
        unpaid = waiting and (passed, waiting.slots, waiting.start, origin if waiting.tape else None)
        return {**super().state_dict(), "_unpaid": as_data(unpaid)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`RowVectorEnv.load_state_dict`."""
        super().load_state_dict({name: value for name, value in state.items() if name != "_unpaid"})
        unpaid = from_data(state["_unpaid"], device=self.device)
        if unpaid is not None:
            passed, slots, start, origin = unpaid
            if origin is not None:
                passed = replace(passed, tape=self.learner.record_again(origin))
            self._unpaid = Trained(passed, slots, start)

    def on_device(self, pool: Any) -> Any:
        """A pool made on the CPU; inputs that it shares with the data set are moved once."""
        if self.device.type == "cpu":
            return pool
        if self.device_inputs is None:
            self.device_inputs = pool.inputs.original.to(self.device)
        shared = replace(pool.inputs, original=self.device_inputs)
        return replace(pool, inputs=shared).to(self.device)

    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """See :meth:`RowVectorEnv.advance`."""
        start = self.evaluator.start()
        self.acted(actions)
        if self.config.reward_timing == "same_step":
            trained, loss = self._train(actions, start)
            self.learner.update()
            rewards = self._pay_with_reference(trained, actions)
        else:
            paid = self._unpaid
            with self.evaluator.collecting(paid) as collected:
                trained, loss = self._train(actions, start)
            self._unpaid = trained
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
            self.running_loss = RUNNING * self.running_loss + (1 - RUNNING) * loss
            if valid:
                self.last_reward = torch.tanh(rewards / self._reward_size.of(rewards))
        if self.dashboard:
            self.dashboard.add(float(loss), float(rewards.mean()))
        self.look()
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

    def blank_infos(self) -> Infos:
        """See :meth:`RowVectorEnv.blank_infos`."""
        return {
            "loss": (math.nan, False),
            "reward_valid": (False, False),
            "diverged": (False, False),
            "test_accuracy": (math.nan, False),
        } | dict.fromkeys(self._error_infos(), (math.nan, False))

    def _error_infos(self) -> dict[str, tuple[Any, Any]]:
        return self.evaluator.infos() if self.config.way == "finite_difference" else {}

    def _train(self, actions: Tensor, start: Start | None) -> tuple[Trained, Tensor]:
        """The pass over the batch that the actions call for; its gradient is left waiting for the update."""
        batch = self.batch(actions)
        passed = self._pass(batch, record=self.evaluator.reads_tape)
        if passed is None:  # no gradient waits, so the update leaves the parameters alone
            return Trained(None, torch.zeros(0, dtype=torch.int64, device=self.device)), self.step_loss(None)
        return Trained(passed, batch.slots, start), self.step_loss(passed.losses)

    def _reference(self, actions: Tensor) -> tuple[Pass | None, Tensor, dict[str, Tensor]]:
        """The reference batch's pass, loss and gradient; left waiting if it is trained on."""
        if self.reference == "heldout":
            aside = self._look_at_heldout()
            return aside, aside.losses.mean(), aside.gradient
        batch = self.reference_batch(actions)
        if self.config.trains_on_reference:
            passed = self._pass(batch)
            return passed, self.step_loss(passed and passed.losses), self.learner.gradient()  # zeros if there is none
        passed = self._pass(batch, aside=True)
        return passed, self.step_loss(passed and passed.losses), passed.gradient if passed else self.learner.gradient()

    def _pass(self, batch: SlotBatch, *, record: bool = False, aside: bool = False) -> Pass | None:
        """A pass over a batch of slots; ``None`` if it holds too few examples."""
        m = len(batch.targets)
        if m < self._fewest:
            return None
        # The pass takes the mean over m examples; over the whole batch it is m / n of that. The tape is of w_i times
        # the losses all the same.
        scale = m / self.num_envs
        if aside:
            return self.look_at(batch, loss_scale=scale)
        return self.learner.run(batch.examples, batch.weights, record=record, loss_scale=scale)

    def _look_at_heldout(self) -> Pass:
        examples = self.pool.draw_heldout(self.num_envs, self.data_generator)
        return self.learner.run(self.gather(examples).examples, aside=True)

    def gather(self, examples: Tensor) -> SlotBatch:
        """These examples, by their numbers in the pool, int64 ``[m]``."""
        return SlotBatch(self.normalise(self.pool.inputs[examples]), self.pool.targets[examples])

    def _pay_with_reference(self, trained: Trained, actions: Tensor) -> Tensor:
        """Pay the step before from a reference batch at theta_{t+1}, and train on that if it is training data."""
        with self.evaluator.collecting(trained) as collected:
            following, loss, gradient = self._reference(actions)
        rewards = self._pay(trained, loss, gradient, collected, following)
        if self.config.trains_on_reference:
            self.learner.update()
        return rewards

    def _pay(
        self, trained: Trained, loss: Tensor, gradient: dict[str, Tensor], collected: Collected, following: Pass | None
    ) -> Tensor:
        """Rewards of all slots, ``[n]``, from the pass that follows: its loss and gradient."""
        heldout = None
        if Need.HELDOUT_GRADIENT in self.signal.needs:
            heldout = self._look_at_heldout().gradient
        evidence = Evidence(self.num_envs, loss, next_gradient=gradient, heldout_gradient=heldout)
        return self.evaluator.pay(trained, evidence, collected, step=self.steps + 1, following=following)

    def observe(self) -> Tensor:
        """See :meth:`RowVectorEnv.observe`."""
        return observe(self.features, self.columns(), self.num_envs, self.device)

    @property
    def progress(self) -> float:
        """Share of the episode's steps that are taken."""
        return self.steps / self.config.num_steps

    @own_surroundings()
    def evaluate(self) -> dict[str, float]:
        """Accuracy and mean loss of the present network on the test data; :class:`gar_env.data.Dataset` says which.

        Returns:
            ``{"test_accuracy": share in [0, 1], or R squared; "test_loss": nats, or squared error}``.

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
