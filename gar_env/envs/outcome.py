"""What steps and episodes come to, and how it leaves an environment."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gar_env.state import plain

Infos = dict[str, tuple[Any, Any]]
"""``{key: (value, valid)}``, each a scalar or ``[n]``, a value also ``[n, ...]``; ``valid`` tells where the value means
something. A number that is absent is NaN."""


class Outcome(NamedTuple):
    """What one step came to.

    Args:
        rewards: float ``[n]``; of rows that were not live, anything.
        terminated: bool, scalar or ``[n]``: whose episode is over.
        infos: Likewise only of live rows.
        truncated: bool, scalar or ``[n]``: whose was cut off by something outside of it.
    """

    rewards: Tensor
    terminated: Any
    infos: Infos
    truncated: Any = False


@plain
class Episode(NamedTuple):
    """What an episode came to.

    Args:
        row: Whose; ``None`` if it was that of all rows.
        values: By name: ``steps``, ``return`` (mean over rows that share it), ``diverged``, ``test_accuracy`` (NaN if
            it diverged), and :meth:`~gar_env.envs.RowVectorEnv.metrics` at its end.
    """

    row: int | None
    values: dict[str, float]


class Leaving:
    """From tensors, numbers and flags to what callers get: fresh arrays, or tensors on a device.

    Args:
        n: How many rows.
        output: ``"numpy"`` or ``"torch"``.
        device: Of tensors.
    """

    def __init__(self, n: int, output: str, device: torch.device) -> None:
        self.n, self.output, self.device = n, output, device

    def numbers(self, tensor: Tensor) -> Any:
        """float32, of any shape."""
        if self.output == "torch":
            return tensor.to(self.device, torch.float32)
        # A copy even on the CPU: Stable-Baselines3 writes into rewards, and buffers keep observations.
        return tensor.detach().cpu().numpy().astype(np.float32, copy=True)

    def infos(self, infos: Infos) -> dict[str, Any]:
        """Each value with its mask, as Gymnasium has them."""
        arrays = {}
        for key, (value, valid) in infos.items():
            arrays[key] = self.column(value)
            arrays[f"_{key}"] = self.column(valid)
        return arrays

    def tensor(self, value: Any) -> Tensor:
        """A scalar, ``[n]`` or ``[n, ...]`` value, bool or float32, of n rows."""
        tensor = torch.as_tensor(value, device=self.device)
        tensor = tensor if tensor.ndim > 1 else tensor.expand(self.n)
        return tensor if tensor.dtype == torch.bool else tensor.to(torch.float32)

    def column(self, value: Any) -> Any:
        """A scalar, ``[n]`` or ``[n, ...]`` value as a fresh array or tensor of n rows, bool or float32."""
        return self.tensor(value).clone() if self.output == "torch" else self.array(value)

    def array(self, value: Any, dtype: Any = None) -> np.ndarray:
        """Likewise as an array, of a type if told."""
        found = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        array = np.empty((self.n, *found.shape[1:]), dtype or (np.bool_ if found.dtype == np.bool_ else np.float32))
        array[...] = found
        return array
