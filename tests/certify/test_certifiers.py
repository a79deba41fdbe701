"""Certifiers: votes in, certificates out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothcert.certify import CohenCertifier, TightCertifier
from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import certified_radius
from smoothcert.types import ABSTAIN, Counts

CERTIFIERS = [
    CohenCertifier(n0=50, n=1000),
    TightCertifier(n0=50, n=1000),
    TightCertifier(n0=50, n=1000, split=0.5),
    TightCertifier(n0=50, n=1000, split="paper"),
]


@st.composite
def votes(draw, n0=50, n=1000, classes=4):
    """Votes of one image for any class probabilities."""
    source = np.random.default_rng(draw(st.integers(0, 2**31)))
    p = source.dirichlet(np.full(classes, draw(st.sampled_from([0.1, 1.0]))))
    return Counts(source.multinomial(n0, p)[None], source.multinomial(n, p)[None])


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=str)
@given(counts=votes())
def test_the_class_comes_from_the_selection_votes_alone(certifier, counts):
    selected = counts.selection[0].argmax()
    [certificate] = certifier.certify(counts, 0.25)
    assert certificate.label in (selected, ABSTAIN)
    assert certificate.n_a == counts.estimation[0, selected]
    assert certificate.n_b == np.delete(counts.estimation[0], selected).max()
    assert certificate.n_samples == 1000


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=str)
@given(counts=votes())
def test_relabelling_the_classes_relabels_the_certificate(certifier, counts):
    # Ties among the selection votes go to the first class, whatever it is called.
    if np.sum(counts.selection == counts.selection.max()) > 1:
        return
    order = np.array([2, 0, 3, 1])
    [certificate] = certifier.certify(counts, 0.25)
    [other] = certifier.certify(
        Counts(counts.selection[:, order], counts.estimation[:, order]), 0.25
    )
    assert other.radius == certificate.radius
    if not certificate.abstained:
        assert order[other.label] == certificate.label


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=str)
@given(counts=votes())
def test_abstaining_is_minus_one_with_radius_zero(certifier, counts):
    [certificate] = certifier.certify(counts, 0.25)
    assert certificate.abstained == (certificate.label == -1) == (certificate.radius == 0)


@given(counts=votes())
def test_cohen_is_the_formula_on_the_selected_class(counts):
    [certificate] = CohenCertifier(n0=50, n=1000).certify(counts, 0.25)
    n_a = counts.estimation[0, counts.selection[0].argmax()]
    assert certificate.radius == certified_radius(n_a, 0, 1000, 0.25, 0.001, "cohen")


@given(counts=votes())
def test_the_selected_split_is_a_rectangle_and_never_better_than_the_papers(counts):
    [sound] = TightCertifier(n0=50, n=1000).certify(counts, 0.25)
    [paper] = TightCertifier(n0=50, n=1000, split="paper").certify(counts, 0.25)
    assert sound.radius <= paper.radius


def test_a_runner_up_far_below_one_minus_p_a_widens_the_radius():
    counts = Counts(np.array([[60, 20, 20]]), np.array([[600, 200, 200]]))
    [tight], [cohen] = (
        kind(n0=100, n=1000).certify(counts, 0.25) for kind in (TightCertifier, CohenCertifier)
    )
    assert tight.radius > 2 * cohen.radius > 0


def test_many_images_at_once_are_each_their_own():
    source = np.random.default_rng(0)
    selection, estimation = (source.multinomial(n, [0.5, 0.3, 0.2], size=20) for n in (50, 1000))
    certifier = TightCertifier(n0=50, n=1000)
    together = certifier.certify(Counts(selection, estimation), 0.25)
    alone = [
        certifier.certify(Counts(a[None], b[None]), 0.25)[0]
        for a, b in zip(selection, estimation, strict=True)
    ]
    assert together == alone


def test_votes_that_do_not_add_up_are_refused():
    counts = Counts(np.array([[50, 0]]), np.array([[900, 0]]))
    with pytest.raises(
        InvalidArgumentError, match="Expected 1000 estimation votes an image, got 900"
    ):
        CohenCertifier(n0=50, n=1000).certify(counts, 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.5}, r"Expected `alpha` in \(0, 1\), got 1\.5"),
        ({"n": 0}, "Expected `n` a whole number >= 1, got 0"),
        ({"n0": 0}, "Expected `n0` a whole number >= 1, got 0"),
        ({"split": "best"}, "got 'best'"),
        ({"split": 0.0}, r"Expected `split` in \(0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        TightCertifier(**arguments)
