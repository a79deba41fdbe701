"""Certificates of a planned number of samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.certify import PrecisionCertifier, TightCertifier
from smoothcert.errors import InvalidArgumentError
from smoothcert.types import Counts
from tests.helpers.driving import drive, multinomial

seeds = st.integers(0, 2**31)


def probabilities(seed, classes=4):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.3))


@given(seeds, st.sampled_from([1, 50, 99, 3000, 100_000]))
def test_the_plan_never_exceeds_n_and_is_one_request(seed, n):
    certifier = PrecisionCertifier(n=n)
    selected = certifier.sampling(0.25, 4)
    assert next(selected) == 1000
    assert 1 <= selected.send(multinomial(probabilities(seed), seed)(1000)) <= n


@given(seeds)
def test_a_larger_tolerance_never_takes_more_samples(seed):
    pilot = multinomial(probabilities(seed), seed)(1000)
    sizes = []
    for tolerance in (0.01, 0.05, 0.2, 0.9):
        sampling = PrecisionCertifier(tolerance=tolerance).sampling(0.25, 4)
        next(sampling)
        sizes.append(sampling.send(pilot))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] >= 100


@settings(max_examples=12)
@given(seeds)
def test_the_certificate_is_that_of_the_new_votes_alone(seed):
    """The pilot chooses the class and how many: a fixed certifier of that many says the same."""
    p = probabilities(seed)
    certifier = PrecisionCertifier(n=3000)
    sampling, draw = certifier.sampling(0.25, 4), multinomial(p, seed)
    pilot = draw(next(sampling))
    planned = sampling.send(pilot)
    votes = draw(planned)
    with pytest.raises(StopIteration) as stop:
        sampling.send(votes)
    certificate = stop.value.value
    fixed = TightCertifier(n0=1000, n=planned)
    [expected] = fixed.certify(Counts(pilot[None], votes[None]), 0.25)
    assert certificate.stop == "planned"
    assert certificate.__dict__ | {"stop": "fixed"} == expected.__dict__


def test_a_clear_image_keeps_its_radius_within_the_tolerance_on_average():
    p = [0.95, 0.03, 0.02]
    planned = [
        drive(PrecisionCertifier(tolerance=0.1).sampling(0.25, 3), multinomial(p, seed))[0]
        for seed in range(10)
    ]
    full, _ = drive(TightCertifier().sampling(0.25, 3), multinomial(p))
    radii = [certificate.radius for certificate in planned]
    # Ten radii of a standard deviation of about 2 %: their mean is known to .7 %.
    assert 0.88 * full.radius < np.mean(radii) < full.radius
    assert max(certificate.n_samples for certificate in planned) < 20_000


def test_a_label_cannot_plan():
    with pytest.raises(InvalidArgumentError, match=r"Expected target=selection.*got target=label"):
        PrecisionCertifier(target="label")


@pytest.mark.parametrize("tolerance", [0, 1, -0.1, 1.5])
def test_a_tolerance_out_of_range_is_refused(tolerance):
    with pytest.raises(InvalidArgumentError, match=r"Expected `tolerance` in \(0, 1\)"):
        PrecisionCertifier(tolerance=tolerance)
