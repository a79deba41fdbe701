"""The smoothed classifier: a base classifier whose votes under noise are counted."""

import operator
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from smoothcert.certify.certifiers import Certifier, Sampling
from smoothcert.certify.execution import Execution, Runner, weights_digest
from smoothcert.certify.fixed import TightCertifier
from smoothcert.certify.scheduling import Plan, run_jobs
from smoothcert.certify.voting import Job
from smoothcert.errors import (
    InvalidArgumentError,
    MismatchError,
    NonFiniteError,
    require_count,
    require_positive,
    require_probability,
)
from smoothcert.noise import NOISES, discrete_loss
from smoothcert.stats import ModeTest, prediction_sizes
from smoothcert.types import ABSTAIN, Certificate, Example


class Result(Protocol):
    """A finished image: what is public of its `Job`.

    Attributes:
        example: the image.
        samples: votes that were counted, selection included.
        seconds: its share of the time spent, by votes.
    """

    example: Example
    samples: int
    seconds: float

    @property
    def certificate(self) -> Certificate:
        """What is proved of the image."""
        ...


class SmoothedClassifier:
    """g(x) = argmax_c P[f(x + δ) = c], δ ~ N(0, σ²I), for any classifier f that gives logits.

    Neither Lightning nor Hydra is needed. A private copy of the classifier votes, in eval mode;
    the classifier itself is left as it is. No global random state is read or changed.

    Args:
        classifier: maps images (N, C, H, W) with pixels in [0, 1] to logits (N, num_classes).
            Normalisation belongs inside it, so that σ and radii are in pixel units. It may return
            the logits by the name `logits`, or as the only floating-point tensor of their shape
            in a tuple, list, mapping or dataclass.
        sigma: standard deviation σ of the noise in pixel units, > 0.
        num_classes: number of classes, >= 2.
        execution: precision, batch size and the like, or a precision alone, as in `"bfloat16"`;
            `Execution()` (float32) unless given.
        noise: `gaussian`, or `discrete`: integers that are sound in floating point, for 8-bit
            images; see `smoothcert.noise.DiscreteCopies`.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> _ = network[1].weight.data.copy_(torch.tensor([[0.0] * 4, [1.0] * 4]))
        >>> smoothed = SmoothedClassifier(network, sigma=0.25, num_classes=2)
        >>> image = torch.full((1, 2, 2), 0.5)
        >>> [proof] = smoothed.certify(image, TightCertifier(n=10_000))
        >>> proof.label, 0.75 < proof.radius < 1.0  # the exact radius is 1
        (1, True)
        >>> smoothed.predict(image)
        tensor([1])
    """

    def __init__(
        self,
        classifier: nn.Module,
        sigma: float,
        num_classes: int,
        execution: Execution | str | None = None,
        noise: str = "gaussian",
    ) -> None:
        _require("classifier", classifier, nn.Module, "a torch.nn.Module that gives logits")
        require_positive("sigma", sigma)
        require_count("num_classes", num_classes, minimum=2)
        if noise not in NOISES:
            raise InvalidArgumentError(
                f"Expected `noise` one of {', '.join(NOISES)}, got {noise!r}"
            )
        self.classifier = classifier
        self.sigma = sigma
        self.num_classes = num_classes
        settings = Execution(execution) if isinstance(execution, str) else execution or Execution()
        _require("execution", settings, Execution, "an Execution or the name of a precision")
        self.execution = settings
        self.noise = noise
        self._runner: Runner | None = None
        self._key: object = None

    @property
    def device(self) -> torch.device:
        """Where the classifier's parameters are; noise is drawn there."""
        for tensor in (*self.classifier.parameters(), *self.classifier.buffers()):
            return tensor.device
        return torch.device("cpu")

    def certify(
        self,
        images: Tensor,
        certifier: Certifier | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
    ) -> list[Certificate]:
        """Certify one image or a batch of images.

        Args:
            images: floating-point pixels in [0, 1], shape (B, C, H, W) or (C, H, W), on any device.
            certifier: samples and bounds; `TightCertifier()` unless given.
            seed: seed of the noise, >= 0.
            indices: each image's index in its data set, which selects its noise; 0, 1, … unless
                given.
            labels: the true classes; for `target: label` and `stop_when_wrong` alone.

        Returns:
            One certificate an image, in their order.

        Raises:
            NonFiniteError: for pixels outside [0, 1], NaN pixels or non-finite logits; the
                message names the image's index.
            MismatchError: if the shape is not that of images, or the logits are not
                `num_classes`.
            InvalidArgumentError: if images are no floating-point tensor, if there are other than
                one index or label an image, or none where the certifier needs them, or an index
                is no whole number >= 0.
        """
        examples = self._examples(images, indices, labels)
        results = self.stream(examples, TightCertifier() if certifier is None else certifier, seed)
        certificates = {id(result.example): result.certificate for result in results}
        return [certificates[id(example)] for example in examples]

    def predict(
        self,
        images: Tensor,
        n: int = 100_000,
        alpha: float = 0.001,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the smoothed classifier's answers, without radii: a few samples are enough.

        Args:
            images: floating-point pixels in [0, 1], shape (B, C, H, W) or (C, H, W), on any device.
            n: samples after which an image is abstained on.
            alpha: probability, at most, that one image's answer is not g's; in (0, 1).
            seed: seed of the noise, >= 0.
            indices: each image's index in its data set; 0, 1, … unless given.

        Returns:
            Class numbers, `ABSTAIN` where the question is open after n samples; int64, shape (B,),
            on the images' device.

        Raises:
            NonFiniteError: as `certify`.
            MismatchError: as `certify`.
            InvalidArgumentError: if an argument is out of range.
        """
        require_count("n", n)
        require_probability("alpha", alpha)
        examples = self._examples(images, indices, None)
        alpha = self.remaining_alpha(tuple(examples[0].image.shape), n, alpha)
        jobs = self._run(examples, seed, lambda _: _predicting(self.num_classes, n, alpha), Plan())
        answers = {id(job.example): job.value for job in jobs}
        return torch.tensor([answers[id(example)] for example in examples], device=images.device)

    def stream(
        self,
        examples: Iterable[Example],
        certifier: Certifier,
        seed: int = 0,
        plan: Plan | None = None,
    ) -> Iterator[Result]:
        """Certify images as they come, many at a time so that each forward pass is full.

        Args:
            examples: the images, all of one shape; drawn from as there is room for them.
            certifier: samples and bounds.
            seed: seed of the noise, >= 0.
            plan: when to end and how many images run at once; `Plan()` unless given.

        Yields:
            Each image as soon as it is finished, the first ones first as a rule.

        Raises:
            NonFiniteError: as `certify`; images yielded before stay valid.
            MismatchError: as `certify`.
            InvalidArgumentError: if there is no certifier, or an image is no floating-point tensor.
        """
        _require("certifier", certifier, Certifier, "a certifier, for example TightCertifier()")

        def sampling(example: Example) -> Sampling:
            alpha = self.remaining_alpha(tuple(example.image.shape), certifier.n, certifier.alpha)
            exact = replace(certifier, alpha=alpha)
            return exact.sampling(self.sigma, self.num_classes, example.label)

        yield from self._run(examples, seed, sampling, plan or Plan())

    def remaining_alpha(self, shape: tuple[int, ...], n: int, alpha: float) -> float:
        """Return what is left of alpha for the votes once the noise's own error is paid.

        Args:
            shape: shape of an image.
            n: number of samples that a certificate rests on.
            alpha: probability, at most, that a certificate is wrong.

        Raises:
            InvalidArgumentError: if nothing is left.
        """
        if self.noise != "discrete":
            return alpha
        left = alpha - discrete_loss(shape, n)
        if left <= 0:
            raise InvalidArgumentError(
                f"Expected `alpha` above {discrete_loss(shape, n):.2g}, the error of {n} discrete "
                f"draws of shape {shape}, got {alpha}"
            )
        return left

    @property
    def runner(self) -> Runner | None:
        """What ran the classifier last; None before the first image."""
        return self._runner

    def _run(
        self,
        examples: Iterable[Example],
        seed: int,
        sampling: Callable[[Example], Generator[int, Any, Any]],
        plan: Plan,
    ) -> Iterator[Job]:
        source = iter(examples)
        first = next(source, None)
        if first is None:
            return iter(())
        _check_pixels(first.image)
        runner = self._ready(tuple(first.image.shape))
        copies = NOISES[self.noise]

        def start(example: Example) -> Job:
            _check_image(example, runner.shape)
            image = example.image.to(runner.device, torch.float32)
            noisy = copies(image, self.sigma, seed, example.index)
            return Job(example, noisy, sampling(example))

        return run_jobs(runner, chain([first], source), start, self.num_classes, plan)

    def _ready(self, shape: tuple[int, ...]) -> Runner:
        """Return a runner of the classifier as it is now; one that is ready is used again."""
        key = (weights_digest(self.classifier), self.execution, shape, self.device)
        if self._runner is None or self._key != key:
            before, self._runner = (
                self._runner,
                Runner(self.classifier, self.execution, shape, self.device, self.num_classes),
            )
            if before is not None and before.shape == shape:
                # What did not fit the memory once is not tried again.
                self._runner.batch_size = min(self._runner.batch_size, before.batch_size)
            self._key = key
        return self._runner

    def _examples(
        self, images: Tensor, indices: Sequence[int] | None, labels: Sequence[int] | None
    ) -> list[Example]:
        _check_pixels(images)
        if images.dim() == 3:
            images = images[None]
        if images.dim() != 4 or not len(images):
            raise MismatchError(
                "Expected images of shape (B, C, H, W) or (C, H, W), B >= 1, "
                f"got {tuple(images.shape)}"
            )
        indices = range(len(images)) if indices is None else indices
        for name, values in (("indices", indices), ("labels", labels)):
            if values is not None and len(values) != len(images):
                raise InvalidArgumentError(
                    f"Expected one of `{name}` for each of {len(images)} images, got {len(values)}"
                )
        known = [None] * len(images) if labels is None else _whole("labels", labels)
        return [
            Example(image, label, index)
            for image, label, index in zip(images, known, _whole("indices", indices), strict=True)
        ]


def _whole(name: str, values: Sequence[int]) -> list[int]:
    try:
        return [operator.index(value) for value in values]
    except TypeError as error:
        raise InvalidArgumentError(f"Expected whole numbers as `{name}`, got {values}") from error


def _require(name: str, value: Any, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InvalidArgumentError(f"Expected `{name}` {what}, got {got}")


def _check_pixels(images: Any) -> None:
    """Refuse what has no pixels in [0, 1]: 0 and 1 among bytes are two shades of black."""
    if not isinstance(images, Tensor):
        raise InvalidArgumentError(
            "Expected images as a torch.Tensor of pixels in [0, 1], shape (B, C, H, W) or "
            f"(C, H, W), got {type(images).__name__}"
        )
    if not images.is_floating_point():
        raise InvalidArgumentError(
            f"Expected floating-point pixels in [0, 1], got {images.dtype}: bytes are divided by "
            "255, images.float() / 255"
        )


def _predicting(num_classes: int, n: int, alpha: float) -> Generator[int, Any, int]:
    test, seen = ModeTest(num_classes, alpha), 0
    for size in prediction_sizes(n):
        test.update((yield size - seen))
        seen = size
        if test.answer != ABSTAIN:
            break
    return test.answer


def _check_image(example: Example, shape: tuple[int, ...]) -> None:
    image, index = example.image, example.index
    _check_pixels(image)
    if index < 0:
        raise InvalidArgumentError(f"Expected an image's index >= 0, got {index}")
    if tuple(image.shape) != shape:
        raise MismatchError(
            f"Expected images of one shape, {shape} at first, got {tuple(image.shape)} "
            f"at image {index}"
        )
    # Written so that NaN fails it too.
    if not bool(((image >= 0) & (image <= 1)).all()):
        low, high = float(image.min()), float(image.max())
        raise NonFiniteError(
            f"Expected pixels in [0, 1] at image {index}, got values from {low:.4g} to {high:.4g}"
        )
