"""What a row says in a file, and in memory."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.records import read_certificates
from smoothcert.types import ABSTAIN, Certificate
from tests.helpers.row_files import CERTIFICATES, ROW_LISTS, fresh_folder, row_of, write


def cells_of(row):
    """Return the row as it stands in a file, as text by column."""
    with fresh_folder() as folder:
        text = write(folder / "c.tsv", [row]).read_text()
    header, line = text.splitlines()
    return dict(zip(header.split("\t"), line.split("\t"), strict=True))


@given(CERTIFICATES)
def test_the_written_bounds_promise_no_more_than_was_proved(certificate):
    """Against the shortest decimal that names the bound: a radius of 0.15 is written as such."""
    cells = cells_of(row_of(certificate))
    for name, side in (("radius", 1), ("p_a_lower", 1), ("p_b_upper", -1)):
        given_away = side * (Fraction(repr(getattr(certificate, name))) - Fraction(cells[name]))
        assert 0 <= given_away < Fraction("0.000001"), name


@given(st.integers(0, 10**9), st.integers(0, 6))
def test_a_bound_of_at_most_six_decimals_stays_as_it_is(digits, decimals):
    value = float(f"{digits}e-{decimals}")
    row = row_of(Certificate(0, value, value, value, 9, 1, 10, "fixed"))
    assert (row.radius, row.p_a_lower, row.p_b_upper) == (value, value, value)


def test_a_radius_of_the_grid_is_the_same_number_in_the_file(tmp_path):
    # The float that is called 0.15 is smaller than 15/100.
    row = row_of(Certificate(0, 0.15, 0.9, 0.1, 9, 1, 10, "certified"))
    [read] = read_certificates(write(tmp_path / "c.tsv", [row]))
    assert read.radius == 0.15


@given(CERTIFICATES)
def test_the_row_in_memory_promises_no_more_than_was_proved(certificate):
    row = row_of(certificate)
    assert row.radius <= certificate.radius
    assert row.p_a_lower <= certificate.p_a_lower
    assert row.p_b_upper >= certificate.p_b_upper


@given(ROW_LISTS)
@settings(max_examples=50)
def test_rows_are_read_as_they_were_written(rows):
    with fresh_folder() as folder:
        assert read_certificates(write(folder / "c.tsv", rows)) == rows


@pytest.mark.parametrize(("label", "correct"), [(3, 1), (4, 0), (ABSTAIN, 0)])
def test_a_row_is_correct_where_the_certified_class_is_the_true_one(label, correct):
    certificate = Certificate(label, 0.0, 0.5, 0.5, 5, 5, 10, "fixed")
    assert row_of(certificate, label=3).correct == correct
