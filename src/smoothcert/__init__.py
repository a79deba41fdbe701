"""smoothcert: image classifiers with certified robustness.

Public names are imported on first use, so that `import smoothcert` is fast and a script that only
reads certificates never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smoothcert.certify import (
        AnytimeCertifier,
        CohenCertifier,
        Execution,
        PrecisionCertifier,
        SequentialCertifier,
        SmoothedClassifier,
        TightCertifier,
    )
    from smoothcert.commands.loading import load
    from smoothcert.errors import SmoothCertError
    from smoothcert.records import CertificateRow, read_certificates
    from smoothcert.stats import certified_radius
    from smoothcert.types import ABSTAIN, Certificate

__version__ = "0.1.0"

_MODULES = {
    "ABSTAIN": "smoothcert.types",
    "AnytimeCertifier": "smoothcert.certify",
    "Certificate": "smoothcert.types",
    "CertificateRow": "smoothcert.records",
    "CohenCertifier": "smoothcert.certify",
    "Execution": "smoothcert.certify",
    "PrecisionCertifier": "smoothcert.certify",
    "SequentialCertifier": "smoothcert.certify",
    "SmoothCertError": "smoothcert.errors",
    "SmoothedClassifier": "smoothcert.certify",
    "TightCertifier": "smoothcert.certify",
    "certified_radius": "smoothcert.stats",
    "load": "smoothcert.commands.loading",
    "read_certificates": "smoothcert.records",
}

__all__ = [
    "ABSTAIN",
    "AnytimeCertifier",
    "Certificate",
    "CertificateRow",
    "CohenCertifier",
    "Execution",
    "PrecisionCertifier",
    "SequentialCertifier",
    "SmoothCertError",
    "SmoothedClassifier",
    "TightCertifier",
    "certified_radius",
    "load",
    "read_certificates",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
