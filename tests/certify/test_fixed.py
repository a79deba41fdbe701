"""Certifiers of a fixed number of samples: votes in, certificates out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothcert.certify import CohenCertifier, TightCertifier
from smoothcert.errors import InvalidArgumentError
from smoothcert.stats import certified_radius, sign_test_p_value
from smoothcert.types import ABSTAIN, Counts
from tests.helpers.driving import drive, multinomial

CERTIFIERS = [
    CohenCertifier(n0=50, n=1000),
    TightCertifier(n0=50, n=1000),
    TightCertifier(n0=50, n=1000, bound="rectangle"),
    TightCertifier(n0=50, n=1000, bound="rectangle", split=0.5),
    TightCertifier(n0=50, n=1000, bound="rectangle", split="paper"),
]


def short(certifier):
    return "-".join(
        str(certifier.settings.get(name, "")) for name in ("certifier", "bound", "alpha_split")
    )


@st.composite
def votes(draw, n0=50, n=1000, classes=4):
    """Votes of one image for any class probabilities."""
    source = np.random.default_rng(draw(st.integers(0, 2**31)))
    p = source.dirichlet(np.full(classes, draw(st.sampled_from([0.1, 1.0]))))
    return Counts(source.multinomial(n0, p)[None], source.multinomial(n, p)[None])


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=short)
@given(counts=votes())
def test_the_class_comes_from_the_selection_votes_alone(certifier, counts):
    selected = counts.selection[0].argmax()
    [certificate] = certifier.certify(counts, 0.25)
    assert certificate.label in (selected, ABSTAIN)
    assert certificate.n_a == counts.estimation[0, selected]
    assert certificate.n_b == np.delete(counts.estimation[0], selected).max()
    assert certificate.n_samples == 1000


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=short)
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


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=short)
@given(counts=votes())
def test_abstaining_is_minus_one_with_radius_zero(certifier, counts):
    [certificate] = certifier.certify(counts, 0.25)
    assert certificate.abstained == (certificate.label == -1)
    assert certificate.radius >= 0
    # The joint bound answers at radius 0 by a test of its own.
    if certificate.abstained or certifier.settings.get("bound") != "joint":
        assert certificate.abstained == (certificate.radius == 0)


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=short)
@given(seed=st.integers(0, 2**31))
def test_a_sampling_asks_for_n0_and_n_and_gives_the_certificate_of_its_counts(certifier, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(4))
    seen = []
    draw = multinomial(p, seed)

    def remembered(n):
        seen.append(draw(n))
        return seen[-1]

    certificate, requests = drive(certifier.sampling(0.25, 4), remembered)
    assert requests == [50, 1000]
    counts = Counts(seen[0][None], seen[1][None])
    assert certifier.certify(counts, 0.25) == [certificate]


@given(counts=votes())
def test_cohen_is_the_formula_on_the_selected_class(counts):
    [certificate] = CohenCertifier(n0=50, n=1000).certify(counts, 0.25)
    n_a = counts.estimation[0, counts.selection[0].argmax()]
    assert certificate.radius == certified_radius(n_a, 0, 1000, 0.25, 0.001, "cohen")


@given(counts=votes())
def test_joint_is_the_formula_on_the_selected_class_once_the_sign_test_answers(counts):
    [certificate] = TightCertifier(n0=50, n=1000, alpha=0.01).certify(counts, 0.25)
    n_a, n_b = certificate.n_a, certificate.n_b
    assert certificate.abstained == (sign_test_p_value(n_a, n_b) > 0.01)
    if not certificate.abstained:
        assert certificate.radius == certified_radius(n_a, n_b, 1000, 0.25, 0.01, "joint")


@given(counts=votes())
def test_the_selected_split_is_a_rectangle_and_never_better_than_the_papers(counts):
    rectangle = TightCertifier(n0=50, n=1000, bound="rectangle")
    [sound] = rectangle.certify(counts, 0.25)
    [paper] = replace(rectangle, split="paper").certify(counts, 0.25)
    assert sound.radius <= paper.radius


@given(counts=votes())
def test_the_joint_bound_costs_at_most_a_hair_against_an_even_rectangle(counts):
    """It is at least the even rectangle at alpha minus a hundredth, its nuisance's share."""
    [joint] = TightCertifier(n0=50, n=1000, alpha=0.001).certify(counts, 0.25)
    even = TightCertifier(n0=50, n=1000, alpha=0.00099, bound="rectangle", split=0.5)
    assert joint.radius >= even.certify(counts, 0.25)[0].radius - 1e-9


def test_a_split_without_anything_to_divide_is_refused():
    with pytest.raises(InvalidArgumentError, match="only with bound=rectangle"):
        TightCertifier(split="paper")


def test_the_split_is_a_setting_where_alpha_is_split():
    assert "alpha_split" not in TightCertifier().settings
    assert TightCertifier(bound="rectangle", split=0.3).settings["alpha_split"] == 0.3


def test_a_label_without_selection_samples_gets_an_even_split():
    even = TightCertifier(n=1000, target="label", bound="rectangle", split=0.5)
    results = [
        drive(certifier.sampling(0.25, 3, label=1), multinomial([0.2, 0.7, 0.1]))
        for certifier in (even, replace(even, split="selection"))
    ]
    assert results[0] == results[1]


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
        InvalidArgumentError, match="Expected 1000 estimation votes per image, got 900"
    ):
        CohenCertifier(n0=50, n=1000).certify(counts, 0.25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 1.5}, r"Expected `alpha` in \(0, 1\), got 1\.5"),
        ({"n": 0}, "Expected `n` a whole number >= 1, got 0"),
        ({"n0": 0}, "Expected `n0` a whole number >= 1, got 0"),
        ({"bound": "sharp"}, "Expected `bound` one of joint, rectangle, got 'sharp'"),
        ({"target": "truth"}, "Expected `target` one of selection, label, got 'truth'"),
        ({"split": "best", "bound": "rectangle"}, "got 'best'"),
        ({"split": 0.0, "bound": "rectangle"}, r"Expected `split` in \(0, 1\]"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        TightCertifier(**arguments)
