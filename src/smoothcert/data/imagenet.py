"""ImageNet in class folders."""

import csv
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from scipy.io import loadmat

from smoothcert.data.image_folder import ImageFolderDataModule
from smoothcert.errors import DataError

CLASSES = tuple((files("smoothcert.data") / "imagenet_classes.txt").read_text().split())
"""The 1,000 WordNet identifiers of ILSVRC 2012, sorted: the class order of published weights."""
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


class ImageNetDataModule(ImageFolderDataModule):
    """1.28 million training and 50,000 official validation photographs (Russakovsky et al., 2015).

    The official validation images serve as the test images, as in the published figures; the
    validation images are held out of the training images. Random resized crop 224 and flip for
    training, resize 256 and centre crop 224 for evaluation.

    Args:
        root: `train/<class>/` and `val/<class>/`; `val/` alone is enough to certify its images,
            sorted into class folders or not (see `labels_of`). Class folders alone are split, with
            a warning.
        batch_size: images in a batch.
        val_fraction: share of the training images held out for validation.
        num_workers: processes that decode; None: one per CPU that may be used, at most 8.
        corrupt: what to do about an image that cannot be decoded: `error`, or `skip`: leave out
            all such images, found once by reading every file before anything else.
        seed: seed of the shuffling and the augmentation.
        split_seed: seed of the choice of held-out images.
    """

    published_classes = CLASSES

    def __init__(
        self,
        root: str = "data/imagenet",
        batch_size: int = 256,
        val_fraction: float = 0.01,
        num_workers: int | None = None,
        corrupt: str = "error",
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            image_size=224,
            in_memory=False,
            batch_size=batch_size,
            val_fraction=val_fraction,
            num_workers=num_workers,
            corrupt=corrupt,
            seed=seed,
            split_seed=split_seed,
        )

    def labels_of(self, folder: Path) -> Mapping[str, str] | None:
        """Return the classes of official validation images that are not sorted into folders.

        They are read from Kaggle's `LOC_val_solution.csv`, or from the development kit's
        `ILSVRC2012_validation_ground_truth.txt` and `meta.mat`, among the images or in one of the
        four folders above them; the kit may be in its own folder there.

        Args:
            folder: contains the images.

        Returns:
            WordNet identifiers by file names without suffix; None: there is no such file.

        Raises:
            DataError: if such a file is damaged.
        """
        here = folder.absolute()
        for place in (here, *here.parents[:4]):
            for read, path in (
                (_read_solution, place / "LOC_val_solution.csv"),
                (_read_kit, place / GROUND_TRUTH),
                (_read_kit, place / "ILSVRC2012_devkit_t12" / "data" / GROUND_TRUTH),
            ):
                if path.is_file():
                    try:
                        return read(path)
                    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
                        raise DataError(f"{path} is not a list of labels: {error}") from error
        return None


def _read_solution(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}


def _read_kit(path: Path) -> dict[str, str]:
    # The kit has its own numbering of the classes.
    synsets = loadmat(path.with_name("meta.mat"), squeeze_me=True)["synsets"]
    wnids = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
    numbers = map(int, path.read_text(encoding="utf-8").split())
    return {f"ILSVRC2012_val_{place:08d}": wnids[n] for place, n in enumerate(numbers, start=1)}
