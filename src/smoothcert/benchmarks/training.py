"""Training steps as published scripts take them, beside ours: their time, memory and losses."""

import ctypes
import gc
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from smoothcert.attacks import Attack
from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.datasets import InMemoryImages
from smoothcert.data.sampling import EpochBatches
from smoothcert.errors import InvalidArgumentError
from smoothcert.noise import draw_noise, generator
from smoothcert.objectives import Objective
from smoothcert.types import ImageBatch, NoisyBatch

PADDING = 4
LOADERS = 2
"""Worker processes of the plain form: reference scripts have four, on machines with more cores."""
SAMPLING = 0.005
"""Seconds between looks at the memory of the process."""


@dataclass(frozen=True)
class StepVariant:
    """A way to take training steps.

    Attributes:
        name: what it is called in tables.
        precision: `float32` or `bfloat16`, the latter by autocast.
        channels_last: whether images and weights are channels-last.
        compiled: whether the network is compiled.
        batched: whether images are augmented as a batch, on the device that has them; else one by
            one by torchvision, in worker processes, as reference scripts do.
    """

    name: str
    precision: str
    channels_last: bool
    compiled: bool
    batched: bool


PLAIN = StepVariant("plain", "float32", False, False, False)


class Training:
    """Training of a network in one form, a step at a time.

    Args:
        form: the way to take steps.
        network: copied, so that every form starts from the same weights.
        images: decoded training images.
        objective: the training loss.
        attack: moves the images before it.
        sigma: standard deviation of the noise, in pixel units.
        batch_size: images in a step.
        seed: seed of shuffling, augmentation and noise.
        device: where steps are taken.
        learning_rate: of SGD with momentum .9 and weight decay 1e-4.

    Raises:
        InvalidArgumentError: if there are fewer images than a step takes.
    """

    def __init__(
        self,
        form: StepVariant,
        network: nn.Module,
        images: InMemoryImages,
        objective: Objective,
        attack: Attack,
        sigma: float,
        batch_size: int,
        seed: int,
        device: torch.device,
        learning_rate: float = 0.1,
    ) -> None:
        if batch_size > len(images):
            raise InvalidArgumentError(
                f"Expected `batch_size` of at most {len(images)} images, got {batch_size}"
            )
        self.form = form
        self.format = torch.channels_last if form.channels_last else torch.contiguous_format
        network = deepcopy(network).to(device).train()
        self.network = network.to(memory_format=self.format)  # pyright: ignore[reportCallIssue]
        if form.compiled:
            self.network.compile()
        self.objective, self.attack, self.sigma = objective, attack, sigma
        self.device = device
        self.source = generator(device, seed)
        self.batches = _batches(form, images, batch_size, seed, device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), learning_rate, momentum=0.9, weight_decay=1e-4
        )

    def step(self) -> float:
        """Take one step and return its loss."""
        batch = next(self.batches)
        images = batch.images.to(self.device).contiguous(memory_format=self.format)
        labels = batch.labels.to(self.device)
        noise = draw_noise(images, self.sigma, self.objective.noise_draws, self.source)
        clean = NoisyBatch(images, labels, noise, self.sigma, epoch=10_000)
        with self._precision():
            attacked = self.attack(self.network, clean, self.source)
            loss = self.objective(self.network, clean.with_images(attacked.images), self.source)
        self.optimizer.zero_grad()
        loss.value.backward()
        self.optimizer.step()
        return loss.value.item()

    def _precision(self) -> AbstractContextManager[Any]:
        if self.form.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


@dataclass(frozen=True)
class StepTimes:
    """Steps of the forms, taken in turns.

    Attributes:
        method: the training method.
        images_per_second: by form, one value a turn.
        peak_bytes: by form, the most memory in use during its steps beyond what was before.
    """

    method: str
    images_per_second: Mapping[str, list[float]]
    peak_bytes: Mapping[str, int]


def measure_steps(
    method: str, trainings: Sequence[Training], batch_size: int, turns: int, steps: int
) -> StepTimes:
    """Take steps in every form by turns, after one that is not counted.

    Args:
        method: the training method, for the table.
        trainings: one for each form.
        batch_size: images in a step.
        turns: number of turns.
        steps: steps in a turn.
    """
    rates: dict[str, list[float]] = {training.form.name: [] for training in trainings}
    peaks: dict[str, int] = {}
    for training in trainings:
        with PeakMemory(training.device) as memory:
            training.step()
        peaks[training.form.name] = memory.bytes
    for _ in range(turns):
        for training in trainings:
            start = time.perf_counter()
            for _ in range(steps):
                training.step()
            seconds = time.perf_counter() - start
            rates[training.form.name].append(batch_size * steps / seconds)
    return StepTimes(method, rates, peaks)


def summarize_steps(measured: Sequence[StepTimes]) -> list[dict[str, Any]]:
    """Return one row a method and form, with ratios to the plain form turn by turn.

    Args:
        measured: what `measure_steps` returns, for each method.
    """
    rows = []
    for times in measured:
        first = times.images_per_second[PLAIN.name]
        for name, rates in times.images_per_second.items():
            ratios = [rate / base for rate, base in zip(rates, first, strict=True)]
            rows.append(
                {
                    "method": times.method,
                    "form": name,
                    "images_per_second": rates,
                    "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
                    "peak_memory_bytes": times.peak_bytes[name],
                }
            )
    return rows


class PeakMemory:
    """The most memory in use inside a `with`, beyond what was in use before.

    Args:
        device: a GPU, or a CPU, where the process is looked at every few milliseconds.

    Example:
        >>> with PeakMemory(torch.device("cpu")) as memory:
        ...     _ = torch.ones(20_000_000)
        >>> memory.bytes > 20_000_000
        True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        _give_back()
        self._before = self._most = _resident_bytes()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._watch.join()
            most = max(self._most, _resident_bytes())
        self.bytes = most - self._before

    def _look(self) -> None:
        while not self._done.wait(SAMPLING):
            self._most = max(self._most, _resident_bytes())


def _give_back() -> None:
    """Return what was freed to the system: the next form is not to live on it."""
    gc.collect()
    with suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident_bytes() -> int:
    path = Path("/proc/self/statm")
    if not path.is_file():
        return 0
    return int(path.read_text().split()[1]) * 4096


class _OneByOne(Dataset[tuple[Tensor, int]]):
    """Images that torchvision augments one at a time, from PIL images as its CIFAR10 makes them."""

    def __init__(self, images: InMemoryImages) -> None:
        self.pixels = images.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(self.pixels.shape[1:3], padding=PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        pixels = self.pixels[position]
        # PIL knows grey images by their two axes.
        image: Any = self.transform(
            Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        )
        return image, self.labels[position]


def _batches(
    form: StepVariant, images: InMemoryImages, batch_size: int, seed: int, device: torch.device
) -> Iterator[ImageBatch]:
    return (_ours if form.batched else _theirs)(images, batch_size, seed, device)


def _ours(
    images: InMemoryImages, batch_size: int, seed: int, device: torch.device
) -> Iterator[ImageBatch]:
    augmented = InMemoryImages(images.images, images.labels, None, CropAndFlip(PADDING)).to(device)
    keys = EpochBatches(len(images), batch_size, seed)
    for epoch in range(10_000):
        keys.set_epoch(epoch)
        for key in keys:
            yield augmented[key]


def _theirs(
    images: InMemoryImages, batch_size: int, seed: int, device: torch.device
) -> Iterator[ImageBatch]:
    loader = DataLoader(
        _OneByOne(images),
        batch_size,
        shuffle=True,
        num_workers=LOADERS,
        drop_last=True,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(seed),
        persistent_workers=True,
    )
    while True:
        for pixels, labels in loader:
            yield ImageBatch(pixels, labels, torch.zeros_like(labels))
