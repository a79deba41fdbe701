"""Training steps as published scripts run them, and as smoothcert does: time, memory, losses.

    python benchmarks/training.py [--data <CIFAR-10>] [--model resnet20] [--folder <new folder>]

Measures both in turns in one process, prints the table of docs/training.md and writes it to
`benchmark.json`; the losses of both to `losses.json` and `losses.png`.
"""

import ctypes
import gc
import json
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning import seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from smoothcert.attacks import Attack
from smoothcert.commands.benchmarking import record
from smoothcert.commands.build import build_model, device_of, precision_of
from smoothcert.commands.commandline import check_given
from smoothcert.commands.error_handling import command
from smoothcert.data import CIFAR10DataModule
from smoothcert.data.augmentation import CropAndFlip
from smoothcert.data.datasets import InMemoryImages
from smoothcert.data.sampling import EpochBatches
from smoothcert.errors import InvalidArgumentError, require_count
from smoothcert.noise import draw_noise, generator
from smoothcert.objectives import Objective
from smoothcert.records import write_atomically
from smoothcert.report import plot_losses
from smoothcert.report.methods import method_name
from smoothcert.types import ImageBatch, NoisyBatch
from studies import STOPPED, add_folder

CONF = Path(__file__).resolve().parents[1] / "conf"
PADDING = 4
LOADERS = 2
"""Worker processes of the plain form. Reference scripts have four, on machines with more cores."""
SAMPLING = 0.005
"""Seconds between two readings of the memory of the process."""


@dataclass(frozen=True)
class StepVariant:
    """A way to take training steps.

    Attributes:
        name: its name in tables.
        precision: `float32` or `bfloat16`, the latter by autocast.
        channels_last: whether images and weights are channels-last.
        compiled: whether the network is compiled.
        batched: whether images are augmented as a batch, on the device that stores them; otherwise
            one by one by torchvision, in worker processes, as in reference scripts.
    """

    name: str
    precision: str
    channels_last: bool
    compiled: bool
    batched: bool


PLAIN = StepVariant("plain", "float32", False, False, False)


class Training:
    """Training of a network in one form, step by step.

    Args:
        form: the way to take steps.
        network: it is copied, so that every form starts from the same weights.
        images: decoded training images.
        objective: the training loss.
        attack: perturbs the images before the loss is computed.
        sigma: standard deviation of the noise, in pixel units.
        batch_size: images in a step.
        seed: seed of shuffling, augmentation and noise.
        device: where steps are taken.
        learning_rate: of SGD, with momentum .9 and weight decay 1e-4.

    Raises:
        InvalidArgumentError: if there are fewer images than a batch has.
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
        load = augmented_batches if form.batched else loaded_batches
        self.batches = load(images, batch_size, seed, device)
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
        reduced = self.form.precision != "float32"
        context: AbstractContextManager[Any] = (
            torch.autocast(self.device.type, torch.bfloat16) if reduced else nullcontext()
        )
        with context:
            attacked = self.attack(self.network, clean, self.source)
            loss = self.objective(self.network, clean.with_images(attacked.images), self.source)
        self.optimizer.zero_grad()
        loss.value.backward()
        self.optimizer.step()
        return loss.value.item()


@dataclass(frozen=True)
class StepTimes:
    """Measurements of the steps of each form.

    Attributes:
        method: name of the training method.
        images_per_second: one value per turn, by form.
        peak_bytes: most memory in use during a step beyond the memory in use before, by form.
    """

    method: str
    images_per_second: Mapping[str, list[float]]
    peak_bytes: Mapping[str, int]


def measure_steps(
    method: str, trainings: Sequence[Training], batch_size: int, turns: int, steps: int
) -> StepTimes:
    """Take steps in every form in turns, after one step that is not timed.

    Args:
        method: name of the training method, for the table.
        trainings: one per form.
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
    """Return one row per method and form, with ratios to the plain form in the same turn.

    Args:
        measured: what `measure_steps` returns for each method.
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
    """The most memory in use inside a `with`, beyond the memory in use before.

    Args:
        device: a GPU, or a CPU, where the memory of the process is read every few milliseconds.

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
        # Freed memory returns to the system: otherwise the next form would use it again.
        gc.collect()
        with suppress(OSError, AttributeError):  # Linux alone has it
            ctypes.CDLL("libc.so.6").malloc_trim(0)
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
        # PIL expects two axes for grey images.
        image: Any = self.transform(
            Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
        )
        return image, self.labels[position]


def augmented_batches(
    images: InMemoryImages, batch_size: int, seed: int, device: torch.device
) -> Iterator[ImageBatch]:
    """Yield batches that are augmented on the device, as smoothcert does."""
    augmented = InMemoryImages(images.images, images.labels, None, CropAndFlip(PADDING)).to(device)
    keys = EpochBatches(len(images), batch_size, seed)
    for epoch in range(10_000):
        keys.set_epoch(epoch)
        for key in keys:
            yield augmented[key]


def loaded_batches(
    images: InMemoryImages, batch_size: int, seed: int, device: torch.device
) -> Iterator[ImageBatch]:
    """Yield batches of a `DataLoader`, as published scripts do."""
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


def study(options: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Measure the steps of each method, and write the losses of one.

    Args:
        options: values of the script's options but for `--folder`.
        folder: where losses are written.

    Returns:
        One row per method and form.

    Raises:
        SmoothCertError: if a setting is out of range, or the data is missing.
    """
    for name in ("batch_size", "noise_draws", "turns", "steps"):
        require_count(name, options[name])
    require_count("curve_steps", options["curve_steps"], minimum=0)
    check_given(OmegaConf.create({name: options[name] for name in ("seed", "sigma")}))
    if len(options["shape"]) != 3:
        raise InvalidArgumentError(
            f"Expected --shape <channels> <height> <width>, got {options['shape']}"
        )
    device, seed = torch.device(device_of(options["device"])), options["seed"]
    methods, curve_method = options["methods"], options["curve_method"]
    # Before hours of measuring.
    composed = {method: _composed(options, method) for method in (*methods, curve_method)}
    images, facts = _images(options)
    seed_everything(seed, verbose=False)
    network = build_model(composed[curve_method].model, facts)
    on_gpu = device.type == "cuda"
    native = precision_of("auto", "gpu" if on_gpu else "cpu") == "bf16-mixed"
    default = StepVariant("default", "bfloat16" if native else "float32", True, on_gpu, True)

    def training(form: StepVariant, method: str, seed: int) -> Training:
        objective, attack = (
            instantiate(composed[method][part], _convert_="all") for part in ("objective", "attack")
        )
        size = options["batch_size"]
        return Training(
            form, network, images, objective, attack, options["sigma"], size, seed, device
        )

    measured = []
    for method in methods:
        steps = 1 if "+" in method else options["steps"]
        forms = [training(form, method, seed) for form in (PLAIN, default)]
        name = method_name(*_parts(method))
        measured.append(measure_steps(name, forms, options["batch_size"], options["turns"], steps))
    if options["curve_steps"]:
        curves = {
            form.name: [
                [run.step() for _ in range(options["curve_steps"])]
                for run in (training(form, curve_method, each) for each in options["curve_seeds"])
            ]
            for form in (PLAIN, default)
        }
        write_atomically(folder / "losses.json", json.dumps(curves) + "\n")
        plot_losses(curves, folder / "losses.png", method_name(*_parts(curve_method)))
    return summarize_steps(measured)


def _parts(method: str) -> tuple[str, str]:
    objective, _, attack = method.partition("+")
    return objective, attack or "none"


def _composed(options: Mapping[str, Any], method: str) -> DictConfig:
    objective, attack = _parts(method)
    overrides = [f"objective={objective}", f"attack={attack}", f"sigma={options['sigma']}"]
    overrides += [f"model={options['model']}", f"objective.noise_draws={options['noise_draws']}"]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", overrides)
    except HydraException as error:
        raise InvalidArgumentError(
            f"Expected methods and a model of conf/, such as adre+pgd and resnet20, got {method} "
            f"and {options['model']}"
        ) from error


def _images(options: Mapping[str, Any]) -> tuple[InMemoryImages, Any]:
    """Return CIFAR-10's training images or random ones, and the facts that a network needs."""
    if options["data"] is not None:
        data = CIFAR10DataModule(options["data"])
        images = data.images("train")
        assert isinstance(images, InMemoryImages), "CIFAR-10 is held in memory"
        return images, data
    source, shape = generator("cpu", options["seed"]), tuple(options["shape"])
    size = (8 * options["batch_size"], *shape)
    pixels = torch.randint(256, size, dtype=torch.uint8, generator=source)
    labels = torch.randint(10, size[:1], generator=source)
    channels = shape[0]
    facts = SimpleNamespace(
        num_classes=10, input_shape=shape, mean=[0.5] * channels, std=[0.25] * channels
    )
    return InMemoryImages(pixels, labels), facts


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write.

    Args:
        arguments: of the command line; None: those of this process.
    """
    parser = ArgumentParser(description="Training steps of published scripts and of smoothcert.")
    texts: dict[str, tuple[Any, str]] = {
        "data": (None, "folder of CIFAR-10; random images unless given"),
        "model": ("resnet20", "an option of conf/model/"),
        "curve-method": ("adre", "method of the loss curves"),
        "device": ("auto", "auto, cpu, cuda or cuda:1"),
    }
    for name, (default, text) in texts.items():
        parser.add_argument(f"--{name}", default=default, help=text)
    numbers = {
        "noise-draws": (2, "noise draws per image"),
        "batch-size": (256, "images in a step"),
        "turns": (5, "turns of each form"),
        "steps": (4, "steps in a turn; 1 with an attack"),
        "curve-steps": (200, "steps of the loss curves, meaningful with --data; 0: none"),
        "seed": (0, "seed of weights, batches and noise"),
    }
    for name, (number, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=text)
    parser.add_argument("--sigma", type=float, default=0.25, help="standard deviation of the noise")
    lists = {
        "shape": ([3, 32, 32], "channels, height and width of random images"),
        "curve-seeds": ([0, 1], "seeds of the loss curves"),
    }
    for name, (values, text) in lists.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=values, help=text)
    methods = ["gaussian", "adre", "adre+pgd"]
    text = "objectives of conf/objective/, with +attack an attack of conf/attack/"
    parser.add_argument("--methods", nargs="+", default=methods, help=text)
    add_folder(parser)
    options = vars(parser.parse_args(arguments))
    folder = options.pop("folder")
    with command(STOPPED):
        folder.mkdir(parents=True, exist_ok=True)
        record("train", options, study(options, folder), folder, device_of(options["device"]))


if __name__ == "__main__":
    main()
