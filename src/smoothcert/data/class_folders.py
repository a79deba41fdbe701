"""Class folders: one folder per class, with its image files."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from smoothcert.errors import DataError

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({*IMG_EXTENSIONS, ".gif"})
"""The formats of torchvision's ImageFolder, and GIF."""
TRAINING = ("train", "training")
EVALUATION = ("test", "val", "valid", "validation")
LAYOUT = "train/<class>/<image> and test/<class>/<image> (or val/ for test/, or <class>/<image>)"
OF_ARCHIVES = ("__MACOSX",)
"""Folders that an archive program adds."""


@dataclass(frozen=True)
class ClassFolders:
    """Image files sorted into class folders.

    Attributes:
        paths: the files, class after class, sorted by name.
        labels: place of each file's folder among the class names, int64, shape (N,).
        class_names: names of the class folders, sorted.
    """

    paths: list[Path]
    labels: Tensor
    class_names: list[str]


def read_class_names(folder: Path) -> list[str]:
    """Return the names of the class folders in a folder, sorted.

    Args:
        folder: contains one folder per class.

    Raises:
        DataError: if there is none, or the folder cannot be listed.
    """
    with listing(folder):
        names = [path.name for path in _folders(folder)]
        if not names:
            raise DataError(_missing(folder))
    return names


def read_class_folders(folder: Path, class_names: list[str] | None = None) -> ClassFolders:
    """List the images of a folder of class folders, and log what is left out.

    Images may also be in subfolders of a class. Files with other suffixes, hidden files, links to
    folders, and files next to the class folders are left out.

    Args:
        folder: contains one folder per class.
        class_names: the classes that may appear; None: those of the folder, none of them empty.

    Raises:
        DataError: if there is no class folder, no image, a class without images, or a class that
            may not appear, or a folder cannot be listed.
    """
    found = read_class_names(folder)
    names = found if class_names is None else class_names
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise DataError(
            f"{folder} has {len(unknown)} class folders that the training images do not have, "
            f"for example {unknown[0]!r}"
        )
    if len(names) < 2:
        raise DataError(f"Expected at least 2 class folders in {folder}, got {names}")
    paths, labels, empty = [], [], []
    with listing(folder):
        others = sorted(p for p in folder.iterdir() if not p.is_dir())
        for name in found:
            files, rest = _files(folder / name)
            paths += files
            labels += [names.index(name)] * len(files)
            others += rest
            empty += [] if files else [name]
    if not paths:
        raise DataError(f"No image files ({', '.join(sorted(SUFFIXES))}) under {folder}")
    if empty and class_names is None:
        raise DataError(
            f"No image files ({', '.join(sorted(SUFFIXES))}) in {len(empty)} class folders of "
            f"{folder}, for example {empty[0]!r}: fill or remove them"
        )
    _log_left_out(folder, others)
    return ClassFolders(paths, torch.tensor(labels), names)


def is_flat(folder: Path) -> bool:
    """Return whether a folder contains images and no class folders.

    Args:
        folder: any folder.

    Raises:
        DataError: if the folder cannot be listed.
    """
    with listing(folder):
        return folder.is_dir() and not _folders(folder) and _has_image(folder)


def read_flat_folder(
    folder: Path, class_of: Mapping[str, str], class_names: list[str]
) -> ClassFolders:
    """List the images of a folder whose labels are in a file, in the order of class folders.

    Args:
        folder: contains the images.
        class_of: the class of each image, by its file's name without the suffix.
        class_names: the classes that may appear.

    Raises:
        DataError: if an image has no label or a class that may not appear, or the folder cannot be
            listed.
    """
    with listing(folder):
        files, others = _files(folder)
    number = {name: place for place, name in enumerate(class_names)}
    for path in files:
        if class_of.get(path.stem) not in number:
            raise DataError(
                f"{path} has no label among the {len(number)} classes, got "
                f"{class_of.get(path.stem)!r}"
            )
    files.sort(key=lambda path: (number[class_of[path.stem]], path))
    _log_left_out(folder, others)
    labels = torch.tensor([number[class_of[path.stem]] for path in files])
    return ClassFolders(files, labels, class_names)


def _log_left_out(folder: Path, others: Sequence[Path]) -> None:
    if not others:
        return
    kinds = Counter(
        "hidden" if path.name.startswith(".")
        else "folder link" if path.is_dir()
        else "next to the class folders" if path.parent == folder
        else path.suffix.lower() or "no suffix"
        for path in others
    )  # fmt: skip
    logger.warning(
        "Left out %d files of %s that are no images of a class: %s; for example %s",
        len(others),
        folder,
        ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
        others[0].relative_to(folder),
    )


def readable(
    listed: ClassFolders,
    part: Tensor,
    unreadable: Mapping[Path, str],
    split: str,
    every_class: bool = True,
) -> Tensor:
    """Return the positions of a split's images without those that cannot be decoded.

    Args:
        listed: the images.
        part: the positions of the split, int64.
        unreadable: files that cannot be decoded, and the reason for each.
        split: what the split is called, for the message.
        every_class: whether every class of the split must keep an image.

    Raises:
        DataError: if no image is left, or none of a class that must keep one.
    """
    if not unreadable or not len(part):
        return part
    good = torch.tensor([listed.paths[i] not in unreadable for i in part.tolist()])
    kept = part[good]
    lost = sorted(set(listed.labels[part].tolist()) - set(listed.labels[kept].tolist()))
    if len(kept) and not (every_class and lost):
        return kept
    whose = f" of class {listed.class_names[lost[0]]!r}" if len(kept) else ""
    gone = [i for i in part.tolist() if not whose or listed.labels[i] == lost[0]]
    raise DataError(
        f"None of the {len(gone)} {split} images{whose} can be read, for example: "
        f"{unreadable[listed.paths[gone[0]]]}"
    )


@dataclass(frozen=True)
class Splits:
    """The folders of training, validation and test images.

    Attributes:
        training: folder of class folders to train on, or None.
        validation: folder of class folders for validation, or None.
        test: folder of class folders to test on, or None.
    """

    training: Path | None
    validation: Path | None
    test: Path | None


def find_splits(root: Path) -> Splits:
    """Find the folders of class folders under a data folder.

    An archive often unpacks into a folder of its own, so a folder that is the only one is entered.

    Args:
        root: `train/` and `test/` or `val/` (both: val for validation), test images alone in
            `test/` or `val/`, or class folders alone.

    Raises:
        DataError: if none of these is found, or a folder cannot be listed.
    """
    with listing(root):
        if not root.is_dir():
            raise DataError(_missing(root))
        folders = _folders(root)
        training = _first(root, TRAINING)
        test = _first(root, EVALUATION[:1])
        validation = _first(root, EVALUATION[1:])
        others = {path.name for path in folders} - {*TRAINING, *EVALUATION}
        # The name of a class may be `train`.
        if len(folders) > 1 and others and all(map(_has_image, folders)):
            return Splits(root, None, None)
        if training or test or validation:
            if test and validation and not _folders(test) and _has_image(test):
                logger.warning("Left out %s: its images are in no class folders", test)
                test = None
            # Without test images of their own, the official validation images are the test images,
            # as for ImageNet.
            return Splits(training, *((validation, test) if test else (None, validation)))
        if len(folders) == 1:
            return find_splits(folders[0])
    raise DataError(_missing(root))


@contextmanager
def listing(folder: Path) -> Iterator[None]:
    """Turn errors of listing a folder into a `DataError` that names the folder.

    Args:
        folder: the folder that is listed inside the context.

    Raises:
        DataError: if it cannot be listed.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}. Expected a "
            "folder of images that is mounted and that you may list"
        ) from error


def _missing(root: Path) -> str:
    if not root.exists():
        state = "it does not exist"
    elif not root.is_dir():
        state = "it is a file"
    elif images := [path for path in root.iterdir() if _is_image(path)]:
        state = f"it contains {len(images)} images without labels"
        if images[0].name.startswith("ILSVRC2012_val_"):
            state += (
                ", ImageNet's validation images as unpacked. data=imagenet reads them "
                "with LOC_val_solution.csv or ILSVRC2012_devkit_t12/ next to their folder"
            )
    else:
        state = "it has a different layout"
    return (
        f"No class folders with images found in {root.absolute()}: {state}. Expected {LAYOUT}. "
        "Set data.root=<folder> to where the images are"
    )


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _folders(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.iterdir()
        if p.is_dir() and not p.name.startswith(".") and p.name not in OF_ARCHIVES
    )


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images in a folder and its subfolders, and all other files."""
    images, others = [], []

    def fail(error: OSError) -> None:
        raise error

    for place, inner, files in os.walk(folder, onerror=fail):
        for name in list(inner):
            path = Path(place, name)
            if name.startswith(".") or path.is_symlink():
                inner.remove(name)
                others.append(path)
        for name in files:
            path = Path(place, name)
            (images if _is_image(path) else others).append(path)
    return sorted(images), sorted(others)


def _has_image(folder: Path) -> bool:
    return any(_is_image(path) for path in folder.iterdir())


def _is_image(path: Path) -> bool:
    # Archives made on a Mac contain a hidden ._ file for each file.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
