"""What a recorded step holds at its peak, beside what a plain step holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

from gar_env.alignment.choice import Choice, choose
from gar_env.alignment.inputs import Losses, call
from gar_env.alignment.layers import Unit, plan
from gar_env.alignment.layerwise import record_layers
from gar_env.alignment.materialise import can_materialise
from gar_env.alignment.rules import EXAMPLE_GRADIENTS
from gar_env.alignment.tape import Tape, count_bytes
from gar_env.alignment.ways import Way, has_batch_statistics
from gar_env.errors import ConfigurationError, MemoryCapError
from gar_env.functional import UncopiableStateError, isolated, preserve
from gar_env.registry import shown
from gar_env.seeding import RandomState

ACTIVATIONS = 10
"""Largest tensors alive at once in a pass that keeps none: measured on a WRN, where batch normalisation in forward mode
makes many."""


@dataclass(frozen=True)
class UnitMemory:
    """Bytes that one unit's calls leave on a tape, by choice."""

    deferred: int
    materialised: int | None
    preferred: Choice

    def bytes(self, choice: Choice) -> int:
        """Of one choice."""
        return self.materialised if choice == "materialised" and self.materialised is not None else self.deferred


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a plain step, and what recording adds until the tape is read.

    Args:
        plain: Parameters, buffers, gradients, the batch, and what autograd keeps for the backward pass.
        state: Of these, parameters, buffers and the batch.
        gradients: Of all trainable parameters: the tape keeps a copy for the conservation check.
        largest: The largest tensor that autograd keeps.
        units: What ``hooks`` keep, by unit name.
    """

    plain: int
    state: int
    gradients: int
    largest: int
    units: dict[str, UnitMemory]

    @property
    def replay(self) -> int:
        """What the tape of a way that replays keeps: a copy of the state, and the gradients."""
        return self.state + self.gradients

    def deferred(self) -> StepMemory:
        """The same where no weight gradient may be materialised."""
        units = {name: UnitMemory(unit.deferred, None, "deferred") for name, unit in self.units.items()}
        return replace(self, units=units)

    def overhead(self, kept: int, *, replays: bool = False) -> float:
        """Peak of a recorded step over that of a plain one, if the tape keeps so many bytes.

        The peak is at the end of the next forward pass. A way that replays may need more when its tape is read: then
        there are two tapes, the direction, parameters that move, and a few activations at a time.
        """
        reading = self.state + 2 * kept + 3 * self.gradients + ACTIVATIONS * self.largest if replays else 0
        return max(self.plain + kept, reading) / self.plain

    def fit(self, cap: float) -> tuple[dict[str, Choice], float]:
        """Choices that stay below ``cap`` if there are any: as the layers prefer, the largest savings changed first.

        Returns:
            ``({unit name: choice}, the overhead they come to)``.
        """
        choices: dict[str, Choice] = {name: unit.preferred for name, unit in self.units.items()}
        kept = self.gradients + sum(unit.bytes(choices[name]) for name, unit in self.units.items())
        savings: list[tuple[int, str, Choice]] = []
        for name, unit in self.units.items():
            other: Choice = "materialised" if unit.preferred == "deferred" else "deferred"
            if other == "deferred" or unit.materialised is not None:
                savings.append((unit.bytes(unit.preferred) - unit.bytes(other), name, other))
        for saved, name, other in sorted(savings, reverse=True):
            if saved <= 0 or self.overhead(kept) <= cap:
                break
            choices[name] = other
            kept -= saved
        return choices, self.overhead(kept)


class MemoryCap:
    """Decides what a network's passes may keep, once for each shape of the inputs.

    Args:
        network: In the mode it trains in.
        largest: Allowed overhead, see :class:`~gar_env.alignment.Alignment`.
        autotune: See :mod:`gar_env.alignment.choice`.
        materialise: See :class:`~gar_env.alignment.Alignment`.

    Raises:
        ConfigurationError: If the overhead is not above 1.
    """

    def __init__(self, network: nn.Module, largest: float, *, autotune: bool = False, materialise: bool = True) -> None:
        if isinstance(largest, bool) or not isinstance(largest, int | float) or not largest > 1:
            raise ConfigurationError(f"max_overhead={shown(largest)} must be above 1, or None for no limit.")
        self.network, self.largest, self.autotune, self.materialise = network, largest, autotune, materialise
        self.measured: dict[tuple, StepMemory] = {}
        self._decided: dict[tuple, tuple[Way, Mapping[str, Choice]]] = {}

    def decide(
        self, way: Way, free: bool, inputs: tuple | Mapping[str, Any], loss: Losses
    ) -> tuple[Way, Mapping[str, Choice]]:
        """The way, and the layers' choices with ``hooks``, that stay below the cap.

        Args:
            way: Preferred.
            free: Whether ``forward`` may take the place of ``hooks``.
            inputs: A batch of this shape.
            loss: From output to losses.

        Raises:
            MemoryCapError: If there are none.
        """
        key = (way, free, *self._circumstances(inputs))
        if key not in self._decided:
            memory = measure(self.network, inputs, loss, layerwise=way == "hooks", autotune=self.autotune)
            if not self.materialise:
                memory = memory.deferred()
            self.measured[self._circumstances(inputs)] = memory
            self._decided[key] = self._decide(memory, way, free, inputs, loss)
        return self._decided[key]

    def _decide(
        self, memory: StepMemory, way: Way, free: bool, inputs: tuple | Mapping[str, Any], loss: Losses
    ) -> tuple[Way, Mapping[str, Choice]]:
        found: dict[str, float] = {}
        if way == "hooks":
            choices, found["hooks"] = memory.fit(self.largest)
            if found["hooks"] > self.largest:
                # What layers share is counted twice in an estimate: look at a tape before giving up.
                with suppress(UncopiableStateError):
                    found["hooks"] = memory.overhead(self._trial(inputs, loss, choices))
            if found["hooks"] <= self.largest:
                return way, choices
        if way != "hooks" or free:
            replay: Way = "forward" if way == "hooks" else way
            found[replay] = memory.overhead(memory.replay, replays=True)
            if found[replay] <= self.largest:
                return replay, {}
        listed = " and ".join(f"way={name!r} {overhead:.2f}" for name, overhead in found.items())
        more = " batch_norm='derivative', another reading, keeps less." if way == "hooks" and not free else ""
        raise MemoryCapError(
            f"max_overhead={self.largest} cannot be kept: {listed} times the memory of a plain step. Raise it, or use "
            f"a larger batch, against which parameters weigh less.{more}"
        )

    def _circumstances(self, inputs: tuple | Mapping[str, Any]) -> tuple:
        """What decides how much memory a pass takes."""
        values = list(inputs.values()) if isinstance(inputs, Mapping) else inputs
        p = next(self.network.parameters())
        shapes = [(tuple(x.shape), x.dtype) for x in tree_leaves(values) if isinstance(x, Tensor)]
        precision = (p.dtype, torch.is_autocast_enabled(p.device.type))
        return (*shapes, *precision, self.network.training, has_batch_statistics(self.network))

    def _trial(self, inputs: tuple | Mapping[str, Any], loss: Losses, choices: Mapping[str, Choice]) -> int:
        with isolated(self.network, loss):
            return record_layers(self.network, inputs, loss, choices=choices, alone=True).nbytes

    def check(self, tape: Tape, inputs: tuple | Mapping[str, Any]) -> None:
        """Hold a tape against the cap.

        Raises:
            MemoryCapError: If it keeps more; it is then released.
        """
        overhead = self.measured[self._circumstances(inputs)].overhead(tape.nbytes, replays=tape.way != "hooks")
        if overhead > self.largest:
            tape.release()
            raise MemoryCapError(
                f"max_overhead={self.largest} was broken: the tape came to {overhead:.2f} times the memory of a plain "
                "step. Raise it, or pass another way."
            )


def measure(
    network: nn.Module, inputs: tuple | Mapping[str, Any], loss: Losses, *, layerwise: bool, autotune: bool
) -> StepMemory:
    """Run one forward pass as a plain step would, and count; nothing that the training sees is changed.

    Args:
        network: In the mode it trains in.
        inputs: One batch.
        loss: From output to losses.
        layerwise: Whether to count what hooks would keep.
        autotune: See :mod:`gar_env.alignment.choice`.
    """
    device = next(network.parameters()).device
    saved: list[Tensor] = []
    units: dict[str, UnitMemory] = {}
    state = list(network.parameters()) + list(network.buffers())
    batch = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    handles = []
    seen: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        # Detached: a tensor that its own graph keeps would never be freed.
        saved.append(tensor.detach())
        return saved[-1]

    try:
        for unit in plan(network) if layerwise else ():
            count = _counter(unit, units, seen, autotune)
            handles.append(unit.module.register_forward_hook(count, with_kwargs=True))
        with (
            preserve(network, loss),
            RandomState.now(device).replayed(),
            saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            loss(call(network, inputs))
    finally:
        for handle in handles:
            handle.remove()
    trainable = count_bytes(p for p in network.parameters() if p.requires_grad)
    plain = count_bytes([*state, *saved, *batch]) + trainable
    largest = max((tensor.untyped_storage().nbytes() for tensor in saved), default=0)
    return StepMemory(plain, count_bytes([*state, *batch]), trainable, largest, units)


def _counter(unit: Unit, units: dict[str, UnitMemory], seen: set[int], autotune: bool) -> Callable[..., None]:
    def after_forward(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        arguments = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        deltas = sum(t.numel() * t.element_size() for t in outputs)
        own = sum(p.numel() * p.element_size() for p in module.parameters())
        # An input that two layers share is kept once.
        fresh = [t for t in arguments if t.untyped_storage().data_ptr() not in seen]
        seen.update(t.untyped_storage().data_ptr() for t in fresh)
        rows = len(arguments[0]) if arguments and arguments[0].ndim else 1
        materialised, preferred = None, "deferred"
        if unit.replayed:
            deferred = count_bytes(fresh) + deltas + own
        elif type(module) in EXAMPLE_GRADIENTS:
            deferred = rows * own
        else:
            deferred = count_bytes(fresh) + deltas
            if can_materialise(module, arguments[0]):
                materialised = rows * own
                preferred = choose(module, arguments[0], autotune=autotune)
        before = units.get(unit.name)
        if before is not None:  # called again
            deferred += before.deferred
            once = (materialised, before.materialised)
            materialised = None if None in once else sum(size for size in once if size is not None)
        units[unit.name] = UnitMemory(deferred, materialised, preferred)

    return after_forward
