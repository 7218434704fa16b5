"""Which ways cover a network: each is tried on a copy of it, and advice is given only where it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from gar_env.alignment.conservation import add_up
from gar_env.alignment.differences import check_differences
from gar_env.alignment.direction import trainable_parameters
from gar_env.alignment.inputs import Inputs, Losses
from gar_env.alignment.layers import plan
from gar_env.alignment.listeners import paused
from gar_env.alignment.rerun import ForwardTape, record_replayed
from gar_env.alignment.separation import check_separation, copied
from gar_env.alignment.tape import full_precision
from gar_env.alignment.unknown_layers import check_repeatable
from gar_env.alignment.ways import has_batch_statistics
from gar_env.errors import AlignmentError
from gar_env.functional import isolated

WAYS = ("hooks", "forward", "finite_difference")


def try_ways(network: nn.Module, inputs: Inputs, loss: Losses, *, without: str = "") -> dict[str, str | None]:
    """Try each way on a copy of the network with this batch; training does not notice.

    Args:
        network: In the mode it trains in.
        inputs: As for :func:`gar_env.alignment.record`.
        loss: Likewise.
        without: A way that need not be tried.

    Returns:
        ``{way: None if it covers the network, else why it does not}``.

    Example:
        >>> try_ways(nn.Linear(2, 1), torch.ones(3, 2), lambda outputs: outputs[:, 0])
        {'hooks': None, 'forward': None, 'finite_difference': None}
    """
    arguments = inputs if isinstance(inputs, tuple | Mapping) else (inputs,)
    tries = {"hooks": _try_hooks, "forward": _try_forward, "finite_difference": _try_differences}
    found: dict[str, str | None] = {}
    for way, attempt in tries.items():
        if way == without:
            continue
        try:
            with paused():
                attempt(network, arguments, loss)
        except torch.OutOfMemoryError:
            raise
        except AlignmentError as error:
            found[way] = str(error).splitlines()[0]
        except Exception as error:
            found[way] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        else:
            found[way] = None
    return found


def advice(network: nn.Module, inputs: Any, loss: Losses, *, without: str) -> str:
    """A sentence for the end of a refusal: a way that works, or that none does."""
    arguments = inputs if isinstance(inputs, tuple | Mapping) else (inputs,)
    found = try_ways(network, arguments, loss, without=without)
    readings = {"hooks": "share", "forward": "derivative", "finite_difference": "derivative"}
    named = has_batch_statistics(network)
    works = [
        f"way={way!r}" + (f", batch_norm={readings[way]!r}" if named else "")
        for way, why in found.items()
        if why is None
    ]
    if works:
        return f"Pass {' or '.join(works)}, which covers it."
    return (
        "No way covers it as it is. Freeze the parameters named, or take out of the recorded pass what changes their "
        "gradients."
    )


def _try_hooks(network: nn.Module, inputs: Any, loss: Losses) -> None:
    for unit in plan(network):
        if unit.replayed:
            check_repeatable(unit.module, str(unit))
    for perturbed in (False, True):
        check_separation(network, inputs, loss, perturbed=perturbed)


def _try_forward(network: nn.Module, inputs: Any, loss: Losses) -> None:
    check_repeatable(network)
    with isolated(network, loss):
        tape = record_replayed(ForwardTape, network, tree_map(copied, inputs), loss, alone=True)
    generator = torch.Generator(tape.losses.device).manual_seed(0)
    direction = {
        name: torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype)
        for name, p in trainable_parameters(network).items()
    }
    with torch.no_grad(), full_precision(next(network.parameters())):
        add_up(tape, tape.entries(direction), direction)


def _try_differences(network: nn.Module, inputs: Any, loss: Losses) -> None:
    check_repeatable(network)
    check_differences(network, inputs, loss)
