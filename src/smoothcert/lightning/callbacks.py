"""Certification at the end of validation."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.seed import isolate_rng

from smoothcert.certify import (
    Certified,
    Certifier,
    Execution,
    SmoothedClassifier,
    Subset,
    certify_examples,
    weights_digest,
)
from smoothcert.data import ImageDataModule, thumbnails_of, write_thumbnails
from smoothcert.data.base import SPLITS
from smoothcert.data.datasets import ImageSet
from smoothcert.errors import (
    InvalidArgumentError,
    MismatchError,
    SmoothCertWarning,
    require_count,
    require_positive,
)
from smoothcert.lightning.loggers import log_certificates, log_noisy_examples
from smoothcert.noise import draw_noise, generator
from smoothcert.records import CertificateRow, RunFolder
from smoothcert.records.summary import summarize
from smoothcert.stats import default_radii, largest_radius

SEEDS_APART = 1_000_003
"""Distance between the seeds of certifications while fitting; users choose small seeds."""

ONE_BATCH = 256
"""Samples of a certificate in `fast_dev_run`."""

LOGGED_IMAGES = 100
"""Thumbnails in a logger's table, where each one is a separate file."""
LOGGED_EXAMPLES, LOGGED_DRAWS = 8, 3
"""Images that are logged under noise, and noise draws per image."""

Plot = Callable[[Sequence[CertificateRow], dict[str, Any], Path], None]


class CertificationCallback(pl.Callback):
    """Certifies a subset of a split: every few epochs while fitting, and in `Trainer.validate`.

    `Trainer.validate` after the last epoch certifies its weights into `certificates.tsv`;
    `smoothcert.commands.train` calls it on the best checkpoint. While fitting, each certified
    epoch has its own file in `certificates/` and its own noise, and `ModelCheckpoint` can monitor
    `certify/acr`. For an epoch that is not certified the monitored value is NaN.

    The base classifier votes in eval mode. Its weights, its modes and all random streams are
    restored, so training is the same with and without certification.

    Args:
        certifier: samples and bounds.
        sigma: standard deviation of the noise in pixel units.
        folder: the run folder.
        split: images to certify: `val`, or `test` where no epoch is selected by it.
        every_n_epochs: certify after every `n` epochs while fitting; 0: only in `validate`.
        max_images: the largest number of images to certify, evenly spread; None: all images.
        skip: certify every `skip`-th image.
        radii: radii at which certified accuracy is logged; None: `default_radii(sigma)`.
        execution: how the base classifier is run, for example its precision; by default float32.
        seed: seed of the noise.
        configuration: further settings of a certificate (JSON values), kept next to the rows.
        plot: draws the certified-accuracy curve; called with the rows, their settings and the
            path of the picture.

    Attributes:
        last: the last certification; None before the first one.

    Raises:
        InvalidArgumentError: if an argument is out of range, or test images would select epochs.
    """

    def __init__(
        self,
        certifier: Certifier,
        sigma: float,
        folder: str | Path,
        split: str = "val",
        every_n_epochs: int = 0,
        max_images: int | None = None,
        skip: int = 1,
        radii: Sequence[float] | None = None,
        execution: Execution | None = None,
        seed: int = 0,
        configuration: dict[str, Any] | None = None,
        plot: Plot | None = None,
    ) -> None:
        require_positive("sigma", sigma)
        require_count("every_n_epochs", every_n_epochs, minimum=0)
        if split not in SPLITS:
            raise InvalidArgumentError(
                f"Expected `split` one of {', '.join(SPLITS)}, got {split!r}"
            )
        if split == "test" and every_n_epochs > 0:
            raise InvalidArgumentError(
                "Expected `every_n_epochs` 0 with split=test: test images must not choose a "
                "checkpoint. Certify val while fitting, then test with `python -m src.certify`"
            )
        self.certifier = certifier
        self.sigma = sigma
        self.folder = Path(folder)
        self.subset = Subset(split, skip, max_images)
        self.every_n_epochs = every_n_epochs
        self.radii = default_radii(sigma) if radii is None else list(radii)
        self.execution = execution or Execution()
        self.seed = seed
        self.configuration = configuration or {}
        self.plot = plot
        self.last: Certified | None = None
        self._warned = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Refuse before training what would otherwise fail after it."""
        if getattr(trainer, "limit_val_batches", 1) == 0:
            raise InvalidArgumentError(
                "Expected `trainer.limit_val_batches` > 0: certification takes place at the end of "
                "validation. Without certificates: callbacks.certification=null"
            )
        if stage in (TrainerFn.FITTING, TrainerFn.VALIDATING) and not self._warned:
            self._warned = True
            warn_of_few_samples(self.certifier, self.sigma, self.radii)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Certify if certification is scheduled for this epoch, and log the figures."""
        if trainer.sanity_checking:
            return
        fitting = trainer.state.fn == TrainerFn.FITTING
        n = self.every_n_epochs
        if fitting and (n == 0 or (trainer.current_epoch + 1) % n != 0):
            # Without a value for this epoch ModelCheckpoint would use the last value; a logged NaN
            # would also be written to the metrics file.
            for name in self.logged:
                trainer.callback_metrics[name] = torch.tensor(torch.nan)
            return
        with isolate_rng():
            self.last = self._certify(trainer, pl_module, fitting)
        for name, value in self._figures(self.last).items():
            pl_module.log(f"certify/{name}", value, prog_bar=name == "acr", batch_size=1)

    @property
    def logged(self) -> list[str]:
        """Names of the figures that are logged while fitting, for a checkpoint to monitor."""
        if self.every_n_epochs == 0:
            return []
        at = [f"certify/accuracy_at_{r:g}" for r in self.radii]
        return ["certify/acr", "certify/abstention_rate", *at]

    def _certify(self, trainer: pl.Trainer, module: pl.LightningModule, fitting: bool) -> Certified:
        model: Any = module.model
        data = _data_of(trainer)
        certifier, subset = self.certifier, self.subset
        if getattr(trainer, "fast_dev_run", False):
            n0, n = min(certifier.n0, ONE_BATCH), min(certifier.n, ONE_BATCH)
            certifier, subset = replace(certifier, n0=n0, n=n), Subset(subset.split, 1, 1)
        path, seed = RunFolder(self.folder).certificates, self.seed
        if fitting:
            # An epoch that is chosen by its certificates is certified again with different noise:
            # the best of several radii would not hold at alpha.
            seed += (trainer.current_epoch + 1) * SEEDS_APART
            # Also named by the weights: a resumed run may have different ones.
            digest = weights_digest(model)[:8]
            name = f"epoch_{trainer.current_epoch:04d}_{digest}.tsv"
            path = self.folder / "certificates" / name
        images = data.images(subset.split)
        certified = certify_examples(
            SmoothedClassifier(model, self.sigma, data.num_classes, self.execution),
            certifier,
            images,
            subset,
            path,
            seed,
            self.configuration,
        )
        if trainer.is_global_zero:
            self._show(trainer, certified, path, None if fitting else subset)
        return certified

    def _show(
        self, trainer: pl.Trainer, certified: Certified, path: Path, subset: Subset | None
    ) -> None:
        """Draw the pictures, and give certificates and pictures to the loggers.

        Thumbnails show the subset of the final certificates only.
        """
        picture = path.with_name(path.stem.replace("certificates", "certified_accuracy") + ".png")
        thumbnails = {}
        if subset is not None:
            images = _data_of(trainer).images(subset.split)
            chosen = subset.positions(len(images))
            write_thumbnails(images, chosen, RunFolder(self.folder).thumbnails)
            thumbnails = thumbnails_of(images, chosen[:LOGGED_IMAGES])
            noisy = _under_noise(images, chosen[:LOGGED_EXAMPLES], self.sigma, self.seed)
            log_noisy_examples(trainer.loggers, noisy, self.sigma)
        if self.plot is not None:
            self.plot(certified.rows, certified.settings, picture)
        log_certificates(
            trainer.loggers, certified.rows, self.radii, picture, trainer.global_step, thumbnails
        )

    def _figures(self, certified: Certified) -> dict[str, float]:
        summary = summarize(certified.rows, certified.settings, self.radii)
        figures = {
            "acr": summary["acr"],
            "abstention_rate": summary["abstention_rate"],
            **{f"accuracy_at_{r}": share for r, share in summary["certified_accuracy"].items()},
        }
        if certified.performance is not None:
            figures["images_per_second"] = certified.performance.images_per_second
        return figures


def _under_noise(images: ImageSet, positions: Sequence[int], sigma: float, seed: int) -> np.ndarray:
    """Return each image, then its noise draws, shape (N, 1 + draws, C, H, W)."""
    clean = torch.stack([images.example(position)[0] for position in positions]).cpu()
    noise = draw_noise(clean, sigma, LOGGED_DRAWS, generator("cpu", seed))
    return torch.cat([clean[None], clean + noise]).transpose(0, 1).numpy()


def _data_of(trainer: pl.Trainer) -> ImageDataModule:
    data: Any = getattr(trainer, "datamodule", None)
    if not isinstance(data, ImageDataModule):
        raise MismatchError(
            f"Certification needs the images of an ImageDataModule, got {type(data).__name__}: "
            "pass one to the trainer as `datamodule`"
        )
    return data


def warn_of_few_samples(certifier: Certifier, sigma: float, radii: Sequence[float]) -> None:
    """Warn if the number of samples is too small to certify the reported radii.

    Args:
        certifier: samples and alpha.
        sigma: standard deviation of the noise in pixel units.
        radii: radii at which certified accuracy is reported.
    """
    largest = largest_radius(certifier.n, sigma, certifier.alpha)
    unreachable = [r for r in radii if r > largest and r <= 3 * sigma]
    if largest == 0 or unreachable:
        warnings.warn(
            f"With n={certifier.n} samples at alpha={certifier.alpha} and sigma={sigma} no radius "
            f"above {largest:.3f} can be certified, for any classifier",
            SmoothCertWarning,
            stacklevel=2,
        )
