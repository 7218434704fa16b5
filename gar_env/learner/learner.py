"""The inner loop: a network, an optimizer, and the passes that rewards are computed from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from gar_env.alignment import Alignment, BatchNormReading, Tape, Way, gradient
from gar_env.data import Batch
from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.functional import own_surroundings, preserve
from gar_env.learner.losses import losses_of
from gar_env.learner.optimizers import build_optimizer, check_schedule, step_size_factor
from gar_env.learner.precision import autocast, check_precision, laid_out, lay_out
from gar_env.learner.replay import Pass, Start
from gar_env.networks import LastLinearInputs
from gar_env.registry import check_positive, shown
from gar_env.seeding import lend_to_global, named_generator
from gar_env.state import plain


class SidePass(NamedTuple):
    """A pass over a batch that is not trained on.

    Args:
        logits: ``[n, classes]``.
        losses: Each example's cross entropy, ``[n]``.
        gradient: Of the mean loss, by parameter name; empty if it was not asked for.
    """

    logits: Tensor
    losses: Tensor
    gradient: dict[str, Tensor]


@plain
class Origin(NamedTuple):
    """What a pass can be recorded again from.

    Args:
        batch: ``n`` examples.
        weights: As in :meth:`Learner.recorded_pass`.
        loss_scale: Likewise.
        random_state: Of the learner's generator before it.
        buffers: Before it, by name.
        parameters: By name, at which it was made.
    """

    batch: Batch
    weights: Tensor | None
    loss_scale: float
    random_state: Tensor
    buffers: dict[str, Tensor]
    parameters: dict[str, Tensor]


class Learner:
    """One network in training. A step is a pass (forward and backward), then :meth:`update`.

    Args:
        build: Makes the network; its parameters are drawn from the seed.
        seed: Root of the generators ``initialisation`` and ``network`` (dropout).
        device: Where the network lives.
        optimizer: See :func:`~gar_env.learner.optimizers.build_optimizer`.
        step_size: Of the optimizer, after the warm-up.
        momentum: Likewise.
        weight_decay: Likewise.
        schedule: ``"constant"`` or ``"cosine"``.
        warmup_steps: SGD steps of linear warm-up.
        num_steps: SGD steps in all, for the schedule.
        gradient_clip: Largest Euclidean length of the gradient the optimizer sees. Rewards see the unclipped one.
        way: How tapes are recorded, see :class:`gar_env.alignment.Alignment`.
        batch_norm: What they measure under batch normalisation, likewise.
        precision: ``"float32"``, or ``"bfloat16"``: passes under ``torch.autocast``; parameters stay float32.
        channels_last: Whether images and convolutions are laid out channels-last, which is often faster.

    Example:
        >>> learner = Learner(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), seed=0, num_steps=1)
        >>> batch = Batch(torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 1]))
        >>> tape = learner.recorded_pass(batch)
        >>> learner.update()
        >>> (tape.n, learner.steps, learner.diverged)
        (3, 1, False)
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        *,
        seed: int,
        num_steps: int,
        device: torch.device | str = "cpu",
        optimizer: str = "sgd",
        step_size: float = 0.1,
        momentum: float | None = None,
        weight_decay: float = 5e-4,
        schedule: str = "constant",
        warmup_steps: int = 0,
        gradient_clip: float | None = None,
        way: Way = "auto",
        batch_norm: BatchNormReading = "share",
        precision: str = "float32",
        channels_last: bool = False,
    ) -> None:
        check_positive("step_size", step_size)
        for name, value, most in (("momentum", momentum, 1.0), ("weight_decay", weight_decay, 1e37)):
            if value is not None and not 0 <= value < most:
                raise ConfigurationError(f"{name}={shown(value)} must be at least 0 and below {most:g}.")
        if gradient_clip is not None:
            check_positive("gradient_clip", gradient_clip)
        self.device = torch.device(device)
        check_schedule(schedule, warmup_steps=warmup_steps, num_steps=num_steps)
        check_precision(precision)
        self.precision, self.channels_last = precision, channels_last
        # Always drawn on the CPU: the same seed starts the same network on every device.
        with own_surroundings(), lend_to_global(named_generator(seed, "initialisation")):
            self.network = lay_out(build().to(self.device), channels_last=channels_last)
        self.generator: Generator = named_generator(seed, "network", self.device)
        self.optimizer = build_optimizer(
            optimizer,
            [p for p in self.network.parameters() if p.requires_grad],
            step_size=step_size,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        self.step_size, self.schedule = step_size, schedule
        self.warmup_steps, self.num_steps = warmup_steps, num_steps
        self.gradient_clip = gradient_clip
        self._built = {
            "optimizer": optimizer.lower(),
            "step_size": step_size,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "num_steps": num_steps,
            "gradient_clip": gradient_clip,
            "precision": precision,
        }
        self.steps = 0
        self.network.train()
        self.alignment = Alignment(self.network, way=way, batch_norm=batch_norm)
        self.keeps_passes = self.keeps_last_layer = False
        self.remembers = False
        """Whether :attr:`origin` is kept of each recorded pass."""
        self.origin: Origin | None = None
        """Of the last recorded pass, after its :meth:`update`."""
        self.last_pass: Pass | None = None
        """The last pass with a gradient, if :attr:`keeps_passes`; with its last layer, if :attr:`keeps_last_layer`."""

    def recorded_pass(self, batch: Batch, weights: Tensor | None = None, *, loss_scale: float = 1.0) -> Tape:
        """Forward and backward of the mean loss, with a tape. The gradient waits for :meth:`update`.

        Args:
            batch: ``n`` examples.
            weights: ``[n]``: the loss is the mean of ``w_i l_i``, and the tape is of those.
            loss_scale: What the gradient is multiplied by; the tape is not.
        """
        state = self._random_state()
        if self.remembers:
            buffers = {name: b.clone() for name, b in self.network.named_buffers()}
            self.origin = Origin(batch, weights, loss_scale, self.generator.get_state(), buffers, {})
        with own_surroundings(), self._last_layer() as last, lend_to_global(self.generator), self.autocast():
            tape = self.alignment.record(self._laid_out(batch), losses_of(batch, weights), loss_scale=loss_scale)
        self._keep(Pass(batch, weights, loss_scale, state, tape.losses, last and last.seen))
        return tape

    def plain_pass(self, batch: Batch, weights: Tensor | None = None, *, loss_scale: float = 1.0) -> Tensor:
        """Forward and backward of the mean loss, without a tape; arguments as in :meth:`recorded_pass`.

        Returns:
            Each example's loss, ``[n]``, detached.
        """
        state = self._random_state()
        with own_surroundings(), self._last_layer() as last, lend_to_global(self.generator):
            with self.autocast():
                losses = losses_of(batch, weights)(self.network(self._laid_out(batch)))
            (losses.mean() * loss_scale).backward()
        self._keep(Pass(batch, weights, loss_scale, state, losses.detach(), last and last.seen))
        return losses.detach()

    def record_again(self, origin: Origin) -> Tape:
        """The tape of an earlier pass, recorded at the parameters that it was recorded at; nothing else changes.

        Args:
            origin: :attr:`origin`, of a learner that was built alike.
        """
        findings = self.alignment.findings.state_dict()
        held = [*self.network.parameters(), *self.network.buffers()]
        then = {**origin.parameters, **origin.buffers}
        names = [name for name, _ in (*self.network.named_parameters(), *self.network.named_buffers())]
        now = [tensor.detach().clone() for tensor in held]
        spare = torch.Generator(self.device)
        spare.set_state(origin.random_state)
        with torch.no_grad():
            torch._foreach_copy_(held, [then[name] for name in names])
        try:
            with own_surroundings(), lend_to_global(spare), self.autocast():
                losses = losses_of(origin.batch, origin.weights)
                return self.alignment.record(self._laid_out(origin.batch), losses, loss_scale=origin.loss_scale)
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_copy_(held, now)
            self.alignment.findings.load_state_dict(findings)

    def start(self, *, optimizer: bool) -> Start:
        """Copies of the parameters, and of the optimizer's state if asked for: what a step could be repeated from."""
        parameters = dict(self.network.named_parameters())
        trained = [p for p in parameters.values() if p.requires_grad]
        states = [copy.deepcopy(dict(self.optimizer.state.get(p, {}))) for p in trained] if optimizer else None
        return Start({name: p.detach().clone() for name, p in parameters.items()}, states)

    @property
    def fewest_examples(self) -> int:
        """How many a pass in training mode needs: 2 under batch normalisation, else 1."""
        return 2 if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.network.modules()) else 1

    def autocast(self) -> torch.autocast:
        """The precision of its passes, as a context."""
        return autocast(self.device, self.precision)

    def _random_state(self) -> Tensor:
        return self.generator.get_state() if self.keeps_passes else torch.empty(0)

    def _last_layer(self) -> Any:
        return LastLinearInputs(self.network) if self.keeps_last_layer else nullcontext()

    def _keep(self, one: Pass) -> None:
        if self.keeps_passes:
            self.last_pass = one

    def _laid_out(self, batch: Batch) -> Tensor:
        return laid_out(batch.inputs, channels_last=self.channels_last)

    def gradient(self) -> dict[str, Tensor]:
        """The gradient that :meth:`update` will use, before clipping, without weight decay or momentum. Not copied."""
        return gradient(self.network)

    @own_surroundings()
    def update(self) -> None:
        """One optimizer step along the gradient of the last pass."""
        if self.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.gradient_clip)
        if self.origin and not self.origin.parameters:
            parameters = {name: p.detach().clone() for name, p in self.network.named_parameters()}
            self.origin = self.origin._replace(parameters=parameters)
        factor = step_size_factor(self.steps, self.schedule, warmup_steps=self.warmup_steps, num_steps=self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.step_size * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1

    @own_surroundings()
    def side_pass(
        self, batch: Batch, weights: Tensor | None = None, *, gradient: bool = True, loss_scale: float = 1.0
    ) -> SidePass:
        """A pass in training mode over a batch that is not trained on; ``.grad`` and buffers stay as they are.

        Args:
            batch: ``n`` examples.
            weights: As in :meth:`recorded_pass`.
            gradient: Whether to go backward as well.
            loss_scale: What the gradient is multiplied by.
        """
        state = self._random_state()
        with preserve(self.network), lend_to_global(self.generator), torch.set_grad_enabled(gradient):
            with self.autocast():
                logits = self.network(self._laid_out(batch)).float()
                losses = losses_of(batch, weights)(logits)
            if gradient:
                (losses.mean() * loss_scale).backward()
                self._keep(Pass(batch, weights, loss_scale, state, losses.detach()))
            return SidePass(logits.detach(), losses.detach(), self.gradient() if gradient else {})

    @own_surroundings()
    def trial(self, inputs: Tensor) -> Any:
        """The network's output in training mode; nothing of the learner changes, its random numbers included."""
        spare = torch.Generator(self.device)
        spare.set_state(self.generator.get_state())
        with preserve(self.network), lend_to_global(spare), self.autocast():
            return self.network(laid_out(inputs, channels_last=self.channels_last))

    @property
    def diverged(self) -> bool:
        """Whether a parameter or a running statistic is NaN, infinite, or too large for its own square.

        Waits for the device.
        """
        # By hand, and of what trains alone: this runs at every step.
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        held = [b for module in self.network.modules() for b in module._buffers.values() if b is not None]
        tensors = [*trained, *(b for b in held if b.is_floating_point())]
        lengths = torch._foreach_norm([tensor.detach() for tensor in tensors])
        return not bool(torch.stack([length.to(torch.float64) for length in lengths]).isfinite().all())

    @own_surroundings()
    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, float]:
        """Accuracy and mean loss over ``batches`` in evaluation mode. Training goes on as if it had not been asked.

        Returns:
            ``(share of right answers, mean cross entropy)``.
        """
        right, loss, n = 0, 0.0, 0
        spare = torch.Generator(self.device)
        spare.set_state(self.generator.get_state())
        self.network.eval()
        try:
            with lend_to_global(spare), self.autocast():
                for batch in batches:
                    logits = self.network(self._laid_out(batch)).float()
                    right += int((logits.argmax(1) == batch.targets).sum())
                    loss += float(F.cross_entropy(logits, batch.targets, reduction="sum"))
                    n += len(batch.targets)
        finally:
            self.network.train()
        return right / n, loss / n

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next steps depend on; a loaded learner goes on bit-equal on the CPU.

        Raises:
            CheckpointError: Between a pass and its :meth:`update`: the waiting gradient would be lost.
        """
        if any(p.grad is not None for p in self.network.parameters()):
            raise CheckpointError("A gradient is waiting for update(). Take the state after update(), not before.")
        return copy.deepcopy(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "steps": self.steps,
                "findings": self.alignment.findings.state_dict(),
                "built": self._built,
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a learner that was built alike.

        Raises:
            CheckpointError: If the state has other entries, or belongs to another network, optimizer or schedule. The
                learner is then unchanged.
        """
        before = self.state_dict()
        if not isinstance(state, dict) or set(state) != set(before):
            found = ", ".join(sorted(state)) if isinstance(state, dict) else type(state).__name__
            raise CheckpointError(f"A learner's state has the entries {', '.join(sorted(before))}; found {found}.")
        if state["built"] != self._built:
            raise CheckpointError(
                f"The state belongs to a learner built with {state['built']}; this one is built with {self._built}."
            )
        try:
            self._load(state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._load(before)
            raise CheckpointError(
                f"The state belongs to another network or optimizer: {error}\nBuild the learner as it was built then."
            ) from error

    def _load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.generator.set_state(state["generator"])
        self.steps = int(state["steps"])
        self.alignment.findings.load_state_dict(state["findings"])
