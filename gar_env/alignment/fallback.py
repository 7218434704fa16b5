"""Any module, replayed in forward mode: exact, about two forward passes of that module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from gar_env.alignment.direction import Direction
from gar_env.alignment.snapshot import Snapshot
from gar_env.alignment.tape import Kept, dot_per_example, keep, unkept
from gar_env.alignment.units import Call, Unit
from gar_env.errors import UnsupportedLayerError


@dataclass(eq=False)
class Replay(Call):
    """One call of a module without a rule: its arguments, and the gradient of each of its outputs."""

    label: str
    snapshot: Snapshot
    args: tuple
    kwargs: dict
    deltas: dict[int, Tensor] = field(default_factory=dict)

    def kept(self) -> Iterable[Tensor]:
        """See :meth:`Call.kept`."""
        arguments = [leaf.tensor for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Kept)]
        return [*arguments, *self.deltas.values(), *self.snapshot.parameters.values(), *self.snapshot.buffers.values()]

    def entry(self, unit: Unit, direction: Direction) -> Tensor:
        """Each example's ``< tangent of the outputs, gradient of the outputs >``, ``[n]``.

        Raises:
            UnsupportedLayerError: If an operation inside has no forward-mode derivative.
        """
        tangents = {local: direction[name] for local, name in unit.parameters.items()}
        args, kwargs = unkept((self.args, self.kwargs), self.label)
        try:
            _, moved = self.snapshot.tangent(tangents, lambda call: self._outputs(call(*args, **kwargs)))
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            raise UnsupportedLayerError(
                f"{self.label} has no alignment rule, and replaying it in forward mode failed: "
                f"{str(error).splitlines()[0]}\n"
                "Pass way='finite_difference' (with batch normalisation in training mode: batch_norm='derivative'), or "
                "freeze its parameters."
            ) from error
        entries = [dot_per_example(m, delta) for m, delta in zip(moved, self.deltas.values(), strict=True)]
        return torch.stack(entries).sum(0)

    def _outputs(self, output: Any) -> list[Tensor]:
        """The outputs that a gradient arrived for."""
        leaves = tree_leaves(output)
        return [leaves[index] for index in self.deltas]


class ReplayTaker:
    """The two hooks that record the calls of a module without a rule.

    Args:
        unit_of: Where a module's calls are kept, if they are at present.
        check_rows: Refuses output rows that are not examples.
    """

    def __init__(self, unit_of: Callable[[nn.Module], Unit | None], check_rows: Callable[[Unit, int], None]) -> None:
        self.unit_of, self.check_rows = unit_of, check_rows
        self.open: list[Replay] = []  # a stack: a module may call itself

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook: the state before the call."""
        unit = self.unit_of(module)
        if unit is not None:
            snapshot = Snapshot.take(module, parameters=not unit.copies)
            unit.copies = snapshot.parameters = unit.copies or snapshot.parameters
            self.open.append(Replay(str(unit), snapshot, keep(args), keep(kwargs)))

    def after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Forward hook: wait for the gradient of each output.

        Several outputs are replaced by aliases: of ``(h, f(h))`` each then gets its own gradient, and none is counted
        twice. A single one stays: what changes it in place would take the alias away.
        """
        unit = self.unit_of(module)
        if unit is None:
            return output
        replay = self.open.pop()
        if not torch.is_grad_enabled():
            return output
        leaves, structure = tree_flatten(output)
        live = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        for index in live:
            if len(live) > 1:
                leaves[index] = leaves[index].view_as(leaves[index])
            leaves[index].register_hook(lambda delta, index=index: self._arrived(unit, replay, index, delta))
        return tree_unflatten(leaves, structure) if len(live) > 1 else output

    def _arrived(self, unit: Unit, replay: Replay, index: int, delta: Tensor) -> None:
        self.check_rows(unit, len(delta) if delta.ndim else 0)
        if not replay.deltas:
            unit.calls.append(replay)
        replay.deltas[index] = delta
