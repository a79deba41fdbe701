"""The command `python -m src.train`."""

import logging
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smoothcert.certify import SmoothedClassifier
from smoothcert.commands.build import (
    build_data,
    build_module,
    build_trainer,
    check_types,
    load_images,
    log_configuration,
    names_of_parts,
    switch,
)
from smoothcert.commands.chance import near_chance
from smoothcert.commands.commandline import typed
from smoothcert.commands.summary import performance_of, provenance, write_summary
from smoothcert.distributed.group import processes
from smoothcert.errors import (
    CheckpointError,
    InvalidArgumentError,
    MismatchError,
    ProcessError,
    RecordsError,
    SmoothCertWarning,
)
from smoothcert.lightning import EMA, CertificationCallback, ResumingCSVLogger, SmoothedTraining
from smoothcert.lightning.loggers import log_summary
from smoothcert.lightning.module import VALIDATED
from smoothcert.models import load_weights, read_checkpoint
from smoothcert.records import RunFolder
from smoothcert.records.summary import summarize

logger = logging.getLogger(__name__)

STATE = ("optimizer", "scheduler")
"""Parts whose state and settings a checkpoint restores."""
LENGTHS = ("T_max", "total_steps", "max_epochs")
"""Settings for the length of a schedule."""


def train(cfg: DictConfig) -> float | None:
    """Train, certify and summarize; see `smoothcert.commands.train`."""
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    folder = RunFolder(cfg.paths.run)
    choices = names_of_parts(cfg, HydraConfig.get().runtime.choices)
    last, best = folder.checkpoint("last"), folder.checkpoint("best")
    _check_common(folder, last)
    # Settings are refused before any image is read.
    check_types(cfg)
    trainer = build_trainer(cfg)
    data = build_data(cfg)
    data.on_device = switch("speed.data_on_device", cfg.speed.data_on_device)
    module = build_module(cfg, data, last if last.is_file() else None)
    checkpoint = _checkpoint(last, cfg.ckpt_path, module, trainer)
    callbacks = [c for c in trainer.callbacks if isinstance(c, CertificationCallback)]
    # The images to certify too: missing ones are found now, not after the last epoch.
    load_images(data, "train", "val", *(each.subset.split for each in callbacks))
    try:
        log_configuration(cfg, {**choices, "name": cfg.name}, trainer)
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if not callbacks:
            if trainer.is_global_zero:
                _report_without_certificates(folder, trainer)
            return None
        if best.is_file() and not trainer.fast_dev_run:
            load_weights(module.model, best)
        trainer.validate(module, datamodule=data, verbose=False)
        facts = {
            "name": cfg.name,
            **choices,
            "training_seed": cfg.seed,
            "training": module.configuration,
            "epochs": trainer.current_epoch,
            "seconds_training": round(module.seconds_training, 1),
            "training_images": len(data.images("train")),
        }
        return _finish(folder, facts, callbacks[0], trainer, module)
    finally:
        _close_wandb()


def _report_without_certificates(folder: RunFolder, trainer: Any) -> None:
    """Log the last metrics of a training, the file of its weights, and how to certify them."""
    parts = [f"Trained {trainer.current_epoch} epochs"]
    parts += [
        f"{name} {float(value):.4g}"
        for name, value in trainer.callback_metrics.items()
        if name in ("train/loss", *VALIDATED)
    ]
    logger.info(", ".join(parts))
    best = folder.checkpoint("best")
    if trainer.fast_dev_run or not best.is_file():
        logger.info("No checkpoint is kept in %s", folder)
        return
    for each in trainer.checkpoint_callbacks:
        metric = getattr(each, "monitor", None)
        if metric is not None and each.best_model_path == str(best.resolve()):
            epoch = read_checkpoint(best)["epoch"] + 1
            logger.info("Best epoch: %d, %s %.4g", epoch, metric, float(each.best_model_score))
    logger.info("Weights: %s", best)
    logger.info("Certify them: python -m src.certify %s", typed("run", str(folder)))


def _check_common(folder: RunFolder, last: Path) -> None:
    """Refuse processes with different folders, or that would resume from different states."""
    time = last.stat().st_mtime_ns if last.is_file() else None
    found = processes().all_gather_object("folder", [str(folder.path.resolve()), time])
    if any(each != found[0] for each in found):
        raise ProcessError(
            "Expected one run folder that all processes see, for example by hydra.run.dir=…, got "
            + " and ".join(sorted({place for place, _ in found}))
        )


def _finish(
    folder: RunFolder,
    facts: Mapping[str, Any],
    certification: CertificationCallback,
    trainer: Any,
    module: SmoothedTraining,
) -> float | None:
    certified = certification.last
    assert certified is not None, "Trainer.validate certifies"
    if not trainer.is_global_zero:
        return None
    data = trainer.datamodule
    smoothed = SmoothedClassifier(module.model, certification.sigma, data.num_classes)
    images = data.images(certification.subset.split)
    summary = {
        **facts,
        **summarize(certified.rows, certified.settings, certification.radii),
        **near_chance(smoothed, images, certified.rows, certification.seed),
        **performance_of(certified, folder),
        **provenance(),
    }
    log_summary(trainer.loggers, {k: v for k, v in summary.items() if not isinstance(v, dict)})
    write_summary(summary, folder, certified)
    return summary["acr"]


def _checkpoint(
    last: Path, ckpt_path: str | None, module: SmoothedTraining, trainer: Any
) -> Path | None:
    """Return the checkpoint to continue from: the run's own, another run's, or None."""
    if last.is_file():
        _prepare_resume(last, module, trainer)
        return last
    # An earlier attempt may have logged steps before its first checkpoint.
    _drop_metrics_from(0, trainer)
    if ckpt_path is None:
        return None
    _prepare_continuation(Path(ckpt_path), module, trainer)
    return Path(ckpt_path)


def _prepare_continuation(path: Path, module: SmoothedTraining, trainer: Any) -> None:
    """Refuse a checkpoint of another run whose state does not fit; warn of other differences."""
    checkpoint = _read_state(path)
    load_weights(module.model, path)
    averaged = "current_model_state" in checkpoint
    if averaged != any(isinstance(callback, EMA) for callback in trainer.callbacks):
        raise MismatchError(
            f"Expected a continuation {'with' if averaged else 'without'} callbacks=ema, as {path} "
            f"was trained. To start from its weights alone: model.weights={path}"
        )
    different = _differences(checkpoint, module)
    length = _lengths(checkpoint, module)
    if length:
        different.pop("scheduler")
        module.replay_schedule = True
        warnings.warn(
            f"The schedule of {path} has a different length now ({', '.join(length)}): the "
            "learning rate resumes where a complete training of that length would be. For a "
            f"schedule from its start: model.weights={path} and no ckpt_path, "
            "trainer.max_epochs=<further epochs>",
            SmoothCertWarning,
            stacklevel=2,
        )
    state = [name for name in STATE if name in different]
    if state:
        raise MismatchError(
            f"{path} continues with its own {' and '.join(state)}: "
            f"{', '.join(different[name] for name in state)}. Keep them, or start from the weights "
            f"alone: model.weights={path}"
        )
    if different:
        warnings.warn(
            f"Continuing from {path} with different settings: {', '.join(different.values())}",
            SmoothCertWarning,
            stacklevel=2,
        )
    finished = checkpoint["epoch"] + 1
    if trainer.max_epochs is not None and finished >= trainer.max_epochs:
        raise InvalidArgumentError(
            f"Expected `trainer.max_epochs` above the {finished} epochs that {path} has finished, "
            f"got {trainer.max_epochs}"
        )


def _differences(checkpoint: Mapping[str, Any], module: SmoothedTraining) -> dict[str, str]:
    """Return the parts of the configuration that a checkpoint has differently: before and now."""
    now = module.configuration
    # Older runs recorded no `ema`.
    before = {"ema": now.get("ema"), **checkpoint.get("configuration", {})}
    return {
        name: f"{name} was {before.get(name)!r} and is now {now[name]!r}"
        for name in now
        if before.get(name) != now[name]
    }


def _lengths(checkpoint: Mapping[str, Any], module: SmoothedTraining) -> list[str]:
    """Return the changes of a schedule's length; empty if other settings of it changed, too."""
    before = checkpoint.get("configuration", {}).get("scheduler")
    now = module.configuration.get("scheduler")
    if not isinstance(before, Mapping) or not isinstance(now, Mapping):
        return []
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if not set(keys) <= set(LENGTHS):
        return []
    return [f"{key} {before.get(key)} to {now.get(key)}" for key in keys]


def _read_state(path: Path) -> dict[str, Any]:
    """Return a checkpoint, unless training cannot be resumed from it."""
    checkpoint = read_checkpoint(path)
    if "optimizer_states" not in checkpoint:
        raise CheckpointError(
            f"{path} contains weights alone, and training resumes with an optimizer, too. Start "
            f"from the weights: model.weights={path}"
        )
    return checkpoint


def _prepare_resume(last: Path, module: SmoothedTraining, trainer: Any) -> None:
    """Refuse to resume a run of a different configuration, or from a damaged checkpoint."""
    checkpoint = _read_state(last)
    different = _differences(checkpoint, module)
    if different:
        raise RecordsError(
            f"{last.parent.parent} contains a run of a different configuration: "
            f"{', '.join(different.values())}. Nothing was overwritten; choose another run folder"
        )
    before = checkpoint.get("processes", trainer.world_size)
    if before != trainer.world_size:
        warnings.warn(
            f"Resuming with {trainer.world_size} processes instead of {before}: the noise, and "
            "which images of a batch each process takes, are different",
            SmoothCertWarning,
            stacklevel=2,
        )
    # Lightning loads them again, but its errors name no file.
    load_weights(module.model, last)
    _drop_metrics_from(checkpoint["global_step"], trainer)
    logger.info("Resuming from %s", last)


def _drop_metrics_from(step: int, trainer: Any) -> None:
    """Remove the metrics that this training will log again."""
    for each in trainer.loggers:
        if isinstance(each, ResumingCSVLogger) and trainer.is_global_zero:
            each.drop_from(step)


def _close_wandb() -> None:
    """End the run of W&B: the next job of a sweep has its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()
