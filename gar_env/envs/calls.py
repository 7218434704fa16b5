"""What callers pass to ``reset`` and ``step``: read, or refused with what was found."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from torch import Tensor

from gar_env.errors import ConfigurationError, InvalidActionError
from gar_env.registry import shown


def mask_of(options: Any, n: int, *, together: bool) -> np.ndarray:
    """Which rows a reset is of, bool ``[n]``; all where nothing is said.

    Raises:
        ConfigurationError: If the mask does not fit, or leaves out rows that share a network.
    """
    if options is not None and not isinstance(options, dict):
        raise ConfigurationError(f"options={shown(options)} must be a dictionary, or None.")
    if not options or options.get("reset_mask") is None:
        return np.ones(n, bool)
    try:
        mask = np.array(options["reset_mask"])
    except Exception as error:  # of a tensor that is elsewhere, a ragged list
        raise ConfigurationError(
            f"options['reset_mask']={shown(options['reset_mask'])} cannot be read as an array: {error}"
        ) from error
    if mask.dtype != np.bool_ or mask.shape != (n,):
        raise ConfigurationError(f"options['reset_mask'] must be bool [{n}]; found {mask.dtype} {list(mask.shape)}.")
    if together and not mask.all():
        raise ConfigurationError(
            f"options['reset_mask'] leaves out {int((~mask).sum())} of {n} rows, but all rows share "
            "one network and reset together. Pass a mask that is all True, or none."
        )
    if not mask.any():
        raise ConfigurationError("options['reset_mask'] chooses no row. Leave it out to reset all rows.")
    return mask


def checked_actions(actions: Any, single: Space[Any], live: Tensor) -> Tensor:
    """Actions as a tensor where ``live`` is: int64, or float32 where they are a ``Box``.

    Args:
        actions: An array, list or tensor.
        single: The space of one row.
        live: bool ``[n]``: whose actions count.

    Raises:
        InvalidActionError: If shape, type or range do not fit.
    """
    shape, real = (len(live), *(single.shape or ())), isinstance(single, Box)
    what = "numbers" if real else "integers"
    try:
        tensor = actions if isinstance(actions, Tensor) else torch.as_tensor(np.array(actions, order="C"))
        odd = tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.layout is not torch.strided
    except Exception as error:  # of somebody's __array__, or of a ragged list
        raise InvalidActionError(f"actions cannot be read as an array of {what}: {error}.") from error
    if odd:
        raise InvalidActionError(f"actions are a {type(tensor).__name__} that holds no dense numbers; pass {what}.")
    if tuple(tensor.shape) != shape:
        raise InvalidActionError(
            f"actions have the shape {list(tensor.shape)}; expected {list(shape)}, one for each row."
        )
    if tensor.dtype.is_complex or tensor.dtype == torch.bool or (tensor.dtype.is_floating_point and not real):
        raise InvalidActionError(
            f"actions are {tensor.dtype}; expected {what}." + ("" if real else " Convert with actions.astype(int).")
        )
    tensor = tensor.to(live.device, torch.float32 if real else torch.int64)
    low, high = (torch.as_tensor(limit, device=live.device) for limit in _limits(single))
    within = live.view(-1, *(1,) * (tensor.ndim - 1))
    wrong = ~((tensor >= low) & (tensor <= high)) & within
    if bool(wrong.any()):
        where = wrong.nonzero()[0].tolist()
        value = tensor[tuple(where)].item()
        least, most = (limit.expand(tensor.shape)[tuple(where)].item() for limit in (low, high))
        raise InvalidActionError(
            f"The action of row {where[0]} is {value}; expected {least}..{most}. "
            f"{int(wrong.sum())} of {tensor.numel()} entries are out of range."
        )
    return tensor


def _limits(space: Any) -> tuple[Any, Any]:
    """Least and largest of each action entry, broadcastable to the actions' shape."""
    if isinstance(space, Box):
        return space.low, space.high
    return 0, (space.nvec if hasattr(space, "nvec") else int(space.n)) - 1
