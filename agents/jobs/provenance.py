"""What a row was had with, and what tells one configuration from another."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from agents.jobs.results import Row
from gar_env.data import Dataset, load_dataset


def fingerprint(value: Any) -> str:
    """Twelve hexadecimal digits that differ when a configuration differs.

    Example:
        >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


@lru_cache(maxsize=4)
def data_fingerprint(dataset: str) -> str:
    """Tells one data set from another, whatever its file is called."""
    return fingerprint_of(load_dataset(dataset))


def fingerprint_of(data: Dataset) -> str:
    """Likewise, of a data set that is there."""
    arrays = [data.x_train, data.y_train, data.x_test, data.y_test]
    if data.group_train is not None:
        arrays.append(data.group_train)
    digests = [hashlib.sha256(array.contiguous().numpy()).hexdigest() for array in arrays]  # pyright: ignore[reportArgumentType]
    return fingerprint([digests, [list(array.shape) for array in arrays], list(data.classes), list(data.groups)])


def provenance() -> Row:
    """Commit, versions and hardware, for the end of each row."""
    return {
        "commit": _commit(),
        "machine": f"{_processor()}, {os.cpu_count()} cores"
        + (f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _commit() -> str:
    try:
        folder = Path(__file__).parent
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
