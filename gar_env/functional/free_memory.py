"""How much memory there is left."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch


def free_memory(device: torch.device | None = None) -> int:
    """Bytes that can still be taken, as far as the system says; else no limit.

    Args:
        device: A GPU, or the machine's own memory.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _cached()
    except (ValueError, OSError, AttributeError):
        return sys.maxsize


def _cached() -> int:
    """Memory that holds copies of files, and is given back when it is asked for."""
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(facts["Cached"].split()[0])
    except (OSError, KeyError, ValueError):
        return 0
