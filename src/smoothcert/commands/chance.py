"""What a summary adds about a classifier whose smoothed accuracy is that of guessing."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from smoothcert.certify import Examples, SmoothedClassifier
from smoothcert.models import evaluating
from smoothcert.noise import draw_noise, generator
from smoothcert.records import CertificateRow
from smoothcert.stats import is_near_chance

BATCH = 64


def near_chance(
    smoothed: SmoothedClassifier, images: Examples, rows: Sequence[CertificateRow], seed: int
) -> dict[str, Any]:
    """Return what a summary adds if smoothed accuracy is near chance; otherwise nothing.

    Args:
        smoothed: the smoothed classifier.
        images: the certified images, among others.
        rows: the certificates.
        seed: seed of the noise draw.

    Returns:
        Under `near_chance` the accuracy of guessing, and the base classifier's accuracy on the
        certified images, without noise and under one noise draw per image.
    """
    most_common = max(Counter(row.label for row in rows).values()) / len(rows)
    chance = max(1 / smoothed.num_classes, most_common)
    if not is_near_chance(sum(bool(row.correct) for row in rows), len(rows), chance):
        return {}
    plain, noisy = _base_accuracies(smoothed, images, [row.idx for row in rows], seed)
    return {"near_chance": {"chance": chance, "base_accuracy": plain, "base_accuracy_noisy": noisy}}


def _base_accuracies(
    smoothed: SmoothedClassifier, images: Examples, indices: Sequence[int], seed: int
) -> tuple[float, float]:
    """Return the base classifier's accuracy without noise, and under one draw of it."""
    places = {int(index): position for position, index in enumerate(images.indices)}
    source = generator(str(smoothed.device), seed)
    right = torch.zeros(2)
    for start in range(0, len(indices), BATCH):
        chosen = [images.example(places[index]) for index in indices[start : start + BATCH]]
        clean = torch.stack([image for image, _, _ in chosen]).to(smoothed.device, torch.float32)
        labels = torch.tensor([label for _, label, _ in chosen], device=smoothed.device)
        [noise] = draw_noise(clean, smoothed.sigma, 1, source)
        with evaluating(smoothed.classifier) as classifier, torch.no_grad():
            answers = [classifier(batch).argmax(1) for batch in (clean, clean + noise)]
        right += torch.tensor([float((answer == labels).sum()) for answer in answers])
    plain, noisy = (right / len(indices)).tolist()
    return plain, noisy
