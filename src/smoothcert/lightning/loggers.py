"""Loggers: metrics that are kept on resume, W&B without prompts, artefacts for every logger."""

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
    """Continues an existing metrics file, which Lightning's writer would delete.

    The file changes only when there is something to write: a training that is refused earlier does
    not change it.
    """

    first_step: int | None = None
    """Lines of this step and of later steps are replaced by new ones."""
    _is_continued = False

    def save(self) -> None:
        """Write the recorded metrics."""
        if self.metrics and not self._is_continued:
            self._continue()
        super().save()

    def _continue(self) -> None:
        """Keep the lines of earlier steps."""
        self._is_continued = True
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        # A kill may have cut off the last line.
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
        """Replace the file's contents, completely or not at all."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=fieldnames)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(Path(self.metrics_file_path), text.getvalue())

    def _check_log_dir_exists(self) -> None:
        """Refuse a file whose rows cannot be kept, where Lightning's writer would delete it.

        A kill may have cut off its last line.
        """
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        text = path.read_bytes()
        try:
            lines = text[: text.rfind(b"\n") + 1].decode()
            for row in csv.DictReader(io.StringIO(lines, newline=""), strict=True):
                int(row["step"])
                if None in row or None in row.values():
                    raise ValueError("a row and the header have different numbers of cells")
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise RecordsError(
                f"{path} is damaged ({error}). Move it away and resume: then only the steps after "
                "the checkpoint are logged"
            ) from error


class ResumingCSVLogger(CSVLogger):
    """Writes `metrics.csv` into the run folder, and continues it after a resume.

    Args:
        folder: the run folder.
        flush_every_n_steps: the largest number of logged steps that a kill loses.
    """

    def __init__(self, folder: str, flush_every_n_steps: int = 20) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=flush_every_n_steps)

    def drop_from(self, step: int) -> None:
        """Replace rows of this step and later steps, once a resumed training logs new ones.

        Args:
            step: number of finished steps.
        """
        self.experiment.first_step = step

    def log_hyperparams(self, params: Any = None) -> None:
        """Do nothing: Hydra already keeps the configuration in the run folder."""

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
        folder: the run folder, for W&B's own folder.
        project: W&B project.
        name: name of the run.
        entity: W&B user or team; by default the account's default.
        group: group of runs, for a sweep.
        job_type: kind of run.
        tags: tags of the run.
        mode: None: the mode of WANDB_MODE or `wandb offline`, else online if there is an API key,
            else offline. `wandb sync` uploads an offline run later.
        configuration: the run's configuration, for grouping in a dashboard.

    Raises:
        InvalidArgumentError: if the mode is online and there is no API key.
    """
    import wandb

    requested = mode or os.environ.get("WANDB_MODE")
    if requested == "online" and not _has_api_key():
        raise InvalidArgumentError(
            "Expected an API key for W&B's mode online, got none. Run `wandb login` or set "
            "WANDB_API_KEY; offline runs need none"
        )
    if not requested and not _has_api_key():
        mode = "offline"
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    settings = wandb.Settings(silent=True, console="off")
    logger = WandbLogger(
        project=project,
        name=name,
        save_dir=folder,
        log_model=False,
        # Not Lightning's `offline`, which would set WANDB_MODE for all later code.
        mode=mode,
        settings=settings,
        entity=entity,
        group=group,
        job_type=job_type,
        tags=list(tags),
        config=configuration or {},
    )
    # Lightning always passes it, and W&B warns about it.
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
    """Log the curve, its picture and the certificates with every logger that supports them.

    Args:
        loggers: the run's loggers.
        rows: the certificates.
        radii: radii of the curve.
        picture: a PNG of the curve; skipped if it does not exist.
        step: the training step of the certificates.
        thumbnails: small pictures of some of the images, uint8 (H, W, 3), by index.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            charts = _wandb_charts(rows, radii, picture, thumbnails or {})
            logger.experiment.log({"trainer/global_step": step, **charts})
        elif isinstance(logger, TensorBoardLogger) and picture.is_file():
            from PIL import Image

            pixels = np.asarray(Image.open(picture).convert("RGB"))
            name = "certify/certified_accuracy"
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")


def log_summary(loggers: Iterable[Logger], summary: dict[str, Any]) -> None:
    """Write the run's final figures to W&B's summary, for grouping and sorting in a dashboard.

    Args:
        loggers: the run's loggers.
        summary: plain values by name.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(summary)


def _wandb_charts(
    rows: Sequence[CertificateRow],
    radii: Sequence[float],
    picture: Path,
    thumbnails: Mapping[int, np.ndarray],
) -> dict[str, Any]:
    import wandb

    shares = certified_accuracy([r.radius for r in rows], [r.correct for r in rows], radii)
    x, y = "radius", "certified accuracy"
    curve = wandb.Table(columns=[x, y], data=[*map(list, zip(radii, shares.tolist(), strict=True))])
    images = {idx: wandb.Image(pixels) for idx, pixels in thumbnails.items()}
    # Rows with an image first.
    ordered = sorted(rows, key=lambda row: row.idx not in images)
    data: list[Any] = [[images.get(row.idx), *astuple(row)] for row in ordered]
    charts = {
        "certify/curve": wandb.plot.line(curve, x, y, title="Certified accuracy"),
        "certify/certificates": wandb.Table(columns=["image", *COLUMNS], data=data),
    }
    if picture.is_file():
        charts["certify/certified_accuracy"] = wandb.Image(str(picture))
    return charts


def log_noisy_examples(loggers: Iterable[Logger], examples: np.ndarray, sigma: float) -> None:
    """Log images next to the noisy images that the base classifier receives.

    Args:
        loggers: the run's loggers.
        examples: pixels in [0, 1], shape (N, 1 + draws, C, H, W): each image, then noisy ones.
        sigma: standard deviation of the noise.
    """
    sheet = np.concatenate([np.concatenate(list(row), axis=-1) for row in examples], axis=-2)
    pixels = (sheet.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    caption = f"left: images; right: under noise, sigma = {sigma:g}, clipped for display"
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image("examples/under_noise", [pixels], caption=[caption])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image("examples/under_noise", pixels, 0, dataformats="HWC")


def _has_api_key() -> bool:
    """Look for a key where `wandb login` and users store it; W&B's own function might prompt."""
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
