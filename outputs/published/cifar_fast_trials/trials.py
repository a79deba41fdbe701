"""Objectives that were tried for the small recipe and not taken; see README.md beside this."""

import dataclasses

from torch.nn import functional

from smoothcert.objectives import ADRE, Gaussian
from smoothcert.objectives.base import Loss


class SmoothLabels(Gaussian):
    """Gaussian training with label smoothing."""

    def __init__(self, smoothing=0.1, noise_draws=1):
        super().__init__(noise_draws)
        self.smoothing = smoothing

    def of_logits(self, logits, batch):
        """Return the cross-entropy against smoothed labels."""
        labels = batch.labels.repeat(len(logits))
        value = functional.cross_entropy(
            logits.flatten(0, 1).float(), labels, label_smoothing=self.smoothing
        )
        return Loss(value, {"cross_entropy": value.detach()})


class Growing(Gaussian):
    """Gaussian training whose noise grows from a share of σ to σ."""

    def __init__(self, start=0.5, epochs=3, noise_draws=1):
        super().__init__(noise_draws)
        self.start = start
        self.epochs = epochs

    def __call__(self, classifier, batch, source):
        """Return the loss under the noise of the epoch."""
        share = min(1.0, self.start + (1 - self.start) * batch.epoch / self.epochs)
        return super().__call__(
            classifier, dataclasses.replace(batch, noise=batch.noise * share), source
        )


class GrowingDraws(ADRE):
    """ADRE with one draw at first and two from an epoch on."""

    def __init__(self, weight=0.1, noise_draws=1, switch=2, floor=None, warmup=None):
        super().__init__(weight, noise_draws, floor, warmup)
        self.switch = switch

    def __call__(self, classifier, batch, source):
        """Return the loss, and choose the number of draws of the next step."""
        loss = super().__call__(classifier, batch, source)
        self.noise_draws = 2 if batch.epoch >= self.switch - 1 else 1
        return loss
