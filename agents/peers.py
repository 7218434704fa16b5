"""Several processes that learn one policy together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gar_env.errors import ConfigurationError, DistributedError


class Peers:
    """The processes of ``torch.distributed``, or this one alone.

    Args:
        distributed: Whether there are others.
        timeout: Seconds that this process waits for them.

    Raises:
        ConfigurationError: If there is no process group.
    """

    def __init__(self, *, distributed: bool, timeout: float) -> None:
        if distributed and not dist.is_initialized():
            raise ConfigurationError(
                "distributed=True without a process group. Start with torchrun, and call "
                "torch.distributed.init_process_group first."
            )
        self.timeout = timeout
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)

    def check_alike(self, numbers: dict[str, int], device: torch.device) -> None:
        """Refuse processes that differ: what is reduced later has one shape.

        Args:
            numbers: What must be the same in all, by its name in words.
            device: Where they reduce.

        Raises:
            ConfigurationError: With what differs.
        """
        mine = torch.tensor(list(numbers.values()), device=device)
        largest, smallest = self.largest(mine), -self.largest(-mine)
        if not torch.equal(largest, smallest):
            pairs = zip(numbers, smallest.tolist(), largest.tolist(), strict=True)
            odd = [f"{low} to {high} {name}" for name, low, high in pairs if low != high]
            raise ConfigurationError(f"The processes differ: {', '.join(odd)}. Start all of them alike.")

    def summed(self, tensor: Tensor) -> Tensor:
        """Over all processes.

        Raises:
            DistributedError: If another process died, or did not answer in time.
        """
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def largest(self, tensor: Tensor) -> Tensor:
        """Likewise, entry by entry."""
        return self._reduced(tensor, dist.ReduceOp.MAX)

    def _reduced(self, tensor: Tensor, op: Any) -> Tensor:
        if self.world == 1:
            return tensor
        tensor = tensor.clone()
        try:
            work = dist.all_reduce(tensor, op=op, async_op=True)
            assert work is not None
            work.wait(timedelta(seconds=self.timeout))
        except RuntimeError as error:
            raise DistributedError(
                f"Process {self.rank} of {self.world} waited for the others, and one of them died, or did not answer "
                f"within {self.timeout:g} s: {next(iter(str(error).splitlines()), '')} Look at what the others said "
                "first; a slow one needs a larger timeout."
            ) from error
        return tensor
