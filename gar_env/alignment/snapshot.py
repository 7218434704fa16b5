"""A module as it ran once, to be run again: parameters, buffers, modes, random state and precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from gar_env.seeding import global_state, replay_global


@dataclass(frozen=True)
class Autocast:
    """Whether and how ``torch.autocast`` was on."""

    device_type: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> Autocast:
        """The state outside any replay."""
        kind = device.type
        return cls(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    def again(self) -> torch.autocast:
        """A context with that state."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.enabled)


Run = Callable[[Callable[..., Any]], Any]
"""What to do with the module's call: from ``call`` to what is wanted of it."""


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


@dataclass(eq=False)
class Snapshot:
    """All that is needed to run a module again as it ran once."""

    module: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    modes: list[bool]
    random_state: Tensor
    device: torch.device
    autocast: Autocast

    @classmethod
    def take(cls, module: nn.Module, *, parameters: bool = True) -> Snapshot:
        """Copy what the next steps will change; without parameters, call :meth:`take_parameters` before they move."""
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        return cls(
            module,
            parameters_of(module) if parameters else {},
            {name: buffer.detach().clone() for name, buffer in module.named_buffers()},
            [inner.training for inner in module.modules()],
            global_state(device),
            device,
            Autocast.now(device),
        )

    def take_parameters(self) -> None:
        """Copy them now: after a pass, when its activations are free again, is early enough."""
        self.parameters = parameters_of(self.module)

    def tangent(self, tangents: dict[str, Tensor], run: Run) -> tuple[Any, Any]:
        """``run(call)``, and how it moves with the parameters; ``call(*args, **kwargs)`` is the module as it was.

        Raises:
            NotImplementedError: From torch, if an operation has no forward-mode derivative.
        """
        tangents = self._without_padding_rows(tangents)
        moving = {name: self.parameters[name] for name in tangents}
        size = None
        if self.autocast.enabled:
            # Half precision would lose a small direction altogether.
            size = torch.stack([t.abs().max() for t in tangents.values()]).max()
            tangents = {name: t / size for name, t in tangents.items()}
        recurrent = any(isinstance(inner, nn.RNNBase) for inner in self.module.modules())
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # taken in evaluation mode; no forward-mode derivative
        try:
            with (
                self._as_it_was(),
                # torch scripts its own decompositions of normalisation layers on first use, and says so.
                warnings.catch_warnings(action="ignore"),
                # Only the MATH kernel of attention has a forward-mode derivative.
                sdpa_kernel(SDPBackend.MATH),
                # The fused CPU kernel of recurrent layers has none either; convolutions are much faster fused.
                torch.backends.mkldnn.flags(enabled=False, allow_tf32=False) if recurrent else nullcontext(),
            ):
                try:
                    primal, moved = jvp(lambda parameters: self._run(parameters, run), (moving,), (tangents,))[:2]
                except NotImplementedError:
                    with replay_global(self.random_state, self.device):
                        primal, moved = self._tangent_by_two_backward_passes(moving, tangents, run)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
        return primal, moved if size is None else tree_map(lambda tensor: tensor.to(size.dtype) * size, moved)

    def _tangent_by_two_backward_passes(
        self, moving: dict[str, Tensor], tangents: dict[str, Tensor], run: Run
    ) -> tuple[Any, Any]:
        """For operations without a forward-mode derivative: ``J v`` is the gradient of ``< J^T u, v >`` in ``u``.

        Source:
            Townsend (2017), A new trick for calculating Jacobian vector products.
        """
        moving = {name: p.detach().requires_grad_() for name, p in moving.items()}
        with torch.enable_grad():
            primal = self._run(moving, run)
            outputs, structure = tree_flatten(primal)
            seeds = [torch.zeros_like(output, requires_grad=True) for output in outputs]
            first = torch.autograd.grad(
                outputs, list(moving.values()), seeds, create_graph=True, materialize_grads=True, allow_unused=True
            )
            total = torch.stack([(g * t).sum() for g, t in zip(first, tangents.values(), strict=True)]).sum()
            moved = torch.autograd.grad(total, seeds, materialize_grads=True, allow_unused=True)
        detached = [output.detach() for output in outputs]
        return tree_unflatten(detached, structure), tree_unflatten(list(moved), structure)

    def moved(self, tangents: dict[str, Tensor], step: float, run: Run) -> Any:
        """``run(call)``, where ``call`` is the module as it was but for its parameters: ``step`` along ``tangents``."""
        tangents = self._without_padding_rows(tangents)
        with self._as_it_was(), torch.no_grad():
            return self._run({name: self.parameters[name] + step * t for name, t in tangents.items()}, run)

    def _run(self, parameters: dict[str, Tensor], run: Run) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            # Cloned inside the transform: batch normalisation writes into its buffers and refuses outer ones.
            buffers = {name: value.clone() for name, value in self.buffers.items()}
            return functional_call(self.module, {**self.parameters, **parameters, **buffers}, args, kwargs)

        return run(call)

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        now = [inner.training for inner in self.module.modules()]
        self._set_modes(self.modes)
        try:
            # Dropout draws the same mask again.
            with replay_global(self.random_state, self.device), self.autocast.again():
                yield
        finally:
            self._set_modes(now)

    def _without_padding_rows(self, tangents: dict[str, Tensor]) -> dict[str, Tensor]:
        """An embedding's padding row never trains: its gradient is 0 by decree, which no replay knows."""
        tangents = dict(tangents)
        for path, inner in self.module.named_modules():
            name = f"{path}.weight" if path else "weight"
            if isinstance(inner, nn.Embedding) and inner.padding_idx is not None and name in tangents:
                tangents[name] = tangents[name].clone()
                tangents[name][inner.padding_idx] = 0
        return tangents

    def _set_modes(self, modes: list[bool]) -> None:
        for inner, training in zip(self.module.modules(), modes, strict=True):
            inner.training = training
