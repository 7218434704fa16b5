"""Tokens in sources: sequences, folders, archives."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from gar_env.data import load_dataset, token_dataset
from gar_env.errors import ConfigurationError, DatasetFormatError, DatasetNotFoundError

A, B = b"the quick brown fox ", b"0123456789"


def test_each_token_is_told_the_next_and_none_twice():
    data = token_dataset({"a": A * 3, "b": B}, {"b": B}, length=4)
    text = "".join(chr(int(token)) for token in data.x_train[data.group_train == 0].flatten())
    assert text == (A * 3)[: len(text)].decode()
    assert len(text) == 4 * ((len(A) * 3 - 1) // 4)
    after = "".join(chr(int(token)) for token in data.y_train[data.group_train == 0].flatten())
    assert after == (A * 3)[1 : len(text) + 1].decode()
    assert data.groups == ("a", "b")
    assert data.group_test.tolist() == [1, 1]
    assert (data.loss, data.outputs) == ("token_cross_entropy", 256)


@pytest.mark.parametrize("kind", [np.uint16, np.int64, torch.int32])
def test_ids_of_any_tokenizer_go_in(kind):
    ids = [5, 900, 3, 7, 900, 1, 0]
    stream = torch.tensor(ids, dtype=kind) if isinstance(kind, torch.dtype) else np.array(ids, kind)
    data = token_dataset({"a": stream}, {"a": stream}, length=3, vocabulary=1000)
    assert data.x_train.tolist() == [[5, 900, 3], [7, 900, 1]]
    assert data.y_train.tolist() == [[900, 3, 7], [900, 1, 0]]
    assert data.outputs == 1000


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ({"a": b"abcd"}, {"length": 4}, "train a has 4 tokens, and a sequence takes 4 and the one after"),
        ({"a": np.array([1, 2, 300, 4])}, {"length": 2}, "tokens from 1 to 300, and the vocabulary has 256: 0..255"),
        ({"a": np.array([1, -2, 3, 4])}, {"length": 2}, "tokens from -2 to 4"),
        ({"a": np.ones(9)}, {"length": 2}, "train a is torch.float64 [9]; expected integers [m]"),
        ({"a": np.ones((3, 3), int)}, {"length": 2}, "train a is torch.int64 [3, 3]"),
        ({"a": "text"}, {"length": 2}, "train a is str; expected bytes, or integers [m] of a tokenizer"),
        ({}, {"length": 2}, "no source"),
        ({"b": b"abcdef"}, {"length": 2}, "tests of 'a', which is not trained on"),
    ],
)
def test_streams_that_are_none_are_refused(train, options, message):
    with pytest.raises(DatasetFormatError, match=re.escape(message)):
        token_dataset(train, {"a": b"abcdef"}, **options)


def test_a_length_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match="length=0 must be at least 1"):
        token_dataset({"a": A}, {"a": A}, length=0)


@pytest.fixture
def folder(tmp_path):
    for part in ("train", "test"):
        for source, text in (("english", A), ("digits", B)):
            (tmp_path / part / source / "deeper").mkdir(parents=True)
            (tmp_path / part / source / "one.txt").write_bytes(text * 2)
            (tmp_path / part / source / "deeper" / "two.md").write_bytes(text)
    return tmp_path


def test_a_folder_of_text_is_read_by_source(folder):
    data = load_dataset(folder, sequence_length=5)
    assert data.groups == ("digits", "english")
    digits = bytes(data.x_train[data.group_train == 0].flatten().tolist())
    whole = B * 2 + b"\n" + B
    assert digits == whole[: len(digits)]
    assert load_dataset(folder, sequence_length=5) is data
    assert load_dataset(folder, sequence_length=6).input_shape == (6,)
    (folder / "train" / "digits" / "one.txt").write_bytes(b"edited text, of another length")
    assert load_dataset(folder, sequence_length=5).fingerprint != data.fingerprint


def test_folders_of_text_that_are_none_say_why(folder, tmp_path):
    with pytest.warns(UserWarning, match="are no images"), pytest.raises(DatasetFormatError, match="Of text, pass seq"):
        load_dataset(folder)
    (folder / "train" / "beside.txt").write_bytes(A)
    with pytest.raises(DatasetFormatError, match=r"beside.txt lies in no source. A folder of text looks"):
        load_dataset(folder, sequence_length=5)
    (tmp_path / "other" / "train" / "a").mkdir(parents=True)
    with pytest.raises(DatasetFormatError, match="train holds no files"):
        load_dataset(tmp_path / "other", sequence_length=5)
    (tmp_path / "other" / "train" / "a" / "x").write_bytes(A)
    with pytest.raises(DatasetNotFoundError, match=r"No folder at .*test"):
        load_dataset(tmp_path / "other", sequence_length=5)
    with pytest.raises(ConfigurationError, match="goes with a folder of text, and 'digits' is no folder"):
        load_dataset("digits", sequence_length=5)


def test_an_archive_names_the_sources_of_its_tests(tmp_path):
    tokens = np.arange(24).reshape(6, 4) % 7
    arrays = {"x_train": tokens, "y_train": tokens, "x_test": tokens[:2], "y_test": tokens[:2]}
    own = np.array(["b", "a", "a", "c", "b", "b"])
    np.savez(tmp_path / "text.npz", **arrays, group_train=own, group_test=np.array(["c", "a"]))
    data = load_dataset(str(tmp_path / "text.npz"))
    assert [data.groups[i] for i in data.group_test.tolist()] == ["c", "a"]
    np.savez(tmp_path / "odd.npz", **arrays, group_train=own, group_test=np.array(["c", "d"]))
    with pytest.raises(DatasetFormatError, match=r"group_test names 'd', which no training example is of\. Known: a"):
        load_dataset(str(tmp_path / "odd.npz"))
