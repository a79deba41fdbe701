"""No attack: the images stay unchanged."""

import torch
from torch import nn

from smoothcert.attacks.base import Attack, AttackResult
from smoothcert.types import NoisyBatch


class NoAttack(Attack):
    """Returns every image unchanged, at no cost.

    Example:
        >>> NoAttack()
        NoAttack()
    """

    def __call__(
        self,
        classifier: nn.Module,  # noqa: ARG002
        batch: NoisyBatch,
        source: torch.Generator,  # noqa: ARG002
    ) -> AttackResult:
        """Return the batch's own images."""
        return AttackResult(batch.images)

    def __repr__(self) -> str:
        return "NoAttack()"
