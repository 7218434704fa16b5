"""Update rules must be pure, and each row's business its own."""

from __future__ import annotations

import torch
from torch import Tensor

from gar_env.errors import ConformanceError
from gar_env.learner.update_rules import UpdateRule, build_rule


def check_update_rule(rule: str | UpdateRule, *, steps: int = 4) -> None:
    """Hold an update rule against what stacks of runs rely on.

    Rows, which are at steps of their own, do not lean on each other; nothing that was passed in is changed; directions
    have the gradients' shapes and types, memory keeps its names and shapes; the same gradients give the same
    directions, and a zero gradient a finite one.

    Args:
        rule: The rule, or its registered name.
        steps: How many are taken.

    Raises:
        ConformanceError: With what does not hold.

    Example:
        >>> check_update_rule("adam")
    """
    made = build_rule(rule)
    name = rule if isinstance(rule, str) else type(rule).__name__
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (3, 4, 2), "bias": (3, 2)}
    parameters = {key: torch.zeros(shape) for key, shape in shapes.items()}
    memory, counts = made.start(parameters), torch.tensor([0, 3, 40])  # rows are at different steps
    alone = [made.of_rows(torch.tensor([row])).start(_row(parameters, row)) for row in range(3)]
    for step in range(steps):
        gradient = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
        if step == 1:
            gradient = {
                key: g * torch.tensor([1.0, 0.0, 1.0]).view(3, *(1,) * (g.ndim - 1)) for key, g in gradient.items()
            }
        before = _copied(gradient), {kind: _copied(values) for kind, values in memory.items()}
        steps_before = counts.clone()
        direction, after = made.direction(gradient, memory, counts, parameters)
        if not torch.equal(counts, steps_before):
            raise ConformanceError(f"{name}: it changes the steps that it is given.")
        if any(direction[key].dtype != g.dtype for key, g in gradient.items() if key in direction):
            raise ConformanceError(f"{name}: its direction has another type than the gradient.")
        if not all(bool(d.isfinite().all()) for d in direction.values()):
            raise ConformanceError(f"{name}: its direction is NaN or infinite, of a gradient that is zero for example.")
        again, _ = made.direction(gradient, memory, counts, parameters)
        _check(name, "it changes the gradient that it is given", gradient, before[0])
        for kind, values in before[1].items():
            _check(
                name,
                f"it changes the memory {kind!r} that it is given, instead of returning another",
                memory[kind],
                values,
            )
        if direction.keys() != gradient.keys() or any(direction[key].shape != g.shape for key, g in gradient.items()):
            raise ConformanceError(f"{name}: its direction has other names or shapes than the gradient.")
        if after.keys() != memory.keys() or any(_shapes(after[kind]) != _shapes(memory[kind]) for kind in memory):
            raise ConformanceError(f"{name}: its memory changes names or shapes in step {step}.")
        _check(name, "the same gradients give other directions", again, direction)
        for row in range(3):
            only = made.of_rows(torch.tensor([row]))
            own, alone[row] = only.direction(
                _row(gradient, row), alone[row], counts[row : row + 1], _row(parameters, row)
            )
            _check(name, f"row {row} moves otherwise alone, so rows lean on each other", own, _row(direction, row))
        memory, counts = after, counts + 1


def _row(tensors: dict[str, Tensor], row: int) -> dict[str, Tensor]:
    return {key: value[row : row + 1] for key, value in tensors.items()}


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in tensors.items()}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in tensors.items()}


def _check(name: str, what: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    if any(not torch.equal(found[key], value) for key, value in expected.items()):
        raise ConformanceError(f"{name}: {what}.")
