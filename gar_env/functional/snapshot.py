"""A module as it ran once, to be run again: parameters, state, random numbers and precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from gar_env.functional.graph import nodes_below
from gar_env.functional.kernels import Kernels, without_cudnn
from gar_env.functional.owners import Function
from gar_env.functional.state import State, swapped_in
from gar_env.seeding import TURNS, RandomState


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


Run = Callable[[nn.Module], Any]
"""What to do with the module: from it to what is wanted of its call."""


@dataclass(eq=False)
class Snapshot:
    """All that is needed to run a module again as it ran once. Take it, and run the module, within one turn.

    Args:
        module: Whose parameters may move on.
        names: ``{name: the parameter itself}``, each once.
        parameters: ``{name: a copy}``.
        state: Everything else that it holds.
        random: All global generators.
        device: Of its parameters.
        autocast: Mixed precision.
        kernels: On a GPU.
    """

    module: nn.Module
    names: dict[str, nn.Parameter]
    parameters: dict[str, Tensor]
    state: State
    random: RandomState
    device: torch.device
    autocast: Autocast
    kernels: Kernels | None

    @classmethod
    def take(cls, module: nn.Module, functions: Iterable[Function] = (), *, parameters: bool = True) -> Snapshot:
        """Copy what the next steps will change; without parameters, call :meth:`take_parameters` before they move."""
        names = dict(module.named_parameters())
        device = next((p.device for p in names.values()), torch.device("cpu"))
        state = State.of(module, functions, without_ours=True)
        kernels = Kernels.now() if device.type == "cuda" else None
        taken = cls(module, names, {}, state, RandomState.now(device), device, Autocast.now(device), kernels)
        if parameters:
            taken.take_parameters()
        return taken

    def take_parameters(self) -> None:
        """Copy them now: after a pass, when its activations are free again, is early enough."""
        self.parameters = {name: p.detach().clone() for name, p in self.names.items()}

    @property
    def kept(self) -> list[Tensor]:
        """The tensors that it holds."""
        return [*self.parameters.values(), *self.state.buffers]

    def release(self) -> None:
        """Let go of them."""
        self.parameters, self.state = {}, State()

    def tangent(self, tangents: Mapping[str, Tensor], run: Run, *, twice: bool = False) -> tuple[Any, Any]:
        """``run(module)``, and how it moves with the parameters, the module being as it was.

        What the backward pass ignores does not move: code under ``torch.no_grad()``, detached tensors, padding rows.
        ``twice``: by two backward passes at once, instead of where forward mode cannot.

        Raises:
            NotImplementedError: From torch, if an operation has no forward-mode derivative, and none of its gradient.
        """
        size = None
        if self.autocast.enabled:
            # Half precision would lose a small direction altogether.
            size = torch.stack([t.abs().max() for t in tangents.values()]).max()
            tangents = {name: t / size for name, t in tangents.items()}
        with self._forward_mode():
            try:
                by = self._tangent_by_two_backward_passes if twice else self._tangent_by_forward_mode
                primal, moved = by(tangents, run)
            except torch.OutOfMemoryError:
                raise
            except (NotImplementedError, RuntimeError):
                if twice:
                    raise
                # No such derivative, or the network differentiates on its own.
                primal, moved = self._tangent_by_two_backward_passes(tangents, run)
        return primal, moved if size is None else tree_map(lambda tensor: tensor.to(size.dtype) * size, moved)

    def _tangent_by_forward_mode(self, tangents: Mapping[str, Tensor], run: Run) -> tuple[Any, Any]:
        # Dual tensors, not torch.func.jvp: its wrappers have other strides, and dropout draws in another order.
        with forward_ad.dual_level():
            duals = {name: forward_ad.make_dual(self.parameters[name], t) for name, t in tangents.items()}
            with self._as_it_was(duals), _OnlyWhereGradientsAreOn():
                outputs, structure = tree_flatten(run(self.module))
            pairs = [forward_ad.unpack_dual(output) for output in outputs]
        primal = [pair.primal for pair in pairs]
        moved = [torch.zeros_like(pair.primal) if pair.tangent is None else pair.tangent for pair in pairs]
        return tree_unflatten(primal, structure), tree_unflatten(moved, structure)

    def _tangent_by_two_backward_passes(self, tangents: Mapping[str, Tensor], run: Run) -> tuple[Any, Any]:
        """For operations without a forward-mode derivative: ``J v`` is the gradient of ``< J^T u, v >`` in ``u``.

        Source:
            Townsend (2017), A new trick for calculating Jacobian vector products.
        """
        moving = {name: self.parameters[name].detach().requires_grad_() for name in tangents}
        with self._as_it_was(moving):
            outputs, structure = tree_flatten(run(self.module))
            seeds = [torch.zeros_like(output, requires_grad=True) for output in outputs]
            first = torch.autograd.grad(
                outputs, list(moving.values()), seeds, create_graph=True, materialize_grads=True, allow_unused=True
            )
            total = torch.stack([(g * t).sum() for g, t in zip(first, tangents.values(), strict=True)]).sum()
            _check_differentiable(total)
            moved = torch.autograd.grad(total, seeds, materialize_grads=True, allow_unused=True)
        detached = [output.detach() for output in outputs]
        return tree_unflatten(detached, structure), tree_unflatten(list(moved), structure)

    def moved(self, tangents: Mapping[str, Tensor], step: float, run: Run) -> Any:
        """``run(module)``, the module as it was but for its parameters: ``step`` along ``tangents``."""
        stepped = {name: self.parameters[name] + step * t for name, t in tangents.items()}
        with self.kernels.again() if self.kernels else nullcontext():
            try:
                with self._as_it_was(stepped):
                    return run(self.module)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # the network may differentiate on its own, in its parameters
                with self._as_it_was({name: p.requires_grad_() for name, p in stepped.items()}):
                    return run(self.module)

    @contextmanager
    def _as_it_was(self, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the module has its state, random numbers and precision of then, and these parameters."""
        values = {**self.parameters, **parameters}
        state = self.state.copy(stand_ins={id(p): values[name] for name, p in self.names.items()})
        fixed = {id(p): self.parameters[name] for name, p in self.names.items()}
        own = {id(owner): held for owner, held in self.state.owners}
        for module, attributes in state.owners:
            if not isinstance(module, nn.Embedding) or module.padding_idx is None:
                continue
            weight = own[id(module)]["_parameters"].get("weight")
            if id(weight) in fixed:
                with torch.enable_grad():  # tapes are read without gradients, and two backward passes need them
                    _hold_row(attributes["_parameters"], module.padding_idx, fixed[id(weight)])
        # Gradients on: forward passes may ask for some, and what they do under no_grad is told apart by it.
        with self.random.replayed(), swapped_in(state), self.autocast.again(), torch.enable_grad():
            yield

    @contextmanager
    def _forward_mode(self) -> Iterator[None]:
        """Switches without which operations have no forward-mode derivative; of the whole process."""
        recurrent = any(isinstance(inner, nn.RNNBase) for inner in self.module.modules())
        with TURNS:
            fast_path = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)  # taken in evaluation mode; no forward-mode derivative
            try:
                with (
                    # torch scripts its own decompositions of normalisation layers on first use, and says so.
                    warnings.catch_warnings(action="ignore"),
                    # Only the MATH kernel of attention has a forward-mode derivative.
                    sdpa_kernel(SDPBackend.MATH),
                    # The fused kernels of recurrent layers have none either; convolutions are much faster fused.
                    torch.backends.mkldnn.flags(enabled=False, allow_tf32=False) if recurrent else nullcontext(),
                    without_cudnn() if recurrent and self.kernels else nullcontext(),
                ):
                    yield
            finally:
                torch.backends.mha.set_fastpath_enabled(fast_path)


class _OnlyWhereGradientsAreOn(TorchFunctionMode):
    """Under ``torch.no_grad()``, which forward mode alone would not heed, outputs do not move."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        with forward_ad._set_fwd_grad_enabled(False):
            return func(*args, **(kwargs or {}))


def _hold_row(slots: dict[str, Any], index: int, fixed: Tensor) -> None:
    """An embedding's padding row never trains: it does not move here, though it may where the weight is tied."""
    row = torch.tensor([index], device=fixed.device)
    slots["weight"] = slots["weight"].index_copy(0, row, fixed[row])


def _check_differentiable(total: Tensor) -> None:
    """Refuse a gradient whose own derivative is missing: torch would take it for 0.

    Raises:
        NotImplementedError: If an operation on the way was marked ``once_differentiable``.
    """
    if any(node.name().endswith("Error") for node in nodes_below(total)):
        raise NotImplementedError("An operation is once_differentiable, and has no forward-mode derivative either.")
