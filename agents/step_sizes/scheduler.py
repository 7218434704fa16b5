"""A controller beside an optimizer of torch, as a learning-rate scheduler is."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from agents.step_sizes.controller import StepSizeController
from gar_env.alignment import Tape, align
from gar_env.errors import ConfigurationError, StaleTapeError
from gar_env.registry import shown

PROBE = 2.0**20
"""The learning rate that a step is tried with: so long that adding it to a parameter rounds nothing of it away."""

BENT = ("ASGD", "Adafactor", "LBFGS", "Rprop")
"""Optimizers of torch whose learning rate is more than a factor of their step."""


class StepSizeScheduler:
    """Sets the learning rate of an optimizer before each of its steps.

    What the optimizer is about to do is found by letting it do so and putting it back: momentum, weight decay and
    adaptive scales are all in the direction. That costs a few steps of the optimizer, and none of the network.

    Args:
        network: Whose parameters are trained.
        optimizer: Of ``torch.optim``, or one whose step is the learning rate times what does not depend on it. Groups
            of parameters keep the ratios of their learning rates. Its learning rate is where the controller starts.
        controller: What says how far the first group goes; a copy of it, as what it remembers is of one run.

    Raises:
        ConfigurationError: If the optimizer has parameters of something else, or a learning rate that is not above 0,
            or is known to step otherwise; the first :meth:`step` tries out whether it does.

    Example:
        See ``examples/learned_step_size.py``.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, controller: StepSizeController) -> None:
        own = {id(p) for p in network.parameters()}
        if any(id(p) not in own for group in optimizer.param_groups for p in group["params"]):
            raise ConfigurationError("The optimizer has parameters that are not the network's. Give one to each.")
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        if min(rates) <= 0:
            raise ConfigurationError(f"The optimizer's learning rates are {rates}; they must be above 0.")
        if type(optimizer).__name__ in BENT:
            raise ConfigurationError(
                f"The step of {type(optimizer).__name__} is not its learning rate times a direction. Use SGD, Adam, "
                "RMSprop or the like."
            )
        self._ratios = [rate / rates[0] for rate in rates]
        self.network, self.optimizer = network, optimizer
        self.controller = copy.deepcopy(controller).start(rates[0])
        self._proportional = False  # not tried yet
        self._last_tape: weakref.ref[Tape] | None = None

    def step(self, tape: Tape) -> float:
        """Look at a recorded pass, and set the learning rate of the optimizer's next step.

        Call it after the backward pass and before ``optimizer.step()``.

        Args:
            tape: Of ``gar_env.Alignment(network).record(...)``: losses and gradients of this batch.

        Returns:
            The learning rate.

        Raises:
            ConfigurationError: If it is no tape, one of another network, or there are no gradients.
            StaleTapeError: If it is the tape of the last step.
        """
        if not isinstance(tape, Tape):
            raise ConfigurationError(f"tape is {shown(tape)}; expected what Alignment(network).record(...) returns.")
        if tape.network is not self.network:
            raise ConfigurationError(
                f"The tape is of another network, a {type(tape.network).__name__}. Record with "
                "Alignment(network) of the network that the scheduler was built with."
            )
        if self._last_tape is not None and self._last_tape() is tape:
            raise StaleTapeError("This tape is of the last step. Record each batch, and pass its own tape.")
        direction = self.direction()
        if not any(bool(d.any()) for d in direction.values()):
            raise ConfigurationError(
                "The optimizer is about to go nowhere: there are no gradients. Call step() after the backward pass, "
                "and before optimizer.step() and optimizer.zero_grad()."
            )
        step_size = self.controller.step_size(tape.losses, align(tape, direction, retain_tape=True))
        self._set(step_size)
        self._last_tape = weakref.ref(tape)
        return step_size

    def get_last_lr(self) -> list[float]:
        """The learning rate of each parameter group, as torch's schedulers have it."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    @torch.no_grad()
    def direction(self) -> dict[str, Tensor]:
        """Where the optimizer is about to go, per unit of the first group's learning rate, by the parameters' names."""
        before = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        state, rates = copy.deepcopy(self.optimizer.state_dict()), self.get_last_lr()
        half = any(p.dtype is torch.float16 for p in before.values())
        probe = 1.0 if half else PROBE  # float16 ends at 65,504
        found = []
        for size in (probe,) if self._proportional else (probe, probe / 2):
            try:
                self._set(size)
                self.optimizer.step()
                found.append({name: (p.detach() - before[name]) / size for name, p in self.network.named_parameters()})
            finally:
                for name, p in self.network.named_parameters():
                    p.copy_(before[name])
                self.optimizer.load_state_dict(copy.deepcopy(state))
                for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate
        for name in found[0]:
            gap, whole = (found[0][name] - found[-1][name]).norm(), found[0][name].norm()
            if not bool(gap <= 0.01 * whole):
                raise ConfigurationError(
                    f"Half the learning rate is not half the step of {type(self.optimizer).__name__}, so there is no "
                    "direction to set a step size along. Use SGD, Adam, RMSprop or the like."
                )
        self._proportional = True
        return {name: found[0][name] for name, p in self.network.named_parameters() if p.requires_grad}

    def state_dict(self) -> dict[str, Any]:
        """What the controller remembers of this run."""
        return self.controller.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`."""
        self.controller.load_state_dict(state)
        self._set(self.controller.last_step_size)

    def _set(self, step_size: float) -> None:
        for group, ratio in zip(self.optimizer.param_groups, self._ratios, strict=True):
            group["lr"] = step_size * ratio
