"""Loggers: metrics that survive a resume, W&B that never asks, one adapter for artefacts."""

import csv
import io
import netrc
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import COLUMNS, CertificateRow, write_atomically
from smoothcert.stats import certified_accuracy

WandbMode = Literal["online", "offline", "disabled"]


class _ResumingWriter(ExperimentWriter):
    """Continues the metrics file that it finds, where Lightning's own would delete it.

    The file is changed only once there is something to write: a training that is refused before
    leaves every line of it.
    """

    first_step: int | None = None
    """Lines of this step and of later ones are replaced by what is logged from now on."""
    _is_continued = False

    def save(self) -> None:
        """Write what was recorded."""
        if self.metrics and not self._is_continued:
            self._continue()
        super().save()

    def _continue(self) -> None:
        """Take over the lines of earlier steps."""
        self._is_continued = True
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        # A kill may have torn the last line.
        text = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(text.rfind(b"\n") + 1)
        with path.open(newline="") as file:
            self.metrics_keys = next(csv.reader(file), [])
        if not self.metrics_keys:
            path.unlink()
        elif self.first_step is not None:
            kept = [row for row in self.read() if int(row["step"]) < self.first_step]
            self.rewrite(self.metrics_keys, kept)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Add columns; a kill meanwhile leaves the old file."""
        self.rewrite(fieldnames, self.read())

    def read(self) -> list[dict[str, str]]:
        """Return the rows of the file."""
        with Path(self.metrics_file_path).open(newline="") as file:
            return list(csv.DictReader(file))

    def rewrite(self, fieldnames: list[str], rows: list[dict[str, str]]) -> None:
        """Replace the file's contents, whole or not at all."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=fieldnames)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(Path(self.metrics_file_path), text.getvalue())

    def check(self) -> None:
        """Refuse a file whose rows cannot be kept; a kill may have torn its last line."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        text = path.read_bytes()
        try:
            whole = text[: text.rfind(b"\n") + 1].decode()
            for row in csv.DictReader(io.StringIO(whole, newline=""), strict=True):
                int(row["step"])
                if None in row or None in row.values():
                    raise ValueError("a row has another number of cells than the header")
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise RecordsError(
                f"{path} is damaged ({error}). Move it away, and resume: only the steps after the "
                "checkpoint are logged then"
            ) from error

    def _check_log_dir_exists(self) -> None:
        """Leave the file, once it is sound: Lightning's own would delete it."""
        self.check()


class ResumingCSVLogger(CSVLogger):
    """Writes `metrics.csv` into the run folder itself, and goes on with it after a resume.

    Args:
        folder: the run folder.
        flush_every_n_steps: how many logged steps may be lost by a kill.
    """

    def __init__(self, folder: str, flush_every_n_steps: int = 20) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=flush_every_n_steps)

    def drop_from(self, step: int) -> None:
        """Replace rows of this step and of later ones, once a resumed training logs them again.

        Args:
            step: number of finished steps.
        """
        self.experiment.first_step = step

    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: Hydra keeps the configuration in the run folder already."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the metrics file."""
        if self._experiment is None:
            self._experiment = _ResumingWriter(log_dir=self.log_dir)
        return self._experiment


def wandb_logger(
    folder: str,
    project: str,
    name: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    mode: WandbMode | None = None,
    configuration: dict[str, Any] | None = None,
) -> WandbLogger:
    """Return a W&B logger that never prompts.

    Args:
        folder: the run folder; W&B's own folder goes there.
        project: W&B project.
        name: name of the run.
        entity: W&B user or team; the account's default unless given.
        group: group of runs, for a sweep.
        job_type: kind of run.
        tags: tags of the run.
        mode: None: what WANDB_MODE or `wandb offline` says, else online where an API key is
            known, else offline. An offline run is sent later with `wandb sync`.
        configuration: the run's configuration, by which a dashboard groups.

    Raises:
        InvalidArgumentError: if online is asked for and no API key is known.
    """
    import wandb

    asked = mode or os.environ.get("WANDB_MODE")
    if asked == "online" and not _has_api_key():
        raise InvalidArgumentError(
            "Expected an API key for W&B's mode online, got none. Run `wandb login` or set "
            "WANDB_API_KEY; offline runs need none"
        )
    if not asked and not _has_api_key():
        mode = "offline"
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    settings = wandb.Settings(silent=True, console="off")
    logger = WandbLogger(
        project=project,
        name=name,
        save_dir=folder,
        log_model=False,
        # Not Lightning's `offline`: it would set WANDB_MODE for everything that runs afterwards.
        mode=mode,
        settings=settings,
        entity=entity,
        group=group,
        job_type=job_type,
        tags=list(tags),
        config=configuration or {},
    )
    # Lightning passes it always, and W&B warns of it.
    logger._wandb_init.pop("anonymous", None)
    return logger


def log_certificates(
    loggers: Iterable[Logger],
    rows: Sequence[CertificateRow],
    radii: Sequence[float],
    picture: Path,
    step: int,
    thumbnails: Mapping[int, np.ndarray] | None = None,
) -> None:
    """Give the curve, its picture and the certificates to every logger that can show them.

    Args:
        loggers: the run's loggers.
        rows: the certificates.
        radii: radii of the curve.
        picture: a PNG of the curve; skipped where it does not exist.
        step: the training step that the certificates belong to.
        thumbnails: small pictures of some of the images, uint8 (H, W, 3), by index.
    """
    shares = certified_accuracy([r.radius for r in rows], [r.correct for r in rows], radii)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            curve = list(zip(radii, shares.tolist(), strict=True))
            _to_wandb(logger, rows, curve, picture, step, thumbnails or {})
        elif isinstance(logger, TensorBoardLogger) and picture.is_file():
            logger.experiment.add_image(
                "certify/certified_accuracy", _pixels(picture), step, dataformats="HWC"
            )


def log_summary(loggers: Iterable[Logger], summary: dict[str, Any]) -> None:
    """Write the run's final figures where a dashboard groups and sorts by them.

    Args:
        loggers: the run's loggers.
        summary: plain values by name.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(summary)


def _to_wandb(
    logger: WandbLogger,
    rows: Sequence[CertificateRow],
    curve: list[tuple[float, float]],
    picture: Path,
    step: int,
    thumbnails: Mapping[int, np.ndarray],
) -> None:
    import wandb

    points = wandb.Table(columns=["radius", "certified accuracy"], data=[list(p) for p in curve])
    charts: dict[str, Any] = {
        "certify/curve": wandb.plot.line(
            points, "radius", "certified accuracy", title="Certified accuracy"
        ),
        "certify/certificates": _certificates(rows, thumbnails),
    }
    if picture.is_file():
        charts["certify/certified_accuracy"] = wandb.Image(str(picture))
    logger.experiment.log({"trainer/global_step": step, **charts})


def _certificates(rows: Sequence[CertificateRow], thumbnails: Mapping[int, np.ndarray]) -> Any:
    """Return the certificates as W&B's table, those with a picture first."""
    import wandb

    pictures = {idx: wandb.Image(pixels) for idx, pixels in thumbnails.items()}
    ordered = sorted(rows, key=lambda row: row.idx not in pictures)
    data: list[Any] = [[pictures.get(row.idx), *astuple(row)] for row in ordered]
    return wandb.Table(columns=["image", *COLUMNS], data=data)


def log_noisy_examples(loggers: Iterable[Logger], examples: np.ndarray, sigma: float) -> None:
    """Show images beside what the base classifier sees of them.

    Args:
        loggers: the run's loggers.
        examples: pixels in [0, 1], shape (N, m, C, H, W): each image, then under noise.
        sigma: standard deviation of the noise.
    """
    sheet = np.concatenate([np.concatenate(list(row), axis=-1) for row in examples], axis=-2)
    pixels = (sheet.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    caption = f"left: images; right of it: under noise, sigma = {sigma:g}, clipped to be shown"
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image("examples/under_noise", [pixels], caption=[caption])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image("examples/under_noise", pixels, 0, dataformats="HWC")


def _has_api_key() -> bool:
    """Look where `wandb login` and its users put keys; W&B's own look-up might prompt."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if path and (file := Path(path).expanduser()).is_file():
            try:
                return netrc.netrc(str(file)).authenticators(host) is not None
            except (netrc.NetrcParseError, OSError):
                return False
    return False


def _pixels(picture: Path) -> Any:
    from PIL import Image

    return np.asarray(Image.open(picture).convert("RGB"))
