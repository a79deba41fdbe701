"""Training objectives: what a base classifier is trained for under noise.

| name | class | source |
|---|---|---|
| `gaussian` | `Gaussian` | Cohen et al., 2019 |
| `adre` | `ADRE` | Feng et al., 2020 |
"""

from smoothcert.objectives.adre import ADRE, adre_regularizer
from smoothcert.objectives.base import Loss, Objective, mean_cross_entropy
from smoothcert.objectives.gaussian import Gaussian

__all__ = ["ADRE", "Gaussian", "Loss", "Objective", "adre_regularizer", "mean_cross_entropy"]
