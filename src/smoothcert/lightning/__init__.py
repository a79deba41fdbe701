"""The thin shell around the core: Lightning's module, callbacks, metrics and loggers."""

from smoothcert.lightning.callbacks import CertificationCallback
from smoothcert.lightning.finetuning import EMA, FreezeParts
from smoothcert.lightning.loggers import ResumingCSVLogger, log_certificates, wandb_logger
from smoothcert.lightning.metrics import AbstentionRate, AverageCertifiedRadius, CertifiedAccuracy
from smoothcert.lightning.module import SmoothedTraining

__all__ = [
    "EMA",
    "AbstentionRate",
    "AverageCertifiedRadius",
    "CertificationCallback",
    "CertifiedAccuracy",
    "FreezeParts",
    "ResumingCSVLogger",
    "SmoothedTraining",
    "log_certificates",
    "wandb_logger",
]
