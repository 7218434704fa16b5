"""R training runs of one architecture, stepped together: what one of them does depends on no other."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from gar_env.errors import CheckpointError, ConfigurationError, StaleTapeError, UnsupportedLayerError
from gar_env.functional import own_surroundings
from gar_env.learner.stacked_layers import Kept, Stacked, has_rules
from gar_env.learner.update_rules import Tensors, UpdateRule, build_rule, per_row
from gar_env.registry import check_choice, shown
from gar_env.seeding import lend_to_global, named_generator

WAYS = ("auto", "layers", "vmap")
Losses = Callable[[Tensor, Tensor], Tensor]
"""From outputs ``[m, ...]`` and targets ``[m, ...]`` to losses ``[m]``, each of one example alone."""


@dataclass(eq=False)
class StackPass:
    """Forward and backward of all rows.

    Args:
        losses: Each example's, ``[R, n]``, detached.
        gradient: Of each row's mean loss, ``{name: [R, ...]}``.
        changes: From a direction ``{name: [R, ...]}`` to predicted changes; see
            :meth:`LearnerStack.predicted_changes`.
    """

    losses: Tensor
    gradient: dict[str, Tensor]
    changes: Callable[[Tensors], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Each example's, of logits ``[m, classes]`` and labels ``[m]``."""
    return F.cross_entropy(outputs, targets, reduction="none")


class LearnerStack:
    """R networks of one architecture in training, each with its own parameters, memory of its rule, and random streams.

    On the CPU a row's numbers are bit for bit those of the same run in a stack of one, with layers that have rules
    (:func:`~gar_env.learner.stacked_layers.register_stacked_layer`). Other modules run by ``torch.func.vmap``, where
    they agree to rounding.

    Args:
        build: Makes one network; row ``r``'s parameters are drawn from ``seeds[r]``, as a
            :class:`~gar_env.learner.Learner`'s are.
        seeds: One for each row.
        rule: The update rule, or its name: ``"sgd"``, ``"momentum"``, ``"nesterov"``, ``"rmsprop"``, ``"adam"``.
        loss: Of the examples of all rows, one behind the other; cross entropy by default.
        weight_decay: Times the parameters, added to the gradient that the rule sees.
        gradient_clip: Largest Euclidean length of each row's gradient that the rule sees.
        way: ``"layers"``, ``"vmap"``, or ``"auto"``: layers where all have rules.
        device: Where the networks live.

    Raises:
        ConfigurationError: If an option is out of range, or the networks have different shapes.
        UnsupportedLayerError: If neither way is right: the message says why.

    Example:
        >>> stack = LearnerStack(lambda: nn.Linear(3, 2), seeds=range(4))
        >>> one = stack.run(torch.randn(4, 5, 3), torch.zeros(4, 5, dtype=torch.int64))
        >>> one.losses.shape, one.gradient["weight"].shape
        (torch.Size([4, 5]), torch.Size([4, 2, 3]))
        >>> direction = stack.direction(one.gradient)
        >>> stack.predicted_changes(one, direction).shape
        torch.Size([4, 5])
        >>> stack.move(direction, torch.tensor([0.1, 0.2, 0.3, 0.4]))
    """

    @own_surroundings()
    def __init__(
        self,
        build: Callable[[], nn.Module],
        seeds: Sequence[int],
        *,
        rule: str | UpdateRule = "sgd",
        loss: Losses = cross_entropy,
        weight_decay: float = 0.0,
        gradient_clip: float | None = None,
        way: str = "auto",
        device: torch.device | str = "cpu",
    ) -> None:
        seeds = list(seeds)
        if not seeds:
            raise ConfigurationError("seeds is empty. Pass one for each run.")
        check_choice("way", way, WAYS)
        if isinstance(weight_decay, bool) or not isinstance(weight_decay, int | float) or not 0 <= weight_decay < 1e37:
            raise ConfigurationError(f"weight_decay={shown(weight_decay)} must be at least 0.")
        if gradient_clip is not None and not 0 < gradient_clip < 1e37:
            raise ConfigurationError(f"gradient_clip={shown(gradient_clip)} must be above 0, or None for no clipping.")
        self.device, self.rule, self.loss = torch.device(device), build_rule(rule), loss
        self.weight_decay, self.gradient_clip = weight_decay, gradient_clip
        self._build = build
        modules = [self._module(seed) for seed in seeds]
        self.module = modules[0].train()
        """One network, whose own numbers are not used."""
        self.way = _way_for(self.module, way)
        _check_alike(modules)
        self._trained = [name for name, p in self.module.named_parameters() if p.requires_grad]
        self.parameters = _stacked([dict(module.named_parameters()) for module in modules])
        """``{name: [R, ...]}``, frozen ones too."""
        self.buffers = _stacked([dict(module.named_buffers()) for module in modules])
        self.memory = self.rule.start(self.trained)
        self.steps = torch.zeros(len(seeds), dtype=torch.int64, device=self.device)
        """How many steps each row has taken, ``[R]``."""
        self.generators = [named_generator(seed, "network", self.device) for seed in seeds]
        self._moves = 0

    def __len__(self) -> int:
        """R."""
        return len(self.steps)

    @property
    def trained(self) -> dict[str, Tensor]:
        """The parameters that train, ``{name: [R, ...]}``."""
        return {name: self.parameters[name] for name in self._trained}

    @own_surroundings()
    def run(self, inputs: Tensor, targets: Tensor) -> StackPass:
        """Forward and backward of each row's mean loss, in training mode; nothing moves but running statistics.

        Args:
            inputs: ``[R, n, ...]``.
            targets: ``[R, n, ...]``.
        """
        self._check(inputs, targets)
        leaves = {name: p.detach().requires_grad_() for name, p in self.trained.items()}
        return (self._run_layers if self.way == "layers" else self._run_by_vmap)(leaves, inputs, targets)

    def direction(self, gradient: Tensors) -> dict[str, Tensor]:
        """Where the rule goes from here, ``{name: [R, ...]}``; the rule remembers it when :meth:`move` is called."""
        gradient = dict(gradient)
        if self.weight_decay:
            gradient = {name: g + self.weight_decay * self.parameters[name] for name, g in gradient.items()}
        if self.gradient_clip is not None:
            squares = _added([g.flatten(1).square().sum(1) for g in gradient.values()])
            factor = (self.gradient_clip / (squares.sqrt() + 1e-6)).clamp_max(1)
            gradient = {name: g * per_row(factor, g) for name, g in gradient.items()}
        direction, self._remembered = self.rule.direction(gradient, self.memory, self.steps)
        return direction

    def move(self, direction: Tensors, step_sizes: Tensor, live: Tensor | None = None) -> None:
        """``theta_r += step_sizes_r * direction_r``, and the memory of :meth:`direction` becomes the rule's.

        Args:
            direction: Of :meth:`direction`.
            step_sizes: ``[R]``.
            live: bool ``[R]``: which rows move; others stay as they are, bit for bit. All by default.
        """
        if step_sizes.shape != self.steps.shape:
            raise ConfigurationError(f"step_sizes are {list(step_sizes.shape)}; expected one per row, [{len(self)}].")
        for name, d in direction.items():
            moved = self.parameters[name] + per_row(step_sizes, d) * d
            self.parameters[name] = self._where(live, moved, self.parameters[name])
        for kind, values in self._remembered.items():
            before = self.memory[kind]
            self.memory[kind] = {name: self._where(live, value, before[name]) for name, value in values.items()}
        self.steps = self.steps + (1 if live is None else live.long())
        self._moves += 1

    def predicted_changes(self, one: StackPass, direction: Tensors) -> Tensor:
        """``< grad l_ri, direction_r >``, ``[R, n]``: how each example's loss changes per unit of step size.

        Layer by layer, from the gradient of each layer's output and the layer with the direction for parameters: no
        second pass. Under batch normalisation an example's share of the gradient (``"share"``, see
        :class:`gar_env.alignment.Alignment`); by ``torch.func`` the derivative of each example's own loss.

        Args:
            one: The last pass, at the present parameters.
            direction: ``{name: [R, ...]}``.

        Source:
            Daniel, Taylor & Nowozin (2016), predicted change in function value.
        """
        return one.changes(direction)

    @own_surroundings()
    def outputs(self, inputs: Tensor, *, training: bool = False) -> Tensor:
        """What the networks return, ``[R, n, ...]``; nothing changes.

        Args:
            inputs: ``[R, n, ...]``, or ``[1, n, ...]`` for all rows.
            training: In training mode, but without dropout's numbers and statistics being kept.
        """
        inputs = inputs.expand(len(self), *inputs.shape[1:])
        with torch.no_grad():
            if self.way == "layers":
                spare = [torch.Generator(self.device) for _ in self.generators]
                for generator, own in zip(spare, self.generators, strict=True):
                    generator.set_state(own.get_state())
                return Stacked(self.parameters, dict(self.buffers), training, spare)(self.module, "", inputs)
            self.module.train(training)
            try:
                buffers = {name: b.clone() for name, b in self.buffers.items()}
                return vmap(self._call)(self.parameters, buffers, inputs)
            finally:
                self.module.train()

    @own_surroundings()
    def restart(self, rows: Tensor, seeds: Sequence[int]) -> None:
        """Begin some runs anew; the others stay as they are, bit for bit.

        Args:
            rows: bool ``[R]``.
            seeds: One for each of them, in order.
        """
        numbers = rows.nonzero().flatten().tolist()
        if rows.shape != self.steps.shape or rows.dtype != torch.bool or len(numbers) != len(seeds):
            raise ConfigurationError(
                f"rows are {rows.dtype} {list(rows.shape)} with {len(numbers)} chosen, and there are {len(seeds)} "
                f"seeds; expected bool [{len(self)}], and a seed for each row that is chosen."
            )
        for row, seed in zip(numbers, seeds, strict=True):
            module = self._module(seed)
            for stacked, own in (
                (self.parameters, dict(module.named_parameters())),
                (self.buffers, dict(module.named_buffers())),
            ):
                for name, value in own.items():
                    if value.shape != stacked[name].shape[1:]:
                        raise ConfigurationError(_other_shape(name, row, value.shape, stacked[name].shape[1:]))
                    stacked[name] = stacked[name].clone()
                    stacked[name][row] = value.detach()
            self.generators[row] = named_generator(seed, "network", self.device)
        fresh = self.rule.start(self.trained)
        for kind, values in fresh.items():
            self.memory[kind] = {name: self._where(rows, v, self.memory[kind][name]) for name, v in values.items()}
        self.steps = torch.where(rows, 0, self.steps)

    def network(self, row: int) -> nn.Module:
        """A copy of one row's network, in training mode."""
        module = copy.deepcopy(self.module)
        own = {name: value[row] for name, value in (self.parameters | self.buffers).items()}
        module.load_state_dict(own, strict=False)
        return module

    @property
    def diverged(self) -> Tensor:
        """bool ``[R]``: whose parameters or statistics are NaN, infinite, or too large for their own square."""
        tensors = [*self.parameters.values(), *(b for b in self.buffers.values() if b.is_floating_point())]
        squares = [tensor.flatten(1).square().sum(1) for tensor in tensors]
        return ~torch.stack(squares).isfinite().all(0)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next steps depend on: tensors alone, which ``torch.load`` reads as data."""
        return copy.deepcopy(
            {
                "parameters": self.parameters,
                "buffers": self.buffers,
                "memory": self.memory,
                "steps": self.steps,
                "generators": torch.stack([generator.get_state() for generator in self.generators]),
            }
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a stack that was built alike, bit for bit on the CPU.

        Raises:
            CheckpointError: If it has other entries or shapes; nothing is changed then.
        """
        before = self.state_dict()
        wanted, found = _shapes(before), _shapes(state)
        if wanted != found:
            odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            first = odd[0]
            raise CheckpointError(
                f"The state belongs to another stack: {first} is {found.get(first, 'not there')}, here "
                f"{wanted.get(first, 'not there')}. Build the stack as it was built then."
            )
        state = copy.deepcopy(dict(state))
        self.parameters, self.buffers, self.memory = state["parameters"], state["buffers"], state["memory"]
        self.steps = state["steps"]
        for generator, bits in zip(self.generators, state["generators"], strict=True):
            generator.set_state(bits.clone())  # torch reads from where the storage begins, not the tensor
        self._moves += 1

    def _module(self, seed: int) -> nn.Module:
        # Always drawn on the CPU: the same seed starts the same network on every device.
        with lend_to_global(named_generator(seed, "initialisation")):
            return self._build().to(self.device)

    def _check(self, inputs: Tensor, targets: Tensor) -> None:
        for what, tensor in (("inputs", inputs), ("targets", targets)):
            if not isinstance(tensor, Tensor) or tensor.ndim < 2 or len(tensor) != len(self):
                raise ConfigurationError(
                    f"{what} are {shown(tensor)}; expected a tensor [{len(self)}, n, ...]: a batch for each row."
                )
        if inputs.shape[1] != targets.shape[1] or inputs.shape[1] == 0:
            raise ConfigurationError(
                f"There are {inputs.shape[1]} inputs and {targets.shape[1]} targets in each row; expected as many, at "
                "least one."
            )

    def _run_layers(self, leaves: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> StackPass:
        buffers = dict(self.buffers)
        stacked = Stacked(self.parameters | leaves, buffers, True, self.generators)
        with torch.enable_grad():
            outputs = stacked(self.module, "", inputs)
            losses = self._losses(outputs, targets)
            wanted = [*leaves.values(), *(kept.output for kept in stacked.kept)]
            found = torch.autograd.grad(losses.mean(1).sum(), wanted, allow_unused=True, materialize_grads=True)
        self.buffers = buffers
        gradient = dict(zip(leaves, found[: len(leaves)], strict=True))
        calls = list(zip(stacked.kept, found[len(leaves) :], strict=True))
        return StackPass(losses.detach(), gradient, self._fresh(lambda direction: _by_layers(calls, direction)))

    def _run_by_vmap(self, leaves: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> StackPass:
        before = self.buffers
        buffers = {name: b.clone() for name, b in before.items()}
        with torch.enable_grad():
            losses = self._losses_by_vmap(self.parameters | leaves, buffers, inputs, targets)
            gradient = torch.autograd.grad(
                losses.mean(1).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        self.buffers = buffers

        def changes(direction: Tensors) -> Tensor:
            fixed = {name: p for name, p in self.parameters.items() if name not in direction}

            def losses_at(moving: dict[str, Tensor]) -> Tensor:
                own = {name: b.clone() for name, b in before.items()}
                return self._losses_by_vmap(fixed | moving, own, inputs, targets)

            at = {name: self.parameters[name] for name in direction}
            with sdpa_kernel(SDPBackend.MATH):  # the one kernel of attention with a derivative in forward mode
                return jvp(losses_at, (at,), (dict(direction),))[1]

        return StackPass(losses.detach(), dict(zip(leaves, gradient, strict=True)), self._fresh(changes))

    def _losses_by_vmap(self, parameters: Tensors, buffers: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
        try:
            outputs = vmap(self._call)(dict(parameters), dict(buffers), inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UnsupportedLayerError(
                f"{type(self.module).__name__} cannot be run for several rows at once by torch.func.vmap: "
                f"{next(iter(str(error).splitlines()), '')[:300]} Build it of layers that have rules, or give yours "
                "one: register_stacked_layer."
            ) from error
        return self._losses(outputs, targets)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = self.loss(outputs.flatten(0, 1), targets.flatten(0, 1))
        m = targets.shape[0] * targets.shape[1]
        if not isinstance(losses, Tensor) or losses.shape != (m,) or not losses.is_floating_point():
            raise ConfigurationError(f"loss returned {shown(losses)}; expected floating losses [{m}], one an example.")
        return losses.view(targets.shape[:2])

    def _call(self, parameters: Tensors, buffers: Tensors, inputs: Tensor) -> Tensor:
        return functional_call(self.module, (dict(parameters), dict(buffers)), (inputs,))

    def _fresh(self, changes: Callable[[Tensors], Tensor]) -> Callable[[Tensors], Tensor]:
        """Refuse what the parameters have moved away from."""
        moves = self._moves

        def checked(direction: Tensors) -> Tensor:
            if moves != self._moves:
                raise StaleTapeError(
                    "The networks have moved since that pass, so nothing is predicted from it. Ask before move()."
                )
            odd = sorted(set(direction) - set(self._trained))
            if odd:
                raise ConfigurationError(f"direction has {odd[0]!r}, which is no trained parameter of the networks.")
            return changes(direction)

        return checked

    @staticmethod
    def _where(live: Tensor | None, moved: Tensor, before: Tensor) -> Tensor:
        if live is None:
            return moved
        return torch.where(live.view(-1, *(1,) * (moved.ndim - 1)), moved, before)


@torch.no_grad()
def _by_layers(calls: list[tuple[Kept, Tensor]], direction: Tensors) -> Tensor:
    n = calls[0][1].shape[1]
    parts = [(delta * kept.tangent(direction)).flatten(2).sum(2) for kept, delta in calls]
    return _added(parts) * n  # of each example's own loss, not of its share of the mean


def _added(parts: list[Tensor]) -> Tensor:
    """One after the other: how a sum over a leading dimension is ordered depends on the size of the others."""
    return functools.reduce(torch.add, parts)


def _way_for(module: nn.Module, way: str) -> str:
    if way != "vmap" and has_rules(module):
        return "layers"
    unknown = sorted({type(inner).__name__ for inner in module.modules() if not has_rules(inner)})
    if way == "layers":
        raise UnsupportedLayerError(
            f"way='layers' needs a rule for every module, without hooks or options that it lacks; not so for "
            f"{', '.join(unknown)}. Pass way='vmap', or write rules: register_stacked_layer."
        )
    drawing = [
        name for name, inner in module.named_modules() if getattr(inner, "p", 0) and "Dropout" in type(inner).__name__
    ]
    if drawing:
        raise UnsupportedLayerError(
            f"{drawing[0]} draws dropout, and torch.func.vmap has no random stream for each row: a run would depend on "
            f"the others. Without rules: {', '.join(unknown)}. Write them (register_stacked_layer), or set p=0."
        )
    return "vmap"


def _check_alike(modules: list[nn.Module]) -> None:
    first = {name: p.shape for name, p in [*modules[0].named_parameters(), *modules[0].named_buffers()]}
    for row, module in enumerate(modules[1:], start=1):
        own = {name: p.shape for name, p in [*module.named_parameters(), *module.named_buffers()]}
        odd = sorted(name for name in first.keys() | own.keys() if first.get(name) != own.get(name))
        if odd:
            raise ConfigurationError(_other_shape(odd[0], row, own.get(odd[0]), first.get(odd[0])))


def _other_shape(name: str, row: int, found: Any, expected: Any) -> str:
    words = [f"{list(shape)}" if shape is not None else "not there" for shape in (found, expected)]
    return (
        f"The networks have different shapes: {name} is {words[0]} in row {row}, and {words[1]} in others. A stack is "
        "of one architecture; make one stack for each."
    )


def _stacked(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name].detach() for row in rows]) for name in rows[0]}


def _shapes(state: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, Mapping):
            found |= _shapes(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = (
                f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else shown(value)
            )
    return found
