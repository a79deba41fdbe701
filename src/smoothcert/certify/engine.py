"""Certification of a data set that resumes after an interruption."""

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from smoothcert.certify.certifiers import Certifier
from smoothcert.certify.execution import weights_digest
from smoothcert.certify.scheduling import Plan
from smoothcert.certify.smoothed import SmoothedClassifier
from smoothcert.certify.work_queue import CertificateWriter, WorkQueue
from smoothcert.distributed.group import processes
from smoothcert.errors import InvalidArgumentError, ProcessError, require_count, require_positive
from smoothcert.records import CertificateRow, Images, Shard
from smoothcert.types import Example


class Examples(Protocol):
    """A data set that returns one image at a time, without augmentation.

    Attributes:
        indices: each image's index in its data set, int64, shape (N,).
        labels: class numbers, int64, shape (N,).
    """

    indices: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def digest(self, positions: Sequence[int]) -> str:
        """Return a short digest that changes with the chosen images."""
        ...

    def example(self, position: int) -> Example:
        """Return an image (C, H, W) in [0, 1], its label and its index in the data set."""
        ...


@dataclass(frozen=True)
class Subset:
    """Which images of a data set are certified.

    Attributes:
        split: name of the split, for the records.
        skip: certify every `skip`-th image.
        max_images: certify at most this many of those, evenly spread: files are often sorted by
            class, and the first ones would all belong to one. None: no limit.
        start: position of the first image.

    Raises:
        InvalidArgumentError: if a number is too small.

    Example:
        >>> list(Subset("test", skip=100, max_images=3).positions(5000))
        [0, 1600, 3300]
    """

    split: str
    skip: int = 1
    max_images: int | None = None
    start: int = 0

    def __post_init__(self) -> None:
        require_count("skip", self.skip)
        require_count("start", self.start, minimum=0)
        if self.max_images is not None:
            require_count("max_images", self.max_images)

    def positions(self, size: int) -> list[int]:
        """Return the positions of the chosen images among `size` images, in order.

        Raises:
            InvalidArgumentError: if no image is chosen.
        """
        every = range(self.start, size, self.skip)
        if not every:
            raise InvalidArgumentError(
                f"Expected `start` below the number of {self.split} images, {size}, "
                f"got {self.start}"
            )
        count = len(every) if self.max_images is None else min(self.max_images, len(every))
        return [every[i * len(every) // count] for i in range(count)]


@dataclass(frozen=True)
class Performance:
    """Speed and memory of one call; images that an earlier call finished do not count.

    Attributes:
        images_per_second: finished images per second.
        samples_per_second: votes of finished images per second, selection included.
        peak_memory_bytes: peak of the GPU's allocator, or of the process's memory on a CPU; the
            largest over all processes.
        batch_size: noisy images in a forward pass at the end.
        compiled: whether the network was compiled.
        device: device of the first process.
        processes: number of processes that shared the images.
    """

    images_per_second: float
    samples_per_second: float
    peak_memory_bytes: int
    batch_size: int
    compiled: bool
    device: str
    processes: int = 1


@dataclass(frozen=True)
class Certified:
    """Certificates of a subset.

    Attributes:
        rows: one row per image in their order, including rows of an earlier, interrupted call;
            where time ran out, the images before the first unfinished one.
        settings: what the rows depend on, as stored next to their file.
        performance: speed and memory of this call; None if it finished no image.
        requested: number of images in the subset; larger than the number of rows where time ran
            out.
    """

    rows: list[CertificateRow]
    settings: dict[str, Any]
    performance: Performance | None
    requested: int


def certify_examples(
    smoothed: SmoothedClassifier,
    certifier: Certifier,
    examples: Examples,
    subset: Subset,
    path: Path,
    seed: int = 0,
    configuration: Mapping[str, Any] | None = None,
    max_hours: float | None = None,
    shard: Shard | None = None,
) -> Certified:
    """Certify a subset of a data set into a certificate file, with a progress bar.

    Images that already have a row are not certified again. Rows are written as images are
    finished, and sorted by the images' indices at the end.

    Where torch.distributed has several processes, all of them must call this function. Each image
    goes to one process, and the rows are the same for any number of processes.

    Args:
        smoothed: the smoothed classifier.
        certifier: samples and bounds.
        examples: the images.
        subset: which of them.
        path: the certificate file; each row is on the disk once its image is finished.
        seed: seed of the noise, >= 0.
        configuration: further settings that the certificates depend on (JSON values), for the
            records.
        max_hours: stop after this many hours and drop images in flight; None: no limit.
        shard: certify one of several shares of the subset; `smoothcert.records.gather_shards`
            merges them.

    Returns:
        The certificates, the same in every process.

    Raises:
        NonFiniteError: for pixels outside [0, 1] or non-finite logits; finished rows stay.
        RecordsError: if the file holds certificates of another configuration, or cannot be
            written.
        InvalidArgumentError: if `max_hours` is not positive, or the subset is empty.
        ProcessError: if another process has died, or has different weights or images, or images
            have no certificate although `max_hours` has not passed; finished rows stay.
    """
    if max_hours is not None:
        require_positive("max_hours", max_hours)
    chosen = subset.positions(len(examples))
    positions = chosen if shard is None else shard.share(chosen)
    order = [int(examples.indices[position]) for position in positions]
    settings = {
        **_settings(smoothed, certifier, examples, subset, seed, chosen),
        **(configuration or {}),
        **({} if shard is None else shard.settings(order)),
    }
    labels = examples.labels[positions].tolist()
    known = Images(dict(zip(order, labels, strict=True)), smoothed.num_classes)
    with CertificateWriter(path, settings, processes(), known) as writer:
        left = [
            p for p, index in zip(positions, order, strict=True) if index not in writer.finished
        ]
        queue = WorkQueue(left, writer.team)
        # The clock starts once all processes are ready.
        writer.team.barrier("ready")
        start = time.perf_counter()
        plan = Plan(
            expected=len(left) // writer.team.size * certifier.typical_samples,
            deadline=None if max_hours is None else start + 3600 * max_hours,
            in_flight=queue.room,
        )
        results = smoothed.stream(map(examples.example, queue), certifier, seed, plan)
        if smoothed.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(smoothed.device)
        before = len(order) - len(left)
        with tqdm(
            disable=not writer.team.first,
            desc=f"certify {subset.split}",
            initial=before,
            total=len(order),
            unit="image",
            dynamic_ncols=True,
            # A log file gets a line a minute, a terminal a moving bar.
            mininterval=0.2 if sys.stderr.isatty() else 60,
        ) as bar:

            def show(done: int) -> None:
                bar.update(before + done - bar.n)

            for result in results:
                (_, label, index), proof = result.example, result.certificate
                assert label is not None, "examples of a data set have labels"
                row = CertificateRow.from_certificate(
                    proof, idx=index, label=label, seconds=result.seconds
                )
                writer.append(row, result.samples)
                show(writer.done)
            writer.wait_for_others(show)
        performance = _performance(smoothed, writer, start)
        rows = writer.gathered()
    by_index = {row.idx: row for row in rows}
    # Easy images finish sooner. When time runs out, the finished images are a biased sample; those
    # before the first unfinished one are not.
    leading = [by_index[index] for index in takewhile(by_index.__contains__, order)]
    if len(leading) < len(order):
        _require_time_limit(len(rows), len(order), start, max_hours)
    return Certified(leading, writer.settings, performance, len(order))


def _require_time_limit(rows: int, requested: int, start: float, max_hours: float | None) -> None:
    """Raise where rows are missing for another reason than `max_hours`.

    Raises:
        ProcessError: if no process has used up `max_hours`.
    """
    over = max_hours is not None and time.perf_counter() >= start + 3600 * max_hours
    # Clocks of processes start at slightly different times: one process over the limit suffices.
    if not any(processes().all_gather_object("time is over", over)):
        raise ProcessError(
            f"Expected {requested} certificates, got {rows}: no process certified some images, for "
            "example because another program changed the shared counter. Finished rows are kept. "
            "Resume with the same command"
        )


def _settings(
    smoothed: SmoothedClassifier,
    certifier: Certifier,
    examples: Examples,
    subset: Subset,
    seed: int,
    positions: list[int],
) -> dict[str, Any]:
    noise: dict[str, Any] = {"noise": smoothed.noise}
    if smoothed.noise != "gaussian":
        # The rest of alpha covers the error of the discrete noise.
        shape = tuple(examples.example(positions[0]).image.shape)
        noise["alpha_for_votes"] = smoothed.remaining_alpha(shape, certifier.n, certifier.alpha)
    facts = torch.stack([examples.indices[positions], examples.labels[positions]]).tolist()
    chosen = f"{facts}{examples.digest(positions)}"
    return {
        **certifier.settings,
        "sigma": smoothed.sigma,
        "seed": seed,
        **asdict(subset),
        **noise,
        "precision": smoothed.execution.precision,
        "device": smoothed.device.type,
        "examples": hashlib.sha256(chosen.encode()).hexdigest()[:16],
        "weights": weights_digest(smoothed.classifier),
    }


def _performance(
    smoothed: SmoothedClassifier, writer: CertificateWriter, start: float
) -> Performance | None:
    """Return speed and memory over all processes; None if no image was finished."""
    seconds = time.perf_counter() - start
    runner, team = smoothed.runner, writer.team
    own = None if runner is None else (runner.batch_size, runner.compiled, str(runner.device))
    gathered = team.all_gather_object("ran", [own, peak_memory(smoothed.device)])
    # A process that received no image has no runner.
    ran = [each for each, _ in gathered if each is not None]
    if not writer.done or not ran:
        return None
    batch_size, compiled, device = ran[0]
    return Performance(
        images_per_second=writer.done / seconds,
        samples_per_second=writer.samples / seconds,
        peak_memory_bytes=max(peak for _, peak in gathered),
        batch_size=batch_size,
        compiled=compiled,
        device=device,
        processes=team.size,
    )


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of a GPU's allocator, or of this process on a CPU.

    Args:
        device: where the classifier runs.

    Example:
        >>> peak_memory(torch.device("cpu")) > 10_000_000
        True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
