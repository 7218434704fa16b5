"""How some rows of a stack run: layer by layer with rules, or by ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from gar_env.errors import ConfigurationError, UnsupportedLayerError
from gar_env.learner.stack_rows import copied
from gar_env.learner.stacked_layers import Kept, Stacked, has_rules
from gar_env.learner.update_rules import Tensors, added
from gar_env.registry import check_choice, shown

WAYS = ("auto", "layers", "vmap")

Losses = Callable[[Tensor, Tensor], Tensor]
"""From outputs ``[m, ...]`` and targets ``[m, ...]`` to losses ``[m]``, each of one example alone."""

Changes = Callable[[Tensors], Tensor]
"""From a direction ``{name: [R, ...]}`` to predicted changes ``[R, n]``."""


@dataclass(frozen=True, eq=False)
class Passes:
    """What all rows have in common.

    Args:
        module: One network, whose own numbers are not used.
        trained: Names of the parameters that train.
        way: ``"layers"`` or ``"vmap"``.
        loss: Of every example.
    """

    module: nn.Module
    trained: tuple[str, ...]
    way: str
    loss: Losses

    @classmethod
    def of(cls, module: nn.Module, way: str, loss: Losses) -> Passes:
        """For networks like this one.

        Raises:
            UnsupportedLayerError: If neither way is right.
        """
        check_choice("way", way, WAYS)
        _check_untied(module)
        trained = tuple(name for name, p in module.named_parameters() if p.requires_grad)
        if not trained:
            raise ConfigurationError("The network has no trainable parameter.")
        return cls(module.train(), trained, _way_for(module, way), loss)

    def run(
        self, parameters: Tensors, buffers: dict[str, Tensor], generators: list[Generator], x: Tensor, t: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Changes]:
        """Losses ``[R, n]``, the gradient of each row's mean, and what predicted changes are made of.

        Args:
            parameters: ``{name: [R, ...]}``.
            buffers: Likewise; entries are replaced.
            generators: One for each row.
            x: Inputs, ``[R, n, ...]``.
            t: Targets, ``[R, n, ...]``.
        """
        leaves = {name: parameters[name].detach().requires_grad_() for name in self.trained}
        values, before = {**parameters, **leaves}, dict(buffers)
        with torch.enable_grad():
            if self.way == "layers":
                stacked = Stacked(values, buffers, True, generators)
                losses = self._losses(stacked(self.module, "", x), t)
                kept, stacked.kept = stacked.kept, []  # a circle would keep it all until the next garbage collection
            else:
                kept = None
                buffers.update({name: b.clone() for name, b in buffers.items()})
                losses = self._losses(self._by_vmap(values, buffers, x), t)
            wanted = [*leaves.values(), *(call.output for call in kept or ())]
            found = torch.autograd.grad(losses.mean(1).sum(), wanted, allow_unused=True, materialize_grads=True)
        gradient = dict(zip(leaves, found, strict=False))
        if kept is None:
            return losses.detach(), gradient, self._changes_by_vmap(parameters, before, x, t)
        calls = list(zip(kept, found[len(leaves) :], strict=True))
        return losses.detach(), gradient, lambda direction: _changes_by_layers(calls, direction)

    @torch.no_grad()
    def outputs(
        self, parameters: Tensors, buffers: dict[str, Tensor], generators: list[Generator], x: Tensor, *, training: bool
    ) -> Tensor:
        """What the networks return; nothing is changed."""
        if self.way == "layers":
            stacked = Stacked(parameters, dict(buffers), training, copied(generators), keeping=False)
            return stacked(self.module, "", x)
        self.module.train(training)
        try:
            return self._by_vmap(parameters, {name: b.clone() for name, b in buffers.items()}, x)
        finally:
            self.module.train()

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = self.loss(outputs.flatten(0, 1), targets.flatten(0, 1))
        m = targets.shape[0] * targets.shape[1]
        if not isinstance(losses, Tensor) or losses.shape != (m,) or not losses.is_floating_point():
            raise ConfigurationError(f"loss returned {shown(losses)}; expected floating losses [{m}], one an example.")
        return losses.view(targets.shape[:2])

    def _by_vmap(self, parameters: Tensors, buffers: Tensors, inputs: Tensor) -> Tensor:
        def call(parameters: Tensors, buffers: Tensors, x: Tensor) -> Tensor:
            return functional_call(self.module, (dict(parameters), dict(buffers)), (x,))

        try:
            return vmap(call)(dict(parameters), dict(buffers), inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UnsupportedLayerError(
                f"{type(self.module).__name__} cannot be run for several rows at once by torch.func.vmap: "
                f"{next(iter(str(error).splitlines()), '')[:300]} Build it of layers that have rules, or give yours "
                "one: register_stacked_layer."
            ) from error

    def _changes_by_vmap(self, parameters: Tensors, buffers: Tensors, x: Tensor, t: Tensor) -> Changes:
        def changes(direction: Tensors) -> Tensor:
            def losses_at(moving: dict[str, Tensor]) -> Tensor:
                own = {name: b.clone() for name, b in buffers.items()}
                return self._losses(self._by_vmap({**parameters, **moving}, own, x), t)

            at = {name: parameters[name] for name in direction}
            with sdpa_kernel(SDPBackend.MATH):  # the one kernel of attention with a derivative in forward mode
                return jvp(losses_at, (at,), (dict(direction),))[1]

        return changes


@torch.no_grad()
def _changes_by_layers(calls: list[tuple[Kept, Tensor]], direction: Tensors) -> Tensor:
    n = calls[0][1].shape[1]
    parts = [(delta * kept.tangent(direction)).flatten(2).sum(2) for kept, delta in calls]
    return added(parts) * n  # of each example's own loss, not of its share of the mean


def _check_untied(module: nn.Module) -> None:
    everywhere = [module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)]
    names = [name for named in everywhere for name, _ in named]
    once = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    tied = [name for name in names if name not in once]
    if tied:
        raise UnsupportedLayerError(
            f"{tied[0]} is a tensor that stands under another name too, which a stack cannot run yet. Give each layer "
            "its own, or use one Learner for each run."
        )


def _way_for(module: nn.Module, way: str) -> str:
    if way != "vmap" and has_rules(module):
        return "layers"
    unknown = sorted({type(inner).__name__ for inner in module.modules() if not has_rules(inner)})
    if way == "layers":
        raise UnsupportedLayerError(
            f"way='layers' needs a rule for every module, without hooks or options that it lacks; not so for "
            f"{', '.join(unknown)}. Pass way='vmap', or write rules: register_stacked_layer."
        )
    inside = module.named_modules()
    drawing = [name for name, inner in inside if isinstance(inner, nn.modules.dropout._DropoutNd) and inner.p]
    if drawing:
        raise UnsupportedLayerError(
            f"{drawing[0]} draws dropout, and torch.func.vmap has no random stream for each row: a run would depend on "
            f"the others. Without rules: {', '.join(unknown)}. Write them (register_stacked_layer), or set p=0."
        )
    return "vmap"
