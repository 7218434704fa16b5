"""What autograd has recorded of a computation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def nodes_below(output: Tensor) -> Iterator[Any]:
    """Every node of the graph that ``output`` was computed with, once each; none if it does not require a gradient.

    Args:
        output: Of any shape.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> [node.name() for node in nodes_below((x * x).sum())]
        ['SumBackward0', 'MulBackward0', 'torch::autograd::AccumulateGrad']
    """
    seen: set[Any] = set()
    left = [output.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        left += [below for below, _ in node.next_functions]
