"""The modules that own a network's trainable parameters, and what their calls left behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn

from gar_env.alignment.direction import Direction
from gar_env.alignment.rules import has_rule, uses_batch_statistics
from gar_env.errors import UnsupportedLayerError
from gar_env.functional import Structure, structure_of


class Call(ABC):
    """What one call of a module left behind, until the direction is known."""

    @abstractmethod
    def entry(self, unit: Unit, direction: Direction) -> Tensor:
        """Each example's part of the mean loss's alignment, ``[n]``; not yet times ``n``."""

    @abstractmethod
    def kept(self) -> Iterable[Tensor]:
        """The tensors that it holds."""


@dataclass(eq=False)
class Unit:
    """A module that owns trainable parameters, and what its calls left behind.

    Args:
        name: The module's path, for messages.
        module: The module.
        parameters: ``{name inside the module: name in the network}`` of the trainable parameters it covers.
        replayed: Whether it is kept whole and replayed in forward mode, for want of a rule.
        calls: What each call left behind.
        copies: Of a replayed module's parameters, for all its calls.
    """

    name: str
    module: nn.Module
    parameters: dict[str, str]
    replayed: bool
    calls: list[Call] = field(default_factory=list)
    copies: dict[str, Tensor] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name or 'the network itself'} ({type(self.module).__name__})"


def plan(network: nn.Module) -> list[Unit]:
    """The units of a network: together they own every trainable parameter.

    Raises:
        UnsupportedLayerError: If a module without a rule holds batch normalisation in training mode.
    """
    templates = structure_of(network).derived(_plan)
    return [Unit(unit.name, unit.module, unit.parameters, unit.replayed) for unit in templates]


def _plan(structure: Structure) -> list[Unit]:
    network, names = structure.modules[""], {id(p): name for name, p in structure.trained.items()}
    units: list[Unit] = []
    whole: list[str] = []  # paths of modules that are kept whole: what is inside them is covered
    seen: set[int] = set()
    # Every name: a module may stand inside one that is kept whole, and outside of it as well.
    for path, module in network.named_modules(remove_duplicate=False):
        if id(module) in seen or any(path == root or path.startswith(root + "." if root else "") for root in whole):
            continue
        seen.add(id(module))
        own = {local: p for local, p in module.named_parameters(recurse=False) if p.requires_grad}
        holds = _holds_more(module)
        if not own and not holds:
            continue
        if has_rule(module) and not holds:
            units.append(Unit(path, module, {local: names[id(p)] for local, p in own.items()}, replayed=False))
            continue
        inside = {local: names[id(p)] for local, p in module.named_parameters() if p.requires_grad}
        unit = Unit(path, module, inside, replayed=True)
        if any(uses_batch_statistics(inner) for inner in module.modules()):
            raise UnsupportedLayerError(
                f"{unit} owns parameters that no rule covers and contains batch normalisation in training mode; an "
                "example's share of its gradient cannot be told apart. Register a rule for the layer that owns the "
                "parameters."
            )
        whole.append(path)
        units.append(unit)
    return units


def _holds_more(module: nn.Module) -> bool:
    """Whether trainable parameters of this module lie in children that are not called with examples.

    A parametrization computes a weight, and a parameter list computes nothing: their rows are no examples.
    """
    lists = [child for child in module.children() if isinstance(child, nn.ParameterList | nn.ParameterDict)]
    holders = [module] if nn.utils.parametrize.is_parametrized(module) else lists
    return any(p.requires_grad for holder in holders for p in holder.parameters())
