"""Any module, replayed in forward mode: exact, about two forward passes of that module."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from gar_env.alignment.direction import Direction
from gar_env.alignment.tape import keep, sum_per_example, unkept
from gar_env.errors import UnsupportedLayerError
from gar_env.seeding import global_state, replay_global

if TYPE_CHECKING:
    from gar_env.alignment.layerwise import Unit


@dataclass(eq=False)
class Snapshot:
    """All that is needed to run a module again as it ran once: parameters, buffers, modes and random state."""

    module: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    modes: list[bool]
    random_state: Tensor
    device: torch.device

    @classmethod
    def take(cls, module: nn.Module) -> Snapshot:
        """Copy what the next steps will change."""
        parameters = {name: p.detach().clone() for name, p in module.named_parameters()}
        device = next((p.device for p in parameters.values()), torch.device("cpu"))
        return cls(
            module,
            parameters,
            {name: buffer.detach().clone() for name, buffer in module.named_buffers()},
            [inner.training for inner in module.modules()],
            global_state(device),
            device,
        )

    def tangent(self, tangents: dict[str, Tensor], run: Callable[[Callable[..., Any]], Any]) -> tuple[Any, Any]:
        """``run(call)``, and how it moves with the parameters; ``call(*args, **kwargs)`` is the module as it was.

        Raises:
            NotImplementedError: From torch, if an operation has no forward-mode derivative.
        """
        tangents = self._without_padding_rows(tangents)
        moving = {name: self.parameters[name] for name in tangents}
        still = {name: value for name, value in self.parameters.items() if name not in tangents}

        def replay(parameters: dict[str, Tensor]) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                # Cloned inside the transform: batch normalisation writes into its buffers and refuses outer ones.
                buffers = {name: value.clone() for name, value in self.buffers.items()}
                return functional_call(self.module, {**parameters, **still, **buffers}, args, kwargs)

            return run(call)

        recurrent = any(isinstance(inner, nn.RNNBase) for inner in self.module.modules())
        now = [inner.training for inner in self.module.modules()]
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # taken in evaluation mode; no forward-mode derivative
        self._set_modes(self.modes)
        try:
            with (
                # torch scripts its own decompositions of normalisation layers on first use, and says so.
                warnings.catch_warnings(action="ignore"),
                # Dropout draws the same mask again.
                replay_global(self.random_state, self.device),
                # Only the MATH kernel of attention has a forward-mode derivative.
                sdpa_kernel(SDPBackend.MATH),
                # The fused CPU kernel of recurrent layers has none either; convolutions are much faster fused.
                torch.backends.mkldnn.flags(enabled=False, allow_tf32=False) if recurrent else nullcontext(),
            ):
                primal, moved = jvp(replay, (moving,), (tangents,))[:2]
                return primal, moved
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            self._set_modes(now)

    def _without_padding_rows(self, tangents: dict[str, Tensor]) -> dict[str, Tensor]:
        """An embedding's padding row never trains: its gradient is 0 by decree, which forward mode does not know."""
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


@dataclass(eq=False)
class Replay:
    """One call of a module without a rule: its arguments, and the gradient of each of its outputs."""

    label: str
    snapshot: Snapshot
    args: tuple
    kwargs: dict
    deltas: dict[int, Tensor] = field(default_factory=dict)

    def entry(self, parameters: dict[str, str], direction: Direction) -> Tensor:
        """Each example's ``< tangent of the outputs, gradient of the outputs >``, ``[n]``.

        Raises:
            UnsupportedLayerError: If an operation inside has no forward-mode derivative.
        """
        tangents = {local: direction[name] for local, name in parameters.items()}
        args, kwargs = unkept((self.args, self.kwargs), self.label)
        try:
            _, moved = self.snapshot.tangent(tangents, lambda call: self._outputs(call(*args, **kwargs)))
        except (NotImplementedError, RuntimeError) as error:
            raise UnsupportedLayerError(
                f"{self.label} has no alignment rule, and replaying it in forward mode failed: "
                f"{str(error).splitlines()[0]}\n"
                "Register a rule for it with register_output_tangent, or freeze its parameters."
            ) from error
        entries = [sum_per_example(m * delta) for m, delta in zip(moved, self.deltas.values(), strict=True)]
        return torch.stack(entries).sum(0)

    def _outputs(self, output: Any) -> list[Tensor]:
        """The outputs that a gradient arrived for."""
        leaves = tree_leaves(output)
        return [leaves[index] for index in self.deltas]


class ReplayTaker:
    """The two hooks that record a call of a module without a rule.

    Args:
        unit: Where the call is kept.
        recorder: Checks that output rows are examples.
    """

    def __init__(self, unit: Unit, recorder: Any) -> None:
        self.unit = unit
        self.recorder = recorder
        self.open: list[Replay] = []  # a stack: a module may call itself

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook: the state before the call."""
        self.open.append(Replay(str(self.unit), Snapshot.take(module), keep(args), keep(kwargs)))

    def after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Forward hook: wait for the gradient of each output.

        Outputs are replaced by aliases: of ``(h, f(h))`` each then gets its own gradient, and none is counted twice.
        """
        replay = self.open.pop()
        if not torch.is_grad_enabled():
            return output
        leaves, structure = tree_flatten(output)
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaves[index] = leaf.view_as(leaf)
                leaves[index].register_hook(lambda delta, index=index: self._arrived(replay, index, delta))
        return tree_unflatten(leaves, structure)

    def _arrived(self, replay: Replay, index: int, delta: Tensor) -> None:
        self.recorder.check_rows(self.unit, len(delta) if delta.ndim else 0)
        if not replay.deltas:
            self.unit.calls.append(replay)
        replay.deltas[index] = delta
