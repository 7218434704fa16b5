"""The inner loop: a network, an optimizer, and the passes that rewards are computed from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from gar_env.alignment import Alignment, AlignmentPrecision, BatchNormReading, Tape, Way, gradient
from gar_env.data import Batch
from gar_env.errors import CheckpointError
from gar_env.functional import Structure, own_surroundings, preserve, structure_of
from gar_env.learner.losses import LOSSES, Loss, losses_of, measure
from gar_env.learner.optimizers import build_optimizer, check_schedule, step_size_factor
from gar_env.learner.options import TrainingOptions
from gar_env.learner.passes import Origin, Pass, Start
from gar_env.learner.precision import autocast, laid_out, lay_out
from gar_env.networks import LastLinearInputs
from gar_env.registry import shown
from gar_env.seeding import lend_to_global, named_generator


class Learner:
    """One network in training. A step is :meth:`run`, forward and backward, then :meth:`update`.

    Args:
        build: Makes the network; its parameters are drawn from the seed.
        options: How it is trained.
        seed: Root of the generators ``initialisation`` and ``network`` (dropout).
        num_steps: SGD steps in all, for the schedule.
        device: Where the network lives.
        loss: A registered loss by name: :data:`gar_env.learner.LOSSES`.

    Raises:
        ConfigurationError: If an option does not fit another, or the number of steps.

    Example:
        >>> learner = Learner(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), seed=0, num_steps=1)
        >>> batch = Batch(torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 1]))
        >>> tape = learner.run(batch, record=True).tape
        >>> learner.update()
        >>> (tape.n, learner.steps, learner.diverged)
        (3, 1, False)
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        options: TrainingOptions = TrainingOptions(),  # noqa: B008 - frozen
        *,
        seed: int,
        num_steps: int,
        device: torch.device | str = "cpu",
        loss: str = "cross_entropy",
    ) -> None:
        check_schedule(options.schedule, warmup_steps=options.warmup_steps, num_steps=num_steps)
        _ = LOSSES[loss]
        self.options, self.num_steps, self.loss = options, num_steps, loss
        self.device = torch.device(device)
        # Always drawn on the CPU: the same seed starts the same network on every device.
        with own_surroundings(), lend_to_global(named_generator(seed, "initialisation")):
            self.network = lay_out(build().to(self.device), channels_last=options.channels_last)
        self.generator: Generator = named_generator(seed, "network", self.device)
        self.optimizer = build_optimizer(
            options.optimizer,
            [p for p in self.network.parameters() if p.requires_grad],
            step_size=options.step_size,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        self.steps = 0
        self.network.train()
        self._plain = _plain_attributes(self.network)
        self.alignment = Alignment(
            self.network,
            way=cast(Way, options.way),
            batch_norm=cast(BatchNormReading, options.batch_norm),
            precision=cast(AlignmentPrecision, options.alignment_precision),
        )
        self.keeps_last_layer = False
        """Whether a :class:`Pass` has the network's last linear layer."""
        self.remembers = False
        """Whether :attr:`origin` is kept of each recorded pass."""
        self.origin: Origin | None = None
        """Of the last recorded pass, after its :meth:`update`."""

    def run(
        self,
        batch: Batch,
        weights: Tensor | None = None,
        *,
        record: bool = False,
        aside: bool = False,
        backward: bool = True,
        loss_scale: float = 1.0,
        weigh: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Pass:
        """Forward and backward of the mean loss, in training mode. The gradient waits for :meth:`update`.

        Args:
            batch: ``n`` examples.
            weights: ``[n]``: the loss is the mean of ``w_i l_i``, and so is the tape's.
            record: Whether to record a tape.
            aside: A batch that is not trained on: gradient and outputs are in the pass; ``.grad`` and buffers stay as
                they are. It may be recorded too.
            backward: Whether to go backward at all; only of a pass aside is it left out.
            loss_scale: What the gradient is multiplied by; the tape is not.
            weigh: Of a pass aside: from outputs, detached, and targets to weights ``[n]`` that losses are multiplied by
                for the gradient and the tape; the pass's own losses are not.

        Raises:
            ConfigurationError: If the network's output does not fit the targets.
        """
        loss, state = losses_of(batch, weights, self.loss), self.generator.get_state()
        if aside:
            own: dict[str, Any] = {"record": record, "backward": backward, "loss_scale": loss_scale, "weigh": weigh}
            return self._aside(batch, loss, state, **own)
        if record and self.remembers:
            buffers = {name: b.clone() for name, b in self.network.named_buffers()}
            self.origin = Origin(batch, weights, loss_scale, state, buffers, {})
        tape: Tape | None = None
        keeping = LastLinearInputs(self.network) if self.keeps_last_layer else nullcontext()
        with own_surroundings(), lend_to_global(self.generator), keeping as last:
            with self.autocast():
                if record:
                    tape = self.alignment.record(self._laid_out(batch), loss, loss_scale=loss_scale)
                    losses = tape.losses
                else:
                    losses = loss(self.network(self._laid_out(batch)))
            if not record:
                (losses.mean() * loss_scale).backward()
        return Pass(batch, weights, loss_scale, losses.detach(), state, tape, last_layer=last and last.seen)

    @own_surroundings()
    def _aside(
        self,
        batch: Batch,
        loss: Loss,
        state: Tensor,
        *,
        record: bool,
        backward: bool,
        loss_scale: float,
        weigh: Callable[[Tensor, Tensor], Tensor] | None,
    ) -> Pass:
        seen: list[tuple[Tensor, Tensor]] = []

        def losses_of_outputs(outputs: Any) -> Tensor:
            outputs = outputs.float()
            losses = loss(outputs)
            seen.append((outputs.detach(), losses.detach()))
            return losses if weigh is None else losses * weigh(seen[-1][0], batch.targets)

        tape, found = None, {}
        with preserve(self.network), lend_to_global(self.generator), torch.set_grad_enabled(backward):
            with self.autocast():
                if record:
                    tape = self.alignment.record(self._laid_out(batch), losses_of_outputs, loss_scale=loss_scale)
                else:
                    losses = losses_of_outputs(self.network(self._laid_out(batch)))
            if backward and not record:
                (losses.mean() * loss_scale).backward()  # pyright: ignore[reportPossiblyUnboundVariable]
            if backward:
                found = self.gradient()
        outputs, own = seen[-1]
        return Pass(batch, loss.weights, loss_scale, own, state, tape, outputs=outputs, gradient=found)

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
                loss = losses_of(origin.batch, origin.weights, self.loss)
                return self.alignment.record(self._laid_out(origin.batch), loss, loss_scale=origin.loss_scale)
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
        return autocast(self.device, self.options.precision)

    def _laid_out(self, batch: Batch) -> Tensor:
        return laid_out(batch.inputs, channels_last=self.options.channels_last)

    def gradient(self) -> dict[str, Tensor]:
        """The gradient that :meth:`update` will use, before clipping, without weight decay or momentum. Not copied."""
        return gradient(self.network)

    @own_surroundings()
    def update(self) -> None:
        """One optimizer step along the gradient of the last pass."""
        options = self.options
        if options.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), options.gradient_clip)
        if self.origin and not self.origin.parameters:
            parameters = {name: p.detach().clone() for name, p in self.network.named_parameters()}
            self.origin = self.origin._replace(parameters=parameters)
        factor = step_size_factor(
            self.steps, options.schedule, warmup_steps=options.warmup_steps, num_steps=self.num_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = options.step_size * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1

    @own_surroundings()
    def trial(self, inputs: Tensor) -> Any:
        """The network's output in training mode; nothing of the learner changes, its random numbers included."""
        spare = torch.Generator(self.device)
        spare.set_state(self.generator.get_state())
        with preserve(self.network), lend_to_global(spare), self.autocast():
            return self.network(laid_out(inputs, channels_last=self.options.channels_last))

    @property
    def diverged(self) -> bool:
        """Whether a parameter or a running statistic is NaN, infinite, or too large for its own square.

        Waits for the device.
        """
        # By hand, and of what trains alone: this runs at every step.
        structure = self._structure = structure_of(self.network)
        tensors = structure.derived(_tensors)
        with torch.no_grad():
            lengths = torch._foreach_norm(tensors)
            if any(length.dtype is not torch.float32 for length in lengths):
                lengths = [length.to(torch.float64) for length in lengths]
            return not bool(torch.stack(lengths).isfinite().all())

    @own_surroundings()
    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> tuple[float, float]:
        """Accuracy and mean loss over ``batches`` in evaluation mode. Training goes on as if it had not been asked.

        Returns:
            ``(accuracy, mean loss)``; what accuracy is says the loss, :class:`gar_env.learner.Loss`.
        """
        spare = torch.Generator(self.device)
        spare.set_state(self.generator.get_state())
        self.network.eval()
        try:
            with lend_to_global(spare), self.autocast():
                answers = ((self.network(self._laid_out(batch)).float(), batch.targets) for batch in batches)
                return measure(self.loss, answers)
        finally:
            self.network.train()

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next steps depend on; a loaded learner goes on bit-equal on the CPU.

        Raises:
            CheckpointError: Between a pass and its :meth:`update`: the waiting gradient would be lost. If the network
                keeps numbers that change in attributes.
        """
        if any(p.grad is not None for p in self.network.parameters()):
            raise CheckpointError("A gradient is waiting for update(). Take the state after update(), not before.")
        now = _plain_attributes(self.network)
        moved = [name for name, value in now.items() if self._plain.get(name) != value]
        if moved:
            raise CheckpointError(
                f"The network's {moved[0]} has changed from {shown(self._plain.get(moved[0]))} to "
                f"{shown(now[moved[0]])}, which its state_dict() does not hold. Keep it in a buffer (register_buffer), "
                "or in get_extra_state()."
            )
        return copy.deepcopy(
            {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "steps": self.steps,
                "findings": self.alignment.findings.state_dict(),
                "built": self._built,
                "buffers": self._unsaved_buffers(),
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

    @property
    def _built(self) -> dict[str, Any]:
        return {**self.options.as_dict(), "loss": self.loss, "num_steps": self.num_steps}

    def _unsaved_buffers(self) -> dict[str, Tensor]:
        """Buffers that ``network.state_dict()`` leaves out."""
        saved = self.network.state_dict().keys()
        return {name: buffer for name, buffer in self.network.named_buffers() if name not in saved}

    def _load(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.generator.set_state(state["generator"])
        for name, buffer in self._unsaved_buffers().items():
            buffer.copy_(state["buffers"][name])
        self.steps = int(state["steps"])
        self.alignment.findings.load_state_dict(state["findings"])


def _plain_attributes(network: nn.Module) -> dict[str, Any]:
    """Numbers and text in its modules' attributes, by path; of modules that save more than tensors, nothing."""
    found: dict[str, Any] = {}
    for path, module in network.named_modules():
        if type(module).get_extra_state is nn.Module.get_extra_state:
            plain = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str)}
            found |= {f"{path}.{name}" if path else name: value for name, value in plain.items() if name != "training"}
    return found


def _tensors(structure: Structure) -> list[Tensor]:
    """What must stay finite: what trains, and running statistics."""
    return [*structure.trained.values(), *(b for b in structure.buffers if b.is_floating_point())]
