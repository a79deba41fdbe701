"""Certificate files under kills, full disks, damage and changed settings."""

import contextlib
import csv
import errno
import json
import os
import re
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.errors import RecordsError, SmoothCertWarning
from smoothcert.records import (
    COLUMNS,
    CertificateFile,
    Images,
    locks,
    read_certificates,
    settings_path,
)
from smoothcert.records.files import write_atomically
from smoothcert.records.rows import format_row
from tests.helpers.faults import Killed, killed_after, largest_file, small_disk, under_permissions
from tests.helpers.row_files import (
    ROW_LISTS,
    ROWS,
    SETTINGS,
    by_index,
    certify,
    contents,
    fresh_folder,
    reading_error,
    refusal,
    write,
)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "certificates.tsv", ROWS)


@pytest.fixture
def fast_path():
    with fresh_folder() as folder:
        yield write(folder / "certificates.tsv", ROWS)


def finish(path, rows):
    """Certify what is left, as a restarted run does."""
    with CertificateFile(path, SETTINGS) as file:
        for row in rows:
            if row.idx not in file.finished:
                file.append(row)


def test_a_run_killed_at_any_byte_resumes_to_the_same_file(fast_path):
    whole = fast_path.read_bytes()
    for length in range(len(whole) + 1):
        fast_path.write_bytes(whole[:length])
        finish(fast_path, ROWS)
        assert fast_path.read_bytes() == whole, f"killed after byte {length}"


def test_a_kill_loses_only_the_line_in_flight(fast_path):
    whole = fast_path.read_bytes()
    for length in range(len(whole) + 1):
        fast_path.write_bytes(whole[:length])
        complete = max(0, whole[:length].count(b"\n") - 1)
        assert read_certificates(fast_path) == ROWS[:complete]


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


def test_opening_never_adds_bytes_to_a_file_that_is_not_utf8(path):
    damaged = path.read_bytes().replace(b"fixed", b"fix\xffd")
    path.write_bytes(damaged)
    with contextlib.suppress(RecordsError):
        CertificateFile(path, SETTINGS).close()
    assert path.read_bytes() == damaged


def test_an_image_that_stands_twice_is_refused(tmp_path):
    path = write(tmp_path / "c.tsv", [ROWS[0]])
    with path.open("a") as file:
        file.write("\t".join(format_row(replace(ROWS[1], idx=7))) + "\n")
    assert "image 7 twice" in refusal(path)


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "c.tsv"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
    message = refusal(path)
    assert str(path) in message
    assert "header" in message
    assert not settings_path(path).exists()


HEADER = ("\t".join(COLUMNS) + "\n").encode()
FOREIGN = {
    "carriage returns alone": b"idx\tlabel\r7\t3\r",
    "ours with carriage returns alone": HEADER.replace(b"\n", b"\r") + b"7\t3\r",
    "ours with both": HEADER.replace(b"\n", b"\r\n"),
    "text without a line": b"total: 7 images",
    "utf-16": HEADER.decode().encode("utf-16"),
    "a mark of utf-8": b"\xef\xbb\xbf" + HEADER,
    "an image": b"\x89PNG\r\x1a",
    "nothing but zeros": bytes(40),
    "more than a row": HEADER + b"7\t3\t3\t0.312345\t1\t0.5\t0.9\t0.0\t9\t3\t10\tfixed\tnote",
    "a note under the header": HEADER + b"total: 7 images",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_not_ours_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "c.tsv"
    path.write_bytes(content)
    assert str(path) in refusal(path)
    assert contents(tmp_path) == {"c.tsv": content}


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode), st.booleans())
def test_whatever_is_no_beginning_of_a_certificate_file_is_refused_and_left(content, headed):
    with fresh_folder() as folder:
        path = folder / "c.tsv"
        path.write_bytes(before := HEADER * headed + content)
        with contextlib.suppress(RecordsError):
            CertificateFile(path, SETTINGS).close()
        # Kept, or the half-written beginning of our own header or row.
        assert path.read_bytes() == before or is_begun(before, headed)


def is_begun(content, headed):
    if not headed:
        return HEADER.startswith(content)
    return re.fullmatch(rb"-?[0-9]*(\t(-?[0-9.]*|[a-z]*))*", content.removeprefix(HEADER))


def test_a_missing_file_is_named(tmp_path):
    assert str(tmp_path / "none.tsv") in reading_error(tmp_path / "none.tsv")


def test_folders_are_made_on_the_way(tmp_path):
    path = write(tmp_path / "certificates" / "epoch_0001.tsv", ROWS)
    assert read_certificates(path) == ROWS


def test_a_second_writer_is_refused_until_the_first_is_done(path):
    before = path.read_bytes()
    with CertificateFile(path, SETTINGS):
        assert "another process" in refusal(path)
    assert path.read_bytes() == before
    CertificateFile(path, SETTINGS).close()


MORE = replace(ROWS[0], idx=99)
CHANGES = {
    "removed": lambda path: path.unlink(),
    "renamed": lambda path: path.rename(path.with_name("old.tsv")),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "emptied": lambda path: path.write_bytes(b""),
    "written anew by an editor": lambda path: write_atomically(path, path.read_bytes()),
    "replaced by its beginning": lambda path: write_atomically(path, path.read_bytes()[:-100]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("late", [False, True], ids=["before a row", "at the end"])
def test_rows_that_have_vanished_from_the_disk_are_written_anew(path, change, late):
    with CertificateFile(path, SETTINGS) as file:
        if late:
            file.append(MORE)
        change(path)
        with pytest.warns(SmoothCertWarning, match=r"certificates\.tsv was removed or changed"):
            file.finish() if late else file.append(MORE)
        if not late:
            # The lock is on the file that the path leads to.
            assert read_certificates(path) == [*ROWS, MORE]
            assert "by another process" in refusal(path)
            file.finish()
    assert read_certificates(path) == by_index([*ROWS, MORE])
    assert json.loads(settings_path(path).read_text()) == SETTINGS


def test_settings_that_have_vanished_are_written_anew(path):
    with CertificateFile(path, SETTINGS) as file:
        settings_path(path).unlink()
        file.finish()
    assert json.loads(settings_path(path).read_text()) == SETTINGS


EDITS = {
    "an edited row": (
        lambda text: text.replace(b"0.312345", b"0.312344"),
        "different certificates",
    ),
    "an impossible row": (lambda text: text.replace(b"9500", b"-950"), "line 2 is damaged"),
    "another kind of file": (lambda text: text.replace(b"\n", b"\r"), "header"),
    "a row more": (lambda text: text + text.splitlines(True)[1].replace(b"7", b"8"), "got further"),
}


@pytest.mark.parametrize(("edit", "why"), EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "replaced"])
def test_what_was_edited_meanwhile_is_refused_and_left(path, edit, why, in_place):
    with CertificateFile(path, SETTINGS) as file:
        edited = edit(path.read_bytes())
        path.write_bytes(edited) if in_place else write_atomically(path, edited)
        with pytest.raises(RecordsError, match=why):
            file.finish()
    assert path.read_bytes() == edited


def test_rows_of_a_removed_folder_are_written_anew_and_the_command_fails(tmp_path):
    path = write(tmp_path / "run" / "c.tsv", ROWS)
    with CertificateFile(path, SETTINGS) as file:
        shutil.rmtree(path.parent)
        with pytest.raises(RecordsError, match=r"with its folder. Its 3 certificates were written"):
            file.append(MORE)
    certify(path, [*ROWS, MORE])
    assert read_certificates(path) == by_index([*ROWS, MORE])


@pytest.mark.parametrize("taken", [False, True])
def test_rows_of_a_moved_folder_stay_there_and_the_command_fails(tmp_path, taken):
    path = write(tmp_path / "run" / "c.tsv", ROWS)
    with CertificateFile(path, SETTINGS) as file:
        path.parent.rename(tmp_path / "moved")
        if taken:
            path.parent.mkdir()
        with pytest.raises(RecordsError, match=r"run was moved .* 3 certificates are in the moved"):
            file.append(MORE)
    assert read_certificates(tmp_path / "moved" / "c.tsv") == ROWS
    assert not path.exists()


LABELS = {row.idx: row.label for row in ROWS}


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (Images({0: 1, 12: 4}, 5), "line 2 .* expected an image of this certification"),
        (Images(LABELS | {12: 2}, 5), "line 4 .* expected label 2, as in the data set"),
        (Images(LABELS, 3), "line 2 .* expected predict below 3"),
    ],
)
def test_rows_of_other_images_are_refused(path, images, why):
    before = path.read_bytes()
    with pytest.raises(RecordsError, match=why):
        CertificateFile(path, SETTINGS, images)
    assert path.read_bytes() == before
    with CertificateFile(path, SETTINGS, Images(LABELS, 5)) as file:
        with pytest.raises(RecordsError, match="image 99 is refused: expected an image of this"):
            file.append(MORE)
        assert file.rows == ROWS


def test_a_file_that_its_last_writer_has_just_replaced_is_opened_again(path, monkeypatch):
    """Rows that are appended to what it was before would be lost without a word."""
    whole, lock = path.read_bytes(), locks.lock

    def locked_late(file):
        monkeypatch.setattr(locks, "lock", lock)
        write_atomically(path, whole)
        return lock(file)

    monkeypatch.setattr(locks, "lock", locked_late)
    write(path, [replace(ROWS[0], idx=99)])
    assert [row.idx for row in read_certificates(path)] == [7, 0, 12, 99]


@given(ROW_LISTS, st.data())
@settings(max_examples=60)
def test_any_prefix_of_a_valid_file_resumes_to_the_same_rows(rows, data):
    """For rows of any number, content and order."""
    with fresh_folder() as folder:
        path = write(folder / "c.tsv", rows)
        content = path.read_bytes()
        certify(path, rows)
        whole = contents(folder)
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        certify(path, rows)
        assert contents(folder) == whole
        assert read_certificates(path) == by_index(rows)


@given(ROW_LISTS, st.integers(0, 40))
@settings(max_examples=60)
def test_a_certification_killed_at_any_step_resumes_to_the_same_rows(rows, steps):
    with fresh_folder() as folder:
        path = folder / "c.tsv"
        with contextlib.suppress(Killed), killed_after(steps):
            certify(path, rows)
        durable = read_certificates(path) if path.exists() else []
        certify(path, rows)
        assert {row.idx for row in durable} <= {row.idx for row in rows}
        assert read_certificates(path) == by_index(rows)


@given(st.floats(0, 1, exclude_max=True))
@settings(max_examples=60)
def test_a_row_that_the_disk_has_no_room_for_is_refused_and_the_rows_before_it_stay(share):
    with fresh_folder() as folder:
        path, whole = folder / "c.tsv", write(folder / "whole.tsv", ROWS).read_bytes()
        room = int(share * len(whole))
        with largest_file(room), pytest.raises(RecordsError) as caught:
            write(path, ROWS)
        assert f"{path} cannot be written: File too large" in str(caught.value)
        has_settings = room >= settings_path(folder / "whole.tsv").stat().st_size
        fitting = whole[: whole[:room].rfind(b"\n") + 1] if has_settings else b""
        assert path.read_bytes() == fitting
        finish(path, ROWS)
        assert path.read_bytes() == whole


def test_rows_that_come_together_are_all_kept_or_none(tmp_path):
    path = write(tmp_path / "c.tsv", ROWS[:1])
    with CertificateFile(path, SETTINGS) as file:
        before = path.read_bytes()
        with largest_file(len(before) + 100), pytest.raises(RecordsError, match="Its 1 certif"):
            file.extend(ROWS[1:])
        assert path.read_bytes() == before
        assert file.rows == ROWS[:1]
        # The same process may go on too.
        file.extend(ROWS[1:])
    assert read_certificates(path) == ROWS


def test_a_row_counts_once_it_is_on_the_disk(path, monkeypatch):
    """Some file systems tell of a full disk only when they are asked to write to it."""
    before = path.read_bytes()
    with CertificateFile(path, SETTINGS) as file:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing_disk)
            with pytest.raises(RecordsError, match="cannot be written: Input/output error"):
                file.append(replace(ROWS[0], idx=99))
        assert path.read_bytes() == before
        assert file.rows == ROWS


def failing_disk(_):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_without_room_to_put_rows_in_order_they_keep_the_order_they_had(path, tmp_path):
    before = contents(tmp_path)
    with (
        largest_file(len(path.read_bytes()) - 1),
        pytest.raises(RecordsError, match=r"cannot be written: File too large. Its 3 certificates"),
    ):
        certify(path, ROWS)
    assert contents(tmp_path) == before
    certify(path, ROWS)
    assert read_certificates(path) == by_index(ROWS)


def test_without_room_for_its_settings_a_file_is_refused_and_nothing_is_torn(tmp_path):
    path = tmp_path / "c.tsv"
    with largest_file(10), pytest.raises(RecordsError, match=r"c\.tsv cannot be written"):
        CertificateFile(path, SETTINGS)
    assert contents(tmp_path) == {"c.tsv": b""}
    certify(path, ROWS)
    assert json.loads(settings_path(path).read_text()) == SETTINGS


def test_a_certification_on_a_full_disk_resumes_once_there_is_room(tmp_path):
    """A disk that is really full, not a limit: blocks that are counted, and nothing between."""
    rows = [replace(ROWS[0], idx=idx) for idx in range(700, 0, -1)]
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "run" / "certificates.tsv"
        (disk / "filler").write_bytes(bytes(40_000))
        with pytest.raises(RecordsError, match="cannot be written: No space left on device"):
            certify(path, rows)
        kept = read_certificates(path)
        assert kept == rows[: len(kept)]
        assert 10 < len(kept) < 500
        assert path.read_bytes().endswith(b"fixed\n")
        (disk / "filler").unlink()
        # Room for all rows, and none for a copy of them in order.
        with pytest.raises(RecordsError, match=r"No space left on device. Its 700 certificates"):
            certify(path, rows)
        assert [p.name for p in path.parent.iterdir() if p.name[0] == "."] == []
        assert read_certificates(path) == rows


def test_a_folder_that_may_not_be_written_is_named_with_the_reason(tmp_path):
    path = tmp_path / "run" / "c.tsv"
    path.parent.mkdir()
    with (
        under_permissions(path.parent, 0o555),
        pytest.raises(RecordsError, match=r"c\.tsv cannot be written: Permission denied"),
    ):
        certify(path, ROWS)
    certify(path, ROWS)


def test_rows_may_be_added_in_such_a_folder_and_wait_for_their_order(path, tmp_path):
    """A file that is there may be written; a new one to replace it may not."""
    more = [*ROWS, replace(ROWS[0], idx=3)]
    with (
        under_permissions(tmp_path, 0o555),
        pytest.raises(RecordsError, match=r"Permission denied. Its 4 certificates"),
    ):
        certify(path, more)
    assert read_certificates(path) == more


@pytest.mark.parametrize("mode", [0o000, 0o200])
def test_a_file_that_may_not_be_read_is_named_with_the_reason(path, mode):
    with under_permissions(path, mode):
        assert f"{path} cannot be read: Permission denied" in reading_error(path)
        with pytest.raises(RecordsError, match=r"cannot be (read|written): Permission denied"):
            CertificateFile(path, SETTINGS)


def test_settings_nested_beyond_reading_are_damaged(path):
    settings_path(path).write_text("[" * 100_000)
    assert f"{settings_path(path)} is damaged" in refusal(path)
