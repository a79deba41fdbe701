"""Certificate files under kills, damage and changed settings."""

import contextlib
import csv
import json
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.errors import RecordsError
from smoothcert.records import (
    CertificateFile,
    CertificateRow,
    read_certificates,
    settings_path,
    write_atomically,
)
from smoothcert.types import ABSTAIN, Certificate

SETTINGS = {"sigma": 0.25, "certifier": "TightCertifier", "max_images": None}
ROWS = [
    CertificateRow(7, 3, 3, 0.312345, 1, 0.5, 0.93, 0.04, 9500, 300, 10_000, "fixed"),
    CertificateRow(0, 1, ABSTAIN, 0.0, 0, 12.25, 0.480001, 0.519999, 4900, 4800, 10_000, "fixed"),
    CertificateRow(12, 4, 2, 1.5, 0, 0.001, 0.999999, 0.000001, 10_000, 0, 10_000, "fixed"),
]
PROBABILITIES = st.floats(0, 1)
VOTES = st.integers(0, 100_000)
CERTIFICATES = st.builds(
    Certificate,
    label=st.integers(-1, 999),
    radius=st.floats(0, 1000),
    p_a_lower=PROBABILITIES,
    p_b_upper=PROBABILITIES,
    n_a=VOTES,
    n_b=VOTES,
    n_samples=VOTES,
    stop=st.sampled_from(["fixed", "early"]),
).map(lambda proof: replace(proof, radius=0.0) if proof.label == ABSTAIN else proof)
"""Without a class there is no radius."""


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "certificates.tsv", ROWS)


def write(path, rows, values=SETTINGS):
    with CertificateFile(path, values) as file:
        for row in rows:
            file.append(row)
    return path


def finish(path, rows):
    """Certify what is left, as a restarted run does."""
    with CertificateFile(path, SETTINGS) as file:
        for row in rows:
            if row.idx not in file.finished:
                file.append(row)


def row_of(certificate, **given_values):
    values = {"idx": 0, "label": 0, "seconds": 0.0, **given_values}
    return CertificateRow.from_certificate(certificate, **values)


def cells_of(row):
    """Return the row as it stands in a file, as text by column."""
    with tempfile.TemporaryDirectory() as folder:
        text = write(Path(folder) / "c.tsv", [row]).read_text()
    header, line = text.splitlines()
    return dict(zip(header.split("\t"), line.split("\t"), strict=True))


def refusal(path, values=SETTINGS):
    """Return the error of reopening the file, which must leave every byte as it was."""
    before = path.read_bytes()
    with pytest.raises(RecordsError) as caught:
        CertificateFile(path, values)
    assert path.read_bytes() == before
    return str(caught.value)


def test_a_run_killed_at_any_byte_resumes_to_the_same_file(path):
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        finish(path, ROWS)
        assert path.read_bytes() == whole, f"killed after byte {length}"


def test_a_kill_loses_only_the_line_in_flight(path):
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        complete = max(0, whole[:length].count(b"\n") - 1)
        assert read_certificates(path) == ROWS[:complete]


def test_a_run_killed_before_the_file_exists_starts_afresh(path):
    whole = path.read_bytes()
    path.unlink()
    finish(path, ROWS)
    assert path.read_bytes() == whole


def test_a_finished_file_is_left_byte_for_byte(path):
    whole = path.read_bytes()
    with CertificateFile(path, SETTINGS) as file:
        assert file.finished == {7, 0, 12}
    assert path.read_bytes() == whole


def test_a_row_can_be_read_before_the_file_is_closed(tmp_path):
    with CertificateFile(tmp_path / "c.tsv", SETTINGS) as file:
        for count, row in enumerate(ROWS, start=1):
            file.append(row)
            assert read_certificates(file.path) == ROWS[:count]


@given(CERTIFICATES)
@settings(deadline=None)
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
@settings(deadline=None)
def test_the_row_in_memory_promises_no_more_than_was_proved(certificate):
    row = row_of(certificate)
    assert row.radius <= certificate.radius
    assert row.p_a_lower <= certificate.p_a_lower
    assert row.p_b_upper >= certificate.p_b_upper


@given(st.lists(CERTIFICATES, max_size=5), st.floats(0, 1e6))
@settings(deadline=None, max_examples=50)
def test_rows_are_read_as_they_were_written(certificates, seconds):
    rows = [row_of(proof, idx=i, seconds=seconds) for i, proof in enumerate(certificates)]
    with tempfile.TemporaryDirectory() as folder:
        assert read_certificates(write(Path(folder) / "c.tsv", rows)) == rows


@pytest.mark.parametrize(("label", "correct"), [(3, 1), (4, 0), (ABSTAIN, 0)])
def test_a_row_is_correct_where_the_certified_class_is_the_true_one(label, correct):
    certificate = Certificate(label, 0.0, 0.5, 0.5, 5, 5, 10, "fixed")
    assert row_of(certificate, label=3).correct == correct


def test_published_scripts_find_their_six_columns(path):
    with path.open(newline="") as file:
        header, *lines = csv.reader(file, delimiter="\t")
    assert header[:6] == ["idx", "label", "predict", "radius", "correct", "time"]
    assert [[float(cell) for cell in line[:6]] for line in lines] == [
        [7, 3, 3, 0.312345, 1, 0.5],
        [0, 1, -1, 0, 0, 12.25],
        [12, 4, 2, 1.5, 0, 0.001],
    ]
    assert {len(line) for line in lines} == {len(header)} == {12}


def test_other_settings_are_refused_with_each_difference_named(path):
    message = refusal(path, {"sigma": 0.5, "certifier": "TightCertifier", "seed": 3})
    assert str(path) in message
    assert "sigma was 0.25 and is now 0.5" in message
    assert "seed was None and is now 3" in message
    assert "certifier" not in message


def test_refused_settings_do_not_replace_the_recorded_ones(path):
    refusal(path, {"sigma": 0.5})
    assert json.loads(settings_path(path).read_text()) == SETTINGS


def test_equal_settings_are_equal_after_json(tmp_path):
    path = write(tmp_path / "c.tsv", ROWS[:1], {"radii": (0.0, 0.5)})
    with CertificateFile(path, {"radii": [0.0, 0.5]}) as file:
        assert file.rows == ROWS[:1]


def test_a_file_without_rows_belongs_to_no_settings_yet(tmp_path):
    path = write(tmp_path / "c.tsv", [])
    write(path, ROWS[:1], {"sigma": 1.0})
    assert json.loads(settings_path(path).read_text()) == {"sigma": 1.0}
    assert read_certificates(path) == ROWS[:1]


def test_rows_without_their_settings_are_refused(path):
    settings_path(path).unlink()
    assert settings_path(path).name in refusal(path)
    assert not settings_path(path).exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_damaged_settings_are_refused_and_named(path, text):
    settings_path(path).write_text(text)
    assert settings_path(path).name in refusal(path)


DAMAGE = [b"7\t3", b"", b"0\tone\t1\t0.1\t1\t0.5\t0.9\t0.1\t9\t1\t10\tfixed", b"\0" * 40]


@pytest.mark.parametrize("damage", DAMAGE, ids=["short", "empty", "word", "zeros"])
def test_a_damaged_line_is_named_and_not_overwritten(path, damage):
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], damage, *lines[3:]]))
    for message in (refusal(path), reading_error(path)):
        assert f"{path}, line 3 is damaged" in message


def reading_error(path):
    with pytest.raises(RecordsError) as caught:
        read_certificates(path)
    return str(caught.value)


def test_opening_never_adds_bytes_to_a_file_that_is_not_utf8(path):
    damaged = path.read_bytes().replace(b"fixed", b"fix\xffd")
    path.write_bytes(damaged)
    with contextlib.suppress(RecordsError):
        CertificateFile(path, SETTINGS).close()
    assert path.read_bytes() == damaged


def test_an_image_that_stands_twice_is_refused(tmp_path):
    path = write(tmp_path / "c.tsv", [ROWS[0], replace(ROWS[1], idx=7)])
    assert "image 7 twice" in refusal(path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
    message = refusal(path)
    assert str(path) in message
    assert "header" in message
    assert not settings_path(path).exists()


def test_a_missing_file_is_named(tmp_path):
    assert str(tmp_path / "none.tsv") in reading_error(tmp_path / "none.tsv")


def test_folders_are_made_on_the_way(tmp_path):
    path = write(tmp_path / "certificates" / "epoch_0001.tsv", ROWS)
    assert read_certificates(path) == ROWS


def test_write_atomically_replaces_the_whole_text(tmp_path):
    path = tmp_path / "summary.json"
    for text in ("a much longer first text", "σ"):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace"])
def test_write_atomically_leaves_the_old_text_when_it_is_stopped(tmp_path, monkeypatch, where):
    path = tmp_path / "summary.json"
    path.write_text("old")

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stopped)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_second_writer_is_refused_until_the_first_is_done(path):
    before = path.read_bytes()
    with CertificateFile(path, SETTINGS):
        assert "another process" in refusal(path)
    assert path.read_bytes() == before
    CertificateFile(path, SETTINGS).close()
