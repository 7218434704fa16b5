"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # cases.py and oracles.py
torch.set_num_threads(1)  # the tensors are small; threads would only wait for each other


def pytest_make_parametrize_id(val) -> str | None:
    """Names that are the same in every process: functions without their addresses."""
    return getattr(val, "__name__", type(val).__name__) if callable(val) else None


@pytest.fixture(autouse=True)
def seeded():
    """Tests may draw from the global generator; they draw the same each time."""
    torch.manual_seed(1234)


@pytest.fixture(scope="session")
def cifar10_path(tmp_path_factory) -> str:
    """An .npz of 4,000 + 1,000 real CIFAR-10 images, or a skip that says what is missing."""
    return unpacked_cifar10(tmp_path_factory.mktemp("cifar10"), train=4000, test=1000)


@pytest.fixture(scope="session")
def larger_cifar10_path(tmp_path_factory) -> str:
    """An .npz of 5,000 + 1,000, likewise."""
    return unpacked_cifar10(tmp_path_factory.mktemp("cifar10"), train=5000, test=1000)


def unpacked_cifar10(folder: Path, **counts: int) -> str:
    packed = os.environ.get("GAR_ENV_TEST_CIFAR10", "../shared/data/cifar10_jpeg.npz")
    path = Path(__file__).parents[1] / packed
    if not path.is_file():
        pytest.skip("no CIFAR-10 here: set GAR_ENV_TEST_CIFAR10 to a file of JPEG-packed CIFAR-10")
    import io

    from PIL import Image

    archive, arrays = np.load(path), {}
    for split, count in counts.items():
        files, bounds = archive[f"jpeg_{split}"], archive[f"offset_{split}"]
        step = (len(bounds) - 1) // count  # evenly over the file, so that all classes are there
        arrays[f"x_{split}"] = np.stack(
            [
                np.asarray(Image.open(io.BytesIO(files[bounds[i] : bounds[i + 1]].tobytes())))
                for i in range(0, step * count, step)
            ]
        )
        arrays[f"y_{split}"] = archive[f"y_{split}"][: step * count : step].astype(np.int64)
    out = folder / "cifar10.npz"
    np.savez(out, **arrays)
    return str(out)
