"""R training runs of one architecture, stepped together: what one of them does depends on no other."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gar_env.errors import CheckpointError, ConfigurationError, StaleTapeError
from gar_env.functional import own_surroundings
from gar_env.functional.free_memory import free_memory
from gar_env.learner.stack_checks import check_alike, check_live, check_rows, shapes_of
from gar_env.learner.stack_passes import Changes, Losses, Passes
from gar_env.learner.stack_rows import Block, Direction, Rows, copied
from gar_env.learner.update_rules import Tensors, UpdateRule, added, build_rule, per_row
from gar_env.registry import shown
from gar_env.seeding import lend_to_global, named_generator

BLOCK_BYTES = 2**23
"""Of parameters that are worked on at a time: more falls out of a CPU's caches, and is mapped anew at every step."""


@dataclass(eq=False)
class StackPass:
    """Forward and backward of all rows.

    Args:
        losses: Each example's, ``[R, n]``, detached.
        gradient: Of each row's mean loss, ``{name: [R, ...]}``.
        changes: One for each block.
        moves: How often the stack had moved.
    """

    losses: Tensor
    gradient: Rows
    changes: list[Changes]
    moves: int


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Each example's, of logits ``[m, classes]`` and labels ``[m]``."""
    return F.cross_entropy(outputs, targets, reduction="none")


class LearnerStack:
    """R networks of one architecture in training, each with its own parameters, memory of its rule, and random streams.

    On the CPU, with one thread (``torch.set_num_threads(1)``; several share out the sums of small batches as they
    come), a row's numbers are bit for bit those of the same run in a stack of one, with layers that have rules
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
        if isinstance(weight_decay, bool) or not isinstance(weight_decay, int | float) or not 0 <= weight_decay < 1e37:
            raise ConfigurationError(f"weight_decay={shown(weight_decay)} must be at least 0.")
        if gradient_clip is not None and not 0 < gradient_clip < 1e37:
            raise ConfigurationError(f"gradient_clip={shown(gradient_clip)} must be above 0, or None for no clipping.")
        self.device, self.rule = torch.device(device), build_rule(rule)
        self.weight_decay, self.gradient_clip = weight_decay, gradient_clip
        self._build = build
        made = {seeds[0]: self._module(seeds[0], build)}
        self.passes = Passes.of(made[seeds[0]], way, loss)
        row_bytes = sum(p.numel() * p.element_size() for p in self.passes.module.parameters())
        self._check_memory(len(seeds), row_bytes)
        for seed in seeds:  # rows of one seed begin alike
            made[seed] = made[seed] if seed in made else self._module(seed, build)
        modules = [made[seed] for seed in seeds]
        check_alike(list(made.values()), [seeds.index(seed) for seed in made])
        size = max(1, BLOCK_BYTES // max(1, row_bytes)) if self.device.type == "cpu" else len(seeds)
        parts = [range(at, min(at + size, len(seeds))) for at in range(0, len(seeds), size)]
        self._blocks = [self._block([modules[i] for i in part], [seeds[i] for i in part], part) for part in parts]
        self._moves = 0

    def __len__(self) -> int:
        """R."""
        return sum(len(block.steps) for block in self._blocks)

    @property
    def way(self) -> str:
        """``"layers"`` or ``"vmap"``."""
        return self.passes.way

    @property
    def parameters(self) -> Rows:
        """``{name: [R, ...]}``, frozen ones too."""
        return Rows([block.parameters for block in self._blocks])

    @property
    def buffers(self) -> Rows:
        """``{name: [R, ...]}``."""
        return Rows([block.buffers for block in self._blocks])

    @property
    def memory(self) -> dict[str, Rows]:
        """What the rule remembers, by its own names."""
        return {kind: Rows([block.memory[kind] for block in self._blocks]) for kind in self._blocks[0].memory}

    @property
    def steps(self) -> Tensor:
        """How many steps each row has taken, int64 ``[R]``."""
        return torch.cat([block.steps for block in self._blocks])

    @own_surroundings()
    def run(self, inputs: Tensor, targets: Tensor, live: Tensor | None = None) -> StackPass:
        """Forward and backward of each row's mean loss, in training mode; nothing moves but running statistics.

        Args:
            inputs: ``[R, n, ...]``.
            targets: ``[R, n, ...]``.
            live: bool ``[R]``: whose pass counts; statistics and random numbers of others stay as they are. All by
                default.

        Raises:
            ConfigurationError: If something has another shape than there are rows.
        """
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
        check_live(live, len(self))
        lives = [None] * len(self._blocks) if live is None else self._split(live)
        done = []
        for block, x, t, own in zip(self._blocks, self._split(inputs), self._split(targets), lives, strict=True):
            with block.only(own):
                done.append(self.passes.run(block.parameters, block.buffers, block.generators, x, t))
        losses, gradients, changes = map(list, zip(*done, strict=True))
        return StackPass(torch.cat(losses), Rows(gradients), changes, self._moves)

    def direction(self, gradient: Tensors) -> Rows:
        """Where the rule goes from here, ``{name: [R, ...]}``; the rule remembers it when :meth:`move` is called."""
        found = []
        for block, g in zip(self._blocks, self._blocks_of(gradient), strict=True):
            if self.weight_decay:
                g = {name: value + self.weight_decay * block.parameters[name] for name, value in g.items()}
            if self.gradient_clip is not None:
                squares = added([value.flatten(1).square().sum(1) for value in g.values()])
                factor = (self.gradient_clip / (squares.sqrt() + 1e-6)).clamp_max(1)
                g = {name: value * per_row(factor, value) for name, value in g.items()}
            direction, block.remembered = block.rule.direction(g, block.memory, block.steps, block.parameters)
            found.append(direction)
        return Direction(found, [block.remembered for block in self._blocks])

    def move(self, direction: Tensors, step_sizes: Tensor, live: Tensor | None = None) -> None:
        """``theta_r += step_sizes_r * direction_r``, and the memory of :meth:`direction` becomes the rule's.

        Args:
            direction: Of :meth:`direction`; made of another one, it takes the memory of the last.
            step_sizes: ``[R]``.
            live: bool ``[R]``: which rows move; others stay as they are, bit for bit. All by default.
        """
        if not isinstance(step_sizes, Tensor) or step_sizes.shape != (len(self),):
            raise ConfigurationError(f"step_sizes are {shown(step_sizes)}; expected one per row, [{len(self)}].")
        check_live(live, len(self))
        lives = [None] * len(self._blocks) if live is None else self._split(live)
        if isinstance(direction, Direction):
            for block, memory in zip(self._blocks, direction.memories, strict=True):
                block.remembered = memory
        for block, d, sizes, alive in zip(
            self._blocks, self._blocks_of(direction), self._split(step_sizes), lives, strict=True
        ):
            block.move(d, sizes, alive)
        self._moves += 1

    def predicted_changes(self, one: StackPass, direction: Tensors) -> Tensor:
        """``< grad l_ri, direction_r >``, ``[R, n]``: how each example's loss changes per unit of step size.

        Layer by layer, from the gradient of each layer's output and the layer with the direction for parameters: no
        second pass. Under batch normalisation an example's share of the gradient (``"share"``, see
        :class:`gar_env.alignment.Alignment`); by ``torch.func`` the derivative of each example's own loss.

        Args:
            one: The last pass, at the present parameters.
            direction: ``{name: [R, ...]}``.

        Raises:
            StaleTapeError: If the networks have moved since.

        Source:
            Daniel, Taylor & Nowozin (2016), predicted change in function value.
        """
        if one.moves != self._moves:
            raise StaleTapeError(
                "The networks have moved since that pass, so nothing is predicted from it. Ask before move()."
            )
        odd = sorted(set(direction) - set(self.passes.trained))
        if odd:
            raise ConfigurationError(f"direction has {odd[0]!r}, which is no trained parameter of the networks.")
        blocks = zip(one.changes, self._blocks_of(direction), strict=True)
        return torch.cat([changes(own) for changes, own in blocks])

    @own_surroundings()
    def outputs(self, inputs: Tensor, *, rows: Tensor | None = None, training: bool = False) -> Tensor:
        """What the networks return, ``[R, n, ...]``; nothing changes, random numbers and statistics included.

        Args:
            inputs: ``[R, n, ...]``, or ``[1, n, ...]`` for all rows.
            rows: int64 ``[k]``, growing: only these rows' networks, of inputs ``[k, n, ...]``. All by default.
            training: In training mode.

        Raises:
            ConfigurationError: If there is no such row, or not a batch for each of them.
        """
        check_rows(rows, len(self))
        blocks = self._blocks if rows is None else [block.only_rows(own) for block, own in self._chosen(rows)]
        sizes = [len(block.steps) for block in blocks]
        if not isinstance(inputs, Tensor) or inputs.ndim < 2 or len(inputs) not in (1, sum(sizes)):
            raise ConfigurationError(
                f"inputs are {shown(inputs)}; expected [{sum(sizes)}, n, ...], a batch for each row, or one for all."
            )
        inputs = inputs.expand(sum(sizes), *inputs.shape[1:])
        return torch.cat(
            [
                self.passes.outputs(block.parameters, block.buffers, block.generators, x, training=training)
                for block, x in zip(blocks, inputs.split(sizes), strict=True)
            ]
        )

    @own_surroundings()
    def restart(
        self, rows: Tensor, seeds: Sequence[int], builds: Sequence[Callable[[], nn.Module]] | None = None
    ) -> None:
        """Begin some runs anew; the others stay as they are, bit for bit.

        Args:
            rows: bool ``[R]``.
            seeds: One for each of them, in order.
            builds: Makes each one's network; by default all are made as the first were.

        Raises:
            ConfigurationError: If there are more or fewer than rows, or a network has another shape; nothing is changed
                then.
        """
        seeds = list(seeds)
        builds = [self._build] * len(seeds) if builds is None else list(builds)
        fits = isinstance(rows, Tensor) and rows.dtype == torch.bool and rows.shape == (len(self),)
        if not fits or not int(rows.sum()) == len(seeds) == len(builds):
            raise ConfigurationError(
                f"rows are {shown(rows)}, and there are {len(seeds)} seeds and {len(builds)} builds; expected bool "
                f"[{len(self)}], and one of each for each row that is chosen."
            )
        modules = [self._module(seed, build) for seed, build in zip(seeds, builds, strict=True)]
        check_alike([self.passes.module, *modules], [0, *rows.nonzero().flatten().tolist()])
        done = 0
        for block, own in self._chosen(rows.nonzero().flatten()):
            these = slice(done, done + len(own))
            block.put(own, self._block(modules[these], seeds[these], rows.nonzero().flatten()[these].tolist()))
            done += len(own)
        self._moves += 1

    def select(self, rows: Tensor) -> LearnerStack:
        """A stack of copies of these rows, int64 ``[k]``, growing, which goes on by itself.

        Raises:
            ConfigurationError: If there is no such row.
        """
        check_rows(rows, len(self))
        found = copy.copy(self)
        found.rule = self.rule.of_rows(rows.cpu())
        found._blocks = [block.only_rows(own) for block, own in self._chosen(rows)]
        for block in found._blocks:
            block.generators = copied(block.generators)
        return found

    def network(self, row: int) -> nn.Module:
        """A copy of one row's network, in training mode.

        Raises:
            ConfigurationError: If there is no such row.
        """
        check_rows(torch.tensor([row]), len(self))
        module = copy.deepcopy(self.passes.module)
        block, own = next(iter(self._chosen(torch.tensor([row]))))
        values = {**block.parameters, **block.buffers}
        module.load_state_dict({name: value[own[0]] for name, value in values.items()}, strict=False)
        return module

    @property
    def diverged(self) -> Tensor:
        """bool ``[R]``: whose parameters or statistics are NaN, infinite, or too large for their own square."""
        found = []
        for block in self._blocks:
            tensors = [*block.parameters.values(), *(b for b in block.buffers.values() if b.is_floating_point())]
            largest = [tensor.flatten(1).abs().amax(1) for tensor in tensors]  # NaN where there is one
            limits = [math.sqrt(torch.finfo(tensor.dtype).max / max(1, tensor[0].numel())) for tensor in tensors]
            fits = [own <= limit for own, limit in zip(largest, limits, strict=True)]
            found.append(~functools.reduce(torch.logical_and, fits))
        return torch.cat(found)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that the next steps depend on: tensors alone, which ``torch.load`` reads as data."""
        generators = [generator.get_state() for block in self._blocks for generator in block.generators]
        kinds = {"parameters": self.parameters, "buffers": self.buffers, **self.memory}
        return {
            **{kind: {name: value.clone() for name, value in rows.items()} for kind, rows in kinds.items()},
            "steps": self.steps,
            "generators": torch.stack(generators),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a stack that was built alike, bit for bit on the CPU.

        Raises:
            CheckpointError: If it has other entries or shapes; nothing is changed then.
        """
        wanted, found = shapes_of(self.state_dict()), shapes_of(state)
        if wanted != found:
            first = min(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            raise CheckpointError(
                f"The state belongs to another stack: {first} is {found.get(first, 'not there')}, here "
                f"{wanted.get(first, 'not there')}. Build the stack as it was built then."
            )
        split = {
            kind: self._blocks_of(value, copied=True) for kind, value in state.items() if isinstance(value, Mapping)
        }
        steps, generators = self._split(state["steps"]), self._split(state["generators"])
        for i, block in enumerate(self._blocks):
            block.parameters, block.buffers = split["parameters"][i], split["buffers"][i]
            block.memory = {kind: split[kind][i] for kind in block.memory}
            block.steps, block.remembered = steps[i].to(self.device, copy=True), {}
            for generator, bits in zip(block.generators, generators[i], strict=True):
                generator.set_state(bits.cpu().clone())  # torch reads from where the storage begins, not the tensor
        self._moves += 1

    def _check_memory(self, rows: int, row_bytes: int) -> None:
        # Parameters, gradient, direction, and what the rule remembers before and after a step.
        needed, free = rows * row_bytes * (3 + 2 * len(self.rule.remembers)), free_memory(self.device)
        if needed > free:
            raise ConfigurationError(
                f"{rows} networks of {row_bytes / 1e6:.1f} MB each need {needed / 1e9:.1f} GB in training, and "
                f"{free / 1e9:.1f} GB are free. Use fewer rows (num_envs), or a smaller network."
            )

    def _module(self, seed: int, build: Callable[[], nn.Module]) -> nn.Module:
        # Always drawn on the CPU: the same seed starts the same network on every device.
        with lend_to_global(named_generator(seed, "initialisation")):
            return build().to(self.device)

    def _block(self, modules: list[nn.Module], seeds: list[int], rows: Sequence[int]) -> Block:
        def stacked(of: Callable[[nn.Module], Iterator[tuple[str, Tensor]]]) -> dict[str, Tensor]:
            named = {module: dict(of(module)) for module in dict.fromkeys(modules)}  # rows of one seed share theirs
            return {
                name: torch.stack([named[module][name].detach() for module in modules]) for name in named[modules[0]]
            }

        parameters = stacked(nn.Module.named_parameters)
        rule = self.rule.of_rows(torch.tensor(list(rows)))
        return Block(
            rule,
            parameters,
            stacked(nn.Module.named_buffers),
            rule.start({name: parameters[name] for name in self.passes.trained}),
            torch.zeros(len(modules), dtype=torch.int64, device=self.device),
            [named_generator(seed, "network", self.device) for seed in seeds],
            {},
        )

    def _chosen(self, rows: Tensor) -> Iterator[tuple[Block, Tensor]]:
        """Blocks that hold some of these rows, int64 and growing, with their places in the block."""
        start = 0
        for block in self._blocks:
            end = start + len(block.steps)
            own = rows[(rows >= start) & (rows < end)] - start
            if len(own):
                yield block, own
            start = end

    def _split(self, tensor: Tensor) -> list[Tensor]:
        """By block."""
        sizes = [len(block.steps) for block in self._blocks]
        return [tensor] if len(sizes) == 1 else list(tensor.split(sizes))

    def _blocks_of(self, tensors: Tensors, *, copied: bool = False) -> list[dict[str, Tensor]]:
        if isinstance(tensors, Rows) and len(tensors.blocks) == len(self._blocks):
            return tensors.blocks
        parts = {name: self._split(tensor) for name, tensor in tensors.items()}
        return [
            {name: part[i].to(self.device, copy=True) if copied else part[i] for name, part in parts.items()}
            for i in range(len(self._blocks))
        ]
