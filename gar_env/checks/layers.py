"""Rules for layers, held against one backward pass per example in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gar_env.alignment import align, record
from gar_env.alignment.layers import plan
from gar_env.errors import ConformanceError, GarEnvError
from gar_env.learner import LearnerStack
from gar_env.learner.stack_passes import Losses


def check_rule(layer: nn.Module, inputs: Tensor) -> None:
    """Hold a layer's alignment rule against one backward pass per example, in float64.

    Args:
        layer: One with a registered rule (:func:`~gar_env.alignment.register_output_tangent`,
            :func:`~gar_env.alignment.register_example_gradients`).
        inputs: ``[n, ...]``, at least two different examples.

    Raises:
        ConformanceError: If it has no rule, the rule raises, or an example's entry is another.

    Example:
        >>> check_rule(nn.Linear(3, 2), torch.randn(4, 3))
    """
    layer = copy.deepcopy(layer).double().train()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    name = type(layer).__name__
    if len(inputs) < 2:
        raise ConformanceError(f"check_rule needs at least 2 examples; found {len(inputs)}.")
    if any(unit.replayed for unit in plan(layer)):
        raise ConformanceError(
            f"{name} has no rule, so it is replayed. Register one with register_output_tangent({name}) or "
            f"register_example_gradients({name})."
        )
    generator = torch.Generator().manual_seed(0)
    trained = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    direction = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in trained.items()}

    def loss(outputs: Tensor) -> Tensor:
        curved = outputs + 0.1 * outputs.square()  # so that the output's gradient differs from place to place
        return curved.reshape(len(curved), -1).sum(1)

    try:
        found = align(record(layer, inputs, loss, probe=False), direction)
    except GarEnvError as error:
        raise ConformanceError(f"The rule of {name} cannot be read: {error}") from error
    except Exception as error:  # of somebody's rule
        raise ConformanceError(f"The rule of {name} raised {type(error).__name__}: {error}") from error
    parameters = list(trained.values())
    wanted: list[Tensor] = []
    for i in range(len(inputs)):
        gradients = torch.autograd.grad(loss(layer(inputs))[i], parameters, allow_unused=True)
        pairs = zip(gradients, direction.values(), strict=True)
        wanted.append(sum((torch.zeros(()), *((g * d).sum() for g, d in pairs if g is not None)), torch.zeros(())))
    expected = torch.stack(wanted).to(found.dtype)
    if not torch.allclose(found, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max())):
        worst = int((found - expected).abs().argmax())
        raise ConformanceError(
            f"The rule of {name} says {float(found[worst]):.6g} of example {worst}, one backward pass per example says "
            f"{float(expected[worst]):.6g}."
        )


def check_stacked_layer(build: Callable[[], nn.Module], inputs: Tensor, *, rows: int = 3) -> None:
    """Hold a layer's rule for stacks against the layers one by one: losses, gradients and predicted changes.

    Predicted changes are held against one backward pass per example, but for layers that draw, or normalise over the
    batch, where an example's share is no derivative. It runs on one thread, as rows are equal bit for bit there.

    Args:
        build: Makes the layer, or a network that ends in ``[n, features]``.
        inputs: ``[n, ...]``, one batch.
        rows: How many are stacked.

    Raises:
        ConformanceError: If it has no rule, or a row differs from the layer alone.

    Example:
        >>> check_stacked_layer(lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), torch.randn(5, 3))
    """

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs + 0.1 * outputs.square()).reshape(len(outputs), -1).sum(1)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _check_stack(build, inputs, losses, rows)
    finally:
        torch.set_num_threads(threads)


def _check_stack(build: Callable[[], nn.Module], inputs: Tensor, losses: Losses, rows: int) -> None:
    seeds, n = list(range(rows)), len(inputs)
    batches = torch.stack([inputs.roll(row, 0) for row in range(rows)])
    targets = torch.zeros(rows, n)
    try:
        whole = LearnerStack(build, seeds, loss=losses, way="layers")
    except GarEnvError as error:
        raise ConformanceError(f"There is no rule for all of it: {error}") from error
    one = whole.run(batches, targets)
    direction = whole.direction(one.gradient)
    changes = whole.predicted_changes(one, direction)
    for row in seeds:
        alone = LearnerStack(build, [row], loss=losses, way="layers")
        own = alone.run(batches[row : row + 1], targets[row : row + 1])
        pairs = {"losses": (one.losses[row], own.losses[0])}
        pairs |= {f"the gradient of {name}": (g[row], own.gradient[name][0]) for name, g in one.gradient.items()}
        for what, (found, expected) in pairs.items():
            if not torch.equal(found, expected):
                raise ConformanceError(f"Row {row} is not the run alone: {what} differ. Rows must not lean on others.")
        module = alone.network(0)
        odd = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
        if any(isinstance(inner, odd) for inner in module.modules()):
            continue
        parameters = dict(module.named_parameters())
        outputs = losses(module(batches[row]), targets[row])
        for i in range(n):
            gradients = torch.autograd.grad(outputs[i], list(parameters.values()), retain_graph=True, allow_unused=True)
            named = zip(parameters, gradients, strict=True)
            expected = sum(((g * direction[name][row]).sum() for name, g in named if g is not None), torch.zeros(()))
            if not torch.allclose(changes[row, i], expected, rtol=1e-3, atol=1e-4):
                raise ConformanceError(
                    f"The predicted change of example {i} in row {row} is {float(changes[row, i]):.6g}; one backward "
                    f"pass says {float(expected):.6g}."
                )
