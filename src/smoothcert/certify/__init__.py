"""Certification of any PyTorch classifier: sample, count, bound, radius."""

from smoothcert.certify.certifiers import Certifier
from smoothcert.certify.engine import (
    Certified,
    Examples,
    Performance,
    Subset,
    certify_examples,
    peak_memory,
)
from smoothcert.certify.execution import Execution, weights_digest
from smoothcert.certify.fixed import CohenCertifier, FixedCertifier, TightCertifier
from smoothcert.certify.precision import PrecisionCertifier
from smoothcert.certify.scheduling import Plan
from smoothcert.certify.sequential import AnytimeCertifier, SequentialCertifier
from smoothcert.certify.smoothed import Result, SmoothedClassifier
from smoothcert.types import Example

__all__ = [
    "AnytimeCertifier",
    "Certified",
    "Certifier",
    "CohenCertifier",
    "Example",
    "Examples",
    "Execution",
    "FixedCertifier",
    "Performance",
    "Plan",
    "PrecisionCertifier",
    "Result",
    "SequentialCertifier",
    "SmoothedClassifier",
    "Subset",
    "TightCertifier",
    "certify_examples",
    "peak_memory",
    "weights_digest",
]
