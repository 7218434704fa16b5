"""One seed, many named generators; torch's global generators are left as they were found."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from gar_env.errors import DeviceError

# initialisation: the network's first parameters      labels: who is in which split, corruptions
# data: which examples a batch draws                   network: dropout and other randomness in forward
STREAMS = ("initialisation", "labels", "data", "network")


def named_generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose. Different names give independent streams for the same seed.

    Args:
        seed: A non-negative integer.
        name: The purpose, for example one of :data:`STREAMS`.
        device: Where the numbers will be drawn.
    """
    # crc32, not hash(): hash() of a string differs between processes, and then no run could be repeated.
    sequence = np.random.SeedSequence(seed, spawn_key=(zlib.crc32(name.encode()),))
    return torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


@contextmanager
def lend_to_global(generator: torch.Generator) -> Iterator[None]:
    """Run code that draws from torch's global generator (initialisers, dropout) on ``generator`` instead.

    The generator advances; the global one is put back as it was, also after an exception.
    """
    if generator.device.type == "cuda":
        default = torch.cuda.default_generators[generator.device.index or 0]
    elif generator.device.type == "cpu":
        default = torch.default_generator
    else:
        raise DeviceError(f"Device {generator.device} has no global generator to lend to. Use the CPU or CUDA.")
    before = default.get_state()
    default.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(default.get_state())
        default.set_state(before)


@contextmanager
def replay_global(state: torch.Tensor, device: torch.device) -> Iterator[None]:
    """Run code on a copy of the global generator's earlier ``state`` (see :func:`global_state`)."""
    generator = torch.Generator(device)
    generator.set_state(state)
    with lend_to_global(generator):
        yield


def global_state(device: torch.device) -> torch.Tensor:
    """The state of torch's global generator on ``device``, to be replayed later."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()
