"""Small networks that candidates are judged by: many rules and step sizes train at once, and none sees another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gar_env.data import load_dataset, normalisation
from gar_env.errors import ConfigurationError
from gar_env.functional import own_surroundings
from gar_env.functional.free_memory import free_memory
from gar_env.learner import LOSSES, LearnerStack, Rows
from gar_env.networks import build_network
from gar_env.optimizers.child_options import ChildOptions
from gar_env.optimizers.rule import Rule
from gar_env.optimizers.stacked_rules import StackedRules
from gar_env.registry import shown
from gar_env.seeding import lend_to_global, named_generator
from gar_env.state import plain

ALIGNED_BATCHES = 10
"""``gar`` and ``nslr`` are of the first so many batches."""

AT_ONCE, AT_ONCE_ON_GPU = 64, 1024
"""Most rules that train at once: a CPU gains nothing from more."""

BYTES = 2**31
"""Of a CPU's memory for all that trains at once; of a GPU's half of what is free."""

COPIES = 5
"""Of each layer's output that a step of a stack keeps: measured, on convolutions."""

EVALUATED = 2**18
"""Numbers of one network's layers that an evaluation makes at a time, if that is more than a batch's."""

FEW_CLASSES = 32
"""Up to so many, torch's cross entropy is several times as fast class by class as example by example."""


@plain
class Trained(NamedTuple):
    """What training with a rule came to.

    Args:
        step_size: That was chosen.
        validation_accuracy: Mean over child seeds at the end; 0 of a seed that is not finite.
        validation_loss: Likewise in nats; infinite if one is not finite.
        one_epoch: Mean validation accuracy when the step size was chosen.
        gar: ``sum <step_size u_t, g_{t+1}>`` over the first 10 batches, mean over seeds, of the best step size.
        nslr: Minus the loss of the tenth batch, before the step on it; of fewer, of the last.
        test_accuracy: As ``validation_accuracy`` on test data: for people, never for a reward.
        diverged: Whether a seed is not finite at the end, or no step size was after ``step_size_epochs``.
        accuracies: Of validation, by seed.
    """

    step_size: float
    validation_accuracy: float
    validation_loss: float
    one_epoch: float
    gar: float
    nslr: float
    test_accuracy: float
    diverged: bool
    accuracies: tuple[float, ...]


class Children:
    """Trains rules, each with every step size and seed; a rule's numbers do not depend on who trains beside it.

    Every child of a seed begins with the same parameters, sees the same batches in the same order, and draws the same
    random numbers.

    Args:
        options: What is trained.
        device: Where.

    Raises:
        GarEnvError: Whatever loading the data or building the network raises.

    Example:
        >>> children = Children(ChildOptions(epochs=1, step_sizes=(1e-3, 1e-2)))
        >>> adam, constant = children.train([Rule("Adam"), Rule("1")], seeds=[0])
        >>> adam.step_size, adam.validation_accuracy > 0.5 > constant.validation_accuracy
        (0.01, True)
    """

    def __init__(self, options: ChildOptions, device: torch.device | str = "cpu") -> None:
        self.options, self.device = options, torch.device(device)
        data = load_dataset(options.dataset, download=options.download)
        needed = options.train_examples + options.validation_examples
        if needed > len(data.x_train):
            raise ConfigurationError(
                f"{data.name} has {len(data.x_train)} training examples, fewer than train_examples="
                f"{options.train_examples} and validation_examples={options.validation_examples} together. Use fewer."
            )
        self.data = data
        order = torch.randperm(len(data.x_train), generator=named_generator(0, "labels"))
        normalise = normalisation(data.x_train.to(self.device), options.inputs)

        def part(x: Tensor, y: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
            return normalise(x[chosen].to(self.device)), y[chosen].to(self.device)

        self.train_data = part(data.x_train, data.y_train, order[: options.train_examples])
        self.validation_data = part(data.x_train, data.y_train, order[options.train_examples : needed])
        total = len(data.x_test)
        test = torch.linspace(0, total - 1, min(options.test_examples, total)).round().long()
        self._test_data = part(data.x_test, data.y_test, test)
        self.loss = LOSSES[data.loss]
        _ = self._numbers  # a network that does not fit is refused at once

    @property
    def fingerprint(self) -> dict[str, Any]:
        """All that moves a number, as plain values; but for the code of registered functions, and the processor."""
        found = {name: value for name, value in vars(self.options).items() if name not in ("dataset", "download")}
        network = found["network"]
        name = network if isinstance(network, str) else getattr(network, "__qualname__", "<unnamed>")
        if not isinstance(network, str):
            found["network"] = f"{getattr(network, '__module__', '')}.{name}"
        bound = getattr(network, "__self__", None) is not None  # to an object that no name tells from others
        found["unnamed"] = "<" in name or bound
        found |= {"data": self.data.fingerprint, "loss": self.data.loss}
        found |= {"device": self.device.type, "torch": torch.__version__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}

    def build(self) -> torch.nn.Module:
        """A child's network."""
        return build_network(self.options.network, self.data.input_shape, self.data.outputs)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Each example's, ``[m]``: of batches one behind the other, outputs ``[m, ...]`` and targets ``[m, ...]``."""
        return self._losses(outputs, targets, self.options.batch_size)

    def _losses(self, outputs: Tensor, targets: Tensor, n: int) -> Tensor:
        """Likewise, of rows of n examples. A row's bits depend on no other row."""
        if self.data.loss == "cross_entropy" and outputs.shape[1] <= FEW_CLASSES:
            rows = _AsRows.apply(outputs).unflatten(0, (-1, n)).transpose(1, 2).contiguous()
            return F.cross_entropy(rows, targets.reshape(-1, n), reduction="none").flatten()
        return self.loss(targets)(outputs)

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end: whole batches, each epoch in an order of its own."""
        generator, size = named_generator(seed, "batches"), self.options.batch_size
        inputs, targets = self.train_data
        while True:
            order = torch.randperm(len(inputs), generator=generator).to(self.device)
            for step in range(self.options.steps_of_epoch):
                chosen = order[step * size : (step + 1) * size]
                yield inputs[chosen], targets[chosen]

    def train(self, rules: Sequence[Rule], seeds: Sequence[int], *, whole: bool = True) -> list[Trained]:
        """Train every rule.

        Args:
            rules: Candidates.
            seeds: Of children: parameters, batches, random numbers.
            whole: Whether the chosen step size goes on after ``step_size_epochs``; if not, all numbers are of then.
        """
        if not seeds:
            raise ConfigurationError("seeds is empty. Pass one for each child.")
        if len(set(seeds)) < len(seeds):
            raise ConfigurationError(f"seeds={list(seeds)} names a child twice. Pass each once.")
        found: list[Trained] = []
        for start in range(0, len(rules), self.at_once):
            found += self._train(rules[start : start + self.at_once], list(seeds), whole)
        return found

    @cached_property
    def at_once(self) -> int:
        """How many rules train at once; of large networks few, for memory's sake."""
        own, each = self._numbers
        free, on_cpu = free_memory(self.device) // 2, self.device.type == "cpu"
        rule = 4 * COPIES * (own + self.options.batch_size * each) * len(self.options.step_sizes)
        fitting = (min(BYTES, free) if on_cpu else free) // rule
        return max(1, min(fitting, AT_ONCE if on_cpu else AT_ONCE_ON_GPU))

    @cached_property
    def _numbers(self) -> tuple[int, int]:
        """Of one network: of its parameters, and of all layers' outputs of an example."""
        with lend_to_global(named_generator(0, "initialisation")):
            network = self.build()
        found = 0

        def count(*call: Any) -> None:
            nonlocal found
            found += sum(tensor.numel() for tensor in tree_leaves(call[2]) if isinstance(tensor, Tensor))

        for module in network.modules():
            if not any(module.children()):
                module.register_forward_hook(count)
        inputs = self.train_data[0][:1].cpu()
        with torch.no_grad():
            try:
                outputs = network.eval()(inputs)
            except RuntimeError as error:
                raise ConfigurationError(
                    f"network={shown(self.options.network)} does not take {inputs.dtype} {list(inputs.shape)}, an "
                    f"example of {self.data.name}: {next(iter(str(error).splitlines()), '')[:200]}"
                ) from error
        wanted = (1, *self.data.y_train.shape[1:], self.data.outputs) if self.data.classes else (1, self.data.outputs)
        if not isinstance(outputs, Tensor) or outputs.shape != wanted or outputs.dtype != torch.float32:
            raise ConfigurationError(
                f"network={shown(self.options.network)} returned {shown(outputs)} for an example of {self.data.name}; "
                f"expected float32 {list(wanted)}."
            )
        return sum(p.numel() for p in network.parameters()), max(found, outputs.numel())

    @own_surroundings()
    def _train(self, rules: Sequence[Rule], seeds: list[int], whole: bool) -> list[Trained]:
        options = self.options
        sizes = len(options.step_sizes)
        first = [self._first(rules, seed) for seed in seeds]
        accuracy, loss, gar, nslr = (  # [rules, step sizes] each, mean over seeds
            torch.stack([getattr(one, name) for one in first]).mean(0) for name in ("accuracy", "loss", "gar", "nslr")
        )
        chosen = [_best(a, b) for a, b in zip(accuracy, loss, strict=True)]
        rows = torch.arange(len(rules)) * sizes + torch.tensor(chosen)
        step_sizes = torch.tensor([options.step_sizes[i] for i in chosen], device=self.device)
        left = (options.epochs - options.step_size_epochs) * options.steps_of_epoch if whole else 0
        ends = []
        for one in first:
            stack = one.stack.select(rows.to(self.device))
            for _ in range(left):
                stack.move(stack.direction(self._pass(stack, next(one.batches)).gradient), step_sizes)
            ends.append((self._evaluated(stack, self.validation_data), self._evaluated(stack, self._test_data)))
        found = []
        for i, place in enumerate(chosen):
            accuracies = tuple(float(validation[0][i]) for validation, _ in ends)
            losses = [float(validation[1][i]) for validation, _ in ends]
            found.append(
                Trained(
                    step_size=options.step_sizes[place],
                    validation_accuracy=sum(accuracies) / len(seeds),
                    validation_loss=sum(losses) / len(seeds),
                    one_epoch=float(accuracy[i, place]),
                    gar=float(gar[i].max()),
                    nslr=float(nslr[i].max()),
                    test_accuracy=sum(float(test[0][i]) for _, test in ends) / len(seeds),
                    diverged=not all(map(math.isfinite, losses)),
                    accuracies=accuracies,
                )
            )
        return found

    def _first(self, rules: Sequence[Rule], seed: int) -> _First:
        """Every step size, until one is chosen."""
        options = self.options
        sizes = len(options.step_sizes)
        each = [rule for rule in rules for _ in options.step_sizes]
        stacked = StackedRules(each, [seed] * len(each), semantics=options.semantics, total_steps=options.total_steps)
        stack = LearnerStack(self.build, [seed] * len(each), rule=stacked, loss=self.losses, device=self.device)
        step_sizes = torch.tensor(options.step_sizes, device=self.device).repeat(len(rules))
        batches = self.batches(seed)
        gar = torch.zeros(len(each), device=self.device)
        nslr = torch.full_like(gar, -math.inf)
        moved: Rows | None = None
        for step in range(options.step_size_epochs * options.steps_of_epoch):
            one = self._pass(stack, next(batches))
            if moved is not None and step < ALIGNED_BATCHES:
                gar = gar - step_sizes * moved.dot(one.gradient)  # directions point downhill: -u
            if step < ALIGNED_BATCHES:
                nslr = -one.losses.mean(1)
            moved = stack.direction(one.gradient)
            stack.move(moved, step_sizes)
            del one  # what it keeps of its pass must not lie beside the next one's
        accuracy, loss_ = self._evaluated(stack, self.validation_data)
        shape = len(rules), sizes
        worst = -math.inf
        return _First(
            stack,
            batches,
            accuracy.view(shape),
            loss_.view(shape),
            gar.nan_to_num(worst, worst, worst).view(shape),
            nslr.nan_to_num(worst, worst, worst).view(shape),
        )

    def _pass(self, stack: LearnerStack, batch: tuple[Tensor, Tensor]) -> Any:
        inputs, targets = (one.expand(len(stack), *one.shape) for one in batch)
        return stack.run(inputs, targets)

    @torch.no_grad()
    def _evaluated(self, stack: LearnerStack, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Accuracies and mean losses ``[R]``; 0 and infinite where they are not finite."""
        inputs, targets = data
        size = max(self.options.batch_size, EVALUATED // self._numbers[1])  # whoever shares the stack
        outputs = torch.cat([stack.outputs(part[None]) for part in inputs.split(size)], 1)
        n = len(targets)
        each = targets.repeat(len(stack), *(1,) * (targets.ndim - 1))
        losses = self._losses(outputs.flatten(0, 1), each, n).view(len(stack), n).mean(1)
        kind = self.loss(each)
        right = kind.accuracy(outputs.flatten(0, 1)).float().view(len(stack), n).mean(1)
        finite = losses.isfinite() & ~stack.diverged
        return torch.where(finite, right, 0), torch.where(finite, losses, math.inf)


class _AsRows(torch.autograd.Function):
    """Outputs as they are; their gradient comes back row by row in memory.

    Of one row torch would leave it as it was computed, class by class, and what sums it up would add in another order
    than for several: a rule would be paid by who shares the batch.
    """

    @staticmethod
    def forward(ctx: Any, outputs: Tensor) -> Tensor:
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient.contiguous()


class _First(NamedTuple):
    """Rows ``[rules, step sizes]`` after the first epochs."""

    stack: LearnerStack
    batches: Iterator[tuple[Tensor, Tensor]]
    accuracy: Tensor
    loss: Tensor
    gar: Tensor
    nslr: Tensor


def _best(accuracy: Tensor, loss: Tensor) -> int:
    """Of the step sizes of one rule: the highest accuracy, of those the lowest loss, of those the smallest."""
    ranked = sorted(range(len(accuracy)), key=lambda i: (-float(accuracy[i]), float(loss[i]), i))
    return ranked[0]
