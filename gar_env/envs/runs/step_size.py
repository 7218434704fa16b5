"""``GAR/StepSize-v0``: each row is a training run, and each action says how far its next step goes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor, nn

from gar_env.envs.config import RunConfig
from gar_env.envs.features import Feature
from gar_env.envs.runs.base import Control, RunVectorEnv
from gar_env.envs.runs.instance_sets import load_instances
from gar_env.envs.runs.instances import PARTS, Instance, InstanceSet
from gar_env.envs.runs.single import SingleRunEnv
from gar_env.envs.runs.statistics import FEATURES, Discounted, observed_names, signals
from gar_env.errors import ConfigurationError
from gar_env.learner import Rows, StackPass
from gar_env.networks import build_network
from gar_env.networks.build import NetworkBuilder
from gar_env.networks.layered import padded, widths_of
from gar_env.registry import check_choice, shown
from gar_env.rewards import RewardSignal
from gar_env.seeding import numpy_generator

ACTIONS = ("multiply", "absolute", "discrete")
LEAST_STEP_SIZE = 1e-37
"""Smaller ones have no logarithm in float32."""

FACTORS = 9
"""Choices of the discrete action, from ``1 / max_factor`` to ``max_factor``."""


@dataclass(frozen=True)
class StepSizeConfig(RunConfig):
    """Options of ``GAR/StepSize-v0``.

    Args:
        divergence_reward: No run that diverges has a larger return: what it was paid above is taken back. Below what a
            run that trains can get; with ``nslr`` that is minus its loss in every step.
        num_steps: Of all runs, at least 2; by default each is as long as its instance says.
        initial_step_sizes: Where runs start: one number for all, or one for each row; by default each starts where its
            instance says.
        network: A name, or a function; where instances have widths, as those of ``"small"`` and ``"paper"``, these take
            the place of the name's, and all that counts of ``"mlp-32"`` is that it has one layer.
        instances: Which runs there are: ``"small"``, ``"paper"``, ``"fixed"``, the path of a ``.csv`` file, or a set
            of one's own: :class:`~gar_env.envs.InstanceSet`.
        part: ``"train"`` or ``"test"``: instances to learn on, or others.
        action: ``"multiply"``: ``Box(-1, 1)``, the step size changes by ``max_factor ** action``. ``"absolute"``:
            ``Box(-1, 1)``, from ``min_step_size`` to ``max_step_size`` on a logarithmic scale. ``"discrete"``: one of 9
            factors from ``1 / max_factor`` to ``max_factor``.
        max_factor: See ``action``; above 1.
        min_step_size: No step size is smaller.
        max_step_size: Or larger.
        observed: ``"paper"``, ``"direction"``, ``"all"``, or names of :data:`gar_env.envs.STEP_SIZE_FEATURES` with
            commas between them.
        decay: Of discounted means, per step; at least 0, below 1.
    """

    num_steps: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    reward: str | RewardSignal = "log_loss_decrease"
    divergence_reward: float = -10.0
    inputs: str = "standardised"
    network: str | NetworkBuilder = "mlp-32"
    instances: str | InstanceSet = "small"
    part: str = "train"
    initial_step_sizes: tuple[float, ...] = ()
    action: str = "multiply"
    max_factor: float = 2.0
    min_step_size: float = 1e-7
    max_step_size: float = 10.0
    observed: str = "paper"
    decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("part", self.part, PARTS)
        check_choice("action", self.action, ACTIONS)
        observed_names(self.observed)
        if self.num_steps is not None and self.num_steps < 2:
            raise ConfigurationError(
                f"num_steps={self.num_steps} must be at least 2: a run of one step decides nothing."
            )
        if self.batch_size < 2:
            raise ConfigurationError(
                f"batch_size={self.batch_size} must be at least 2: what is observed are variances over a batch."
            )
        if self.max_factor <= 1:
            raise ConfigurationError(
                f"max_factor={self.max_factor} must be above 1: the largest change of a step size."
            )
        if not LEAST_STEP_SIZE <= self.min_step_size < self.max_step_size:
            raise ConfigurationError(
                f"min_step_size={self.min_step_size} must be at least {LEAST_STEP_SIZE}, and max_step_size="
                f"{self.max_step_size} above it."
            )
        if not 0 <= self.decay < 1:
            raise ConfigurationError(f"decay={self.decay} must be at least 0 and below 1.")
        for step_size in self.initial_step_sizes:
            self.check_step_size(step_size, "initial_step_sizes")

    def check_step_size(self, step_size: float, name: str) -> None:
        """Refuse one that is out of bounds.

        Raises:
            ConfigurationError: With the bounds.
        """
        if not self.min_step_size <= step_size <= self.max_step_size:
            raise ConfigurationError(
                f"{name}={step_size} must be from min_step_size={self.min_step_size} to max_step_size="
                f"{self.max_step_size}."
            )

    @property
    def longest(self) -> int:
        """Most steps in an episode."""
        return self.num_steps or load_instances(self.instances).longest(self.part)


class StepSizeVectorEnv(RunVectorEnv):
    """Step-size control of ``num_envs`` training runs at once.

    Each run has its own network, part of the data, order of batches, initial step size and length; its seed draws them
    from ``instances``. In step ``t`` the agent sees statistics of the gradients at ``theta_t`` and sets ``eta_t``;
    then ``theta_{t+1} = theta_t + eta_t d_t``, where the update rule says the direction ``d_t``.

    ``log_loss_decrease`` pays each step's decrease of the log loss, ``final_log_loss_decrease`` the mean one at the
    end, ``gar`` the hypergradient ``< g_t, g_{t+1} >``, ``nslr`` minus the next loss. A run that diverges gives back
    what it was paid above ``divergence_reward``.

    Networks of several widths train as one stack: they are padded with units that stay 0.

    Args:
        num_envs: How many runs.
        **options: Fields of :class:`StepSizeConfig`.

    Raises:
        ConfigurationError: If options contradict each other, or an instance does not fit network or data.

    Source:
        Daniel, Taylor & Nowozin (2016), "Learning Step Size Controllers for Robust Neural Network Training".

    Version history:
        v0: First version.
    """

    config_class = StepSizeConfig
    left_out = (*RunVectorEnv.left_out, "instance_set", "names")

    # Options

    def build(self, instance: Instance | None) -> nn.Module:
        """The network of a run, padded to the widest of all."""
        shape, outputs, network = self.dataset.input_shape, self.dataset.outputs, self.config.network
        if self.instance_set.layers is None:
            return build_network(network, shape, outputs)
        kind = widths_of(network)
        assert kind is not None

        def of(widths: tuple[int, ...] | None) -> nn.Module:
            return build_network("-".join(map(str, (kind[0], *(widths or ())))), shape, outputs)

        widest = self.instance_set.widest(self.config.part)
        own = widest if instance is None else instance.widths
        network = of(own)
        return network if own == widest else padded(network, into=self.stack.passes.module)

    def check_data(self) -> None:
        """See :meth:`RunVectorEnv.check_data`."""
        config = self.config
        self.instance_set = load_instances(config.instances)
        self.names = observed_names(config.observed)
        if len(config.initial_step_sizes) not in (0, 1, self.num_envs):
            raise ConfigurationError(
                f"There are {len(config.initial_step_sizes)} initial_step_sizes for {self.num_envs} rows. Pass one for "
                "each row, one for all, or none."
            )
        layers, found = self.instance_set.layers, widths_of(config.network)
        if layers is not None and (found is None or len(found[1]) != layers):
            several = "s" * (layers > 1)
            raise ConfigurationError(
                f"instances={shown(config.instances)} give each network {layers} width{several}, and network="
                f"{shown(config.network)} has {'none' if found is None else len(found[1])}. Use one with as many, such "
                f"as {'mlp' + '-32' * layers}{', or cpcpcrcs-20-50-500' * (layers == 3)}; or instances='fixed'."
            )
        for step_size in () if config.initial_step_sizes else self.instance_set.step_sizes(config.part):
            config.check_step_size(step_size, "An instance's step_size")
        self._check_share(self.instance_set.smallest_share(config.part))

    def _check_share(self, share: float) -> None:
        examples, n = len(self.dataset.x_train), self.config.batch_size
        if round(share * examples) < n:
            raise ConfigurationError(
                f"Some runs see {round(share * examples)} examples, {share:g} of {examples} in {self.dataset.name}, "
                f"which make no batch of {n}. Use a smaller batch_size, more data, or other instances."
            )

    def instance(self, seed: int, row: int) -> Instance:
        """See :meth:`RunVectorEnv.instance`."""
        config = self.config
        found = self.instance_set.draw(config.part, numpy_generator(seed, "instance"))
        self._check_share(found.share)
        starts = config.initial_step_sizes or (found.step_size,)
        step_size = starts[row] if len(starts) > 1 else starts[0]
        config.check_step_size(step_size, "An instance's step_size")
        return Instance(config.num_steps or found.num_steps, step_size, found.share, found.widths)

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "instances": self.instance_set.identity}

    # Acting

    def action(self) -> Space[Any]:
        """``Box(-1, 1, (1,))``, or ``Discrete(9)``."""
        return Discrete(FACTORS) if self.config.action == "discrete" else Box(-1.0, 1.0, (1,), np.float32)

    def control(self, actions: Tensor) -> Control:
        """See :meth:`RunVectorEnv.control`."""
        config = self.config
        low, high = config.min_step_size, config.max_step_size
        if config.action == "absolute":
            places = (actions.view(-1).double() + 1) / 2
            step_sizes = torch.exp(math.log(low) + places * (math.log(high) - math.log(low))).float()
        else:
            powers = actions.double() * (2 / (FACTORS - 1)) - 1 if config.action == "discrete" else actions.view(-1)
            step_sizes = (self.step_sizes.double() * config.max_factor ** powers.double()).float()
        return Control(step_sizes.clamp(low, high))

    # Observing

    def prepare(self) -> None:
        """See :meth:`ConfiguredVectorEnv.prepare`."""
        self.statistics = Discounted(self.num_envs, self.config.decay, self.device)

    def begin(self, rows: Tensor, seeds: list[int]) -> None:
        """See :meth:`RunVectorEnv.begin`."""
        self.statistics.restart(rows)

    def seen(self, one: StackPass, direction: Rows, rows: Tensor) -> None:
        """See :meth:`RunVectorEnv.seen`."""
        changes = self.stack.predicted_changes(one, direction)
        self.statistics.show(signals(one.losses, changes, self.step_sizes), rows)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Those that are observed."""
        return tuple(FEATURES[name] for name in self.names)

    def columns(self) -> list[float | Tensor]:
        """See :meth:`RunVectorEnv.columns`."""
        own = {
            "log_step_size": lambda: self.step_sizes.log(),
            "log_loss": lambda: self.loss.log().nan_to_num(nan=math.inf),
            "progress": lambda: self.steps / self.lengths,
        }
        found = [own[name]() if name in own else self.statistics.column(name) for name in self.names]
        return [torch.as_tensor(column).clamp(-1e6, 1e6) for column in found]

    # Paying

    def diverged_rewards(self, returns: Tensor) -> Tensor:
        """What takes a return that is above ``divergence_reward`` down to it."""
        return (self.config.divergence_reward - returns).clamp_max(0)


class StepSizeEnv(SingleRunEnv):
    """One training run. Options as of :class:`StepSizeVectorEnv`."""

    vector_env_class = StepSizeVectorEnv
