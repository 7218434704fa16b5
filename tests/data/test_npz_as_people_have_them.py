"""Archives as people have them: damaged, encrypted, with more in them than belongs there. Read right, or named."""

from __future__ import annotations

import time
import zipfile

import numpy as np
import pytest

from gar_env.data import load_dataset
from gar_env.errors import DatasetFormatError


def arrays(**changes):
    whole = {
        "x_train": np.zeros((12, 4, 5, 3), np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": np.zeros((6, 4, 5, 3), np.uint8),
        "y_test": np.arange(6) % 3,
    }
    return whole | changes


def rewritten(path, change):
    """The archive with each member's bytes changed, uncompressed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def claims(shape):
    def change(name, content):
        if name != "x_train.npy":
            return content
        old = b"'shape': (12, 4, 5, 3), "
        new = f"'shape': {shape}, ".encode()
        start = content.index(old)
        end = content.index(b"\n")
        header = content[10:start] + new + content[start + len(old) : end].rstrip()
        return content[:10] + header.ljust(end - 10) + content[end:]

    return change


def flag_encrypted(path):
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content[at + offset] |= 1
    path.write_bytes(content)


def unknown_compression(path):
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content[at + offset] = 97
    path.write_bytes(content)


NPZ_DAMAGE = {
    "encrypted": flag_encrypted,
    "unknown compression": unknown_compression,
    "claims more than it holds": lambda path: rewritten(path, claims((10**9, 4, 5, 3))),
    "claims 10**30 numbers": lambda path: rewritten(path, claims((10**30, 4, 5, 3))),
    "deep header": lambda path: rewritten(
        path, lambda n, c: c[:8] + b"\xff\xff" + b"(" * 65535 if n == "x_train.npy" else c
    ),
    "no array": lambda path: rewritten(path, lambda n, c: b"hello" if n == "x_train.npy" else c),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:300]),
}


@pytest.mark.parametrize("damage", NPZ_DAMAGE)
def test_a_damaged_npz_is_named_at_once(tmp_path, damage):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays())
    NPZ_DAMAGE[damage](path)
    start = time.monotonic()
    with pytest.raises(DatasetFormatError, match=r"mine\.npz cannot be read as an \.npz file of plain arrays"):
        load_dataset(str(path))
    assert time.monotonic() - start < 2


def test_arrays_that_no_data_set_has_are_not_read(tmp_path):
    path = tmp_path / "mine.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays().items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
        with archive.open("extra.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": (500 * 2**20,)}
            )
            for _ in range(500):
                file.write(bytes(2**20))
        archive.writestr("notes.npy", b"an object array, say")
    start = time.monotonic()
    assert len(load_dataset(str(path)).x_train) == 12
    assert time.monotonic() - start < 1


def test_names_may_be_bytes_and_are_never_nan(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays(classes=np.array([b"cat", b"dog", b"eel"]), group_train=np.array([b"web", b"lab"] * 6)))
    found = load_dataset(path)
    assert (found.classes, found.groups) == (("cat", "dog", "eel"), ("lab", "web"))
    np.savez(path, **arrays(group_train=np.array([0.0, np.nan] * 6)))
    with pytest.raises(DatasetFormatError, match="group_train has NaN"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": np.array(["a", "b", "a"])}, "classes has 'a' twice"),
        ({"y_train": np.zeros(12, int), "y_test": np.zeros(6, int)}, "there is 1 class"),
        ({"x_train": np.zeros((12, 0, 5, 3), np.uint8), "x_test": np.zeros((6, 0, 5, 3), np.uint8)}, "no pixels"),
    ],
)
def test_data_that_nothing_can_be_learned_from_are_refused(tmp_path, changes, message):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(DatasetFormatError, match=message):
        load_dataset(str(path))
