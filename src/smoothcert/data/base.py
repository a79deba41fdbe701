"""The base class of all data modules."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from smoothcert.data.datasets import FixedBatches, ImageSet, InMemoryImages, Keys
from smoothcert.data.sampling import BatchKey, EpochBatches
from smoothcert.distributed.signals import IF_HANDLED, NAMES, ignore_signals
from smoothcert.errors import DataError, InvalidArgumentError, require_count, require_probability
from smoothcert.types import ImageBatch

Split = Literal["train", "val", "test"]
SHARE_OF_MEMORY = 0.1
"""Share of a GPU's memory that training images may take."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")
STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": (),
    None: SPLITS,
}
"""The splits that each of Lightning's stages needs."""


class ImageDataModule(pl.LightningDataModule):
    """Training, validation and test images that share no image, as batches of pixels in [0, 1].

    Batches are `ImageBatch`es. Shuffling and augmentation follow from the seed and the epoch
    alone; validation and test images are never augmented. Which training images are held out
    for validation follows from `split_seed`, so that runs with other seeds are compared on the
    same images.

    Each split is loaded when it is first requested. The classes, the shape and the normalisation
    are known before any image is decoded.

    Args:
        batch_size: images in a batch, >= 1.
        val_fraction: share of the training images that is held out, in (0, 1).
        seed: seed of the shuffling and the augmentation.
        split_seed: seed of the choice of held-out images.
        num_workers: processes that load batches; 0 loads them in the main process.

    Attributes:
        on_device: keep decoded training images on a GPU and make batches there: True, False, or
            `auto`: where they take no more than a tenth of its memory.
        trained_classes: names of the classes that a network was trained on, in order. They number
            the classes of test images without training images, even if a class has no test image.
        input_shape: (C, H, W) of every image.
        mean: mean of each channel, for the model's normalisation.
        std: standard deviation of each channel.

    Raises:
        InvalidArgumentError: if an argument is out of range.
    """

    on_device: bool | Literal["auto"] = "auto"
    trained_classes: Sequence[str] | None = None
    input_shape: tuple[int, int, int]
    mean: Sequence[float]
    std: Sequence[float]

    def __init__(
        self, batch_size: int, val_fraction: float, seed: int, split_seed: int, num_workers: int
    ) -> None:
        super().__init__()
        require_count("batch_size", batch_size)
        require_probability("val_fraction", val_fraction)
        require_count("split_seed", split_seed, minimum=0)
        require_count("seed", seed, minimum=0)
        require_count("num_workers", num_workers, minimum=0)
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.seed = seed
        self.split_seed = split_seed
        self.num_workers = num_workers
        self._sets: dict[Split, ImageSet] = {}
        self._on_device: InMemoryImages | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes; decodes no image."""
        return len(self.class_names)

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the labels; decodes no image."""

    @abstractmethod
    def load(self, split: Split) -> dict[Split, ImageSet]:
        """Load a split, and others that come with it; the training set with its augmentation."""

    def setup(self, stage: str | None = None) -> None:
        """Load the splits that a stage needs, each of them once.

        Args:
            stage: fit, validate, test or predict; None: all of them.

        Raises:
            DataError: if the images are missing, too few, or not laid out as expected.
        """
        for split in STAGES[stage]:
            self.images(split)

    def images(self, split: str) -> ImageSet:
        """Return the images of a split, one of train, val and test; no other split is needed.

        Raises:
            InvalidArgumentError: for another name.
            DataError: if the images are missing, too few, or not laid out as expected.
        """
        if split not in SPLITS:
            raise InvalidArgumentError(
                f"Expected `split` one of {', '.join(SPLITS)}, got {split!r}"
            )
        if split not in self._sets:
            loaded = self.load(split)
            empty = [name for name in SPLITS if name in loaded and len(loaded[name]) == 0]
            if empty:
                raise DataError(f"Too few images to divide: none are left for {', '.join(empty)}")
            self._sets |= loaded
        return self._sets[split]

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Return shuffled, augmented training batches; fixed batches with `overfit_batches`."""
        images = self.images("train")
        if getattr(self.trainer, "overfit_batches", 0) > 0:
            return self._fixed(images)
        # The sampler yields keys of batches: the data set makes each batch in one call.
        batches = EpochBatches(len(images), self.batch_size, self.seed, self._share)
        if self._resident(images):
            keys: Any = Keys()
            loader = ResumableLoader(
                keys, sampler=batches, batch_size=None, collate_fn=lambda key: key
            )
        else:
            loader = self._loader(images, batches)
        loader.trainer = self.trainer
        return loader

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> ImageBatch:
        """Make a batch on the device if only its key was passed, else move it there."""
        if not isinstance(batch, BatchKey):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        if self._on_device is None:
            images = self.images("train")
            assert isinstance(images, InMemoryImages), "only these are kept on a device"
            self._on_device = images.to(device)
        return self._on_device[batch]

    def _device(self) -> torch.device:
        strategy = getattr(self.trainer, "strategy", None)
        return torch.device("cpu") if strategy is None else strategy.root_device

    def _resident(self, images: ImageSet) -> bool:
        if not isinstance(images, InMemoryImages) or self.on_device is False:
            return False
        device = self._device()
        if self.on_device is True or device.type != "cuda":
            return self.on_device is True
        memory = torch.cuda.get_device_properties(device).total_memory
        return images.images.nbytes <= SHARE_OF_MEMORY * memory

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        """Return validation batches in order, this process's share of them."""
        return self._fixed(self.images("val"))

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """Return test batches in order, this process's share of them."""
        return self._fixed(self.images("test"))

    @property
    def _share(self) -> tuple[int, int]:
        """This process's rank, and the number of processes."""
        share = getattr(self.trainer, "global_rank", 0), getattr(self.trainer, "world_size", 1)
        connector = getattr(self.trainer, "_accelerator_connector", None)
        if share[1] > 1 and getattr(connector, "use_distributed_sampler", False):
            raise InvalidArgumentError(
                "Expected Trainer(use_distributed_sampler=False): the data module itself "
                "distributes images to processes"
            )
        return share

    def _fixed(self, images: ImageSet) -> DataLoader[ImageBatch]:
        rank, processes = self._share
        each = max(1, self.batch_size // processes)
        return self._loader(FixedBatches(images, each, (rank, processes)))

    def _loader(self, batches: ImageSet | FixedBatches, sampler: EpochBatches | None = None) -> Any:
        kind = DataLoader if sampler is None else ResumableLoader
        return kind(
            batches,  # pyright: ignore[reportArgumentType]
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            # A GPU fetches the next batch while it works, from memory that stays in place.
            pin_memory=self._device().type == "cuda",
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_leave_signals_to_parent,
        )


def _leave_signals_to_parent(_: int) -> None:
    """Let a process that loads images continue while its parent saves its state after a signal.

    Schedulers signal a group of processes. Workers end with their parent.
    """
    ignore_signals(*NAMES, IF_HANDLED)


class ResumableLoader(DataLoader[Any]):
    """A loader that resumes an interrupted epoch at its next batch.

    Lightning restores the number of finished batches before it requests the first batch, and relies
    on loaders with a state to start there.
    """

    trainer: Any = None

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        batches: Any = self.sampler
        done = self.trainer.fit_loop.batch_idx + 1 if getattr(self.trainer, "training", 0) else 0
        batches.start_at(done if done < len(self) else 0)
        # Only now: workers start with the first batches of the sampler.
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: the trainer's state is sufficient."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept the empty state."""
