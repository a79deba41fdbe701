"""Attacks on the smoothed classifier, for adversarial training."""

from smoothcert.attacks.base import Attack, AttackResult
from smoothcert.attacks.none import NoAttack
from smoothcert.attacks.pgd import PGD

__all__ = ["PGD", "Attack", "AttackResult", "NoAttack"]
