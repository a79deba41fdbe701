"""Saving the state of a training before it ends by a signal."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from smoothcert.distributed.group import is_group
from smoothcert.distributed.signals import end_at_second_interrupt, stopping_signals
from smoothcert.errors import Stopped

Handler = Callable[[int, Any], Any] | int | None


class SaveOnSignal(Checkpoint):
    """Saves the state of a training after the step in which a signal comes, and ends there.

    Schedulers send SIGTERM or SIGUSR1 some time before they kill, and Ctrl-C sends SIGINT; a second
    Ctrl-C ends the training immediately. A training that resumes from the state continues with the
    next batch, and ends with the weights of an uninterrupted training. A validation is finished
    first; the epoch's own checkpoint is then the state.

    All processes end after the same step, even if only one of them received the signal.

    Then the previous signal handler runs: a scheduler's handler may requeue the job, and if a
    handler returns, the training continues. Without a handler the training ends with
    `smoothcert.errors.Stopped`, with exit code 128 + the signal's number.

    It is a `Checkpoint`, which Lightning calls after all other callbacks, so that the state
    includes their changes at the end of a step, for example an average of the weights.

    Args:
        path: the file of the state, from which the training is resumed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._before: dict[int, Handler] = {}
        self._received = 0
        self._agreed = 0

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Store the signal handlers, before Lightning sets its own."""
        self._received = self._agreed = 0
        # Lightning's handler would wait for other processes, which may be in different steps.
        connector: Any = getattr(trainer, "_signal_connector", None)
        if hasattr(connector, "_sigterm_notifier_fn"):
            connector._sigterm_notifier_fn = lambda *_: None
        self._before = {number: signal.getsignal(number) for number in stopping_signals()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Handle signals; the trainer restores the handlers at its end."""
        for number in self._before:
            _handle(number, self._receive)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Restore the previous handlers outside of training, where there is no state to save."""
        if trainer.state.fn != TrainerFn.FITTING:
            for number, handler in self._before.items():
                _handle(number, handler)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Save the state after a signal, unless gradients are being accumulated."""
        # Checkpoints do not contain gradients.
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        self._agree(pl_module)
        # A run with `overfit_batches` cannot resume in the middle of an epoch.
        overfits = getattr(trainer, "overfit_batches", 0) > 0
        if self._agreed and not trainer.is_last_batch and not overfits:
            trainer.save_checkpoint(self.path)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """End with the saved state, after the step has been logged."""
        self._hand_over()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """End with the last epoch's own checkpoint."""
        self._hand_over()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """End after the last epoch, before certification."""
        self._agree(pl_module)
        self._hand_over()

    def _receive(self, number: int, _: Any) -> None:
        end_at_second_interrupt(number, self._received)
        self._received = number

    def _agree(self, module: pl.LightningModule) -> None:
        """Share a signal that any process has received with all processes."""
        self._agreed = self._received
        if is_group():
            device = "cpu" if "gloo" in dist.get_backend_config() else module.device
            number = torch.tensor(self._received, device=device)
            dist.all_reduce(number, dist.ReduceOp.MAX)
            self._agreed = int(number)

    def _hand_over(self) -> None:
        number = self._agreed
        if not number:
            return
        self._received = self._agreed = 0
        if not callable(handler := self._before.get(number)):
            raise Stopped(number)
        handler(number, None)


def _handle(number: int, handler: Any) -> None:
    """Set a signal's handler, if this is the main thread."""
    try:
        signal.signal(number, handler)
    except ValueError:  # Not the main thread, for example in a notebook.
        return
