"""Class folders: one folder a class, image files inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from smoothcert.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp"})
TRAINING = ("train", "training")
EVALUATION = ("test", "val", "valid", "validation")
LAYOUT = "train/<class>/<image> and test/<class>/<image> (or val/ for test/, or <class>/<image>)"


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


def class_names_of(folder: Path) -> list[str]:
    """Return the names of a folder's class folders, sorted."""
    return [path.name for path in _folders(folder)]


def read_class_folders(folder: Path, class_names: list[str] | None = None) -> ClassFolders:
    """List the images of a folder of class folders.

    Args:
        folder: holds one folder a class.
        class_names: the classes that may appear; the folder's own unless given.

    Raises:
        DataError: if there is no class folder, no image, or a class that may not appear.
    """
    found = class_names_of(folder)
    names = found if class_names is None else class_names
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise DataError(
            f"{folder} has {len(unknown)} class folders that the training images do not have, "
            f"for example {unknown[0]!r}"
        )
    if len(names) < 2:
        raise DataError(f"Expected at least 2 class folders in {folder}, got {names}")
    paths, labels = [], []
    for name in found:
        files = sorted(p for p in (folder / name).rglob("*") if _is_image(p))
        paths += files
        labels += [names.index(name)] * len(files)
    if not paths:
        raise DataError(f"No image files ({', '.join(sorted(SUFFIXES))}) under {folder}")
    return ClassFolders(paths, torch.tensor(labels), names)


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
        unreadable: files that cannot be decoded, and what is wrong with each.
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
    """Which folders hold which images.

    Attributes:
        training: folder of class folders to train on.
        validation: folder of class folders for validation, or None.
        test: folder of class folders to test on, or None.
    """

    training: Path
    validation: Path | None
    test: Path | None


def find_splits(root: Path, override: str) -> Splits:
    """Find the folders of class folders under a data folder.

    An archive often unpacks into a folder of its own: a lone folder on the way is entered.

    Args:
        root: `train/` and `test/` or `val/` (both: val for validation), or class folders alone,
            there or in a lone `val/` or `test/`.
        override: the command-line override that names the folder, for the message.

    Raises:
        DataError: if nothing of that kind is there.
    """
    if not root.is_dir():
        raise DataError(_missing(root, override))
    folders = _folders(root)
    training = _first(root, TRAINING)
    if training is not None:
        test = _first(root, ("test",))
        validation = _first(root, EVALUATION[1:])
        # Without test images of their own, the official validation images are the test images,
        # as for ImageNet.
        return Splits(training, *((validation, test) if test else (None, validation)))
    if len(folders) == 1:
        return find_splits(folders[0], override)
    if len(folders) >= 2 and all(_has_image(folder) for folder in folders):
        return Splits(root, None, None)
    raise DataError(_missing(root, override))


def _missing(root: Path, override: str) -> str:
    state = "which does not exist" if not root.exists() else "which is laid out otherwise"
    return (
        f"No images found in {root.absolute()}, {state}. Expected {LAYOUT}. "
        f"Set {override}=<folder> to where the images are"
    )


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _has_image(folder: Path) -> bool:
    return any(_is_image(path) for path in folder.iterdir())


def _is_image(path: Path) -> bool:
    # Archives made on a Mac carry a hidden ._ companion for each file.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
