"""Training objectives of the base classifier under noise.

| name | class | source |
|---|---|---|
| `gaussian` | `Gaussian` | Cohen et al., 2019 |
| `adre` | `ADRE` | Feng et al., 2020 |
| `stability` | `Stability` | Li et al., 2019 |
| `macer` | `MACER` | Zhai et al., 2020 |
| `consistency` | `Consistency` | Jeong and Shin, 2020 |
| `smoothmix` | `SmoothMix` | Jeong et al., 2021 |
| `catrs` | `CATRS` | Jeong et al., 2023 |

Your own objective derives from `LogitsObjective`, or from `Objective` where it needs more
than the logits of the noisy copies.
"""

from smoothcert.objectives.adre import ADRE, adre_regularizer
from smoothcert.objectives.base import (
    LogitsObjective,
    Loss,
    Objective,
    divergence,
    mean_cross_entropy,
)
from smoothcert.objectives.catrs import CATRS
from smoothcert.objectives.consistency import Consistency, consistency_regularizer
from smoothcert.objectives.gaussian import Gaussian
from smoothcert.objectives.macer import MACER, soft_margin
from smoothcert.objectives.smoothmix import SmoothMix
from smoothcert.objectives.stability import Stability, stability_regularizer

__all__ = [
    "ADRE",
    "CATRS",
    "MACER",
    "Consistency",
    "Gaussian",
    "LogitsObjective",
    "Loss",
    "Objective",
    "SmoothMix",
    "Stability",
    "adre_regularizer",
    "consistency_regularizer",
    "divergence",
    "mean_cross_entropy",
    "soft_margin",
    "stability_regularizer",
]
