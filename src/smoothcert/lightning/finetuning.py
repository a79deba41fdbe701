"""Callbacks that change which weights are trained, and which are kept."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from smoothcert.errors import InvalidArgumentError, require_count, require_probability
from smoothcert.models import parts_of


class FreezeParts(pl.Callback):
    """Keeps parts of the network as they are: weights, and statistics of BatchNorm too.

    Args:
        parts: names of parts, for example `conv1` or `layer1`; none freezes nothing.
        epochs: for so many epochs; None: for the whole training.

    Raises:
        InvalidArgumentError: if `epochs` is less than one or given without parts, or at the
            beginning of the training if the network has no part of a name, or no other parts.
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
        parts = parts_of(_model(pl_module), self.parts)
        frozen = {id(parameter) for part in parts for parameter in part.parameters()}
        if all(id(parameter) in frozen for parameter in pl_module.parameters()):
            raise InvalidArgumentError("Expected a part that is trained; model.freeze names all")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the parts where a training goes on in the middle of an epoch, too."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the parts, or set them free once their epochs are over."""
        frozen = self.epochs is None or trainer.current_epoch < self.epochs
        for part in parts_of(_model(pl_module), self.parts):
            part.requires_grad_(not frozen)
            part.train(not frozen)


class EMA(WeightAveraging):
    """Exponential moving average of the weights, for runs that validate a chosen checkpoint.

    The average is what is validated, what the callbacks of the end of validation see in whatever
    order they come, and what every checkpoint holds as `state_dict`.

    Lightning's own takes the weights that `Trainer.validate` is given away, and validates its
    average of the last epoch; and its average of equal numbers drifts by rounding, that of the
    normalisation and of frozen parts among them.

    Args:
        decay: share of the average that each step keeps, in (0, 1); less in the first steps.

    Raises:
        InvalidArgumentError: if it is out of range, or before training if a `ModelCheckpoint` is
            to save weights alone.
    """

    def __init__(self, decay: float = 0.999) -> None:
        require_probability("decay", decay)
        self.decay = decay
        self._in_place = False
        super().__init__(avg_fn=self.average)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse checkpoints that could not hold the average: Lightning asks no callback there."""
        for checkpoint in trainer.checkpoint_callbacks:
            if getattr(checkpoint, "save_weights_only", False):
                raise InvalidArgumentError(
                    "Expected save_weights_only=false of every ModelCheckpoint with callbacks=ema, "
                    "got true: such a file holds the weights in training, not the average that is "
                    "validated and certified"
                )
        super().setup(trainer, pl_module, stage)

    def average(self, average: Tensor, present: Tensor, steps: Any) -> Tensor:
        """Return the average after a step; counters are taken as they are.

        At first (1 + t)/(10 + t) is kept, where that is less: the first step's weights would stay
        in the average for 1/(1 − decay) steps.
        """
        if not average.is_floating_point():
            return present
        kept = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        return average + (1 - kept) * (present - average)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in place, while fitting."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, pl_module)
            self._in_place = True

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in place for callbacks that come later, certification for one."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the weights in training back, while fitting; checkpoints are saved after this."""
        if self._in_place:
            super().on_validation_epoch_end(trainer, pl_module)
            self._in_place = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as `state_dict`, in the middle of a validation, too."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._in_place:
            average, present = checkpoint["current_model_state"], checkpoint["state_dict"]
            checkpoint.update(state_dict=average, current_model_state=present)


def _model(module: pl.LightningModule) -> Any:
    return module.model
