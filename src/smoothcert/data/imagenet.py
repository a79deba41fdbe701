"""ImageNet in class folders."""

from importlib.resources import files

from smoothcert.data.image_folder import ImageFolderDataModule

CLASSES = tuple((files("smoothcert.data") / "imagenet_classes.txt").read_text().split())
"""The 1,000 WordNet identifiers of ILSVRC 2012, sorted: the order of published weights' classes."""


class ImageNetDataModule(ImageFolderDataModule):
    """1.28 million training and 50,000 official validation photographs (Russakovsky et al., 2015).

    The official validation images serve as the test images, as in the published figures; the
    validation images are held out of the training images. Random resized crop 224 and flip for
    training, resize 256 and centre crop 224 for evaluation.

    Args:
        root: `train/<class>/` and `val/<class>/`; `val/` alone is enough to certify its images.
            Class folders alone are split, with a warning.
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
