"""The smoothed classifier: a base classifier whose votes under noise are counted."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from smoothcert.certify.certifiers import Certifier, TightCertifier
from smoothcert.errors import MismatchError, NonFiniteError, require_count, require_positive
from smoothcert.models import evaluating
from smoothcert.noise import NoiseStream
from smoothcert.types import Certificate, Counts


class SmoothedClassifier:
    """g(x) = argmax_c P[f(x + δ) = c], δ ~ N(0, σ²I), for any classifier f that gives logits.

    Neither Lightning nor Hydra is needed. The classifier is put into eval mode while it votes
    and back into its own modes afterwards; no global random state is read or changed.

    Args:
        classifier: maps images (N, C, H, W) with pixels in [0, 1] to logits (N, num_classes).
            Normalisation belongs inside it, so that σ and radii are in pixel units.
        sigma: standard deviation σ of the noise in pixel units, > 0.
        num_classes: number of classes, >= 2.
        batch_size: noisy images in one forward pass; no certificate depends on it.

    Raises:
        InvalidArgumentError: if an argument is out of range.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        >>> _ = network[1].weight.data.copy_(torch.tensor([[0.0] * 4, [1.0] * 4]))
        >>> smoothed = SmoothedClassifier(network, sigma=0.25, num_classes=2)
        >>> [proof] = smoothed.certify(torch.full((1, 1, 2, 2), 0.5), TightCertifier(n=10_000))
        >>> proof.label, 0.75 < proof.radius < 1.0  # the exact radius is 1
        (1, True)
    """

    def __init__(
        self, classifier: nn.Module, sigma: float, num_classes: int, batch_size: int = 256
    ) -> None:
        require_positive("sigma", sigma)
        require_count("num_classes", num_classes, minimum=2)
        require_count("batch_size", batch_size)
        self.classifier = classifier
        self.sigma = sigma
        self.num_classes = num_classes
        self.batch_size = batch_size

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
    ) -> list[Certificate]:
        """Certify a batch of images.

        Args:
            images: pixels in [0, 1], shape (B, C, H, W), on any device.
            certifier: samples and bounds; `TightCertifier()` unless given.
            seed: seed of the noise, >= 0.
            indices: each image's index in its data set, which selects its noise; 0, 1, … unless
                given.

        Returns:
            One certificate an image.

        Raises:
            NonFiniteError: for pixels outside [0, 1], NaN pixels or non-finite logits; the
                message names the image's index.
            MismatchError: if the images are no batch, or the logits are not `num_classes`.
        """
        certifier = TightCertifier() if certifier is None else certifier
        if images.dim() != 4:
            raise MismatchError(f"Expected images of shape (B, C, H, W), got {tuple(images.shape)}")
        indices = range(len(images)) if indices is None else indices
        return [
            self._certify_one(image, certifier, seed, int(index))
            for image, index in zip(images, indices, strict=True)
        ]

    def _certify_one(
        self, image: Tensor, certifier: Certifier, seed: int, index: int
    ) -> Certificate:
        _check_pixels(image, index)
        image = image.to(self.device, torch.float32)
        stream = NoiseStream(tuple(image.shape), seed, index, self.device)
        counts = Counts(
            selection=self._count(image, certifier.n0, stream, index)[None],
            estimation=self._count(image, certifier.n, stream, index)[None],
        )
        return certifier.certify(counts, self.sigma)[0]

    @torch.inference_mode()
    def _count(self, image: Tensor, draws: int, stream: NoiseStream, index: int) -> np.ndarray:
        votes = torch.zeros(self.num_classes, dtype=torch.int64, device=self.device)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        with evaluating(self.classifier):
            for start in range(0, draws, self.batch_size):
                noise = stream.take(min(self.batch_size, draws - start))
                logits = self.classifier(noise.mul_(self.sigma).add_(image))
                self._check_shape(logits)
                finite &= logits.isfinite().all()
                votes += logits.argmax(1).bincount(minlength=self.num_classes)
        if not finite:
            raise NonFiniteError(f"The classifier gave NaN or infinite logits at image {index}")
        return votes.cpu().numpy()

    def _check_shape(self, logits: Tensor) -> None:
        if logits.dim() != 2 or logits.shape[1] != self.num_classes:
            raise MismatchError(
                f"Expected logits of shape (N, {self.num_classes}) for {self.num_classes} "
                f"classes, got {tuple(logits.shape)}"
            )


def _check_pixels(image: Tensor, index: int) -> None:
    # Written so that NaN fails it too.
    if not bool(((image >= 0) & (image <= 1)).all()):
        low, high = float(image.min()), float(image.max())
        raise NonFiniteError(
            f"Expected pixels in [0, 1] at image {index}, got values from {low:.4g} to {high:.4g}"
        )
