"""What rows may say under their settings; see also `certify/test_certifiers.py`."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from smoothcert.errors import RecordsError
from smoothcert.records import CertificateFile, read_certificates, settings_path
from smoothcert.records.limits import Limits
from smoothcert.stats import largest_radius
from smoothcert.types import Certificate
from tests.helpers.row_files import contents, reading_error, row_of, write


@given(st.integers(1, 10**7), st.floats(1e-12, 0.999), st.floats(1e-3, 10))
def test_the_largest_radius_is_that_of_unanimous_votes(n, alpha, sigma):
    ours = Limits(sigma, alpha, n, ("fixed",), by_bounds=False).largest_radius(n)
    assert ours == pytest.approx(largest_radius(n, sigma, alpha), rel=1e-9, abs=1e-12)


SAID = {"certifier": "CohenCertifier", "n0": 100, "n": 1000, "alpha": 0.001, "sigma": 0.5}
LARGEST = largest_radius(1000, 0.5, 0.001)
PROOF = Certificate(0, LARGEST, 0.001**0.001, 1 - 0.001**0.001, 1000, 0, 1000, "fixed")


@pytest.mark.parametrize("certifier", ["CohenCertifier", "TightCertifier"])
def test_the_largest_radius_may_be_written_and_no_larger_one(tmp_path, certifier):
    said = {**SAID, "certifier": certifier}
    path = write(tmp_path / "c.tsv", [row_of(PROOF)], said)
    assert read_certificates(path) == [row_of(PROOF)]
    with CertificateFile(path, said) as file:
        row = row_of(replace(PROOF, radius=LARGEST + 3e-6), idx=1)
        with pytest.raises(RecordsError, match=f"at most {LARGEST:.6f}, which 1000 samples"):
            file.append(row)
    # Nothing is known of what another certifier proves.
    write(tmp_path / "other.tsv", [replace(row, radius=9.0)], {**said, "certifier": "Mine"})


ROW = row_of(Certificate(2, 0.206231, 0.66, 0.34, 700, 200, 1000, "fixed"), idx=5, label=2)
IMPOSSIBLE = {
    "radius 9.0": ("radius", "9.000000", "a radius of at most"),
    "radius not of its bounds": ("radius", "0.300000", "the radius of p_a_lower"),
    "negative index": ("idx", "-5", "idx and label >= 0"),
    "endless index": ("idx", "9" * 30, "at most 9223372036854775807"),
    "negative label": ("label", "-2", "idx and label >= 0"),
    "probability of 2": ("p_a_lower", "2.000000", r"in \[0, 1\]"),
    "probability nan": ("p_b_upper", "nan", r"in \[0, 1\]"),
    "bounds that overlap": ("p_b_upper", "0.640000", "at most 1"),
    "a bound above its share": ("n_a", "600", "p_a_lower at most n_a / n_samples"),
    "fewer than no samples": ("n_samples", "-1", "n_a \\+ n_b at most n_samples"),
    "more votes than samples": ("n_a", "1001", "n_a \\+ n_b at most n_samples"),
    "negative votes": ("n_b", "-1", "counts n_a, n_b >= 0"),
    "more samples than asked": ("n_samples", "2000", "n_samples 1000"),
    "an unknown end": ("stop", "whenever", "stop one of fixed, wrong"),
    "the end of another certifier": ("stop", "certified", "stop one of fixed, wrong"),
    "given up after samples": ("stop", "wrong", "n_samples >= 1"),
    "a negative time": ("time", "-1.0", "a time >= 0"),
    "a time without end": ("time", "inf", "a time >= 0"),
    "other digits": ("n_b", "+200", "expected n_b 200"),
}


@pytest.mark.parametrize(("column", "cell", "why"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_row_that_no_certification_could_have_written_is_refused(tmp_path, column, cell, why):
    path = write(tmp_path / "c.tsv", [replace(ROW, idx=4), ROW], SAID)
    header, first, last = path.read_text().splitlines()
    cells = last.split("\t")
    cells[header.split("\t").index(column)] = cell
    path.write_text("\n".join([header, first, "\t".join(cells), ""]))
    before = contents(tmp_path)
    with pytest.raises(RecordsError, match=why) as caught:
        CertificateFile(path, SAID)
    assert str(caught.value) == reading_error(path)
    assert f"{path}, line 3 is damaged" in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("certifier", "stop"),
    [
        *(("TightCertifier", "fixed"), ("PrecisionCertifier", "planned")),
        ("SequentialCertifier", "certified"),
    ],
)
def test_a_radius_above_that_of_the_rows_own_votes_is_refused(certifier, stop):
    """At shares .719 and .224: σ/2 (Φ⁻¹(.719) - Φ⁻¹(.224)), by SciPy."""
    limits = Limits.of({**SAID, "certifier": certifier, "bound": "joint"})
    largest = 0.25 * (norm.ppf(0.719) - norm.ppf(0.224))
    row = replace(ROW, n_a=719, n_b=224, stop=stop, radius=round(largest - 1e-6, 6))
    limits.check(row)
    with pytest.raises(ValueError, match=r"at most 0\.3346"):
        limits.check(replace(row, radius=round(largest + 1e-5, 6)))
    with pytest.raises(ValueError, match=r"shares 0 and 1000 of 1000"):
        limits.check(replace(row, n_a=0, n_b=1000, p_a_lower=0.0, p_b_upper=1.0))


def test_a_certifier_of_ones_own_ends_as_it_says(tmp_path):
    row = replace(ROW, stop="hoeffding")
    path = write(tmp_path / "c.tsv", [row], {**SAID, "certifier": "Mine"})
    with path.open("a") as file:
        file.write("\t".join(path.read_text().splitlines()[1].split("\t"))[:-3])
    assert read_certificates(path) == [row]


def test_an_image_gets_one_row(tmp_path):
    path = write(tmp_path / "c.tsv", [ROW], SAID)
    with CertificateFile(path, SAID) as file:
        for rows in ([ROW], [replace(ROW, idx=8), replace(ROW, idx=8)]):
            with pytest.raises(RecordsError, match="refused: expected one row per image"):
                file.extend(rows)
        file.append(replace(ROW, idx=8))
    assert [row.idx for row in read_certificates(path)] == [5, 8]


def test_settings_that_say_too_little_allow_what_rows_allow_themselves(tmp_path):
    for said in ({}, {**SAID, "sigma": "wide"}, {**SAID, "n": None}, {**SAID, "alpha": -1}):
        assert Limits.of(said) is None
    path = write(tmp_path / "c.tsv", [replace(ROW, radius=9.0)], {})
    settings_path(path).unlink()
    assert read_certificates(path)[0].radius == 9.0
