"""A training that is told to end saves its state first."""

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
    Ctrl-C ends at once. The state is that of the step: a
    resumed training goes on with the next batch, and ends with the weights of one that was never
    interrupted. Validation is finished first, and the epoch's own checkpoint is then the state.

    Of several processes all end after the same step, whichever of them got the signal.

    What comes next is left to the handler that was there before: a scheduler's may put the job in
    its queue again, and one that returns lets the training go on. Without one, it ends by
    `smoothcert.errors.Stopped`, with exit code 128 + the signal's number.

    It is a `Checkpoint`, which Lightning calls after all other callbacks: what these do at the end
    of a step, an average of the weights for one, is part of the state.

    Args:
        path: where to save the state; the file that the training is resumed from.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._before: dict[int, Handler] = {}
        self._received = 0
        self._agreed = 0

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Remember the handlers, before Lightning sets its own."""
        self._received = self._agreed = 0
        # Lightning's would wait for other processes inside a handler, each at another place.
        connector: Any = getattr(trainer, "_signal_connector", None)
        if hasattr(connector, "_sigterm_notifier_fn"):
            connector._sigterm_notifier_fn = lambda *_: None
        self._before = {number: signal.getsignal(number) for number in stopping_signals()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Wait for signals; the trainer takes the handlers back at its end."""
        for number in self._before:
            _handle(number, self._receive)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Outside of training nothing is to be saved: let the handlers of before do their work."""
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
        """Save, where a signal has come and no gradients are being accumulated."""
        # Gradients are in no checkpoint.
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not trainer.is_last_batch:
            return
        self._agree(pl_module)
        # Batches that are repeated to overfit to have no place to go on from.
        if self._agreed and not trainer.is_last_batch and not self._overfits(trainer):
            trainer.save_checkpoint(self.path)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,  # noqa: ARG002
        pl_module: pl.LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """End with the state that was saved, now that the step has been logged, too."""
        self._hand_over()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """End with the last epoch's own checkpoint."""
        self._hand_over()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """End after the last epoch, before certification."""
        self._agree(pl_module)
        self._hand_over()

    @staticmethod
    def _overfits(trainer: pl.Trainer) -> bool:
        return getattr(trainer, "overfit_batches", 0) > 0

    def _receive(self, number: int, _: Any) -> None:
        end_at_second_interrupt(number, self._received)
        self._received = number

    def _agree(self, module: pl.LightningModule) -> None:
        """Let all processes know of a signal that any of them has got."""
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
    """Set a signal's handler, where this thread may."""
    try:
        signal.signal(number, handler)
    except ValueError:  # Not the main thread: a notebook's, for one.
        return
