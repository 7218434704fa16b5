"""What a mixture is of: sources of text that are wanted, and two that are not."""

from __future__ import annotations

import sysconfig
from functools import lru_cache
from pathlib import Path

import numpy as np

from gar_env.data import Dataset, token_dataset
from gar_env.errors import ConfigurationError, DatasetFormatError
from gar_env.registry import shown

LENGTH = 96
"""Bytes of a sequence."""

PACKAGES = ("asyncio", "email", "encodings", "multiprocessing", "unittest")
"""Of the standard library: what there is where nothing else is."""

TESTED = 0.1
"""Share of a package's code that is tested on."""

NOISE, BOILERPLATE = "noise", "boilerplate"
UNWANTED = (NOISE, BOILERPLATE)

TESTED_BYTES = 48_000
"""Of each wanted source, at most."""

PHRASE, REPEATS = 2000, 300
"""Bytes of the boilerplate, and how often it is there."""


@lru_cache(maxsize=2)
def mixture_dataset(text: str) -> Dataset:
    """All sources: those of a file, or packages of the standard library; the first one's bytes in random order; and
    some bytes of the last one, again and again. Only the wanted ones are tested on.

    Args:
        text: An ``.npz`` file with arrays ``<source>_train`` and ``<source>_test``, uint8; ``""`` for the standard
            library.

    Raises:
        ConfigurationError: If there is no such file.
        DatasetFormatError: If it holds no sources.
    """
    train, test = _of_file(text) if text else _of_library()
    first, last = next(iter(train.values())), list(train.values())[-1]
    shuffled = np.random.default_rng(0).permutation(first)
    sources = {**train, NOISE: shuffled, BOILERPLATE: np.tile(last[:PHRASE], REPEATS)}
    tested = {name: stream[:TESTED_BYTES] for name, stream in test.items()}
    return token_dataset(sources, tested, length=LENGTH, name="text sources")


def wanted(data: Dataset) -> list[str]:
    """The sources that are tested on."""
    return [name for name in data.groups if name not in UNWANTED]


def _of_file(text: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    path = Path(text)
    if not path.is_file():
        raise ConfigurationError(f"text={shown(text)} is no file. Pass an .npz with <source>_train and <source>_test.")
    with np.load(path, allow_pickle=False) as archive:
        names = [name.removesuffix("_train") for name in archive.files if name.endswith("_train")]
        missing = [name for name in names if f"{name}_test" not in archive.files]
        if len(names) < 2 or missing:
            raise DatasetFormatError(
                f"{path} holds {', '.join(archive.files) or 'nothing'}; expected <source>_train and <source>_test of "
                "two sources at least."
            )
        return (
            {name: archive[f"{name}_train"] for name in names},
            {name: archive[f"{name}_test"] for name in names},
        )


def _of_library() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    train, test = {}, {}
    for package in PACKAGES:
        files = sorted((Path(sysconfig.get_paths()["stdlib"]) / package).rglob("*.py"))
        code = np.frombuffer(b"\n".join(file.read_bytes() for file in files), np.uint8)
        cut = int((1 - TESTED) * len(code))
        train[package], test[package] = code[:cut], code[cut:]
    return train, test
