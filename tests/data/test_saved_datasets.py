"""Text and tokens that Hugging Face's datasets saved to disk."""

from __future__ import annotations

import re

import pytest

from gar_env.data import load_dataset
from gar_env.errors import ConfigurationError, DatasetFormatError

datasets = pytest.importorskip("datasets")


def save(folder, **parts):
    datasets.DatasetDict({name: datasets.Dataset.from_dict(columns) for name, columns in parts.items()}).save_to_disk(
        folder
    )
    return folder


def test_saved_text_is_the_bytes_of_each_source_in_order(tmp_path):
    train = {"text": ["ab", "12", "cdé"], "source": ["letters", "digits", "letters"]}
    folder = save(tmp_path / "saved", train=train, test={"text": ["345"], "source": ["digits"]})
    data = load_dataset(folder, sequence_length=2)
    assert data.groups == ("digits", "letters")
    letters = data.x_train[data.group_train == 1].flatten().tolist()
    assert bytes(letters) == "ab\ncdé\n".encode()[: len(letters)]
    assert data.group_test.tolist() == [0]
    assert data.outputs == 256


def test_saved_ids_are_the_tokenizers_and_labels_of_sources_their_names(tmp_path):
    features = datasets.Features(
        {"input_ids": datasets.List(datasets.Value("int32")), "source": datasets.ClassLabel(names=["web", "books"])}
    )
    rows = {"input_ids": [[5, 900], [3, 7, 900], [1, 0, 8, 8]], "source": [1, 1, 0]}
    part = datasets.Dataset.from_dict(rows, features=features)
    folder = tmp_path / "saved"
    datasets.DatasetDict({"train": part, "validation": part}).save_to_disk(folder)
    data = load_dataset(str(folder), sequence_length=3)
    assert data.groups == ("books", "web")
    assert data.x_train.tolist() == [[5, 900, 3], [1, 0, 8]]
    assert data.y_train.tolist() == [[900, 3, 7], [0, 8, 8]]
    assert data.outputs == 901


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": {"text": ["abcdef"]}}, "has the parts train; expected train, and test or validation"),
        ({"train": {"txt": ["a"]}, "test": {"txt": ["a"]}}, "has the columns txt; expected 'input_ids' or 'text'"),
        ({"train": {"text": [[1]]}, "test": {"text": [[1]]}}, "a row of train has list in 'text'; expected a string"),
        ({"train": {"input_ids": ["a"]}, "test": {"input_ids": ["a"]}}, "expected a list of integers"),
        ({"train": {"text": ["abcdef"]}, "test": {"text": ["a"]}}, "test saved has 2 tokens"),
        ({"train": {"text": []}, "test": {"text": []}}, "cannot be read as saved datasets"),
        (
            {"train": {"input_ids": [[1, 2, 3, 4]]}, "test": {"text": ["abcdef"]}},
            "test has the columns text; expected 'input_ids', as train has",
        ),
        (
            {"train": {"text": ["abcdef", "a"], "source": ["a", None]}, "test": {"text": ["abcdef"]}},
            "row 1 of train has the source None",
        ),
        (
            {"train": {"input_ids": [[1, 2, 3, 2**30]]}, "test": {"input_ids": [[1, 2, 3, 4]]}},
            "the token 1073741824 is of no vocabulary",
        ),
    ],
)
def test_saved_datasets_that_are_no_text_are_refused(tmp_path, parts, message):
    with pytest.raises(DatasetFormatError, match=re.escape(message)):
        load_dataset(save(tmp_path / "saved", **parts), sequence_length=3)


def test_a_damaged_folder_of_saved_datasets_is_refused(tmp_path):
    folder = save(tmp_path / "saved", train={"text": ["abcdef"]}, test={"text": ["abcdef"]})
    next((folder / "train").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(DatasetFormatError, match="cannot be read as saved datasets"):
        load_dataset(folder, sequence_length=3)
    with pytest.raises(ConfigurationError, match="image_size=8 goes with an image folder"):
        load_dataset(folder, image_size=8)


def test_a_row_without_a_label_is_of_no_source(tmp_path):
    """-1 is what a ClassLabel is where there is none, and would be the last class."""
    features = datasets.Features({"text": datasets.Value("string"), "source": datasets.ClassLabel(names=["a", "b"])})
    part = datasets.Dataset.from_dict({"text": ["abcdef"] * 3, "source": [0, 1, -1]}, features=features)
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DatasetFormatError, match="row 2 of train has the source -1"):
        load_dataset(tmp_path / "saved", sequence_length=3)


def test_one_part_alone_is_refused_by_what_it_is(tmp_path):
    datasets.Dataset.from_dict({"text": ["abcdef"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DatasetFormatError, match="is one saved Dataset; expected a DatasetDict"):
        load_dataset(tmp_path / "saved")


def test_a_format_that_was_set_before_does_not_matter(tmp_path):
    parts = {"input_ids": [[5, 9, 3, 7]] * 2, "source": ["a", "b"]}
    part = datasets.Dataset.from_dict(parts).with_format("numpy", columns=["input_ids"])
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "saved")
    assert load_dataset(tmp_path / "saved", sequence_length=3).groups == ("a", "b")
