"""A network's modules and parameters, walked once and looked at again only where something changed.

Walking modules costs more than a small layer's forward pass, and a step asks ten times who trains, in which mode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import is_not
from typing import Any, NamedTuple, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

Found = TypeVar("Found")


_OWN = {"training", "_modules", "_parameters", "_buffers"}
"""What modules hold, but for those of TorchScript: they are walked each time."""


class Structure:
    """The modules of a network, each once by its first path, with what they own.

    Watched are modules, parameters and buffers with their names, types and modes, who trains, and a forward of the
    instance's own; not hooks, nor other attributes.

    Args:
        network: To be walked.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.modules: dict[str, nn.Module] = dict(network.named_modules())
        self.parameters: dict[str, nn.Parameter] = dict(network.named_parameters())
        self.trained = {name: p for name, p in self.parameters.items() if p.requires_grad}
        self.buffers: list[Tensor] = list(network.buffers())
        self.mode = bytes(module.training for module in self.modules.values())
        """Which modules are in training mode."""
        self.key = self.mode + self._digest()
        """The same for the same classes at the same places, modes and trained parameters, in another process too."""
        ordinary = all(module.__dict__.keys() >= _OWN for module in self.modules.values())
        self._seen = [_Seen.of(module) for module in self.modules.values()] if ordinary else None
        self._derived: dict[Any, Any] = {}
        self._held = 0

    def _digest(self) -> bytes:
        kinds = [f"{path} {type(m).__module__}.{type(m).__qualname__}" for path, m in self.modules.items()]
        return hashlib.sha256(repr((kinds, list(self.trained))).encode()).digest()[:16]

    def derived(self, compute: Callable[[Structure], Found]) -> Found:
        """What a function says of this structure, computed once."""
        if compute not in self._derived:
            self._derived[compute] = compute(self)
        return self._derived[compute]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, nothing is run that could change it, and nobody looks whether something has."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @property
    def holds(self) -> bool:
        """Whether the network is as it was walked: modules, parameters, buffers, modes, types, who trains."""
        return bool(self._held) or (self._seen is not None and all(map(_Seen.is_still, self._seen)))


class _Seen(NamedTuple):
    """What one module looked like."""

    module: nn.Module
    kind: type
    training: bool
    forward: Any
    compiled: Any
    names: tuple[str, ...]
    children: tuple[nn.Module | None, ...]
    parameters: tuple[nn.Parameter | None, ...]
    trains: tuple[tuple[bool, torch.dtype] | None, ...]
    buffers: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, module: nn.Module) -> _Seen:
        own = module.__dict__
        parameters = tuple(own["_parameters"].values())
        return cls(
            module,
            module.__class__,
            own["training"],
            _forward(own),
            own.get("_compiled_call_impl"),
            (*own["_modules"], *own["_buffers"], *own["_parameters"]),
            tuple(own["_modules"].values()),
            parameters,
            tuple(None if p is None else (p.requires_grad, p.dtype) for p in parameters),
            tuple(own["_buffers"].values()),
        )

    def is_still(self) -> bool:
        # By hand and by identity: this runs several times a step, for every module.
        module, kind, training, forward, compiled, names, children, parameters, trains, buffers = self
        own = module.__dict__
        if module.__class__ is not kind or own["training"] is not training or _forward(own) is not forward:
            return False
        if own.get("_compiled_call_impl") is not compiled:
            return False
        for name, before in (("_modules", children), ("_buffers", buffers), ("_parameters", parameters)):
            now = own[name]
            if len(now) != len(before) or (now and any(map(is_not, now.values(), before))):
                return False
        if (*own["_modules"], *own["_buffers"], *own["_parameters"]) != names:
            return False
        return not parameters or all(map(_trains_as, parameters, trains))


def _forward(own: dict[str, Any]) -> Any:
    """A forward of the instance's own, but for one that stands there for one pass."""
    forward = own.get("forward")
    return None if forward is None or hasattr(forward, "in_passing") else forward


def _trains_as(p: nn.Parameter | None, before: tuple[bool, torch.dtype] | None) -> bool:
    return p is None or before is None or (p.requires_grad is before[0] and p.dtype is before[1])


_known: WeakKeyDictionary[nn.Module, ReferenceType[Structure]] = WeakKeyDictionary()


def structure_of(network: nn.Module) -> Structure:
    """The network's structure as it is now; the one that somebody keeps, as long as it holds.

    Keep it to be quick: it is forgotten with the last who has it.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> before = structure_of(network)
        >>> structure_of(network) is before
        True
        >>> _ = network[0].requires_grad_(False)
        >>> list(structure_of(network).trained)
        ['1.weight', '1.bias']
    """
    kept = _known.get(network)
    found = kept() if kept is not None else None
    if found is None or found.network is not network or not found.holds:
        found = Structure(network)
        _known[network] = ref(found)
    return found
