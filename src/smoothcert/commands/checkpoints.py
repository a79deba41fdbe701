"""Checks that the network which a run validates, selects, stores and certifies is the same.

`src.train` certifies `checkpoints/best.ckpt`, `src.certify` reads it, and `run=` resumes from
`checkpoints/last.ckpt`. Settings of callbacks that would store other weights in these files are
refused before anything is loaded.
"""

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback, ModelCheckpoint, WeightAveraging

from smoothcert.errors import InvalidArgumentError
from smoothcert.lightning import EMA, CertificationCallback
from smoothcert.lightning.module import VALIDATED

KNOWN = ("smoothcert.", "pytorch_lightning.")
"""Packages whose callbacks log no metrics except those that `_check_monitor` knows."""
ACR = "certify/acr"
OF_LIGHTNING = ("epoch", "step")
"""Values of Lightning itself that a checkpoint can monitor."""
NEVER = {"enable_version_counter": False, "save_on_exception": False}
FILES: Mapping[str, Mapping[str, Any]] = {
    "best": {"filename": "best", "save_top_k": 1, "save_last": False, **NEVER},
    "last": {"filename": "last", "save_top_k": 1, "save_weights_only": False, **NEVER},
}
"""Required settings by file. With other settings, further weights or weights that were never
validated could overwrite the best; and training cannot resume from weights alone."""
ONE_FILE = {key for settings in FILES.values() for key in settings}
DEFAULTS = signature(ModelCheckpoint).parameters


def check_callbacks(
    callbacks: Mapping[str, Callback], settings: Any, folder: Path, trainer: Any
) -> None:
    """Refuse callbacks that would store, select or average other weights than those certified.

    Args:
        callbacks: the run's callbacks by their names in the configuration.
        settings: their settings, plain values by name.
        folder: the run folder.
        trainer: Lightning's trainer.

    Raises:
        InvalidArgumentError: if a monitored metric will not exist, or a checkpoint would contain
            other weights than those its metric was measured on, or a file of the run would not
            contain what its name says.
    """
    certification = next(
        (each for each in callbacks.values() if isinstance(each, CertificationCallback)), None
    )
    for name, callback in callbacks.items():
        if isinstance(callback, WeightAveraging) and not isinstance(callback, EMA):
            raise InvalidArgumentError(
                f"Expected callbacks.{name} a smoothcert.lightning.EMA, got "
                f"{type(callback).__name__}: with Lightning's own, the average of the last epoch "
                "would be certified, and not the best checkpoint"
            )
        monitor = getattr(callback, "monitor", None)
        if monitor is not None:
            saved = settings[name].get("every_n_epochs") or 1
            _check_monitor(name, monitor, saved, list(callbacks.values()), certification, trainer)
        if isinstance(callback, ModelCheckpoint):
            _check_moment(name, monitor, settings[name], trainer)
            _check_file(name, settings[name], folder)


def _check_monitor(
    name: str,
    monitor: str,
    saved: int,
    callbacks: Sequence[Callback],
    certification: CertificationCallback | None,
    trainer: Any,
) -> None:
    """Refuse a metric that does not exist, or only after the last epoch.

    Metrics of training are checked at the first step.
    """
    known = [*(VALIDATED if trainer.limit_val_batches else ())]
    known += certification.logged if certification else ()
    if monitor in (*known, *OF_LIGHTNING) or monitor.startswith("train/"):
        first = math.lcm(saved, _measured(monitor, certification, trainer))
        if not trainer.fast_dev_run and 0 < (trainer.max_epochs or 0) < first:
            raise InvalidArgumentError(
                f"Expected trainer.max_epochs of at least {first} with callbacks.{name}.monitor="
                f"{monitor}, since epoch {first} is the first that measures it and saves weights, "
                f"got {trainer.max_epochs}"
            )
        return
    # A user's own callback may log further metrics.
    if all(type(each).__module__.startswith(KNOWN) for each in callbacks):
        more = "" if ACR in known else f"; {ACR} with callbacks.certification.every_n_epochs=1"
        raise InvalidArgumentError(
            f"Expected callbacks.{name}.monitor one of {', '.join([*known, 'train/loss'])} and "
            f"further metrics of train/{more}, got {monitor!r}"
        )


def _measured(monitor: str, certification: CertificationCallback | None, trainer: Any) -> int:
    """Return the number of epochs from one measurement of a metric to the next."""
    if monitor.startswith("train/") or monitor in OF_LIGHTNING:
        return 1
    every = trainer.check_val_every_n_epoch or 1
    if monitor.startswith("certify/") and certification is not None:
        every = math.lcm(every, certification.every_n_epochs)
    return every


def _check_moment(
    name: str, monitor: str | None, settings: Mapping[str, Any], trainer: Any
) -> None:
    """Refuse to save weights at a different moment from the measurement of their metric."""
    if monitor is None or not monitor.startswith(("val/", "certify/")):
        return
    between = next(
        (key for key in ("every_n_train_steps", "train_time_interval") if settings.get(key)), None
    )
    validates_each = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0
    if settings.get("save_on_train_epoch_end") and not validates_each:
        between = "save_on_train_epoch_end"
    if between is not None:
        raise InvalidArgumentError(
            f"Expected no callbacks.{name}.{between} with monitor={monitor}, got "
            f"{settings[between]}: weights would be stored with the metric of earlier weights. "
            "Leave it out: weights are saved after each validation"
        )


def _check_file(name: str, settings: Mapping[str, Any], folder: Path) -> None:
    """Refuse settings by which a file would not contain the weights that its name says."""
    required, place = FILES.get(name, {}), folder / "checkpoints"
    given = {key: settings.get(key, DEFAULTS[key].default) for key in ONE_FILE}
    if not required and given["filename"] and "{" not in given["filename"]:
        # Each checkpoint would replace the one before.
        required = {} if given["enable_version_counter"] else {"save_top_k": 1}
    elif required:
        required = {**required, "dirpath": str(place.resolve())}
        given["dirpath"] = str(Path(settings.get("dirpath") or place).resolve())
    for key, value in required.items():
        if (given[key] or False) != value:
            raise InvalidArgumentError(
                f"Expected callbacks.{name}.{key}={value}, got {given[key]}: its file would not "
                "contain what its name says. Save other checkpoints by a callback of your own, "
                "+callbacks.<name>._target_=pytorch_lightning.callbacks.ModelCheckpoint"
            )
