import numpy as np
import pytest
from PIL import Image

from gar_env.data import load_dataset
from gar_env.errors import (
    ConfigurationError,
    DatasetFormatError,
    DatasetNotFoundError,
)


@pytest.fixture
def folder(tmp_path):
    def add(relative: str, size=(5, 4), colour=(10, 20, 30)):
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
        return tmp_path

    for name in ("cat", "dog"):
        for part in ("train", "test"):
            add(f"{part}/{name}/1.png")
    return add


def test_an_image_folder_is_read(folder):
    found = load_dataset(str(folder("train/dog/2.png")))
    assert found.image_shape == (3, 4, 5)
    assert found.classes == ("cat", "dog")
    assert found.y_train.tolist() == [0, 1, 1]
    assert found.x_train[0, :, 0, 0].tolist() == [10, 20, 30]
    assert found.groups == ()


def test_sub_folders_of_train_are_sources(tmp_path):
    for relative in ("train/web/cat/1.png", "train/lab/cat/1.png", "train/lab/dog/1.png", "test/cat/1.png"):
        path = tmp_path / relative
        path.parent.mkdir(parents=True)
        Image.new("RGB", (5, 4)).save(path)
    found = load_dataset(str(tmp_path))
    assert found.groups == ("lab", "web")
    assert found.group_train is not None
    assert found.group_train.tolist() == [0, 0, 1]
    assert found.y_train.tolist() == [0, 1, 0]


def test_images_of_different_sizes_need_image_size(folder):
    root = str(folder("train/dog/2.png", size=(9, 9)))
    with pytest.raises(DatasetFormatError, match=r"2\.png is 9x9, the first image is 5x4\. Pass image_size="):
        load_dataset(root)
    assert load_dataset(root, image_size=6).image_shape == (3, 6, 6)


def test_a_registered_name_wins_over_a_folder_of_that_name(folder, tmp_path, monkeypatch):
    root = folder("train/dog/2.png")
    root.rename(tmp_path.with_name("digits"))
    monkeypatch.chdir(tmp_path.parent)
    assert load_dataset("digits").image_shape == (1, 8, 8)
    assert load_dataset("./digits").classes == ("cat", "dog")


def test_image_size_goes_with_folders_only():
    with pytest.raises(ConfigurationError, match="image_size=6 goes with an image folder"):
        load_dataset("digits", image_size=6)


def test_a_broken_image_is_named(folder):
    root = folder("train/dog/2.png")
    (root / "train/dog/2.png").write_text("no image")
    with pytest.raises(DatasetFormatError, match=r"2\.png cannot be read as an image"):
        load_dataset(str(root))


def test_folders_without_what_is_needed_say_what_it_looks_like(tmp_path, folder):
    with pytest.raises(DatasetFormatError, match=r"has classes that .* lacks: fox"):
        load_dataset(str(folder("test/fox/1.png")))
    empty = tmp_path / "empty"
    (empty / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DatasetNotFoundError, match=r"test. An image folder looks like root/train"):
        load_dataset(str(empty))
    (empty / "test").mkdir()
    with pytest.raises(DatasetFormatError, match="holds no images"):
        load_dataset(str(empty))


def test_a_folder_that_changed_is_read_again(folder):
    root = str(folder("train/dog/2.png"))
    assert len(load_dataset(root).x_train) == 3
    folder("train/dog/3.png")
    assert len(load_dataset(root).x_train) == 4


def test_hidden_folders_are_no_classes(folder):
    assert load_dataset(str(folder("train/.cache/1.png"))).classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["train/cat/1.png", "train/dog/2.png"])
def test_images_of_16_bits_are_refused_not_clipped(folder, name):
    root = folder("train/dog/2.png")
    Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(root / name)
    with pytest.raises(DatasetFormatError, match="has more than 8 bits a channel"):
        load_dataset(str(root))
