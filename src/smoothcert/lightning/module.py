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

from smoothcert.attacks import Attack
from smoothcert.distributed.group import Processes, is_group, processes
from smoothcert.errors import InvalidArgumentError, NonFiniteError, require_count, require_positive
from smoothcert.noise import draw_noise, generator, noisy_logits, smoothed_log_probabilities
from smoothcert.objectives import Objective
from smoothcert.types import ImageBatch, NoisyBatch

TRAINING, VALIDATION, GLOBAL = 0, 1, 2
"""What a stream of random numbers is for."""
VALIDATED = ("val/cross_entropy", "val/smoothed_accuracy")
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

    Attributes:
        replay_schedule: whether a checkpoint that training resumes from has a schedule of another
            length, which is to have its present one.

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
        self._sums, self._images = torch.zeros(len(VALIDATED), dtype=torch.float64), 0
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

    def on_train_batch_start(self, batch: ImageBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Seed what draws from the global streams, dropout above all, by the step alone.

        So a run that is resumed in the middle of an epoch needs no state of theirs.
        """
        keys = (self.seed, GLOBAL, self.global_rank, self.current_epoch, batch_idx)
        isolated = np.random.SeedSequence((len(keys), *keys))
        for_torch, for_numpy = isolated.generate_state(2).tolist()
        torch.manual_seed(for_torch)
        np.random.seed(for_numpy)  # noqa: NPY002
        random.seed(for_numpy)

    def on_validation_epoch_start(self) -> None:
        """Let every process validate and certify the same network: statistics of BatchNorm too."""
        self._sums, self._images = torch.zeros(len(VALIDATED), dtype=torch.float64), 0
        if is_group() and self.trainer.world_size > 1:
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0)

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:  # noqa: ARG002
        """See how the smoothed classifier does on a batch; each image has noise of its own."""
        images = batch.images.contiguous(memory_format=self.memory_format)
        noise = self._validation_noise(images, batch.indices)
        logits = noisy_logits(self.model, NoisyBatch(images, batch.labels, noise, self.sigma))
        right = smoothed_log_probabilities(logits).argmax(-1) == batch.labels
        labels = batch.labels.expand(len(logits), -1)
        losses = cross_entropy(logits.movedim(-1, 1), labels, reduction="none").mean(0)
        # In float64 on the CPU, whatever the device and the precision of the training.
        self._sums += torch.stack([losses.sum(), right.sum()]).cpu().double()
        self._images += len(images)

    def on_validation_epoch_end(self) -> None:
        """Log the means over all images of all processes, each image once."""
        team = processes() if self.trainer.world_size > 1 else Processes()
        every = team.all_gather_object("validated", [*self._sums.tolist(), self._images])
        *sums, images = map(sum, zip(*every, strict=True))
        means = {name: total / images for name, total in zip(VALIDATED, sums, strict=True)}
        self.log_dict(means, prog_bar=True, batch_size=1)

    def _validation_noise(self, images: Tensor, indices: Tensor) -> Tensor:
        """Draw the same noise for an image in every epoch, in whichever batch it comes."""
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
        """Keep the configuration with the weights, and how long they were trained."""
        checkpoint["configuration"] = self.configuration
        checkpoint["seconds_training"] = self.seconds_training
        checkpoint["processes"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting the time of training."""
        self._seconds_before = checkpoint.get("seconds_training", 0.0)

    def on_train_start(self) -> None:
        """Start the clock, and put a schedule of another length in its place."""
        self._began = time.perf_counter()
        if self.replay_schedule:
            self._replay_schedule()

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
        optimizer = _made("optimizer", self.make_optimizer, self.model.parameters())
        if self.make_scheduler is None:
            return optimizer
        scheduler = {"scheduler": self._schedule(optimizer), "interval": self.scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _schedule(self, optimizer: Optimizer) -> LRScheduler:
        assert self.make_scheduler is not None, "asked where there is one"
        length = {}
        takes = signature(self.make_scheduler).parameters
        if "total_steps" in takes and takes["total_steps"].default in (None, Parameter.empty):
            steps = self.trainer.estimated_stepping_batches
            epochs = self.trainer.max_epochs
            length["total_steps"] = steps if self.scheduler_interval == "step" else epochs
        return _made("scheduler", self.make_scheduler, optimizer, **length)

    def _replay_schedule(self) -> None:
        """Put the schedule where it would be, had the whole training followed its present length.

        A checkpoint brings its own length, and its last learning rate, from which some schedules
        go on: from zero, at the end of a cosine, they never rise again.
        """
        [config], [optimizer] = self.trainer.lr_scheduler_configs, self.trainer.optimizers
        steps = config.scheduler.last_epoch  # pyright: ignore[reportAttributeAccessIssue]
        for group in optimizer.param_groups:
            # As the optimizer was made; the schedule sets its own first rate.
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
        """Refuse at the first step a figure of the steps that is monitored and not there."""
        for callback in self.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            monitor = getattr(callback, "monitor", None) or ""
            if monitor.startswith("train/") and monitor not in logged:
                raise InvalidArgumentError(
                    f"Expected monitor={monitor} of {type(callback).__name__} one of "
                    f"{', '.join(dict.fromkeys(logged))}"
                )


def _made(name: str, factory: Callable[..., Any], *parts: Any, **length: Any) -> Any:
    """Make a part of the training; what its class refuses is said with the part's settings.

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
            f"{float(image.min()):.4g} to {float(image.max()):.4g}. Normalisation belongs into "
            "the model"
        )
