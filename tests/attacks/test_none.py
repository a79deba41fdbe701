"""No attack is no attack."""

import torch

from smoothcert.attacks import NoAttack
from smoothcert.noise import generator


def test_no_attack_leaves_images_alone_and_asks_no_classifier(batch):
    result = NoAttack()(None, batch, generator("cpu", 2))
    assert torch.equal(result.images, batch.images)
    assert result.report == {}
