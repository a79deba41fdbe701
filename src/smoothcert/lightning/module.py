"""Training under noise as a LightningModule; the mathematics is in attacks and objectives."""

import time
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from smoothcert.attacks import Attack
from smoothcert.errors import InvalidArgumentError, NonFiniteError, require_count, require_positive
from smoothcert.noise import draw_noise, generator, noisy_logits, smoothed_log_probabilities
from smoothcert.objectives import Objective, mean_cross_entropy
from smoothcert.types import ImageBatch, NoisyBatch

TRAINING, VALIDATION = 0, 1
INTERVALS = ("epoch", "step")


class SmoothedTraining(pl.LightningModule):
    """Draws the noise, asks the attack for x′, asks the objective for the loss, logs both.

    Args:
        model: maps pixels in [0, 1], shape (N, C, H, W), to logits (N, K).
        objective: the training loss; it says how many draws an image gets.
        attack: moves the images on the same draws.
        sigma: standard deviation of the noise in pixel units, > 0.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the learning-rate scheduler from the optimizer.
        validation_draws: noise draws an image gets in validation.
        seed: seed of the noise; each step's noise follows from it and the step's number alone.
        configuration: plain values that are kept in every checkpoint.
        scheduler_interval: `epoch` or `step`: when the scheduler is stepped. One that takes
            `total_steps` and does not have it is given how often that is in the whole training.
        channels_last: keep images and weights channels-last, which convolutions are faster in.
        compile_model: compile the network with torch.compile, at the first step.

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
        self._step_began: float | None = None
        self._began: float | None = None
        self._seconds_before = 0.0

    def forward(self, images: Tensor) -> Tensor:
        """Return the base classifier's logits for images (N, C, H, W)."""
        return self.model(images)

    def setup(self, stage: str) -> None:
        """Compile the network where that is asked for."""
        if self.compile_model and stage == "fit":
            # In place: names in checkpoints stay what they are.
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

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Log how the smoothed classifier does on a batch under the same noise every epoch."""
        source = generator(self.device, self.seed, VALIDATION, self.global_rank, batch_idx)
        images = batch.images.contiguous(memory_format=self.memory_format)
        noise = draw_noise(images, self.sigma, self.validation_draws, source)
        logits = noisy_logits(self.model, NoisyBatch(images, batch.labels, noise, self.sigma))
        right = smoothed_log_probabilities(logits).argmax(-1) == batch.labels
        figures = {
            "val/cross_entropy": mean_cross_entropy(logits, batch.labels),
            "val/smoothed_accuracy": right.float().mean(),
        }
        self.log_dict(figures, prog_bar=True, batch_size=len(batch.images))

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
        """Keep the configuration with the weights, and how long they were trained."""
        checkpoint["configuration"] = self.configuration
        checkpoint["seconds_training"] = self.seconds_training

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting the time of training."""
        self._seconds_before = checkpoint.get("seconds_training", 0.0)

    def on_train_start(self) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_end(self) -> None:
        """Stop the clock."""
        self._seconds_before, self._began = self.seconds_training, None

    @property
    def seconds_training(self) -> float:
        """Seconds that the weights were trained, validation and earlier legs included."""
        running = 0.0 if self._began is None else time.perf_counter() - self._began
        return self._seconds_before + running

    def configure_optimizers(self) -> Any:
        """Return the optimizer and, where there is one, the scheduler."""
        # Frozen parts too: they have no gradient, and may be set free in a later epoch.
        optimizer = self.make_optimizer(self.model.parameters())
        if self.make_scheduler is None:
            return optimizer
        length = {}
        takes = signature(self.make_scheduler).parameters
        if "total_steps" in takes and takes["total_steps"].default in (None, Parameter.empty):
            steps = self.trainer.estimated_stepping_batches
            epochs = self.trainer.max_epochs
            length["total_steps"] = steps if self.scheduler_interval == "step" else epochs
        scheduler = {
            "scheduler": self.make_scheduler(optimizer, **length),
            "interval": self.scheduler_interval,
        }
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _log_step(self, loss: Tensor, report: dict[str, Tensor | float], images: int) -> None:
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=images)
        figures: dict[str, Any] = {f"train/{name}": value for name, value in report.items()}
        figures["train/learning_rate"] = self.trainer.optimizers[0].param_groups[0]["lr"]
        now = time.perf_counter()
        if self._step_began is not None:
            figures["train/images_per_second"] = images / (now - self._step_began)
        self._step_began = now
        self.log_dict(figures, batch_size=images)


def _check_pixels(batch: ImageBatch) -> None:
    outside = ~((batch.images >= 0) & (batch.images <= 1)).flatten(1).all(1)
    if bool(outside.any()):
        at = int(outside.nonzero()[0])
        image = batch.images[at]
        raise NonFiniteError(
            f"Expected pixels in [0, 1] at image {int(batch.indices[at])}, got values from "
            f"{float(image.min()):.4g} to {float(image.max()):.4g}. Normalisation belongs into "
            "the model"
        )
