"""Rows and files of rows."""

import os
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import strategies as st

from smoothcert.errors import RecordsError
from smoothcert.records import (
    CertificateFile,
    CertificateRow,
    absorb_parts,
    gather_shards,
    read_certificates,
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
    lambda label, radius, p_a, p_b, n_a, n_b, others, stop: Certificate(
        label, radius if label >= 0 else 0.0, p_a, p_b, n_a, n_b, n_a + n_b + others, stop
    ),
    st.integers(-1, 999),
    st.floats(0, 1000),
    PROBABILITIES,
    PROBABILITIES,
    VOTES,
    VOTES,
    st.integers(1, 100_000),
    st.sampled_from(["fixed", "planned", "certified", "futile", "exhausted", "hoeffding"]),
)
"""Certificates of a certifier that nothing is known of."""
ROW_LISTS = st.lists(
    st.builds(
        CertificateRow.from_certificate,
        CERTIFICATES,
        idx=st.integers(0, 10**12),
        label=st.integers(0, 999),
        seconds=st.floats(0, 1e6),
    ),
    unique_by=lambda row: row.idx,
    max_size=8,
)


def row_of(certificate, **given_values):
    values = {"idx": 0, "label": 0, "seconds": 0.0, **given_values}
    return CertificateRow.from_certificate(certificate, **values)


def write(path, rows, values=SETTINGS):
    with CertificateFile(path, values) as file:
        for row in rows:
            file.append(row)
    return path


def certify(path, rows):
    """Certify what is left, as a restarted certification does, whatever it finds."""
    with CertificateFile(path, SETTINGS) as file:
        absorb_parts(file)
        for row in rows:
            if row.idx not in file.finished:
                file.append(row)
        file.finish()


def by_index(rows):
    return sorted(rows, key=lambda row: row.idx)


def without_time(rows):
    return [replace(row, time=0.0) for row in rows]


def rows_in(path):
    """Rows of a file, without their times."""
    return without_time(read_certificates(path))


def in_order(path):
    """Rows stand in a file as they were finished, several images being certified together."""
    return by_index(rows_in(path))


def contents(folder):
    """Return all that lies in a folder, as bytes by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def fresh_folder():
    """A folder for many examples: in memory, where it costs nothing to wait for the disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def refusal(path, values=SETTINGS):
    """Return the error of reopening the file, which must leave every byte as it was."""
    before = path.read_bytes()
    with pytest.raises(RecordsError) as caught:
        CertificateFile(path, values)
    assert path.read_bytes() == before
    return str(caught.value)


def reading_error(path):
    with pytest.raises(RecordsError) as caught:
        read_certificates(path)
    return str(caught.value)


def merge(paths, out):
    """Merge shards as the command does; return the file, closed."""
    return gather_shards(paths).write(out)
