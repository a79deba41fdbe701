"""Training under noise as a LightningModule; the mathematics is in attacks and objectives."""

import random
import time
import warnings
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from smoothcert.attacks import Attack
from smoothcert.distributed.group import is_group
from smoothcert.errors import InvalidArgumentError, NonFiniteError, require_count, require_positive
from smoothcert.noise import draw_noise, generator, noisy_logits, smoothed_log_probabilities
from smoothcert.objectives import Objective
from smoothcert.types import ImageBatch, NoisyBatch

TRAINING, VALIDATION, GLOBAL = 0, 1, 2
"""Purposes of the streams of random numbers."""
VALIDATED = ("val/cross_entropy", "val/smoothed_accuracy")
INTERVALS = ("epoch", "step")


class SmoothedTraining(pl.LightningModule):
    """Draws the noise, computes attacked images and the loss, and logs the figures of both.

    Args:
        model: maps pixels in [0, 1], shape (N, C, H, W), to logits (N, K).
        objective: the training loss; it sets the number of noise draws per image.
        attack: perturbs the images on the same noise draws.
        sigma: standard deviation of the noise in pixel units, > 0.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the learning-rate scheduler from the optimizer.
        validation_draws: noise draws per image in validation.
        seed: seed of the noise; each step's noise depends only on it and on the step's number.
        configuration: plain values that are kept in every checkpoint.
        scheduler_interval: `epoch` or `step`: when the scheduler is stepped. A scheduler whose
            `total_steps` is not set receives the number of its steps in the complete training.
        channels_last: use channels-last images and weights, for faster convolutions.
        compile_model: compile the network with torch.compile, at the first step.

    Attributes:
        replay_schedule: whether the checkpoint of a resumed training has a schedule of a different
            length, which must be replaced by the present schedule.
        validated: the mean of each validation figure, by name.

    Raises:
        InvalidArgumentError: if an argument is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        attack: Attack,
        sigma: float,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., LRScheduler] | None = None,
        validation_draws: int = 8,
        seed: int = 0,
        configuration: dict[str, Any] | None = None,
        scheduler_interval: str = "epoch",
        channels_last: bool = True,
        compile_model: bool = False,
    ) -> None:
        super().__init__()
        require_positive("sigma", sigma)
        require_count("validation_draws", validation_draws)
        if scheduler_interval not in INTERVALS:
            raise InvalidArgumentError(
                f"Expected `scheduler_interval` one of {', '.join(INTERVALS)}, "
                f"got {scheduler_interval!r}"
            )
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]
        self.compile_model = compile_model
        self.objective = objective
        self.attack = attack
        self.sigma = sigma
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.scheduler_interval = scheduler_interval
        self.validation_draws = validation_draws
        self.seed = seed
        self.configuration = configuration or {}
        self.replay_schedule = False
        self._step_began: float | None = None
        # With its checks for NaN, a MeanMetric would leave out what has diverged.
        self.validated: Any = nn.ModuleDict(
            {name: MeanMetric(nan_strategy="disable") for name in VALIDATED}
        )
        self._began: float | None = None
        self._seconds_before = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Return the base classifier's logits for images (N, C, H, W)."""
        return self.model(images)

    def setup(self, stage: str) -> None:
        """Compile the network if requested."""
        if self.compile_model and stage == "fit":
            # In place, so that names in checkpoints do not change.
            self.model.compile()

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch on noisy, perhaps attacked images."""
        if batch_idx == 0:
            _check_pixels(batch)
            self._step_began = None
        source = generator(
            self.device, self.seed, TRAINING, self.global_rank, self.current_epoch, batch_idx
        )
        images = batch.images.contiguous(memory_format=self.memory_format)
        noise = draw_noise(images, self.sigma, self.objective.noise_draws, source)
        clean = NoisyBatch(images, batch.labels, noise, self.sigma, self.current_epoch)
        attacked = self.attack(self.model, clean, source)
        loss = self.objective(self.model, clean.with_images(attacked.images), source)
        self._log_step(loss.value, {**loss.report, **attacked.report}, len(batch.images))
        return loss.value

    def on_train_batch_start(self, batch: ImageBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Seed the global random streams, which dropout uses, by the number of the step.

        A run that is resumed in the middle of an epoch therefore needs no state of these streams.
        """
        keys = (self.seed, GLOBAL, self.global_rank, self.current_epoch, batch_idx)
        isolated = np.random.SeedSequence((len(keys), *keys))
        for_torch, for_numpy = isolated.generate_state(2).tolist()
        torch.manual_seed(for_torch)
        np.random.seed(for_numpy)  # noqa: NPY002
        random.seed(for_numpy)

    def on_validation_epoch_start(self) -> None:
        """Copy BatchNorm statistics from rank 0: all processes validate and certify one network."""
        several = is_group() and self.trainer.world_size > 1
        for metric in self.validated.values():
            metric.reset()
            # As exact as the means of one process; Apple's GPUs have no float64.
            metric.set_dtype(torch.float32 if self.device.type == "mps" else torch.float64)
            # A group may belong to the certification alone.
            metric.sync_on_compute = several
        if several:
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0)

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Update loss and smoothed accuracy with a batch; each image has its own noise."""
        images = batch.images.contiguous(memory_format=self.memory_format)
        noise = self._validation_noise(images, batch.indices)
        logits = noisy_logits(self.model, NoisyBatch(images, batch.labels, noise, self.sigma))
        right = smoothed_log_probabilities(logits).argmax(-1) == batch.labels
        labels = batch.labels.expand(len(logits), -1)
        losses = cross_entropy(logits.movedim(-1, 1), labels, reduction="none").mean(0)
        # One value per image: torchmetrics ignores weights without checks for NaN.
        for metric, values in zip(self.validated.values(), (losses, right), strict=True):
            metric.update(values)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all images of all processes, each image once."""
        means = {name: metric.compute().float() for name, metric in self.validated.items()}
        self.log_dict(means, prog_bar=True, batch_size=1)

    def _validation_noise(self, images: Tensor, indices: Tensor) -> Tensor:
        """Draw the noise of each image, which is the same in every epoch and every batch."""
        draws = [
            draw_noise(
                image[None],
                self.sigma,
                self.validation_draws,
                generator(self.device, self.seed, VALIDATION, index),
            )
            for image, index in zip(images, indices.tolist(), strict=True)
        ]
        return torch.cat(draws, dim=1)

    def on_train_epoch_end(self) -> None:
        """Stop a run that has diverged.

        Raises:
            NonFiniteError: if the last loss was not finite.
        """
        loss = self.trainer.callback_metrics.get("train/loss")
        if loss is not None and not bool(torch.isfinite(loss)):
            raise NonFiniteError(
                f"The training loss is {loss.item()} in epoch {self.current_epoch}: training has "
                "diverged. Lower optimizer.lr or objective.weight, or raise objective.noise_draws; "
                "with objective=adre set objective.floor"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the configuration and the training time with the weights."""
        checkpoint["configuration"] = self.configuration
        checkpoint["seconds_training"] = self.seconds_training
        checkpoint["processes"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the training time."""
        self._seconds_before = checkpoint.get("seconds_training", 0.0)

    def on_train_start(self) -> None:
        """Start the clock, and replay the schedule if its length has changed."""
        self._began = time.perf_counter()
        if self.replay_schedule:
            self._replay_schedule()

    def on_train_end(self) -> None:
        """Stop the clock."""
        self._seconds_before, self._began = self.seconds_training, None

    @property
    def seconds_training(self) -> float:
        """Seconds that the weights were trained, including validation and resumed trainings."""
        running = 0.0 if self._began is None else time.perf_counter() - self._began
        return self._seconds_before + running

    def configure_optimizers(self) -> Any:
        """Return the optimizer and, where there is one, the scheduler."""
        # Including frozen parts: they have no gradient, and may be unfrozen in a later epoch.
        optimizer = _made("optimizer", self.make_optimizer, self.model.parameters())
        if self.make_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self._schedule(optimizer), "interval": self.scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _schedule(self, optimizer: Optimizer) -> LRScheduler:
        assert self.make_scheduler is not None, "called only with a scheduler"
        length = {}
        takes = signature(self.make_scheduler).parameters
        if "total_steps" in takes and takes["total_steps"].default in (None, Parameter.empty):
            steps = self.trainer.estimated_stepping_batches
            epochs = self.trainer.max_epochs
            length["total_steps"] = steps if self.scheduler_interval == "step" else epochs
        return _made("scheduler", self.make_scheduler, optimizer, **length)

    def _replay_schedule(self) -> None:
        """Replace the schedule by one of the present length, and step it to the present step.

        A checkpoint contains the old length and the last learning rate, from which some schedules
        continue: after zero, at the end of a cosine, they would stay at zero.
        """
        [config], [optimizer] = self.trainer.lr_scheduler_configs, self.trainer.optimizers
        steps = config.scheduler.last_epoch  # pyright: ignore[reportAttributeAccessIssue]
        for group in optimizer.param_groups:
            # The optimizer's own rate; the schedule sets its own first rate.
            group["lr"] = group.pop("initial_lr", group["lr"])
        config.scheduler = self._schedule(optimizer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*lr_scheduler.step.*before.*optimizer.step.*")
            for _ in range(steps):
                config.scheduler.step()

    def _log_step(self, loss: Tensor, report: dict[str, Tensor | float], images: int) -> None:
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=images)
        figures: dict[str, Any] = {f"train/{name}": value for name, value in report.items()}
        figures["train/learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        now = time.perf_counter()
        if self._step_began is not None:
            everywhere = images * self.trainer.world_size
            figures["train/images_per_second"] = everywhere / (now - self._step_began)
        self._step_began = now
        self.log_dict(figures, batch_size=images)
        if self.trainer.global_step == 0:
            self._check_monitors(["train/loss", *figures, "train/images_per_second"])

    def _check_monitors(self, logged: list[str]) -> None:
        """Refuse at the first step a monitored training figure that is not logged."""
        for callback in self.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            monitor = getattr(callback, "monitor", None) or ""
            if monitor.startswith("train/") and monitor not in logged:
                raise InvalidArgumentError(
                    f"Expected monitor={monitor} of {type(callback).__name__} one of "
                    f"{', '.join(dict.fromkeys(logged))}"
                )


def _made(name: str, factory: Callable[..., Any], *parts: Any, **length: Any) -> Any:
    """Make a part of the training; the error of its class gets the part's settings.

    Raises:
        InvalidArgumentError: if the class refuses them.
    """
    try:
        return factory(*parts, **length)
    except (TypeError, ValueError) as error:
        settings = getattr(factory, "keywords", {}).items()
        given = ", ".join(f"{name}.{key}={value!r}" for key, value in settings)
        raise InvalidArgumentError(
            f"Expected settings that the {name} takes, got {given}: {' '.join(str(error).split())}"
        ) from error


def _check_pixels(batch: ImageBatch) -> None:
    outside = ~((batch.images >= 0) & (batch.images <= 1)).flatten(1).all(1)
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        image = batch.images[at]
        raise NonFiniteError(
            f"Expected pixels in [0, 1] at image {int(batch.indices[at])}, got values from "
            f"{float(image.min()):.4g} to {float(image.max()):.4g}. Normalisation must be part "
            "of the model"
        )
