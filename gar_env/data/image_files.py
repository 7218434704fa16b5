"""The image files of a folder: which there are, how they are laid out, and one of them as RGB."""

from __future__ import annotations

import hashlib
import stat
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gar_env.errors import DatasetFormatError

LAYOUT = "root/train/[source/]class/image.png and root/test/class/image.png"
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini", "__macosx"}
# Pillow lists these and reads none of them by itself, or they are no pictures.
_NOT_READ = {"BUFR", "GRIB", "HDF5", "WMF", "EPS", "MPEG", "FITS", "PDF"}


@cache
def image_suffixes() -> frozenset[str]:
    """Of all kinds that Pillow reads, in lower case; of animations the first picture counts."""
    Image.init()
    return frozenset(
        suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in _NOT_READ
    )


def walk(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder below ``root``, links followed unless they lead back, with its files; hidden ones are left out."""

    def visit(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, list[Path]]]:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in above:
            return
        above |= {(status.st_dev, status.st_ino)}
        entries = sorted(entry for entry in folder.iterdir() if not _is_hidden(entry))
        yield folder, [entry for entry in entries if not entry.is_dir()]
        for entry in entries:
            if entry.is_dir():
                yield from visit(entry, above)

    yield from visit(root, frozenset())


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _LEFT_BY_SYSTEMS


def fingerprint(path: Path) -> str:
    """Differs when a file at or below ``path`` was added, removed, moved, renamed, replaced or written to."""
    files = [path] if path.is_file() else [file for _, files in walk(path) for file in files]
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat()
        except OSError:  # a link to nowhere, or gone since; reading says so
            status = file.lstat()
        # The time of the last change of the inode too: a file may be replaced by an older one.
        facts = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(f"{file}\0{facts}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def images_below(root: Path) -> list[Path]:
    """All image files; what else lies there is said in a warning.

    Raises:
        DatasetFormatError: If something with an image's name is no file: a pipe would be waited for without end.
    """
    images, others, empty = [], [], []
    for folder, files in walk(root):
        pictures = [file for file in files if file.suffix.lower() in image_suffixes()]
        for file in pictures:
            if not file.exists() or not stat.S_ISREG(file.stat().st_mode):
                raise DatasetFormatError(f"{file} is no regular file, or a link to nothing. Remove it.")
        images += pictures
        others += [file for file in files if file not in set(pictures)]
        if not files and folder != root and not any(entry.is_dir() for entry in folder.iterdir()):
            empty.append(folder)
    if others:
        _warn(f"{len(others)} files below {root} are no images, by their names, and are left out", others)
    if empty:
        _warn(f"{len(empty)} folders below {root} are empty and are left out", empty)
    return images


def _warn(what: str, paths: list[Path]) -> None:
    listed = ", ".join(str(path) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
    warnings.warn(f"{what}: {listed}.", stacklevel=2)


def laid_out(root: Path, images: list[Path], depths: tuple[int, ...]) -> list[tuple[Path, str, str]]:
    """``(file, class, source)`` of every image; those in ``root`` itself are left out, with a warning.

    Args:
        root: The folder ``train`` or ``test``.
        images: Below it.
        depths: How many folders may lie between it and an image: 1, a class; 2, a source and a class.

    Raises:
        DatasetFormatError: If images lie elsewhere, or some in sources and some not.
    """
    found: dict[int, list[Path]] = {}
    for image in images:
        found.setdefault(len(image.relative_to(root).parts) - 1, []).append(image)
    if beside := found.pop(0, []):
        _warn(f"{len(beside)} images lie in {root} itself, so in no class, and are left out", beside)
    misplaced = [image for depth, some in found.items() if depth not in depths for image in some]
    if misplaced:
        raise DatasetFormatError(
            f"{len(misplaced)} of {len(images)} images below {root} lie in no class, {misplaced[0]} for one. An image "
            f"folder looks like {LAYOUT}."
        )
    if len(found) > 1:
        shallow, deep = found[min(found)][0], found[max(found)][0]
        raise DatasetFormatError(
            f"{shallow} lies in a class, and {deep} in a class of a source. Put all images below {root} in sources, or "
            f"none: {LAYOUT}."
        )
    return [
        (image, image.parent.name, image.parent.parent.name if depth == 2 else "")
        for depth, some in found.items()
        for image in some
    ]


def as_rgb(path: Path, background: str) -> Image.Image:
    """One image as 8-bit RGB, turned upright as its EXIF data say, on a background where it is transparent.

    Raises:
        DatasetFormatError: If it cannot be read, or has more than 8 bits a channel, which RGB would clip.
    """
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise DatasetFormatError(
                    f"{path} has more than 8 bits a channel (mode {file.mode}). Save it with 8 bits."
                )
            image = ImageOps.exif_transpose(file)
            if not image.has_transparency_data:
                return image.convert("RGB")
            image = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUNDS[background], 255)), image).convert(
                "RGB"
            )
    except DatasetFormatError:
        raise
    except (Exception, RecursionError) as error:  # of a decoder; each kind has errors of its own
        raise DatasetFormatError(f"{path} cannot be read as an image: {type(error).__name__}: {error}.") from error


def read(paths: list[Path], size: tuple[int, int], *, resize: bool, background: str) -> np.ndarray:
    """All images, uint8 ``[n, 3, height, width]``.

    Args:
        paths: Of the files.
        size: ``(width, height)``.
        resize: Whether to bring others to that size (bilinear).
        background: A name of :data:`BACKGROUNDS`.

    Raises:
        DatasetFormatError: With every file that cannot be read, or has another size.
    """
    images = np.empty((len(paths), 3, size[1], size[0]), np.uint8)
    wrong: list[str] = []
    for row, path in enumerate(paths):
        try:
            image = as_rgb(path, background)
        except DatasetFormatError as error:
            wrong.append(str(error))
            continue
        if resize:
            image = image.resize(size, Image.Resampling.BILINEAR)
        if image.size != size:
            wrong.append(
                f"{path} is {image.size[0]}x{image.size[1]}, the first image is {size[0]}x{size[1]}. Pass "
                "image_size=... to resize all images to one size."
            )
            break
        images[row] = np.asarray(image).transpose(2, 0, 1)
    if len(wrong) > 1:
        listed = "\n".join(wrong[:20]) + (f"\nand {len(wrong) - 20} more" if len(wrong) > 20 else "")
        raise DatasetFormatError(f"{len(wrong)} of {len(paths)} images cannot be used:\n{listed}")
    if wrong:
        raise DatasetFormatError(wrong[0])
    return images
