"""Callbacks that freeze or average weights."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from smoothcert.errors import InvalidArgumentError, require_count, require_probability
from smoothcert.models import parts_of


class FreezeParts(pl.Callback):
    """Freezes parts of the network: their weights and their BatchNorm statistics.

    Args:
        parts: names of parts, for example `conv1` or `layer1`; empty to freeze nothing.
        epochs: number of epochs; None: the complete training.

    Raises:
        InvalidArgumentError: if `epochs` is less than one or given without parts, or at the
            beginning of the training if the network has no part of that name, or no other parts.
    """

    def __init__(self, parts: Sequence[str] = (), epochs: int | None = None) -> None:
        if epochs is not None:
            require_count("epochs", epochs)
            if not parts:
                raise InvalidArgumentError("Expected model.freeze=[…] with model.freeze_epochs")
        self.parts = parts
        self.epochs = epochs

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Refuse names that the network does not have, before anything is trained."""
        parts = self._parts_of(pl_module)
        frozen = {id(parameter) for part in parts for parameter in part.parameters()}
        if all(id(parameter) in frozen for parameter in pl_module.parameters()):
            raise InvalidArgumentError("Expected a part that is trained; model.freeze names all")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the parts also if a training resumes in the middle of an epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the parts, or unfreeze them after their epochs."""
        frozen = self.epochs is None or trainer.current_epoch < self.epochs
        for part in self._parts_of(pl_module):
            part.requires_grad_(not frozen)
            part.train(not frozen)

    def _parts_of(self, module: Any) -> list[nn.Module]:
        return parts_of(module.model, self.parts)


class EMA(WeightAveraging):
    """Exponential moving average of the weights, for runs that validate a chosen checkpoint.

    Validation uses the average, callbacks at its end see the average in any order, and every
    checkpoint contains the average as `state_dict`.

    Two differences from Lightning's class: `Trainer.validate` validates the weights of the given
    checkpoint, not the average of the last epoch; and an average of equal numbers, for example of
    normalisation constants or frozen parts, does not drift by rounding.

    Args:
        decay: share of the average that each step keeps, in (0, 1); less in the first steps.

    Raises:
        InvalidArgumentError: if `decay` is out of range, or before training if a `ModelCheckpoint`
            saves weights only.
    """

    def __init__(self, decay: float = 0.999) -> None:
        require_probability("decay", decay)
        self.decay = decay
        self._in_place = False
        super().__init__(avg_fn=self.average)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse checkpoints of weights only: Lightning calls no callback to add the average."""
        for checkpoint in trainer.checkpoint_callbacks:
            if getattr(checkpoint, "save_weights_only", False):
                raise InvalidArgumentError(
                    "Expected save_weights_only=false of every ModelCheckpoint with callbacks=ema, "
                    "got true: such a file contains the weights in training, not the average that "
                    "is validated and certified"
                )
        super().setup(trainer, pl_module, stage)

    def average(self, average: Tensor, present: Tensor, steps: Any) -> Tensor:
        """Return the average after a step; integer counters are copied.

        The share that is kept is at most (1 + t)/(10 + t) at step t: the weights of the first step
        would otherwise stay in the average for 1/(1 − decay) steps.
        """
        if not average.is_floating_point():
            return present
        kept = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        return average + (1 - kept) * (present - average)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap the average in, while fitting."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)
            self._in_place = True

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the average for later callbacks, such as certification."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap the weights in training back, while fitting; checkpoints are saved after this."""
        if self._in_place:
            super().on_validation_epoch_end(trainer, pl_module)
            self._in_place = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as `state_dict`, also in the middle of a validation."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._in_place:
            average, present = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint.update(state_dict=average, current_model_state=present)
