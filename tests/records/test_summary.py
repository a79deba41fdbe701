"""Summaries against hand-computed figures and SciPy's own intervals."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from smoothcert.errors import RecordsError, SmoothCertError
from smoothcert.records import CertificateRow
from smoothcert.records.summary import read_as, summarize

SETTINGS = {
    "certifier": "TightCertifier",
    "n0": 100,
    "n": 1000,
    "alpha": 0.01,
    "sigma": 0.5,
    "seed": 3,
    "split": "val",
}
COHEN = {**SETTINGS, "certifier": "CohenCertifier"}
RADII = [0.0, 0.25, 0.5, 0.75, 1.0]


def row(idx, label, predict, radius, n_a=900, n_b=50, n=1000, time=0.5):
    correct = int(label == predict)
    return CertificateRow(
        idx, label, predict, radius, correct, time, 0.8, 0.1, n_a, n_b, n, "fixed"
    )


# Right, right, wrong and abstained; the last has votes enough for any bound.
ROWS = [
    row(0, 0, 0, 0.5, n=1000, n_a=950),
    row(1, 1, 1, 0.25, n=2000, n_a=1200, time=0.25),
    row(2, 2, 0, 0.75, n=3000, n_a=2990, n_b=10, time=0.125),
    row(3, 3, -1, 0.0, n=4000, n_a=3990, n_b=10, time=0.125),
]


def cohen(row, sigma, alpha):
    """CERTIFY of Cohen et al. (2019), from SciPy's two-sided exact interval at 2·alpha."""
    if row.predict < 0:
        return 0.0
    test = binomtest(row.n_a, row.n_samples)
    p_a = test.proportion_ci(1 - 2 * alpha, method="exact").low
    return max(0.0, sigma * norm.ppf(p_a))


def test_the_figures_of_four_images_are_those_computed_by_hand():
    summary = summarize(ROWS, SETTINGS, RADII)
    assert summary["images"] == 4
    assert summary["acr"] == pytest.approx((0.5 + 0.25) / 4)
    assert list(summary["certified_accuracy"].values()) == [0.5, 0.5, 0.25, 0.0, 0.0]
    assert summary["clean_smoothed_accuracy"] == 0.5
    assert summary["abstention_rate"] == 0.25
    assert summary["mean_samples_per_image"] == 2500 + 100  # selection samples
    assert summary["seconds_certifying"] == 1.0


def test_the_radii_are_the_names_of_the_accuracies():
    assert list(summarize(ROWS, SETTINGS, RADII)["certified_accuracy"]) == [
        "0", "0.25", "0.5", "0.75", "1"
    ]  # fmt: skip


def test_a_summary_says_how_its_certificates_were_made():
    summary = summarize(ROWS, SETTINGS, RADII)
    named = {name: summary[name] for name in SETTINGS if name != "certifier"}
    assert {**named, "certifier": "TightCertifier"} == SETTINGS
    assert summary["certifier"] == "tight"
    assert summary["certifier_settings"] == SETTINGS


def test_the_same_votes_are_read_under_cohens_bound():
    summary = summarize(ROWS, SETTINGS, RADII)
    radii = [cohen(each, 0.5, 0.01) for each in ROWS]
    reached = [sum(radius >= r for radius in radii[:2]) / 4 for r in RADII]
    bounds = summary["bounds"]
    assert list(bounds) == ["tight", "cohen"]
    assert bounds["cohen"]["acr"] == pytest.approx(sum(radii[:2]) / 4)
    assert list(bounds["cohen"]["certified_accuracy"].values()) == reached
    assert bounds["tight"] == {n: summary[n] for n in ("acr", "certified_accuracy")}


def test_cohens_own_certificates_are_read_once():
    summary = summarize(ROWS, COHEN, RADII)
    assert list(summary["bounds"]) == ["cohen"]
    assert summary["bounds"]["cohen"]["acr"] == summary["acr"] == pytest.approx(0.1875)


@pytest.mark.parametrize("name", ["SequentialCertifier", "AnytimeCertifier"])
def test_votes_that_decided_their_own_number_are_read_under_no_other_bound(name):
    summary = summarize(ROWS, {**SETTINGS, "certifier": name}, RADII)
    assert list(summary["bounds"]) == [summary["certifier"]]
    assert summary["radius_is_lower_bound"]


@pytest.mark.parametrize("name", ["TightCertifier", "PrecisionCertifier"])
def test_votes_of_a_number_set_beforehand_are_read_under_cohens_bound_too(name):
    summary = summarize(ROWS, {**SETTINGS, "certifier": name}, RADII)
    assert list(summary["bounds"]) == [summary["certifier"], "cohen"]
    assert not summary["radius_is_lower_bound"]


def test_a_wrong_image_that_was_given_up_is_not_an_abstention():
    wrong = replace(row(4, 0, -1, 0.0, n_a=0, n_b=0, n=0), stop="wrong")
    summary = summarize([*ROWS, wrong], {**SETTINGS, "certifier": "SequentialCertifier"}, RADII)
    assert summary["abstention_rate"] == pytest.approx(1 / 4)
    assert summary["clean_smoothed_accuracy"] == pytest.approx(2 / 5)
    assert summary["mean_samples_per_image"] == 2000 + 100
    assert summary["stops"] == {"fixed": 4, "wrong": 1}


def test_settings_of_older_files_have_their_defaults():
    summary = summarize(ROWS, SETTINGS, RADII)
    named = ("precision", "noise", "target")
    assert [summary[name] for name in named] == ["float32", "gaussian", "selection"]
    asked = {"precision": "bfloat16", "noise": "discrete", "target": "label"}
    summary = summarize(ROWS, {**SETTINGS, **asked}, RADII)
    assert {name: summary[name] for name in named} == asked


def test_the_papers_own_split_is_called_unproven_wherever_it_stands():
    summary = summarize(ROWS, {**SETTINGS, "alpha_split": "paper"}, RADII)
    assert summary["certifier"] == "tight (unproven split)"
    assert next(iter(summary["bounds"])) == "tight (unproven split)"


VOTES = st.integers(1, 2000).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n), st.integers(-1, 1))
)


@given(st.lists(VOTES, min_size=1, max_size=5), st.sampled_from([0.05, 0.001, 1e-5]))
@settings(deadline=None)
def test_cohens_radii_are_those_of_scipys_exact_interval(votes, alpha):
    rows = [
        row(i, 1, predict, 0.1, n_a=n_a, n_b=(n - n_a) // 2, n=n)
        for i, (n_a, n, predict) in enumerate(votes)
    ]
    expected = np.array([cohen(each, 0.25, alpha) for each in rows])
    reading = read_as("cohen", rows, 0.25, alpha)
    np.testing.assert_allclose(reading.radius, expected, atol=1e-9)


@pytest.mark.parametrize("bound", ["cohen", "rectangle", "paper"])
def test_an_image_that_abstained_stays_so_under_every_bound(bound):
    reading = read_as(bound, ROWS, sigma=0.5, alpha=0.01)
    assert reading.radius[2] > 0
    assert reading.radius[3] == 0
    assert not reading.correct[3]


@pytest.mark.parametrize("bound", ["cohen", "rectangle", "paper"])
def test_an_image_that_the_bound_cannot_certify_is_not_correct(bound):
    reading = read_as(bound, [row(0, 1, 1, 0.1, n_a=400, n_b=400)], sigma=0.5, alpha=0.01)
    assert reading.radius[0] == 0
    assert reading.accuracy([0.0]) == [0.0]


def test_the_image_that_is_wrong_is_wrong_under_every_bound():
    assert read_as("cohen", ROWS, sigma=0.5, alpha=0.01).correct.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("values", [SETTINGS, COHEN], ids=["tight", "cohen"])
def test_a_summary_of_nothing_is_an_error(values):
    with pytest.raises(SmoothCertError, match="at least one certificate"):
        summarize([], values, RADII)


def test_reading_nothing_is_an_error_of_the_records():
    with pytest.raises(RecordsError, match="at least one certificate"):
        read_as("cohen", [], 0.25, 0.001)


@pytest.mark.parametrize("values", [SETTINGS, COHEN], ids=["tight", "cohen"])
def test_a_summary_is_the_same_after_json(values):
    summary = summarize(ROWS, values, np.array(RADII))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_rows_without_a_vote_are_read_under_another_bound():
    wrong = replace(row(4, 0, -1, 0.0, n_a=0, n_b=0, n=0), stop="wrong")
    reading = read_as("cohen", [*ROWS, wrong], 0.25, 0.001)
    assert reading.radius[-1] == 0
