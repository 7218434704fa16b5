"""Text, or any tokens, in several sources: cut into sequences of one length, each token told the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gar_env.data.dataset import Dataset
from gar_env.data.image_files import walk
from gar_env.errors import ConfigurationError, DatasetFormatError, DatasetNotFoundError
from gar_env.registry import shown

LAYOUT = "root/train/<source>/* and root/test/<source>/*, files of text"
LENGTH = 128
"""Tokens of a sequence, if nothing is said."""

BYTES = tuple(str(byte) for byte in range(256))


def token_dataset(
    train: Mapping[str, bytes | np.ndarray | Tensor],
    test: Mapping[str, bytes | np.ndarray | Tensor],
    *,
    length: int = LENGTH,
    vocabulary: Sequence[str] | int = BYTES,
    name: str = "tokens",
) -> Dataset:
    """Sequences for a model of the next token, from one long stream of tokens for each source.

    Sequences follow each other without overlap; what is left at the end of a stream is dropped.

    Args:
        train: By source: bytes, or integers ``[m]``, a tokenizer's.
        test: Likewise; of any of these sources.
        length: T, tokens of a sequence; a stream needs one more.
        vocabulary: A name for each token, or how many there are; bytes by default.
        name: Of the data set.

    Returns:
        Inputs and targets int64 ``[n, T]``, a target the token after; ``group_train`` and ``group_test`` say which
        source a sequence is of.

    Raises:
        DatasetFormatError: If a stream is shorter than a sequence and a token, or a token is outside the vocabulary.
        ConfigurationError: If ``length`` is out of range.

    Example:
        >>> data = token_dataset({"a": b"abcabcabc", "b": b"xyzxyz"}, {"a": b"abca"}, length=3)
        >>> data.x_train[0].tolist(), data.y_train[0].tolist(), data.group_train.tolist()
        ([97, 98, 99], [98, 99, 97], [0, 0, 1])
    """
    if type(length) is not int or length < 1:
        raise ConfigurationError(f"length={shown(length)} must be at least 1, and a whole number of tokens.")
    classes = tuple(map(str, range(vocabulary))) if isinstance(vocabulary, int) else tuple(vocabulary)
    sources = tuple(train)
    strange = [source for source in test if source not in train]
    if not train or not test or strange:
        found = f"tests of {strange[0]!r}, which is not trained on" if train and strange else "no source"
        raise DatasetFormatError(f"{name} has {found}. Pass a stream of tokens for each source, to train and to test.")
    parts = {
        part: [_sequences(f"{part} {source}", stream, length, len(classes), name) for source, stream in streams.items()]
        for part, streams in (("train", train), ("test", test))
    }
    groups = {
        part: torch.cat(
            [torch.full((len(x),), sources.index(source)) for source, (x, _) in zip(streams, parts[part], strict=True)]
        )
        for part, streams in (("train", train), ("test", test))
    }
    x_train, y_train = (torch.cat(tensors) for tensors in zip(*parts["train"], strict=True))
    x_test, y_test = (torch.cat(tensors) for tensors in zip(*parts["test"], strict=True))
    return Dataset(name, x_train, y_train, x_test, y_test, classes, groups["train"], sources, group_test=groups["test"])


def _sequences(where: str, stream: bytes | np.ndarray | Tensor, length: int, tokens: int, name: str):
    if isinstance(stream, bytes | bytearray):
        stream = np.frombuffer(bytes(stream), np.uint8)
    if not isinstance(stream, np.ndarray | Tensor):
        raise DatasetFormatError(
            f"{name}: {where} is {type(stream).__name__}; expected bytes, or integers [m] of a tokenizer. Of text, "
            "pass text.encode()."
        )
    values = torch.as_tensor(np.array(stream) if isinstance(stream, np.ndarray) else stream)
    if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool:
        raise DatasetFormatError(f"{name}: {where} is {values.dtype} {list(values.shape)}; expected integers [m].")
    values = values.to(torch.int64)
    count = (len(values) - 1) // length
    if count < 1:
        raise DatasetFormatError(
            f"{name}: {where} has {len(values)} tokens, and a sequence takes {length} and the one after. Use a smaller "
            "length, or leave the source out."
        )
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= tokens:
        raise DatasetFormatError(
            f"{name}: {where} has tokens from {low} to {high}, and the vocabulary has {tokens}: 0..{tokens - 1}."
        )
    return values[: count * length].view(count, length), values[1 : count * length + 1].view(count, length)


def load_text_folder(root: str | Path, length: int = LENGTH) -> Dataset:
    """Read ``root/train/<source>/*`` and ``root/test/<source>/*`` as bytes, all files of a source behind each other.

    Args:
        root: Its sub-folders of ``train`` are the sources; hidden files are left out.
        length: Bytes of a sequence.

    Raises:
        DatasetNotFoundError: If a folder is not there.
        DatasetFormatError: As :func:`token_dataset`; or if files lie beside the sources.
    """
    root = Path(root)
    streams: dict[str, dict[str, bytes]] = {}
    for part in ("train", "test"):
        folder = root / part
        if not folder.is_dir():
            raise DatasetNotFoundError(f"No folder at {folder}. A folder of text looks like {LAYOUT}.")
        files = [file for _, some in walk(folder) for file in some]
        beside = [file for file in files if file.parent == folder]
        if beside or not files:
            found = f"{beside[0]} lies in no source" if beside else f"{folder} holds no files"
            raise DatasetFormatError(f"{found}. A folder of text looks like {LAYOUT}.")
        named: dict[str, list[bytes]] = {}
        for file in files:
            named.setdefault(file.relative_to(folder).parts[0], []).append(file.read_bytes())
        streams[part] = {source: b"\n".join(some) for source, some in sorted(named.items())}
    return token_dataset(streams["train"], streams["test"], length=length, name=root.name)
