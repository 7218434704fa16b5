"""What a stack refuses: networks of several shapes, and rows that are not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gar_env.errors import ConfigurationError
from gar_env.registry import shown


def check_rows(rows: Any, count: int) -> None:
    """Refuse numbers of rows that are not there; ``None`` is all of them.

    Raises:
        ConfigurationError: If they are not int64 ``[k]`` and growing, from 0 to ``count - 1``.
    """
    if rows is None:
        return
    fits = isinstance(rows, Tensor) and rows.dtype == torch.int64 and rows.ndim == 1 and len(rows) > 0
    if not fits or int(rows[0]) < 0 or int(rows[-1]) >= count or bool((rows.diff() <= 0).any()):
        raise ConfigurationError(
            f"rows are {rows.tolist() if fits else shown(rows)}; expected int64 [k], growing, from 0 to {count - 1}."
        )


def check_live(live: Any, count: int) -> None:
    """Refuse what is no flag for each of ``count`` rows; ``None`` is all of them.

    Raises:
        ConfigurationError: With what was found.
    """
    fits = isinstance(live, Tensor) and live.dtype == torch.bool and live.shape == (count,)
    if live is not None and not fits:
        raise ConfigurationError(f"live is {shown(live)}; expected bool, one per row, [{count}].")


def check_alike(modules: list[nn.Module], rows: Sequence[int]) -> None:
    """Refuse networks of several architectures.

    Args:
        modules: The networks.
        rows: The number of each, for messages.

    Raises:
        ConfigurationError: With the row, and what differs from the first.
    """

    def shapes(module: nn.Module) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {name: (p.shape, p.dtype) for name, p in [*module.named_parameters(), *module.named_buffers()]}

    def trained(module: nn.Module) -> set[str]:
        return {name for name, p in module.named_parameters() if p.requires_grad}

    first, described = shapes(modules[0]), repr(modules[0])
    for row, module in zip(rows[1:], modules[1:], strict=True):
        own = shapes(module)
        odd = sorted(name for name in first.keys() | own.keys() if first.get(name) != own.get(name))
        if odd:
            name = odd[0]
            words = [f"{one[name][1]} {list(one[name][0])}" if name in one else "not there" for one in (own, first)]
            raise ConfigurationError(
                f"The networks have different shapes: {name} is {words[0]} in row {row}, and {words[1]} in the first. "
                "A stack is of one architecture; make one stack for each."
            )
        frozen = sorted(trained(module) ^ trained(modules[0]))
        if frozen:
            raise ConfigurationError(
                f"{frozen[0]} is frozen in row {row} or in the first, and trained in the other. A stack is of one "
                "architecture; make one stack for each."
            )
        if repr(module) != described:
            raise ConfigurationError(
                f"The networks are built otherwise in row {row} than in the first: {type(module).__name__} describes "
                "itself in other words. A stack is of one architecture; make one stack for each."
            )


def shapes_of(state: Any, prefix: str = "") -> dict[str, str]:
    """Names and shapes of all that a state holds, in words."""
    if not isinstance(state, Mapping):
        return {prefix.removesuffix("."): shown(state)}
    return {name: words for key, value in state.items() for name, words in shapes_of(value, f"{prefix}{key}.").items()}
