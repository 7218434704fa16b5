"""Slot environments: one row is one example's place in the mini-batch, and all rows share a network."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gar_env.data import Batch, Pool, in_batches, load_dataset, make_pool, normalisation
from gar_env.envs.config import SlotConfig
from gar_env.envs.fitting import check_network
from gar_env.envs.outcome import Infos, Outcome
from gar_env.envs.shared import SharedNetworkEnv
from gar_env.envs.slots.references import (
    check_references,
    draw_of_sample,
    heldout_share,
    target_of,
    weigh_of,
)
from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.functional import own_surroundings
from gar_env.learner import Learner, Pass, Repeat, Start
from gar_env.networks import build_network
from gar_env.registry import shown
from gar_env.rewards import Collected, Evidence, Need, Trained
from gar_env.rewards.reference_weights import halves, shares_of
from gar_env.rewards.tokens import token_alignment
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


class SlotVectorEnv(SharedNetworkEnv):
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

    config_class: ClassVar[Any] = SlotConfig

    def load(self) -> None:
        """See :class:`SharedNetworkEnv`."""
        config = self.config
        self._network_fits = False  # not known yet
        self.reference = config.resolved_reference
        check_references(config, self.evaluator)
        share = self.heldout_share = heldout_share(config, self.evaluator)
        self.dataset = load_dataset(
            config.dataset,
            download=config.download,
            image_size=config.image_size,
            image_background=config.image_background,
            sequence_length=config.sequence_length,
        )
        self.target = target_of(config, self.dataset)
        left = len(self.dataset.x_train) - int(share * len(self.dataset.x_train))
        if self.num_envs > left:
            raise ConfigurationError(
                f"A batch of {self.num_envs} examples is larger than the training data: {self.dataset.name} has "
                f"{left}{' beside the held-out part' if share else ''}. Lower num_envs (batch_size)."
            )
        self._weigh = weigh_of(config, self.dataset)
        if config.pay_tokens and self.dataset.loss != "token_cross_entropy":
            raise ConfigurationError(f"pay_tokens pays tokens, and {self.dataset.name} has none. Leave it out.")
        self.normalise = normalisation(self.dataset.x_train.to(self.device), config.inputs)
        self.device_inputs: Tensor | None = None
        """The data set's inputs on a GPU, once for all episodes; on the CPU the data set's own are used."""

    def build(self, seed: int) -> Learner:
        """See :class:`SharedNetworkEnv`."""
        config, data = self.config, self.dataset
        learner = Learner(
            lambda: build_network(config.network, data.input_shape, data.outputs),
            config.training,
            seed=seed,
            num_steps=config.sgd_steps,
            device=self.device,
            loss=data.loss,
        )
        if self.num_envs == 1 and any(isinstance(m, nn.BatchNorm1d) for m in learner.network.modules()):
            raise ConfigurationError(
                f"network={shown(config.network)} normalises over the batch, which needs at least 2 examples; num_envs "
                "is 1."
            )
        learner.remembers = self.resumable and config.reward_timing == "next_step" and self.evaluator.reads_tape
        return learner

    def open(self, seed: int) -> None:
        """See :class:`SharedNetworkEnv`."""
        self.data_generator = named_generator(seed, "data", self.device)
        self._unpaid: Trained | None = None  # next_step: the last batch, whose slots wait to be paid
        self._token_rewards: Tensor | None = None  # [n, T], of the last step if it was paid
        self.pool = self.on_device(self.make_pool(seed))
        self._fewest = self.learner.fewest_examples
        if not self._network_fits:
            batch = self.gather(self.pool.members[:1].expand(self.num_envs))
            check_network(self.config.network, self.dataset, batch.inputs, batch.targets, self.learner.trial)
            self._network_fits = True

    @property
    def guess(self) -> float:
        """See :class:`SharedNetworkEnv`."""
        return self.dataset.guess

    # What a subclass fills in, and may look at

    pool: Pool
    """The data of this episode."""

    @abstractmethod
    def batch(self, actions: Tensor) -> SlotBatch:
        """What the actions make of the next examples: the batch that is trained on."""

    def draw(self) -> SlotBatch:
        """The next examples as they come: drawn from all training data alike."""
        return self.gather(self.pool.draw_uniformly(self.num_envs, self.data_generator))

    def reference_batch(self, actions: Tensor) -> SlotBatch:
        """The batch whose loss and gradient pay, for the references ``"policy"`` and ``"uniform"``."""
        return self.batch(actions) if self.reference == "policy" else self.draw()

    def make_pool(self, seed: int) -> Pool:
        """Cut and corrupt the data of one episode, on the CPU; depends on ``seed`` alone."""
        return make_pool(self.dataset, named_generator(seed, "labels"), **self.put_aside)

    @property
    def put_aside(self) -> dict[str, Any]:
        """What :func:`~gar_env.data.make_pool` and :func:`~gar_env.data.make_splits` are to put aside, by name."""
        return {"heldout_share": self.heldout_share, "target_shares": self.target.shares if self.target else None}

    def step_loss(self, losses: Tensor | None) -> Tensor:
        """The loss of a step or of a reference, scalar: of its batch.

        Args:
            losses: ``[m]``; ``None`` if too few examples were left to make a pass.
        """
        return torch.zeros((), device=self.device) if losses is None else losses.mean()

    def look_at(self, batch: SlotBatch, **options: Any) -> Pass:
        """A pass over a batch that is not trained on; ``options`` are of :meth:`gar_env.learner.Learner.run`."""
        return self.learner.run(batch.examples, batch.weights, aside=True, **options)

    def whole(self, batch: SlotBatch) -> SlotBatch:
        """What the batch that is trained on was chosen from, an example for each slot: what halves are taken of."""
        return batch

    left_out = (*SharedNetworkEnv.left_out, "dataset", "pool", "device_inputs", "target", "_chosen", "_weigh")
    packed = ("_unpaid",)

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

    def _identity(self) -> dict[str, Any]:
        data = self.dataset
        sizes = [len(data.x_train), len(data.x_test), *data.input_shape, data.outputs]
        own = {"data": sizes, "data_fingerprint": data.fingerprint}
        if self.target:
            own["target"] = self.target.dataset.fingerprint if self.target.dataset else self.target.shares
        return {**super()._identity(), **own}

    def _load(self, state: Mapping[str, Any]) -> None:
        super()._load({name: value for name, value in state.items() if name != "_unpaid"})
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

    def take(self, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`SharedNetworkEnv`."""
        start = self.evaluator.start()
        if self.config.pay_tokens and start is None:
            start = self.learner.start(optimizer=False)
        self._token_rewards = None
        if self.reference == "other_half":
            trained, loss = self._train(actions, start)
            rewards = self._pay_by_halves(trained, loss)
            self.learner.update()
            return loss, rewards
        if self.config.reward_timing == "same_step":
            trained, loss = self._train(actions, start)
            self.learner.update()
            return loss, self._pay_with_reference(trained, actions)
        paid = self._unpaid
        with self.evaluator.collecting(paid) as collected:
            trained, loss = self._train(actions, start)
        self._unpaid = trained
        rewards = self._pay(paid, loss, self.learner.gradient(), collected, trained.passed) if paid else None
        self.learner.update()
        return loss, rewards

    def _train(self, actions: Tensor, start: Start | None) -> tuple[Trained, Tensor]:
        """The pass over the batch that the actions call for; its gradient is left waiting for the update."""
        batch = self._chosen = self.batch(actions)
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
            passed = self._pass(batch, record=self.evaluator.reads_next_tape)
            return passed, self.step_loss(passed and passed.losses), self.learner.gradient()  # zeros if there is none
        passed = self._pass(batch, record=self.evaluator.reads_next_tape, aside=True)
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
            return self.look_at(batch, loss_scale=scale, record=record, weigh=self._weigh)
        return self.learner.run(batch.examples, batch.weights, record=record, loss_scale=scale)

    def _look_at_heldout(self) -> Pass:
        size = self.config.target_batch_size or self.num_envs
        sample, draws = self.target and self.target.dataset, self.data_generator
        if sample:
            batch = draw_of_sample(sample, size, draws, self.normalise, self.device)
        else:
            batch = self.gather(self.pool.draw_heldout(size, draws)).examples
        return self.learner.run(batch, aside=True, record=self.evaluator.reads_next_tape, weigh=self._weigh)

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

    def _pay_by_halves(self, trained: Trained, loss: Tensor) -> Tensor:
        """Pay each slot by the mean gradient of a random half of the same batch that it is not in, at theta_t."""
        batch, paid, of_tokens = self.whole(self._chosen), [], []
        first, second = halves(self.num_envs, self.evaluator.generator)
        for judges in (second, first):
            share = shares_of(judges)

            def weigh(outputs: Tensor, targets: Tensor, share: Tensor = share) -> Tensor:
                return share if self._weigh is None else share * self._weigh(outputs, targets)

            aside = self.look_at(batch, record=self.evaluator.reads_next_tape, weigh=weigh)
            paid.append(self._pay(trained, loss, aside.gradient, Collected(), replace(aside, shares=share)))
            of_tokens.append(self._token_rewards)
        if self.config.pay_tokens:
            self._token_rewards = torch.where(first[:, None], *of_tokens)
        return torch.where(first, *paid)

    def _pay(
        self, trained: Trained, loss: Tensor, gradient: dict[str, Tensor], collected: Collected, following: Pass | None
    ) -> Tensor:
        """Rewards of all slots, ``[n]``, from the pass that follows: its loss and gradient."""
        heldout = None
        if Need.HELDOUT_GRADIENT in self.signal.needs:
            heldout = self._look_at_heldout().gradient
        if self.config.pay_tokens:
            self._token_rewards = self._pay_tokens(trained, gradient if heldout is None else heldout)
        evidence = Evidence(self.num_envs, loss, next_gradient=gradient, heldout_gradient=heldout)
        return self.evaluator.pay(trained, evidence, collected, step=self.steps + 1, following=following)

    def _pay_tokens(self, trained: Trained, gradient: dict[str, Tensor]) -> Tensor:
        """Of all slots, ``[n, T]``; 0 of those that were not trained on."""
        nothing = torch.zeros(self.num_envs, *self.dataset.input_shape, device=self.device)
        if trained.passed is None or trained.start is None:
            return nothing
        found = token_alignment(Repeat(self.learner, trained.start, trained.passed), gradient)
        return found if trained.slots is None else nothing.index_copy(0, trained.slots, found)

    def advance(self, actions: Tensor, live: Tensor) -> Outcome:
        """See :class:`SharedNetworkEnv`."""
        outcome = super().advance(actions, live)
        if not self.config.pay_tokens:
            return outcome
        there = self._token_rewards is not None and bool(self._token_rewards.isfinite().all())
        value = self._token_rewards if there else self._no_tokens
        return outcome._replace(infos={**outcome.infos, "token_rewards": (value, there)})

    def blank_infos(self) -> Infos:
        """See :meth:`RowVectorEnv.blank_infos`."""
        own = {"token_rewards": (self._no_tokens, False)} if self.config.pay_tokens else {}
        return super().blank_infos() | own

    @property
    def _no_tokens(self) -> Tensor:
        return torch.full((self.num_envs, *self.dataset.input_shape), math.nan, device=self.device)

    @own_surroundings()
    def evaluate(self) -> dict[str, float]:
        """Accuracy and mean loss of the present network on the test data; :class:`gar_env.data.Dataset` says which.

        Returns:
            ``{"test_accuracy": share in [0, 1], or R squared; "test_loss": nats, or squared error}``.

        Raises:
            ResetNeededError: Before the first :meth:`reset`.
        """
        self._check_started("evaluate")
        accuracy, loss = self._measured(self.dataset.x_test, self.dataset.y_test)
        return {"test_accuracy": accuracy, "test_loss": loss}

    @own_surroundings()
    def evaluate_sources(self) -> dict[str, dict[str, float]]:
        """As :meth:`evaluate`, of each source's test examples by themselves; of tokens also ``bits_per_token``.

        Raises:
            ConfigurationError: If it is not known which source a test example is of.
            ResetNeededError: Before the first :meth:`reset`.
        """
        self._check_started("evaluate_sources")
        data, found = self.dataset, {}
        if data.group_test is None:
            raise ConfigurationError(
                f"{data.name} does not say which sources its test examples are of: group_test of "
                "gar_env.data.Dataset, or an array of that name in the .npz."
            )
        for i, name in enumerate(data.groups):
            rows = (data.group_test == i).nonzero().flatten()
            if len(rows):
                accuracy, loss = self._measured(data.x_test[rows], data.y_test[rows])
                found[name] = {"test_accuracy": accuracy, "test_loss": loss}
                if data.loss == "token_cross_entropy":
                    found[name]["bits_per_token"] = loss / math.log(2)
        return found

    def _measured(self, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
        return self.learner.evaluate(in_batches(inputs, targets, self.normalise, self.device))
