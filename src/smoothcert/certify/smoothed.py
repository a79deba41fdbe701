"""The smoothed classifier: the class that a base classifier returns most often under noise."""

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
    """A finished image.

    Attributes:
        example: the image.
        samples: number of counted votes, selection included.
        seconds: its share of the time, in proportion to its votes.
    """

    example: Example
    samples: int
    seconds: float

    @property
    def certificate(self) -> Certificate:
        """The image's certificate."""
        ...


class SmoothedClassifier:
    """g(x) = argmax_c P[f(x + δ) = c], δ ~ N(0, σ²I), for any classifier f that returns logits.

    Needs neither Lightning nor Hydra. A private copy of the classifier votes, in eval mode; the
    classifier itself does not change. No global random state is read or changed.

    Args:
        classifier: maps images (N, C, H, W) with pixels in [0, 1] to logits (N, num_classes).
            Normalization belongs inside it, so that σ and radii are in pixel units. It may return
            the logits as the attribute or key `logits`, or as the only floating-point tensor of
            that shape in a tuple, list, mapping or dataclass.
        sigma: standard deviation σ of the noise in pixel units, > 0.
        num_classes: number of classes, >= 2.
        execution: how to run the classifier, or the name of a precision, such as `"bfloat16"`;
            default: `Execution()`, which is float32.
        noise: `gaussian`, or `discrete`: integer noise for 8-bit images, whose guarantee includes
            floating-point errors; see `smoothcert.noise.DiscreteCopies`.

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
        _require("classifier", classifier, nn.Module, "a torch.nn.Module that returns logits")
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
        """The device of the classifier's parameters, on which noise is drawn."""
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
            certifier: samples and bounds; default: `TightCertifier()`.
            seed: seed of the noise, >= 0.
            indices: each image's index in its data set, which selects its noise; default: 0, 1, ….
            labels: the true classes; only `target="label"` and `stop_when_wrong` use them.

        Returns:
            One certificate per image, in their order.

        Raises:
            NonFiniteError: for pixels outside [0, 1], NaN pixels or non-finite logits; the
                message names the image's index.
            MismatchError: if the shape is not that of images, or the number of logits is not
                `num_classes`.
            InvalidArgumentError: if images are not a floating-point tensor, if the number of
                indices or labels is not the number of images, if the certifier needs labels and
                there are none, or if an index is not an integer >= 0.
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
        """Return the smoothed classifier's predictions without radii, which need few samples.

        Args:
            images: floating-point pixels in [0, 1], shape (B, C, H, W) or (C, H, W), on any device.
            n: largest number of samples per image.
            alpha: largest probability that one image's prediction is not that of g; in (0, 1).
            seed: seed of the noise, >= 0.
            indices: each image's index in its data set; default: 0, 1, ….

        Returns:
            Class numbers, `ABSTAIN` where n samples do not decide; int64, shape (B,), on the
            images' device.

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
        """Certify a stream of images, many at a time so that each forward pass is full.

        Args:
            examples: the images, all of one shape; each is read when there is room for it.
            certifier: samples and bounds.
            seed: seed of the noise, >= 0.
            plan: when to end and how many images run at once; default: `Plan()`.

        Yields:
            Each image as soon as it is finished, roughly in their order.

        Raises:
            NonFiniteError: as `certify`; images yielded before stay valid.
            MismatchError: as `certify`.
            InvalidArgumentError: if `certifier` is not a certifier, or an image is not a
                floating-point tensor.
        """
        _require("certifier", certifier, Certifier, "a certifier, for example TightCertifier()")

        def sampling(example: Example) -> Sampling:
            alpha = self.remaining_alpha(tuple(example.image.shape), certifier.n, certifier.alpha)
            exact = replace(certifier, alpha=alpha)
            return exact.sampling(self.sigma, self.num_classes, example.label)

        yield from self._run(examples, seed, sampling, plan or Plan())

    def remaining_alpha(self, shape: tuple[int, ...], n: int, alpha: float) -> float:
        """Return the part of alpha for the votes; the rest covers the error of discrete noise.

        Args:
            shape: shape of an image.
            n: number of estimation samples.
            alpha: largest probability that a certificate is wrong.

        Raises:
            InvalidArgumentError: if the error of the noise is at least alpha.
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
        """The prepared copy of the classifier that ran last; None before the first image."""
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
        """Return a runner of the classifier as it is now; reuse the last one if nothing changed."""
        key = (weights_digest(self.classifier), self.execution, shape, self.device)
        if self._runner is None or self._key != key:
            before, self._runner = (
                self._runner,
                Runner(self.classifier, self.execution, shape, self.device, self.num_classes),
            )
            if before is not None and before.shape == shape:
                # A batch size that ran out of memory is not tried again.
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
        known = [None] * len(images) if labels is None else _integers("labels", labels)
        return [
            Example(image, label, index)
            for image, label, index in zip(
                images, known, _integers("indices", indices), strict=True
            )
        ]


def _integers(name: str, values: Sequence[int]) -> list[int]:
    try:
        return [operator.index(value) for value in values]
    except TypeError as error:
        raise InvalidArgumentError(f"Expected integers as `{name}`, got {values}") from error


def _require(name: str, value: Any, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise InvalidArgumentError(f"Expected `{name}` {what}, got {got}")


def _check_pixels(images: Any) -> None:
    """Refuse bytes, whose values 0 and 1 would pass for pixels in [0, 1]."""
    if not isinstance(images, Tensor):
        raise InvalidArgumentError(
            "Expected images as a torch.Tensor of pixels in [0, 1], shape (B, C, H, W) or "
            f"(C, H, W), got {type(images).__name__}"
        )
    if not images.is_floating_point():
        raise InvalidArgumentError(
            f"Expected floating-point pixels in [0, 1], got {images.dtype}: convert bytes by "
            "images.float() / 255"
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
    # `not (… & …).all()` refuses NaN too.
    if not bool(((image >= 0) & (image <= 1)).all()):
        low, high = float(image.min()), float(image.max())
        raise NonFiniteError(
            f"Expected pixels in [0, 1] at image {index}, got values from {low:.4g} to {high:.4g}"
        )
