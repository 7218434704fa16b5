"""One SGD step that can be taken again: with other weights, without an example, or differentiated through."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gar_env.data import Batch
from gar_env.errors import ConfigurationError
from gar_env.functional import call_with
from gar_env.learner.losses import losses_of
from gar_env.learner.passes import Pass, Start
from gar_env.learner.precision import laid_out
from gar_env.seeding import lend_to_global

if TYPE_CHECKING:
    from gar_env.learner.learner import Learner

Parameters = Mapping[str, Tensor]


class Repeat:
    """One step from ``theta_t`` to ``theta_{t+1}``, and the batch that came after it.

    Passes are in training mode, with the random numbers that the original ones had; nothing of the learner changes.
    Parameters are dictionaries as in ``named_parameters()``.

    Args:
        learner: At ``theta_{t+1}``, before its next update.
        start: From before the step.
        paid: The pass that made the step's gradient.
        following: The pass that pays for it, for :meth:`next_loss`.
    """

    def __init__(self, learner: Learner, start: Start, paid: Pass, following: Pass | None = None) -> None:
        self.learner, self.start, self.paid, self.following = learner, start, paid, following
        self.n = len(paid.losses)

    @property
    def before(self) -> dict[str, Tensor]:
        """``theta_t``."""
        return self.start.parameters

    @property
    def after(self) -> dict[str, Tensor]:
        """``theta_{t+1}``, detached, not copied."""
        return {name: p.detach() for name, p in self.learner.network.named_parameters()}

    def losses(self, parameters: Parameters) -> Tensor:
        """The paid batch's losses ``w_i l_i`` at other parameters, ``[n]``, differentiable in them."""
        return self._run(self.paid, parameters)

    def outputs(self, parameters: Parameters) -> Tensor:
        """What the network answers to the paid batch at other parameters, ``[n, ...]``, differentiable in them."""
        return self._answers(self.paid, parameters)

    def next_loss(self, parameters: Parameters) -> Tensor:
        """The following batch's loss at other parameters, scalar, differentiable in them.

        Raises:
            ConfigurationError: If no pass of the learner followed.
        """
        if self.following is None:
            raise ConfigurationError("No pass followed this step, so there is no next loss to compute again.")
        return self._run(self.following, parameters).mean() * self.following.loss_scale

    def step(self, coefficients: Tensor) -> dict[str, Tensor]:
        """Where the step would have led, had example ``i`` counted ``c_i`` times; ones give ``theta_{t+1}``.

        Batch statistics stay those of the whole batch.

        Args:
            coefficients: ``c``, ``[n]``. If they require a gradient, the result has one in them: through the gradient
                of the loss and the optimizer's update.

        Raises:
            ConfigurationError: If it is to be differentiated, and the optimizer cannot be.
        """
        leaves = self._leaves()
        total = (coefficients * self.losses(leaves)).sum() * (self.paid.loss_scale / self.n)
        return self._updated(leaves, total, through=coefficients.requires_grad)

    def step_without(self, i: int) -> dict[str, Tensor]:
        """Where the step would have led without example ``i``, which is then in no batch statistic either.

        The others count as much as before, ``1 / n`` each. Where too few are left to train on (none, or a single one
        under batch normalisation) there is no step: ``theta_t``.
        """
        kept = torch.arange(self.n, device=self.paid.losses.device) != i
        if int(kept.sum()) < self.learner.fewest_examples:
            return self.before
        whole = self.paid
        batch = Batch(whole.batch.inputs[kept], whole.batch.targets[kept])
        weights = None if whole.weights is None else whole.weights[kept]
        some = Pass(batch, weights, whole.loss_scale, whole.losses[kept], whole.random_state)
        leaves = self._leaves()
        total = self._run(some, leaves).sum() * (whole.loss_scale / self.n)
        return self._updated(leaves, total, through=False)

    def _leaves(self) -> dict[str, Tensor]:
        trained = {name: p.requires_grad for name, p in self.learner.network.named_parameters()}
        return {name: p.detach().requires_grad_(trained[name]) for name, p in self.before.items()}

    def _run(self, one: Pass, parameters: Parameters) -> Tensor:
        with self.learner.autocast():
            return losses_of(one.batch, one.weights, self.learner.loss)(self._answers(one, parameters))

    def _answers(self, one: Pass, parameters: Parameters) -> Tensor:
        network, spare = self.learner.network, torch.Generator(self.learner.device)
        spare.set_state(one.random_state)
        inputs = laid_out(one.batch.inputs, channels_last=self.learner.options.channels_last)
        with lend_to_global(spare), self.learner.autocast():
            return call_with(network, parameters, inputs)

    def _updated(self, leaves: dict[str, Tensor], total: Tensor, *, through: bool) -> dict[str, Tensor]:
        """The optimizer's step from ``theta_t`` along the gradient of ``total``; ``through``: differentiable."""
        trained = {name: p for name, p in leaves.items() if p.requires_grad}
        found = torch.autograd.grad(total, list(trained.values()), create_graph=through, allow_unused=True)
        gradients = clipped(dict(zip(trained, found, strict=True)), self.learner.options.gradient_clip)
        with torch.set_grad_enabled(through):
            moved = self._optimized({name: p.detach().clone() for name, p in trained.items()}, gradients, through)
        return {**{name: p.detach() for name, p in leaves.items()}, **moved}

    def _optimized(
        self, parameters: dict[str, Tensor], gradients: dict[str, Tensor | None], through: bool
    ) -> dict[str, Tensor]:
        """``parameters`` after one step of an optimizer like the learner's, in its state of then."""
        optimizer, states = self.learner.optimizer, self.start.optimizer_states
        if states is None:
            raise ConfigurationError("This repeat has no optimizer state. A signal that repeats steps needs Need.STEP.")
        kind = type(optimizer)
        options: dict[str, Any] = {"lr": self.learner.options.step_size}
        if through:
            if "differentiable" not in inspect.signature(kind).parameters:
                raise ConfigurationError(
                    f"optimizer={kind.__name__.lower()!r} cannot be differentiated through. Use 'sgd' or 'adamw', or a "
                    "signal other than meta_gradient."
                )
            options["differentiable"] = True
        twin = kind(list(parameters.values()), **options)  # pyright: ignore[reportCallIssue]
        (group,), (own,) = twin.param_groups, optimizer.param_groups
        for name, value in own.items():  # as in the step that was taken: its step size, for one
            if name not in ("params", "differentiable", "foreach", "fused"):
                group[name] = value
        if through:
            group["foreach"] = False
        for (name, p), state in zip(parameters.items(), states, strict=True):
            p.grad = gradients[name]
            if state:
                twin.state[p] = copy.deepcopy(state)
            elif kind is torch.optim.SGD and group["momentum"]:
                # Its first step starts the buffer with a detached copy of the gradient, and half the derivative is
                # lost; from zeros it comes to the same.
                twin.state[p] = {"momentum_buffer": torch.zeros_like(p)}
        twin.step()
        for p in parameters.values():
            p.grad = None
        return parameters


def clipped(gradients: dict[str, Tensor | None], longest: float | None) -> dict[str, Tensor | None]:
    """Gradients scaled down to a Euclidean length, as ``torch.nn.utils.clip_grad_norm_`` does, differentiable."""
    there = [g for g in gradients.values() if g is not None]
    if longest is None or not there:
        return gradients
    length = torch.stack([g.square().sum() for g in there]).sum().sqrt()
    factor = (longest / (length + 1e-6)).clamp(max=1.0)
    return {name: None if g is None else g * factor for name, g in gradients.items()}
