"""Rows of several processes, whatever kills leave of their files."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.errors import RecordsError
from smoothcert.records import (
    CertificateFile,
    absorb_parts,
    part_path,
    read_certificates,
    settings_path,
)
from tests.helpers.faults import Killed, killed_after, largest_file, under_permissions
from tests.helpers.row_files import (
    ROW_LISTS,
    ROWS,
    SETTINGS,
    by_index,
    certify,
    contents,
    fresh_folder,
    without_time,
    write,
)

MANY = [replace(ROWS[0], idx=idx, time=float(idx)) for idx in (8, 3, 12, 0, 5, 1)]


def absorbed(path):
    with CertificateFile(path, SETTINGS) as file:
        absorb_parts(file)
        return file.rows


def later(rows):
    """The same certificates, timed anew."""
    return [replace(row, time=row.time + 1) for row in rows]


def left_by_a_kill(folder):
    """Lay out rows of three processes, some in two files, and settings that were left alone."""
    path = write(folder / "c.tsv", MANY[:2])
    write(part_path(path, 1), later(MANY[1:4]))
    write(part_path(path, 10), MANY[3:5])
    settings_path(part_path(path, 2)).write_text("{}")
    return path


@given(ROW_LISTS, st.data())
@settings(max_examples=60)
def test_several_files_cut_at_any_byte_resume_to_the_same_rows(rows, data):
    """Each row in one file, or in two with another time; every file is cut somewhere."""
    with fresh_folder() as folder:
        path = folder / "c.tsv"
        durable = []
        for place in (path, part_path(path, 1), part_path(path, 3)):
            own = [row for row in rows if data.draw(st.booleans())]
            content = write(place, own if place == path else later(own)).read_bytes()
            place.write_bytes(content[: data.draw(st.integers(0, len(content)))])
            durable += read_certificates(place)
        kept = {row.idx: row for row in absorbed(path)}
        # Of two rows of an image the first stays: it is in the file that is never removed.
        assert kept == {row.idx: row for row in reversed(durable)}
        certify(path, rows)
        found = read_certificates(path)
        assert without_time(found) == without_time(by_index(rows))
        assert [row for row in found if row.idx in kept] == by_index(kept.values())
        assert sorted(contents(folder)) == ["c.settings.json", "c.tsv"]


def test_a_kill_at_any_step_of_taking_parts_over_loses_nothing():
    """Half-written rows, rows in two places, parts without settings, settings without parts."""
    for steps in range(60):
        with fresh_folder() as folder:
            path = left_by_a_kill(folder)
            done = False
            with contextlib.suppress(Killed), killed_after(steps):
                done = bool(absorbed(path))
            there = [p for p in (path, part_path(path, 1), part_path(path, 10)) if p.exists()]
            durable = {row.idx for place in there for row in read_certificates(place)}
            assert durable == {row.idx for row in MANY[:5]}, f"killed after step {steps}"
            certify(path, MANY)
            assert without_time(read_certificates(path)) == without_time(by_index(MANY))
            assert sorted(contents(folder)) == ["c.settings.json", "c.tsv"]
        if done:
            break
    assert done
    assert steps > 10


def test_a_row_in_two_files_keeps_the_time_of_the_first(tmp_path):
    path = left_by_a_kill(tmp_path)
    times = {row.idx: row.time for row in absorbed(path)}
    # Image 0 stands in parts 1 and 10, which come in the order of their numbers.
    assert times == {8: 8.0, 3: 3.0, 12: 13.0, 0: 1.0, 5: 5.0}


def test_different_certificates_of_an_image_are_refused_and_both_stay(tmp_path):
    path = write(tmp_path / "c.tsv", MANY[:2])
    write(part_path(path, 1), [replace(MANY[1], radius=0.1)])
    before = contents(tmp_path)
    with pytest.raises(RecordsError, match="different certificates of image 3") as caught:
        absorbed(path)
    assert str(part_path(path, 1)) in str(caught.value)
    assert contents(tmp_path) == before


def test_a_part_of_another_configuration_is_refused_and_stays(tmp_path):
    path = write(tmp_path / "c.tsv", MANY[:2])
    write(part_path(path, 1), MANY[2:], {"sigma": 1.0})
    before = contents(tmp_path)
    with pytest.raises(
        RecordsError, match=r"part1\.tsv contains .* sigma was 1\.0 and is now 0\.25"
    ):
        absorbed(path)
    assert contents(tmp_path) == before


def test_a_part_that_is_being_written_is_refused_and_stays(tmp_path):
    path = write(tmp_path / "c.tsv", MANY[:2])
    with CertificateFile(part_path(path, 1), SETTINGS) as part:
        with pytest.raises(RecordsError, match=r"part1\.tsv is being written"):
            absorbed(path)
        part.append(MANY[2])
    assert len(absorbed(path)) == 3


@pytest.mark.parametrize(
    "name", ["c.part.tsv", "c.part1 (copy).tsv", "c.part01.tsv", "d.part1.tsv"]
)
def test_files_of_other_names_are_no_parts(tmp_path, name):
    path = write(tmp_path / "c.tsv", MANY[:2])
    other = write(tmp_path / name, MANY[2:])
    assert absorbed(path) == MANY[:2]
    assert read_certificates(other) == MANY[2:]


def test_a_name_with_brackets_has_parts_too(tmp_path):
    path = write(tmp_path / "radii=[0,1]" / "c[1].tsv", MANY[:2])
    write(part_path(path, 1), MANY[2:])
    assert absorbed(path) == MANY


def test_without_room_for_the_rows_of_a_part_it_stays(tmp_path):
    path = left_by_a_kill(tmp_path)
    room = part_path(path, 1).stat().st_size
    with largest_file(room), pytest.raises(RecordsError, match=r"c\.tsv cannot be written: File"):
        absorbed(path)
    assert read_certificates(path) == MANY[:2]
    assert len(absorbed(path)) == 5


def test_a_part_that_may_not_be_removed_is_named_and_not_taken_over_twice(tmp_path):
    path = write(tmp_path / "c.tsv", MANY[:2])
    write(part_path(path, 1), MANY[2:])
    for _ in range(2):
        with (
            under_permissions(tmp_path, 0o555),
            pytest.raises(RecordsError, match=r"part1\.tsv cannot be removed: Permission denied"),
        ):
            absorbed(path)
        assert read_certificates(path) == MANY
    assert absorbed(path) == MANY
