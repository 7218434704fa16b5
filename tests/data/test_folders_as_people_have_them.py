"""Folders as people have them: edited, mixed, damaged, transparent, turned. Read right, or named."""

from __future__ import annotations

import io
import os
import shutil
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from gar_env.data import load_dataset
from gar_env.data.image_files import walk
from gar_env.errors import ConfigurationError, DatasetFormatError


def picture(path, colour=(10, 20, 30), size=(5, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


@pytest.fixture
def root(tmp_path):
    for name in ("cat", "dog"):
        for part in ("train", "test"):
            picture(tmp_path / "pets" / part / name / "1.png")
    picture(tmp_path / "pets/train/cat/2.png", (200, 0, 0))
    return tmp_path / "pets"


def moved(root, tmp_path):
    (root / "train/cat/2.png").rename(root / "train/dog/2.png")


def renamed_class(root, tmp_path):
    (root / "train/cat").rename(root / "train/eel")
    (root / "test/cat").rename(root / "test/eel")


def replaced_by_an_older_file(root, tmp_path):
    picture(tmp_path / "old.png", (0, 0, 99))
    os.utime(tmp_path / "old.png", (1, 1))
    os.replace(tmp_path / "old.png", root / "train/cat/2.png")


def written_to_within_the_same_time(root, tmp_path):
    path = root / "train/cat/2.png"
    before = path.stat()
    picture(path, (0, 99, 0))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swapped(root, tmp_path):
    picture(root / "train/dog/2.png", (0, 0, 50))
    load_dataset(str(root))
    (root / "train/cat/2.png").rename(tmp_path / "aside.png")
    (root / "train/dog/2.png").rename(root / "train/cat/2.png")
    (tmp_path / "aside.png").rename(root / "train/dog/2.png")


@pytest.mark.parametrize(
    "edit", [moved, renamed_class, replaced_by_an_older_file, written_to_within_the_same_time, swapped]
)
def test_a_folder_that_was_edited_is_read_again(root, tmp_path, edit):
    before = load_dataset(str(root))
    edit(root, tmp_path)
    after, fresh = load_dataset(str(root)), tmp_path / "copy"
    shutil.copytree(root, fresh)
    expected = load_dataset(str(fresh))
    assert after is not before
    assert after.classes == expected.classes
    assert after.y_train.tolist() == expected.y_train.tolist()
    assert np.array_equal(after.x_train.numpy(), expected.x_train.numpy())


def test_what_is_added_behind_a_linked_folder_is_read(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    picture(elsewhere / "1.png")
    os.symlink(elsewhere, root / "train/fox")
    picture(root / "test/fox/1.png")
    assert len(load_dataset(str(root)).x_train) == 4
    picture(elsewhere / "2.png")
    assert len(load_dataset(str(root)).x_train) == 5


def test_a_folder_that_links_to_itself_is_read_once(root):
    os.symlink(root / "train/cat", root / "train/cat/again")
    assert len(load_dataset(str(root)).x_train) == 3


def test_an_unchanged_folder_is_not_read_again(root):
    assert load_dataset(str(root)) is load_dataset(str(root))


@pytest.mark.parametrize("suffix", ["gif", "jfif", "jpe", "JPG", "webp", "tif", "bmp", "ppm"])
def test_every_kind_that_pillow_reads_counts(root, suffix):
    picture(root / f"train/cat/3.{suffix}", format={"jfif": "JPEG", "jpe": "JPEG"}.get(suffix))
    assert load_dataset(str(root)).y_train.tolist() == [0, 0, 0, 1]


def test_of_an_animation_the_first_picture_counts(root):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(root / "train/cat/3.gif", save_all=True, append_images=frames[1:])
    assert load_dataset(str(root)).x_train[2, :, 0, 0].tolist() == [255, 0, 0]


def test_other_files_and_empty_folders_are_named_in_a_warning(root):
    (root / "train/cat/labels.csv").write_text("1")
    (root / "train/Thumbs.db").write_text("1")
    (root / "train/cat/.hidden").write_text("1")
    (root / "train/new").mkdir()
    with pytest.warns(UserWarning, match="left out") as said:
        assert load_dataset(str(root)).groups == ()
    texts = [str(one.message) for one in said]
    assert any("1 files" in text and "labels.csv" in text for text in texts)
    assert any("1 folders" in text and "new" in text for text in texts)
    assert not any("Thumbs" in text or "hidden" in text for text in texts)


@pytest.mark.parametrize("extra", ["train/preview.png", "test/icon.ico"])
def test_images_beside_the_classes_are_named_in_a_warning(root, extra):
    picture(root / extra)
    with pytest.warns(UserWarning, match=f"1 images lie in .* itself, so in no class, and are left out: .*{extra}"):
        found = load_dataset(str(root))
    assert (found.y_train.tolist(), found.y_test.tolist()) == ([0, 0, 1], [0, 1])


@pytest.mark.parametrize("empty", ["train/cat/later", "train/cat/x.png"])
def test_an_empty_sub_folder_does_not_turn_classes_into_sources(root, empty):
    (root / empty).mkdir()
    with pytest.warns(UserWarning, match="empty"):
        found = load_dataset(str(root))
    assert (found.classes, found.groups) == (("cat", "dog"), ())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("train/a/b/c/3.png", r"lie in no class, .*c.3\.png"),
        ("train/web/cat/3.png", r"2\.png lies in a class, and .*3\.png in a class of a source|1\.png lies in a class"),
        ("test/web/cat/3.png", r"1 of 3 images below .*test lie in no class"),
    ],
)
def test_images_that_lie_elsewhere_are_named(root, extra, message):
    picture(root / extra)
    with pytest.raises(DatasetFormatError, match=message):
        load_dataset(str(root))


def bomb(path):
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    path.write_bytes(content)


DAMAGE = {
    "text": lambda path: path.write_text("no image"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "bomb": bomb,
    "ppm header": lambda path: path.write_bytes(b"P6 99999999999999999999 4 255\n" + bytes(60)),
    "link to nothing": lambda path: (path.unlink(), os.symlink("nowhere", path)),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_an_image_that_cannot_be_read_is_named_at_once(root, damage):
    DAMAGE[damage](root / "train/cat/2.png")
    start = time.monotonic()
    warnings.simplefilter("ignore")
    with pytest.raises(DatasetFormatError, match=r"2\.png"):
        load_dataset(str(root))
    assert time.monotonic() - start < 2


def test_all_images_that_cannot_be_read_are_named(root):
    for name in ("train/cat/2.png", "train/dog/1.png"):
        (root / name).write_text("no image")
    with pytest.raises(DatasetFormatError, match=r"(?s)2 of 3 images cannot be used:.*2\.png.*1\.png"):
        load_dataset(str(root))


def test_transparent_images_are_laid_on_a_background(root):
    hidden = Image.new("RGBA", (5, 4), (255, 0, 0, 0))  # red, and invisible
    hidden.save(root / "train/cat/2.png")
    palette = Image.new("P", (5, 4), 0)
    palette.putpalette([255, 0, 0] * 256)
    palette.save(root / "train/cat/3.png", transparency=0)
    white, black = load_dataset(str(root)), load_dataset(str(root), image_background="black")
    assert white.x_train[1:3].unique().tolist() == [255]
    assert black.x_train[1:3].unique().tolist() == [0]
    with pytest.raises(ConfigurationError, match=r"image_background='grey' is unknown.*white, black"):
        load_dataset(str(root), image_background="grey")


def test_images_are_turned_as_their_exif_data_say(root):
    upright = Image.new("RGB", (5, 4), (0, 0, 0))
    upright.putpixel((4, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was turned to its right
    upright.transpose(Image.Transpose.ROTATE_90).save(root / "train/cat/2.png", exif=exif)
    found = load_dataset(str(root)).x_train[1, 0]
    assert found.shape == (4, 5)
    assert int(found[0, 4]) == 255


def test_names_in_two_unicode_spellings_are_refused_with_a_hint(tmp_path):
    for spelling in ("caf\u00e9", "cafe\u0301"):
        picture(tmp_path / "train" / spelling / "1.png")
    picture(tmp_path / "test" / "caf\u00e9" / "1.png")
    with pytest.raises(DatasetFormatError, match="two Unicode spellings"):
        load_dataset(str(tmp_path))


def test_a_path_object_is_a_path(root, monkeypatch):
    assert load_dataset(root).classes == ("cat", "dog")
    monkeypatch.chdir(root.parent)
    assert load_dataset(root.relative_to(root.parent)).classes == ("cat", "dog")


def test_a_folder_linked_twice_is_read_twice_and_a_loop_ends(tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(pool / "a.png")
    root = tmp_path / "root"
    for source in ("one", "two"):
        (root / source).mkdir(parents=True)
        (root / source / "class").symlink_to(pool, target_is_directory=True)
    (root / "loop").symlink_to(root, target_is_directory=True)
    found = [file.relative_to(root).as_posix() for _, files in walk(root) for file in files]
    assert found == ["one/class/a.png", "two/class/a.png"]
