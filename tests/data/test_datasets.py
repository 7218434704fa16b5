import gzip
import threading
import urllib.error

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision

from gar_env.data import Dataset, builtin, load_dataset, normalisation
from gar_env.errors import (
    DatasetFormatError,
    DatasetNotFoundError,
    DownloadError,
    UnknownNameError,
)
from gar_env.seeding import TURNS


def arrays(**changes):
    rng = np.random.default_rng(0)
    whole = {
        "x_train": rng.integers(256, size=(12, 4, 5, 3), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": rng.integers(256, size=(6, 4, 5, 3), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


@pytest.fixture
def save(tmp_path):
    def save(**changes) -> str:
        path = tmp_path / "mine.npz"
        np.savez(path, **arrays(**changes))
        return str(path)

    return save


def test_digits_are_embedded():
    digits = load_dataset("digits")
    assert (len(digits.x_train), len(digits.x_test)) == (1437, 360)
    assert digits.image_shape == (1, 8, 8)
    assert int(digits.x_train.max()) == 255
    assert digits.y_test.bincount().min() > 20
    assert load_dataset("digits") is digits, "a second environment would hold a second copy"


def test_an_npz_is_read_with_channels_first(save):
    found = load_dataset(save())
    assert found.image_shape == (3, 4, 5)
    torch.testing.assert_close(found.x_train, torch.from_numpy(arrays()["x_train"]).permute(0, 3, 1, 2))
    assert found.classes == ("0", "1", "2")
    assert found.name == "mine"


def test_gray_images_groups_and_class_names_are_read(save):
    found = load_dataset(
        save(
            x_train=np.zeros((12, 4, 5), np.uint8),
            x_test=np.zeros((6, 4, 5), np.uint8),
            group_train=np.array(["web", "lab", "lab"] * 4),
            classes=np.array(["a", "b", "c", "d"]),
        )
    )
    assert found.image_shape == (1, 4, 5)
    assert found.groups == ("lab", "web")
    assert found.group_train is not None
    assert found.group_train.tolist() == [1, 0, 0] * 4
    assert found.classes == ("a", "b", "c", "d")


def test_a_changed_file_is_read_again(save):
    first = load_dataset(save())
    second = load_dataset(save(y_train=np.zeros(12, np.int64)))
    assert first.y_train.sum() != second.y_train.sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None, "y_test": None}, r"lacks x_test, y_test; it holds x_train, y_train\."),
        ({"x_train": np.zeros((12, 4, 5, 3), np.float32)}, r"x_train must be uint8 .* found float32 \[12, 4, 5, 3\]"),
        ({"x_train": np.zeros((12, 3, 4, 5), np.uint8)}, r"channels; found uint8 \[12, 3, 4, 5\].*channels last"),
        (
            {"x_train": np.zeros((12, 8, 8, 3), np.uint8)},
            r"training images are \[3, 8, 8\] and test images \[3, 4, 5\]",
        ),
        ({"y_train": np.zeros(11, np.int64)}, r"y_train must be int64 \[12\], one per image; found torch.int64 \[11\]"),
        ({"y_train": np.zeros(12)}, r"y_train is torch.float32 \[12, 1\] and y_test torch.int64"),
        ({"y_train": np.arange(12) % 3 - 1}, r"y_train has values from -1 to 1"),
        (
            {"y_train": np.where(np.arange(12) == 5, 5000, np.arange(12) % 3)},
            "labels go up to 5000, but only 4 different",
        ),
        (
            {"y_test": np.full(6, 7), "classes": np.array(["a", "b", "c"])},
            r"y_test has values from 7 to 7, but there are 3",
        ),
        ({"group_train": np.zeros(3)}, r"group_train must be int64 \[12\]"),
        ({"x_train": np.zeros((0, 4, 5, 3), np.uint8), "y_train": np.zeros(0, np.int64)}, "x_train holds no images"),
    ],
)
def test_an_npz_that_does_not_fit_says_why(save, changes, message):
    with pytest.raises(DatasetFormatError, match=message):
        load_dataset(save(**changes))


def test_a_file_that_is_no_npz_says_so(tmp_path):
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(DatasetFormatError, match=r"cannot be read as an .npz file of plain arrays"):
        load_dataset(str(tmp_path / "text.npz"))


def test_a_truncated_npz_says_so(save):
    path = save()
    with open(path, "rb+") as file:
        file.truncate(200)
    with pytest.raises(DatasetFormatError, match=r"cannot be read as an .npz"):
        load_dataset(path)


def test_pickled_objects_in_an_npz_are_refused_not_run(save):
    with pytest.raises(DatasetFormatError, match="plain arrays"):
        load_dataset(save(y_train=np.array([{"a": 1}] * 12, dtype=object)))


@pytest.mark.parametrize("name", ["no/such/file.npz", "missing.npz", "no/such/folder"])
def test_a_path_that_leads_nowhere_says_so(name):
    with pytest.raises(DatasetNotFoundError, match=f"Nothing at {name}"):
        load_dataset(name)


def test_an_unknown_name_suggests_one():
    with pytest.raises(UnknownNameError, match=r"No data set is called 'cifar11'. Did you mean 'cifar10'\?"):
        load_dataset("cifar11")


# torchvision


def test_data_that_are_not_there_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("GAR_ENV_DATA", str(tmp_path))
    monkeypatch.setattr(builtin, "DEBIAN_FASHION", tmp_path / "nowhere")
    for name in ("cifar10", "cifar100", "fashion_mnist", "svhn"):
        with pytest.raises(DatasetNotFoundError, match=f"{name} is not in .*Pass download=True"):
            load_dataset(name)


def test_fashion_mnist_is_read_from_debians_package(tmp_path, monkeypatch):
    monkeypatch.setenv("GAR_ENV_DATA", str(tmp_path))
    monkeypatch.setattr(builtin, "DEBIAN_FASHION", tmp_path)
    images = np.arange(12 * 28 * 28).astype(np.uint8).reshape(12, 28, 28)
    for part, count in (("train", 12), ("t10k", 5)):
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(i % 10 for i in range(count))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images[:count].tobytes()))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    data = builtin.fashion_mnist()
    assert torch.equal(data.x_train, torch.from_numpy(images)[:, None])
    assert data.y_test.tolist() == [0, 1, 2, 3, 4]
    assert data.classes[0] == "T-shirt/top"
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(DatasetFormatError, match=r"t10k-labels-idx1-ubyte\.gz cannot be read as images or labels"):
        builtin.fashion_mnist()


@pytest.mark.parametrize("error", [urllib.error.URLError("no route to host"), RuntimeError("Error downloading x")])
def test_a_missing_network_says_what_to_do(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setenv("GAR_ENV_DATA", str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(DownloadError, match=r"cifar10 could not be downloaded .*or pass dataset='path/to.npz'"):
        load_dataset("cifar10", download=True)


def test_torchvisions_layouts_become_channels_first(monkeypatch):
    class FakeSVHN:
        def __init__(self, root, split, download):
            self.data = np.zeros((3 if split == "train" else 2, 3, 32, 32), np.uint8)
            self.labels = np.arange(len(self.data))

    class FakeMNIST:
        classes = ("a", "b", "c")

        def __init__(self, root, train, download):
            self.data = torch.zeros(3 if train else 2, 28, 28, dtype=torch.uint8)
            self.targets = torch.arange(len(self.data))

    monkeypatch.setattr(torchvision.datasets, "SVHN", FakeSVHN)
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", FakeMNIST)
    from gar_env.data.builtin import fashion_mnist, svhn

    assert svhn().image_shape == (3, 32, 32)
    assert fashion_mnist().image_shape == (1, 28, 28)
    assert fashion_mnist().classes == ("a", "b", "c")


# What networks see


@pytest.mark.parametrize(("scaling", "low", "high"), [("unit", 0, 1), ("symmetric", -1, 1)])
def test_scalings_have_their_range(scaling, low, high):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    inputs = normalisation(images, scaling)(images)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close((inputs.min(), inputs.max()), (torch.tensor(float(low)), torch.tensor(float(high))))


def test_standardised_inputs_have_mean_0_and_deviation_1_per_channel():
    images = torch.randint(40, 90, (50, 3, 4, 4), dtype=torch.uint8)
    inputs = normalisation(images, "standardised")(images)
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_constant_images_standardise_to_something_finite():
    images = torch.full((5, 1, 2, 2), 7, dtype=torch.uint8)
    assert normalisation(images, "standardised")(images).isfinite().all()


def test_a_data_set_refuses_what_does_not_fit():
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(
        DatasetFormatError,
        match=r"training images are torch.uint8 \[1, 2, 2\] and test",
    ):
        Dataset("mine", images, labels, images.float(), labels, ("a",))


def test_threads_of_a_pass_that_has_its_turn_may_ask_for_data_that_are_in_memory():
    load_dataset("digits")
    found = []
    with TURNS:
        thread = threading.Thread(target=lambda: found.append(load_dataset("digits")), daemon=True)
        thread.start()
        thread.join(20)
    assert len(found) == 1


def test_threads_that_ask_at_once_share_one_copy(save):
    path, found, barrier = save(), [], threading.Barrier(6)

    def ask() -> None:
        barrier.wait()
        found.append(load_dataset(path))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len({id(data) for data in found}) == 1


def test_omniglot_is_scaled_down_by_area_with_ink_in_white_and_no_character_in_both_parts(monkeypatch):
    class FakeOmniglot:
        def __init__(self, root, background, download):
            self.characters = 3 if background else 2

        def __len__(self):
            return 4 * self.characters

        def __getitem__(self, index):
            image = np.full((112, 112), 255, np.uint8)
            image[:4, : 4 * (index % 4)] = 0
            return PIL.Image.fromarray(image), index // 4

    monkeypatch.setattr(torchvision.datasets, "Omniglot", FakeOmniglot)
    found = builtin.omniglot()
    assert found.x_train.shape == (12, 1, 28, 28)
    assert found.y_train.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert found.y_test.tolist() == [3, 3, 3, 3, 4, 4, 4, 4]
    assert found.x_train[3, 0, 0, :5].tolist() == [255, 255, 255, 0, 0]
    assert not found.x_train[:, 0, 1:].any()
