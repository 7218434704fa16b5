"""Large dense layers without their gradient: inner products of both batches' inputs and output gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gar_env.alignment.layers import Unit
from gar_env.alignment.recorder import Deferred
from gar_env.alignment.tape import read


def can_use_gram(unit: Unit) -> bool:
    """Whether a unit is a linear layer on ``[n, i]``, called once."""
    if type(unit.module) is not nn.Linear or "weight" not in unit.parameters or len(unit.calls) != 1:
        return False
    (call,) = unit.calls
    return isinstance(call, Deferred) and call.delta.ndim == 2


class Gram:
    r"""``< x_i delta_i, sum_j x'_j delta'_j > = sum_j < x_i, x'_j > < delta_i, delta'_j >``, j from the next pass.

    ``n'(i + o)`` products an example instead of ``i o``: for 64 examples in a layer of 4,096 by 4,096, a 32nd.

    Args:
        unit: A linear layer for which :func:`can_use_gram` holds.
        listening: Whether passes count at present.
    """

    def __init__(self, unit: Unit, listening: Callable[[], bool]) -> None:
        self.unit, self.listening = unit, listening
        self._total: Tensor | None = None
        self._open = 0
        self._fits = True
        self._handles = [unit.module.register_forward_hook(self._after_forward, with_kwargs=True)]

    def remove_hooks(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()

    def total(self) -> Tensor | None:
        """Each example's part, ``[n]``, or ``None`` if the pass that followed was not a batch of rows too."""
        return self._total if self._fits and not self._open else None

    def _recorded(self) -> Deferred:
        (call,) = self.unit.calls
        assert isinstance(call, Deferred)
        return call

    def _after_forward(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if not (self.listening() and torch.is_grad_enabled() and output.requires_grad):
            return
        x = (args[0] if args else next(iter(kwargs.values()))).detach()
        inputs, outputs = x.shape[-1], output.shape[-1]
        worth_it = len(x) * (inputs + outputs) < inputs * outputs
        if not self.unit.calls:  # paid already
            return
        call = self._recorded()
        same = x.dtype == output.dtype == call.x.tensor.dtype
        if x.ndim != 2 or not same or torch.is_autocast_enabled(x.device.type) or not worth_it:
            self._fits = False
            return
        self._open += 1
        box = [x]
        output.register_hook(lambda delta: self._add(box, delta))

    @torch.no_grad()
    def _add(self, box: list[Tensor], delta: Tensor) -> None:
        if not box or not self.unit.calls:  # a second backward pass through the same output, or after the end
            self._fits = False
            return
        x = box.pop()
        self._open -= 1
        call = self._recorded()
        products = read(call.x, str(self.unit)) @ x.T
        if "bias" in self.unit.parameters:
            products += 1
        part = (products * (call.delta @ delta.T)).sum(1)
        self._total = part if self._total is None else self._total + part
