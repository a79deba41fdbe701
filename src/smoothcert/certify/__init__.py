"""Certification of any PyTorch classifier: sample, count, bound, radius."""

from smoothcert.certify.certifiers import Certifier, CohenCertifier, TightCertifier
from smoothcert.certify.engine import Certified, Examples, Subset, certify_examples, weights_digest
from smoothcert.certify.smoothed import SmoothedClassifier

__all__ = [
    "Certified",
    "Certifier",
    "CohenCertifier",
    "Examples",
    "SmoothedClassifier",
    "Subset",
    "TightCertifier",
    "certify_examples",
    "weights_digest",
]
