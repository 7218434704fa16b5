"""Any module, replayed in forward mode: exact, about two forward passes of that module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from gar_env.alignment.direction import Direction
from gar_env.alignment.layers import Call, Unit
from gar_env.alignment.tape import KeptTree, dot_per_example, keep, unkept
from gar_env.errors import UnsupportedLayerError
from gar_env.functional import Snapshot, draws_in_cudnn


@dataclass(eq=False)
class Repeat(Call):
    """One call of a module without a rule: its arguments, and the gradient of each of its outputs."""

    label: str
    snapshot: Snapshot
    arguments: KeptTree
    deltas: dict[int, Tensor] = field(default_factory=dict)

    def kept(self) -> Iterable[Tensor]:
        """See :meth:`Call.kept`."""
        return [*self.arguments.tensors, *self.deltas.values(), *self.snapshot.kept]

    def entry(self, unit: Unit, direction: Direction) -> Tensor:
        """Each example's ``< tangent of the outputs, gradient of the outputs >``, ``[n]``.

        Raises:
            UnsupportedLayerError: If an operation inside has no forward-mode derivative.
        """
        tangents = {local: direction[name] for local, name in unit.parameters.items()}
        args, kwargs = unkept(self.arguments, self.label)
        try:
            _, moved = self.snapshot.tangent(tangents, lambda module: self._outputs(module(*args, **kwargs)))
        except torch.OutOfMemoryError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            raise UnsupportedLayerError(
                f"{self.label} has no alignment rule, and replaying it in forward mode failed: {first_line(error)}"
            ) from error
        entries = [dot_per_example(m, delta) for m, delta in zip(moved, self.deltas.values(), strict=True)]
        return torch.stack(entries).sum(0)

    def _outputs(self, output: Any) -> list[Tensor]:
        """The outputs that a gradient arrived for."""
        leaves = tree_leaves(output)
        return [leaves[index] for index in self.deltas]


def check_repeatable(module: nn.Module, label: str = "The network") -> None:
    """Refuse what cannot be run twice with the same dropout.

    Raises:
        UnsupportedLayerError: If a recurrent layer draws its dropout from cuDNN's own state.
    """
    if any(map(draws_in_cudnn, module.modules())):
        raise UnsupportedLayerError(
            f"{label} has recurrent layers whose dropout cuDNN draws from a state of its own, so no replay repeats it. "
            "Put nn.Dropout between layers built with dropout=0, or record with torch.backends.cudnn.enabled = False."
        )


def first_line(error: BaseException) -> str:
    """Of what it says."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class ReplayTaker:
    """The two hooks that record the calls of a module without a rule.

    A call inside a call that is kept whole is part of that, whatever else the module may be used for.

    Args:
        unit_of: Where a module's calls are kept, if they are at present.
        check_rows: Refuses output rows that are not examples.
    """

    def __init__(self, unit_of: Callable[[nn.Module], Unit | None], check_rows: Callable[[Unit, int], None]) -> None:
        self.unit_of, self.check_rows = unit_of, check_rows
        self.depth = 0  # of calls to modules that are kept whole
        self._open: Repeat | None = None

    def start(self) -> None:
        """A new pass; the one before may have ended in the middle of a call."""
        self.depth, self._open = 0, None

    def before(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Forward pre-hook: the state before the call."""
        unit = self.unit_of(module)
        if unit is None:
            return
        self.depth += 1
        if self.depth == 1:
            check_repeatable(module, str(unit))
            snapshot = Snapshot.take(module, parameters=not unit.copies)
            unit.copies = snapshot.parameters = unit.copies or snapshot.parameters
            self._open = Repeat(str(unit), snapshot, keep((args, kwargs)))

    def after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Forward hook: wait for the gradient of each output.

        Several outputs are replaced by aliases: of ``(h, f(h))`` each then gets its own gradient, and none is counted
        twice. A single one stays: what changes it in place would take the alias away.
        """
        unit = self.unit_of(module)
        if unit is None:
            return output
        self.depth -= 1
        if self.depth > 0:
            return output
        replay, self._open = self._open, None
        if replay is None or not torch.is_grad_enabled():
            return output
        leaves, structure = tree_flatten(output)
        live = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        for index in live:
            if len(live) > 1:
                leaves[index] = leaves[index].view_as(leaves[index])
            leaves[index].register_hook(lambda delta, index=index: self._arrived(unit, replay, index, delta))
        return tree_unflatten(leaves, structure) if len(live) > 1 else output

    def _arrived(self, unit: Unit, replay: Repeat, index: int, delta: Tensor) -> None:
        self.check_rows(unit, len(delta) if delta.ndim else 0)
        if not replay.deltas:
            unit.calls.append(replay)
        replay.deltas[index] = delta
