"""Small trainings by Lightning, without a command."""

import csv
import warnings
from functools import partial

import pytorch_lightning as pl
import torch

from smoothcert.attacks import NoAttack
from smoothcert.data import DigitsDataModule
from smoothcert.lightning import ResumingCSVLogger, SmoothedTraining
from smoothcert.models import small_cnn
from smoothcert.objectives import ADRE

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)

STEP = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)


def module(objective=None, attack=None, seed=0, optimizer=SGD):
    torch.manual_seed(seed)
    network = small_cnn(10, (1, 8, 8), [0.3], [0.4], width=4)
    objective, attack = objective or ADRE(noise_draws=2), attack or NoAttack()
    return SmoothedTraining(network, objective, attack, 0.5, optimizer, STEP, 2, seed)


def fit(training, folder, epochs=2, batches=3, callbacks=(), ckpt_path=None, data=None):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_train_batches=batches,
        limit_val_batches=1,
        logger=ResumingCSVLogger(str(folder), 1),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        trainer.fit(training, datamodule=data or DigitsDataModule(), ckpt_path=ckpt_path)
    return trainer


def weights(training):
    return torch.cat([p.detach().flatten() for p in training.model.state_dict().values()])


def logged(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))
