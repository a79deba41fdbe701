"""Attacks on the smoothed classifier, for adversarial training.

| name | class | source |
|---|---|---|
| `none` | `NoAttack` | |
| `pgd` | `PGD` | Salman et al., 2019 |
| `ddn` | `DDN` | Rony et al., 2019; Salman et al., 2019 |
"""

from smoothcert.attacks.base import (
    Attack,
    AttackResult,
    AttackState,
    GradientAttack,
    SmoothedAttack,
)
from smoothcert.attacks.ddn import DDN
from smoothcert.attacks.none import NoAttack
from smoothcert.attacks.pgd import PGD

__all__ = [
    "DDN",
    "PGD",
    "Attack",
    "AttackResult",
    "AttackState",
    "GradientAttack",
    "NoAttack",
    "SmoothedAttack",
]
