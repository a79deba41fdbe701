"""What all certifiers have in common: the class, the label, and the tally of the votes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.certify import (
    AnytimeCertifier,
    CohenCertifier,
    PrecisionCertifier,
    SequentialCertifier,
    TightCertifier,
)
from smoothcert.certify.certifiers import Tally
from smoothcert.errors import InvalidArgumentError
from smoothcert.records.limits import Limits
from smoothcert.records.rows import check_possible
from smoothcert.stats import probability_bounds
from smoothcert.types import ABSTAIN
from tests.helpers.driving import drive, multinomial, unanimous
from tests.helpers.row_files import row_of

PLANNED = PrecisionCertifier(n0=100, n=500)
KINDS = (CohenCertifier, TightCertifier, SequentialCertifier, AnytimeCertifier)
P = [0.2, 0.7, 0.1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_as_target_needs_a_label(kind):
    with pytest.raises(InvalidArgumentError, match="Expected labels with target=label, got none"):
        next(kind(target="label").sampling(0.25, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_as_target_draws_no_selection(kind):
    certifier = kind(n0=77, n=500, target="label")
    certificate, requests = drive(certifier.sampling(0.25, 3, label=1), multinomial(P))
    assert sum(requests) == certificate.n_samples
    assert certificate.label == 1
    wrong, _ = drive(certifier.sampling(0.25, 3, label=2), multinomial(P))
    assert (wrong.label, wrong.radius) == (ABSTAIN, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_as_target_is_never_given_up_as_wrong(kind):
    certifier = kind(n=500, target="label", stop_when_wrong=True)
    certificate, _ = drive(certifier.sampling(0.25, 3, label=2), multinomial(P))
    assert certificate.stop != "wrong"
    assert certificate.n_samples > 0


@pytest.mark.parametrize("kind", [*KINDS, PrecisionCertifier])
def test_a_wrong_image_ends_after_its_selection_on_request(kind):
    sampling = kind(n=500, stop_when_wrong=True).sampling(0.25, 3, label=0)
    certificate, requests = drive(sampling, unanimous(1))
    assert requests == [kind().n0]
    assert (certificate.label, certificate.radius, certificate.n_samples) == (ABSTAIN, 0, 0)
    assert certificate.stop == "wrong"


@pytest.mark.parametrize("kind", [*KINDS, PrecisionCertifier])
@pytest.mark.parametrize("label", [None, 1])
def test_a_right_or_unknown_label_changes_nothing(kind, label):
    with_stop, without = (
        drive(kind(n=500, stop_when_wrong=stop).sampling(0.25, 3, label), multinomial(P))
        for stop in (True, False)
    )
    assert with_stop == without
    assert with_stop[0].label == 1


@pytest.mark.parametrize("kind", [*KINDS, PrecisionCertifier])
def test_a_label_is_not_looked_at_where_nothing_asks_for_it(kind):
    certifier = kind(n=500, stop_when_wrong=False)
    known, unknown = (
        drive(certifier.sampling(0.25, 3, label), multinomial(P)) for label in (0, None)
    )
    assert known == unknown


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6), st.data())
def test_a_tally_is_the_classs_count_and_the_largest_other_one(votes, data):
    selected = data.draw(st.integers(0, len(votes) - 1))
    others = votes[:selected] + votes[selected + 1 :]
    assert Tally.of(np.array(votes), selected) == (
        selected,
        votes[selected],
        max(others),
        sum(votes),
    )


@pytest.mark.parametrize("answered", [True, False])
def test_a_tally_promises_nothing_unless_it_is_answered(answered):
    tally = Tally(2, 60, 30, 100)
    bounds = probability_bounds(60, 30, 100, 0.01)
    certificate = tally.certificate(bounds, 0.5, answered, "fixed")
    assert (certificate.label, certificate.radius) == ((2, 0.5) if answered else (ABSTAIN, 0))
    assert certificate.p_a_lower == bounds.p_a_lower
    assert certificate.p_b_upper == bounds.p_b_upper
    assert (certificate.n_a, certificate.n_b, certificate.n_samples) == (60, 30, 100)


@pytest.mark.parametrize("kind", [*KINDS, PrecisionCertifier])
def test_the_stated_bounds_enclose_the_shares_of_the_votes(kind):
    certificate, _ = drive(kind(n=2000).sampling(0.25, 3), multinomial(P))
    n = certificate.n_samples
    assert certificate.p_a_lower < certificate.n_a / n
    assert certificate.n_b / n < certificate.p_b_upper <= 1 - certificate.p_a_lower + 1e-9


def test_settings_are_json_and_tell_certifiers_apart():
    certifiers = [kind() for kind in (*KINDS, PrecisionCertifier)]
    certifiers += [kind(target="label") for kind in KINDS]
    certifiers += [SequentialCertifier(radii=[0, 0.5]), AnytimeCertifier(radii=[0, 0.5])]
    certifiers += [SequentialCertifier(bound="cohen"), CohenCertifier(stop_when_wrong=True)]
    texts = [json.dumps(certifier.settings) for certifier in certifiers]
    assert len(set(texts)) == len(texts)
    for certifier in certifiers:
        assert certifier.settings["certifier"] == type(certifier).__name__
        assert {"n0", "n", "alpha", "target"} <= certifier.settings.keys()


@pytest.mark.parametrize("kind", [*KINDS, PrecisionCertifier])
def test_typical_samples_lie_between_the_selection_and_everything(kind):
    certifier = kind()
    assert certifier.n0 < certifier.typical_samples <= certifier.n0 + certifier.n


@pytest.mark.parametrize("kind", [*KINDS, PrecisionCertifier])
def test_certifiers_of_equal_settings_are_equal_and_hashable(kind):
    assert len({kind(n=500), kind(n=500), kind(n=501)}) == 2


EVERY = (
    CohenCertifier,
    TightCertifier,
    lambda **more: TightCertifier(bound="rectangle", **more),
    lambda **more: TightCertifier(bound="rectangle", split="paper", **more),
    SequentialCertifier,
    lambda **more: SequentialCertifier(bound="rectangle", **more),
    lambda **more: SequentialCertifier(bound="cohen", **more),
    AnytimeCertifier,
    PrecisionCertifier,
)


@pytest.mark.parametrize("make", EVERY)
@settings(max_examples=15)
@given(st.data())
def test_whatever_is_accepted_can_judge_any_votes_of_its_samples(make, data):
    """At the ends of what is accepted; warnings are errors."""
    alpha = data.draw(
        st.sampled_from([1e-100, 1e-30, 1e-9, 0.001, 0.5, 1 - 2**-53])
        | st.floats(0, 1, exclude_min=True, exclude_max=True)
    )
    arguments = {
        "n0": data.draw(st.sampled_from([1, 2, 100])),
        "n": data.draw(st.integers(1, 3000)),
        "alpha": alpha,
        "stop_when_wrong": data.draw(st.booleans()),
    }
    if make is not PrecisionCertifier:
        arguments["target"] = data.draw(st.sampled_from(["selection", "label"]))
    if make in (SequentialCertifier, AnytimeCertifier):
        radii = st.sets(st.floats(1e-300, 20_000), max_size=5)
        arguments["radii"] = [0.0, *sorted(data.draw(radii))]
    try:
        certifier = make(**arguments)
    except InvalidArgumentError:
        assert alpha < 1e-100 or arguments.get("radii", [0])[-1] > 10_000
        return
    p = data.draw(st.sampled_from([[1, 0, 0], [0, 1, 0], P, [0.34, 0.33, 0.33]]))
    label = data.draw(st.integers(0, 2))
    certificate, requests = drive(certifier.sampling(0.25, 3, label), multinomial(p))
    assert sum(requests) <= certifier.n0 + certifier.n
    assert 0 <= certificate.radius < 10


@pytest.mark.parametrize("make", EVERY)
def test_more_samples_than_can_be_judged_are_refused_before_any_is_drawn(make):
    kind = type(make())
    joint = "joint" in make().settings.get("bound", "") or kind is PrecisionCertifier
    most = 10**7 if joint or kind is AnytimeCertifier else 10**9
    assert make(n=most).n == most
    for n in (most + 1, 10**20):
        with pytest.raises(InvalidArgumentError, match=f"Expected `n` from 1 to .*, got {n}"):
            make(n=n)
    with pytest.raises(InvalidArgumentError, match="Expected `n0` from 1 to 1000000000"):
        make(n0=10**9 + 1)
    with pytest.raises(InvalidArgumentError):
        replace(make(n=most), n=most + 1)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (TightCertifier, {"bound": "rectangle", "split": None}, "Expected `split` in .*got None"),
        (TightCertifier, {"bound": "rectangle", "split": [0.5]}, "Expected `split` in "),
        (TightCertifier, {"alpha": 1e-320}, "Expected `alpha` of at least 1e-100, got"),
        (CohenCertifier, {"stop_when_wrong": "no"}, "`stop_when_wrong` true or false, got 'no'"),
        (SequentialCertifier, {"radii": "abc"}, "Expected `radii` a list of numbers, got 'abc'"),
        (AnytimeCertifier, {"radii": 5}, "Expected `radii` a list of numbers, got 5"),
        (AnytimeCertifier, {"radii": [0, float("inf")]}, r"`radii` up to 10000\.0 .*got inf"),
        (SequentialCertifier, {"radii": [0, float("nan")]}, "Expected radii that increase from 0"),
    ],
)
def test_what_no_certifier_can_do_is_refused_when_it_is_made(kind, arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        kind(**arguments)


CERTIFIERS = [
    CohenCertifier(),
    CohenCertifier(target="label"),
    TightCertifier(),
    TightCertifier(bound="rectangle"),
    TightCertifier(bound="rectangle", split=1),
    TightCertifier(bound="rectangle", split=0.01),
    TightCertifier(bound="rectangle", split="paper"),
    PrecisionCertifier(n0=50, tolerance=0.2),
    SequentialCertifier(),
    SequentialCertifier(radii=(0.0, 0.1, 0.11, 3.0), bound="cohen"),
    SequentialCertifier(bound="rectangle", target="label"),
    AnytimeCertifier(),
    AnytimeCertifier(radii=(0.0, 0.07, 0.5), stop_when_wrong=False),
]


def told(certifier):
    return "-".join(str(value) for value in certifier.settings.values())


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=told)
@given(
    st.sampled_from([1, 2, 7, 10, 33, 34, 100, 400, 1000]),
    st.sampled_from([1e-9, 0.001, 0.05, 0.4, 0.7]),
    st.floats(0.01, 4),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 2**32),
    st.sampled_from([0, 1e-6, 0.1]),
)
@settings(max_examples=40, deadline=None)
def test_whatever_a_certifier_proves_may_be_written(certifier, n, alpha, sigma, a, b, seed, noise):
    """For any votes, unanimous ones too, and where discrete noise takes its share of alpha."""
    b *= 1 - a
    draw = unanimous(0) if a > 0.9 else multinomial([a, b, 1 - a - b], seed)
    asked = replace(certifier, n=n, n0=min(certifier.n0, 50), alpha=alpha)
    left = alpha * (1 - noise)
    proof, _ = drive(replace(asked, alpha=left).sampling(sigma, 3, label=0), draw)
    said = {**asked.settings, "sigma": sigma, "noise": "discrete", "alpha_for_votes": left}
    row = row_of(proof, label=0)
    check_possible(row, Limits.of(json.loads(json.dumps(said))))
