"""Gaussian training, and what objectives share."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from smoothcert.objectives import ADRE, Gaussian


def test_loss_is_the_mean_cross_entropy_over_noisy_copies(batch):
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    weight, bias = (p.detach().double().numpy() for p in classifier.parameters())
    noisy = (batch.images + batch.noise).flatten(2).double().numpy()
    logs = log_softmax(noisy @ weight.T + bias, axis=-1)
    expected = -np.mean([logs[:, i, label] for i, label in enumerate(batch.labels)])
    assert Gaussian(4)(classifier, batch).value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("objective", [Gaussian(4), ADRE(noise_draws=4)])
def test_report_has_the_terms_and_the_smoothed_accuracy(objective, network, batch):
    loss = objective(network.eval(), batch)
    with torch.no_grad():
        noisy = (batch.images + batch.noise).flatten(0, 1)
        logits = network(noisy).unflatten(0, (4, 5)).numpy()
    right = softmax(logits, axis=-1).mean(0).argmax(-1) == batch.labels.numpy()
    assert loss.report["smoothed_accuracy"].item() == pytest.approx(right.mean())
    weighted = loss.report["cross_entropy"] + 0.1 * loss.report.get("adre", 0.0)
    assert loss.value.item() == pytest.approx(weighted.item(), rel=1e-6)
    assert not any(term.requires_grad for term in loss.report.values())
