"""Training with PyTorch Lightning: module, callbacks, strategy and loggers."""

from smoothcert.lightning.callbacks import CertificationCallback
from smoothcert.lightning.distributed import SmoothedDDP, WholeCheckpoints
from smoothcert.lightning.finetuning import EMA, FreezeParts
from smoothcert.lightning.loggers import ResumingCSVLogger, log_certificates, wandb_logger
from smoothcert.lightning.module import SmoothedTraining
from smoothcert.lightning.preemption import SaveOnSignal

__all__ = [
    "EMA",
    "CertificationCallback",
    "FreezeParts",
    "ResumingCSVLogger",
    "SaveOnSignal",
    "SmoothedDDP",
    "SmoothedTraining",
    "WholeCheckpoints",
    "log_certificates",
    "wandb_logger",
]
