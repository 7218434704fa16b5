"""What held-out batches are drawn from: shares of sources, or a sample of one's own."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from gar_env.data import Dataset, load_dataset, make_pool, make_splits, read_target, token_dataset
from gar_env.errors import ConfigurationError, DatasetNotFoundError
from gar_env.seeding import named_generator


@pytest.fixture
def sources() -> Dataset:
    digits = load_dataset("digits")
    group = torch.arange(len(digits.x_train)) % 3
    return replace(digits, name="sources", group_train=group, groups=("a", "b", "c (old)"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a(0.2)", {"a": 0.2}),
        ("a, b(.5)", {"a": 0.1, "b": 0.5}),
        ("each(0.05)", {"a": 0.05, "b": 0.05, "c (old)": 0.05}),
        ("each(0.05), b(0.2)", {"a": 0.05, "b": 0.2, "c (old)": 0.05}),
        ("c (old)(0.3)", {"c (old)": 0.3}),
    ],
)
def test_sources_are_read_with_their_shares(sources, text, expected):
    found = read_target(text, sources)
    assert found.shares == expected
    assert found.dataset is None


@pytest.mark.parametrize("make", [make_pool, lambda *a, **k: make_splits(*a, kind="group", **k)])
def test_shares_of_sources_are_put_aside_and_no_others(sources, make):
    pool = make(sources, named_generator(3, "labels"), target_shares={"a": 0.25, "c (old)": 0.1})
    counts = sources.group_train.bincount()
    expected = [int(0.25 * counts[0]), 0, int(0.1 * counts[2])]
    assert sources.group_train[pool.heldout].bincount(minlength=3).tolist() == expected
    assert sorted(torch.cat([pool.heldout, pool.members]).tolist()) == list(range(len(sources.x_train)))
    again = make(sources, named_generator(4, "labels"), target_shares={"a": 0.25, "c (old)": 0.1})
    assert set(again.heldout.tolist()) != set(pool.heldout.tolist())


def test_a_sample_of_ones_own_is_loaded(sources, tmp_path):
    digits = load_dataset("digits")
    path = tmp_path / "sample.npz"
    images, labels = digits.x_test[:40, 0].numpy(), digits.y_test[:40].numpy()
    np.savez(path, x_train=images, y_train=labels, x_test=images[:1], y_test=labels[:1])
    found = read_target(str(path), sources)
    assert found.shares == {}
    assert found.dataset is not None
    assert torch.equal(found.dataset.x_train, digits.x_test[:40])


def test_an_overlap_with_the_training_data_is_said(sources):
    common = sources.taking(torch.arange(7))
    sample = replace(common, name="sample", x_train=torch.cat([common.x_train, sources.x_test[:5]]),
                     y_train=torch.cat([common.y_train, sources.y_test[:5]]), group_train=None, groups=())  # fmt: skip
    with pytest.warns(UserWarning, match="7 of 12 examples of target sample are in the training data of sources"):
        read_target(sample, sources)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("a, nobody", "'nobody' must be a source of sources, once"),
        ("a, a", "'a' must be a source of sources, once"),
        ("a(1)", "with a share above 0 and below 1. Known: a, b, c (old), each"),
        ("a(10%)", "'a(10%)' has no share that can be read. Write 'name(0.1)'"),
        ("b(1e-3), a", "'b(1e-3)' has no share that can be read"),
        (" ", "target is empty"),
        ("nobody(0.1)", "names no source of sources, which has a, b, c (old)"),
    ],
)
def test_sources_that_are_none_are_refused(sources, target, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read_target(target, sources)


def test_a_path_that_leads_nowhere_and_shares_of_no_source_are_refused(sources):
    with pytest.raises(DatasetNotFoundError, match="Nothing at"):
        read_target("nowhere/sample.npz", sources)
    with pytest.raises(ConfigurationError, match="takes a share of each source, and digits has none"):
        read_target("each(0.1)", load_dataset("digits"))
    with pytest.raises(ConfigurationError, match=re.escape("0.001 of the 479 examples of a is none")):
        make_pool(sources, named_generator(0, "labels"), target_shares={"a": 0.001})


def test_other_data_are_refused(sources):
    digits = load_dataset("digits")
    vectors = Dataset("vectors", torch.rand(9, 64), digits.y_train[:9], torch.rand(2, 64), digits.y_test[:2],
                      digits.classes)  # fmt: skip
    renamed = replace(digits, name="renamed", classes=("zero", *digits.classes[1:]))
    more = replace(digits, name="more", classes=(*digits.classes, "ten"),
                   y_train=torch.where(torch.arange(len(digits.y_train)) == 0, 10, digits.y_train))  # fmt: skip
    for sample, message in (
        (vectors, "target vectors has inputs torch.float32 [64] an example, and the training data sources torch.uint8"),
        (renamed, "target renamed has a class 'zero', which the training data sources has not"),
        (more, "target more has labels up to 10, and the training data sources 10 classes"),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            read_target(sample, sources)


def test_classes_are_numbered_by_their_names(sources):
    """A sample of two of the classes, in another order."""
    some = [7, 3]
    rows = torch.cat([(sources.y_test == label).nonzero().flatten()[:4] for label in some])
    y = torch.tensor([some.index(int(label)) for label in sources.y_test[rows]])
    sample = Dataset("sample", sources.x_test[rows], y, sources.x_test[:1], y[:1], ("7", "3"))
    found = read_target(sample, sources).dataset
    assert found is not None
    assert torch.equal(found.y_train, sources.y_test[rows])
    assert found.classes == sources.classes


def test_folders_are_loaded_as_the_training_data_are(tmp_path):
    for root, text in (("mine", b"abcdefghij" * 9), ("sample", b"0123456789" * 9)):
        for part in ("train", "test"):
            for source in ("a", "b"):
                (tmp_path / root / part / source).mkdir(parents=True)
                (tmp_path / root / part / source / "text.txt").write_bytes(text)
    data = load_dataset(str(tmp_path / "mine"), sequence_length=8)
    found = read_target(str(tmp_path / "sample"), data, of_folders={"sequence_length": 8, "image_size": None})
    assert found.dataset is not None
    assert found.dataset.input_shape == (8,)


def test_vocabularies_in_another_order_are_refused():
    streams, words = {"a": torch.arange(12) % 3, "b": torch.arange(12) % 3}, ("x", "y", "z")
    data = token_dataset(streams, streams, length=4, vocabulary=words)
    with pytest.raises(ConfigurationError, match="numbers the vocabulary of tokens in another order"):
        read_target(token_dataset(streams, streams, length=4, vocabulary=words[::-1], name="sample"), data)
