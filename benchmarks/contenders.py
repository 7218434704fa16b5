"""Ways to train with a reward per example: ours, and other people's.

Each is a training loop over random batches of a workload with SGD (Nesterov, weight decay), and knows two steps:
``every`` trains on one batch and rewards the batch before; ``second`` trains on two batches, of which only the first is
rewarded. Rewards are left in ``rewards``, ``[n]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from workloads import Workload  # pyright: ignore[reportMissingImports]

from gar_env.alignment import Alignment, AlignmentPrecision, BatchNormReading, Tape, Way, aligning


class Contender(ABC):
    """A network in training."""

    def __init__(self, workload: Workload, device: str) -> None:
        self.workload, self.device = workload, device
        self.network = workload.network(device)
        self.losses = workload.losses
        self.generator = torch.Generator().manual_seed(1)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        self.rewards: Tensor | None = None

    def batch(self) -> tuple[Tensor, Tensor]:
        """The next one."""
        return self.workload.batch(self.generator, self.device)

    def backward(self) -> None:
        """A plain forward and backward pass over the next batch."""
        inputs, targets = self.batch()
        self.losses(self.network(inputs), targets).mean().backward()

    def update(self) -> None:
        """One step of the optimizer."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @abstractmethod
    def every(self) -> None:
        """Train on a batch, reward the one before."""

    @abstractmethod
    def second(self) -> None:
        """Train on two batches, reward the first."""


class Plain(Contender):
    """No rewards."""

    def every(self) -> None:
        self.backward()
        self.update()

    def second(self) -> None:
        self.every()
        self.every()


class Ours(Contender):
    """:mod:`gar_env.alignment`."""

    def __init__(
        self,
        workload: Workload,
        device: str,
        way: Way = "hooks",
        batch_norm: BatchNormReading = "share",
        *,
        autotune: bool = False,
        precision: AlignmentPrecision = "float32",
    ) -> None:
        super().__init__(workload, device)
        self.alignment = Alignment(
            self.network, way=way, batch_norm=batch_norm, autotune=autotune, precision=precision, probe=False
        )
        self.tape: Tape | None = None

    def recorded(self) -> Tape:
        inputs, targets = self.batch()
        return self.alignment.record(inputs, lambda outputs: self.losses(outputs, targets))

    def every(self) -> None:
        if self.tape is None:
            self.tape = self.recorded()
            self.update()
        with aligning(self.tape) as paid:
            self.tape = self.recorded()
        self.rewards = paid.entries
        self.update()

    def second(self) -> None:
        tape = self.recorded()
        self.update()
        with aligning(tape) as paid:
            self.backward()
        self.rewards = paid.entries
        self.update()


class ExampleGradients(Contender):
    """Peers that make every example's gradient, ``[n, *shape]`` per parameter, and dot it with the next one."""

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        self.kept: list[Tensor] = []

    @abstractmethod
    def example_gradients(self) -> list[Tensor]:
        """A pass over the next batch that fills ``.grad`` too; one tensor per parameter."""

    def pay(self) -> None:
        parts = [
            g.flatten(1) @ p.grad.flatten()
            for g, p in zip(self.kept, self.network.parameters(), strict=True)
            if p.grad is not None
        ]
        self.rewards = torch.stack(parts).sum(0)

    def every(self) -> None:
        if not self.kept:
            self.kept = self.example_gradients()
            self.update()
        fresh = self.example_gradients()
        self.pay()
        self.kept = fresh
        self.update()

    def second(self) -> None:
        self.kept = self.example_gradients()
        self.update()
        self.backward()
        self.pay()
        self.kept = []
        self.update()


class VmapGrad(ExampleGradients):
    """``torch.func.vmap(grad(loss))``; no batch normalisation."""

    def example_gradients(self) -> list[Tensor]:
        parameters = {name: p.detach() for name, p in self.network.named_parameters()}
        inputs, targets = self.batch()

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            output = torch.func.functional_call(self.network, parameters, (x[None],))
            return self.losses(output, y[None])[0]

        gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, inputs, targets)
        for name, p in self.network.named_parameters():
            p.grad = gradients[name].mean(0)
        return [gradients[name] for name, _ in self.network.named_parameters()]


class Opacus(ExampleGradients):
    """``opacus.GradSampleModule``; no batch normalisation."""

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        import opacus  # pyright: ignore[reportMissingImports]

        self.sampled = opacus.GradSampleModule(self.network, loss_reduction="mean")
        self.network_backward_hooks_off()

    def network_backward_hooks_off(self) -> None:
        """Plain passes must not pay for hooks."""
        self.sampled.disable_hooks()

    def example_gradients(self) -> list[Tensor]:
        self.sampled.enable_hooks()
        inputs, targets = self.batch()
        self.losses(self.sampled(inputs), targets).mean().backward()
        self.sampled.disable_hooks()
        gradients = [p.grad_sample for p in self.network.parameters()]  # pyright: ignore[reportAttributeAccessIssue]
        for p in self.network.parameters():
            p.grad_sample = None  # pyright: ignore[reportAttributeAccessIssue]
        return gradients


class BackpackBatchGrad(ExampleGradients):
    """BackPACK's ``BatchGrad``; with batch normalisation in training mode its entries are the share reading."""

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        import backpack  # pyright: ignore[reportMissingImports]

        self.network = backpack.extend(self.network, use_converter=not isinstance(self.network, nn.Sequential))
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def example_gradients(self) -> list[Tensor]:
        import backpack  # pyright: ignore[reportMissingImports]
        from backpack.extensions import BatchGrad  # pyright: ignore[reportMissingImports]

        inputs, targets = self.batch()
        with backpack.backpack(BatchGrad()):
            self.losses(self.network(inputs), targets).mean().backward()
        gradients = [len(inputs) * p.grad_batch for p in self.network.parameters()]  # pyright: ignore[reportAttributeAccessIssue]
        for p in self.network.parameters():
            del p.grad_batch  # pyright: ignore[reportAttributeAccessIssue]
        return gradients


class DoubleBackward(Contender):
    """The exact derivative of section 3: differentiate the gradient with respect to the examples' weights."""

    def __init__(self, workload: Workload, device: str) -> None:
        super().__init__(workload, device)
        self.open: tuple[list[Tensor], Tensor] | None = None

    def weighed_gradient(self) -> tuple[list[Tensor], Tensor]:
        """The gradient as a function of weights that are all 1/n, graph kept; ``.grad`` is filled."""
        # A copy: the graph needs the parameters as they were, and the optimizer writes into them.
        copies = {name: p.detach().clone().requires_grad_() for name, p in self.network.named_parameters()}
        inputs, targets = self.batch()
        losses = self.losses(torch.func.functional_call(self.network, copies, (inputs,)), targets)
        weights = torch.full_like(losses, 1 / len(losses)).requires_grad_()
        gradients = torch.autograd.grad((weights * losses).sum(), list(copies.values()), create_graph=True)
        for p, g in zip(self.network.parameters(), gradients, strict=True):
            p.grad = g.detach().clone()
        return list(gradients), weights

    def pay(self) -> None:
        assert self.open is not None
        gradients, weights = self.open
        direction = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.network.parameters()]
        self.rewards = torch.autograd.grad(gradients, weights, direction)[0]

    def every(self) -> None:
        if self.open is None:
            self.open = self.weighed_gradient()
            self.update()
        fresh = self.weighed_gradient()
        self.pay()
        self.open = fresh
        self.update()

    def second(self) -> None:
        self.open = self.weighed_gradient()
        self.update()
        self.backward()
        self.pay()
        self.open = None
        self.update()
