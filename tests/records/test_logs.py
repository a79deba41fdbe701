"""Logs in the field's six columns, as published code prints them."""

import math
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.errors import RecordsError
from smoothcert.records import (
    FIELD_COLUMNS,
    is_field_log,
    read_certificates,
    read_field_log,
)
from tests.helpers.runs_by_hand import ABSTAINED, WRONG, rows_of, run_by_hand, write_log, write_run

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
GOOD = "7\t3\t3\t0.41\t1\t0:00:12.500000"


def log(*lines, end="\n", header=HEADER):
    path = Path(tempfile.mkdtemp()) / "sigma_0.25"
    path.write_text("\n".join([header, *lines]) + end, newline="")
    return path


def time_of(text):
    [row] = read_field_log(log(f"7\t3\t3\t0.41\t1\t{text}"))
    return row.time


def refusal(path):
    with pytest.raises(RecordsError) as caught:
        read_field_log(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@given(st.timedeltas(timedelta(0), timedelta(days=400)))
@settings(max_examples=60)
def test_every_time_that_python_prints_is_read_in_seconds(time):
    assert time_of(str(time)) == pytest.approx(time.total_seconds(), abs=1e-6)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:00:12.500000", 12.5),
        ("0:00:03", 3),
        ("1:02:03", 3723),
        ("23:59:59.999999", 86_399.999999),
        ("1 day, 2:03:04.5", 86_400 + 7384.5),
        ("2 days, 0:00:00", 172_800),
        ("12.5", 12.5),
        ("0", 0),
        ("1e-3", 0.001),
    ],
)
def test_times_by_hand(text, seconds):
    assert time_of(text) == pytest.approx(seconds, abs=1e-9)


@given(st.floats(0, 1e6))
@settings(max_examples=30)
def test_seconds_are_read_as_they_stand(seconds):
    assert time_of(repr(seconds)) == seconds


def test_a_log_is_read_in_its_order_and_what_it_does_not_say_is_empty():
    rows = read_field_log(log("9\t0\t-1\t0.0\t0\t1.5", GOOD, "2\t5\t4\t1.25\t0\t0:01:00"))
    assert [(r.idx, r.label, r.predict, r.radius, r.correct, r.time) for r in rows] == [
        (9, 0, -1, 0.0, 0, 1.5),
        (7, 3, 3, 0.41, 1, 12.5),
        (2, 5, 4, 1.25, 0, 60.0),
    ]
    for row in rows:
        assert math.isnan(row.p_a_lower)
        assert math.isnan(row.p_b_upper)
        assert (row.n_a, row.n_b, row.n_samples, row.stop) == (0, 0, 0, "")


def test_a_log_says_what_the_first_six_columns_of_our_own_say(tmp_path):
    run = run_by_hand([0.0, 0.125, WRONG, ABSTAINED, 1.5])
    ours = read_certificates(write_run(tmp_path / "run", run) / "certificates.tsv")
    theirs = read_field_log(write_log(tmp_path / "log", run.rows, time="0.5"))
    for row, other in zip(ours, theirs, strict=True):
        assert [getattr(row, name) for name in FIELD_COLUMNS] == [
            getattr(other, name) for name in FIELD_COLUMNS
        ]


def test_line_ends_of_windows_change_nothing():
    path = log(GOOD, "9\t0\t-1\t0.0\t0\t1.5")
    expected = [(row.idx, row.radius, row.time) for row in read_field_log(path)]
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert is_field_log(path)
    assert [(row.idx, row.radius, row.time) for row in read_field_log(path)] == expected


ROWS = [
    (7, 3, 3, "0.41", 1, "0:00:12.5"),
    (9, 0, -1, "0.0", 0, "1 day, 0:00:01"),
    (2, 5, 4, "5e-05", 0, "2"),
]


def in_words(cells, separator):
    needs_quotes = "" if separator == " " else separator
    texts = (str(cell) for cell in cells)
    return separator.join(f'"{t}"' if needs_quotes and needs_quotes in t else t for t in texts)


@given(
    st.permutations([*FIELD_COLUMNS, "score"]),
    st.sampled_from("\t,; "),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_columns_are_found_by_their_names(order, separator, encoding, end, upper, is_ended):
    # A time of days has spaces: among spaces it stands last, as published code has it.
    order = [*(n for n in order if n != "time"), "time"] if separator == " " else order
    lines = [in_words([name.upper() if upper else name for name in order], separator)]
    for row in ROWS:
        said = {**dict(zip(FIELD_COLUMNS, row, strict=True)), "score": "good"}
        lines.append(in_words([said[name] for name in order], separator))
    path = Path(tempfile.mkdtemp()) / "sigma_0.25"
    path.write_bytes((end.join(lines) + end * is_ended).encode(encoding))
    assert is_field_log(path)
    if order[-1] == "radius" and not is_ended:
        assert "no line break" in refusal(path)
        return
    read = [(r.idx, r.label, r.predict, r.radius, r.correct, r.time) for r in read_field_log(path)]
    assert read == [
        (7, 3, 3, 0.41, 1, 12.5),
        (9, 0, -1, 0.0, 0, 86_401.0),
        (2, 5, 4, 5e-05, 0, 2.0),
    ]


def test_decimal_commas_are_read_where_semicolons_separate():
    path = log("7;3;3;0,41;1;12,5", "9;0;-1;0,0;0;1 day, 0:00:01", header=HEADER.replace("\t", ";"))
    assert [(row.radius, row.time) for row in read_field_log(path)] == [(0.41, 12.5), (0, 86_401)]


def test_a_log_needs_no_times():
    [row] = read_field_log(log("7\t3\t3\t0.41\t1", header="idx\tlabel\tpredict\tradius\tcorrect"))
    assert (row.radius, math.isnan(row.time)) == (0.41, True)


@pytest.mark.parametrize("name", ["idx", "label", "predict", "radius", "correct"])
def test_a_column_that_is_missing_or_there_twice_is_named(name):
    other = "time" if name != "time" else "idx"
    lacking = log(header=HEADER.replace(name, "other"))
    assert is_field_log(lacking)
    assert f"lacks {name}: " in refusal(lacking)
    assert f"has {name} twice" in refusal(log(header=HEADER.replace(other, name)))


def test_our_own_certificates_are_a_log_without_their_settings(tmp_path):
    run = run_by_hand([0.0, 0.125, WRONG, ABSTAINED, 1.5])
    path = write_run(tmp_path / "run", run) / "certificates.tsv"
    read = read_field_log(path)
    assert [(row.idx, row.radius, row.correct) for row in read] == [
        (row.idx, row.radius, row.correct) for row in run.rows
    ]
    assert {row.n_samples for row in read} == {0}


def test_a_log_cut_at_any_byte_keeps_what_is_whole():
    path = log(GOOD, "9\t0\t-1\t0.0\t0\t0:00:01", "2\t5\t4\t1.25\t0\t1.5")
    whole, content = read_field_log(path), path.read_bytes()
    counts = set()
    for length in range(len(HEADER) + 1, len(content) + 1):
        path.write_bytes(content[:length])
        rows = read_field_log(path)
        finished = content[:length].count(b"\n") - 1
        assert finished <= len(rows) <= finished + 1
        assert [replace(row, time=0.0) for row in rows] == [
            replace(row, time=0.0) for row in whole[: len(rows)]
        ]
        counts.add(len(rows) - finished)
    assert counts == {0, 1}


def test_a_last_line_by_hand_needs_no_line_break():
    path = log(GOOD, "2\t5\t4\t1.25\t0\t1.5")
    whole = read_field_log(path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert read_field_log(path) == whole


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER + "\n", True),
        (HEADER + "\n" + GOOD + "\n", True),
        (HEADER, True),
        ("", False),
        ("\n" + HEADER, False),
        ("idx\tlabel\tpredict\tradius\tcorrect\n", True),
        (HEADER + "\tp_a_lower\n", True),
        ("label\tidx\tpredict\tradius\tcorrect\ttime\n", True),
        (HEADER.replace("\t", ", ").upper(), True),
        ("idx;label;predict;correct\n", True),
        ("idx\tlabel\ttime\tscore\n", False),
        (GOOD + "\n", False),
        ("epoch,loss\n1,0.5\n", False),
    ],
)
def test_a_log_is_told_by_its_header(tmp_path, content, expected):
    path = tmp_path / "sigma_0.25"
    path.write_text(content)
    assert is_field_log(path) == expected


def test_a_picture_is_no_log(tmp_path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    assert not is_field_log(picture)


@pytest.mark.parametrize(
    "damage",
    [
        "7\t3",
        GOOD + "\t9",
        GOOD.replace("7\t", "seven\t"),
        GOOD.replace("0.41", ""),
        GOOD.replace("0.41", "0.4.1"),
        GOOD.replace("0.41", "nan"),
        # Not certified, and said to be.
        GOOD.replace("7\t3\t3", "7\t3\t5"),
        GOOD.replace("7\t3\t3", "7\t3\t-1"),
        GOOD.replace("\t1\t", "\tyes\t"),
        GOOD.replace("0:00:12.500000", "soon"),
        GOOD.replace("0:00:12.500000", "0::12"),
        GOOD.replace("0:00:12.500000", "a day, 0:00:12"),
        GOOD.replace("\t", " "),
        "\0" * 40,
    ],
)
def test_a_damaged_line_is_named(damage):
    assert "line 3 is damaged" in refusal(
        log("1\t3\t3\t0.41\t1\t2.5", damage, "9\t3\t3\t0.4\t1\t2")
    )


def test_bytes_that_are_no_text_are_named():
    path = log("1\t3\t3\t0.41\t1\t2.5", GOOD)
    path.write_bytes(path.read_bytes().replace(b"7\t3\t3", b"7\t\xff\t3"))
    assert "line 3 is damaged" in refusal(path)


def test_an_image_that_stands_twice_is_named():
    assert "image 7 twice" in refusal(log(GOOD, "1\t3\t3\t0.41\t1\t2.5", GOOD))


def test_a_log_without_lines_has_no_rows():
    assert read_field_log(log()) == []


def test_rows_of_many_images_come_back(tmp_path):
    rows = rows_of([0.25, WRONG, ABSTAINED] * 40)
    read = read_field_log(write_log(tmp_path / "log", rows))
    assert [(row.idx, row.predict, row.radius, row.correct) for row in read] == [
        (row.idx, row.predict, row.radius, row.correct) for row in rows
    ]
    assert {row.time for row in read} == {1.5}


@pytest.mark.parametrize("radius", ["nan", "inf", "-0.5"])
def test_a_radius_that_is_no_radius_is_damage(radius):
    """It would make ACR nan, infinite, or less than that of an abstention."""
    assert "line 2 is damaged" in refusal(log(GOOD.replace("0.41", radius)))


@pytest.mark.parametrize("correct", ["7", "-1"])
def test_a_row_is_correct_or_not(correct):
    assert "line 2 is damaged" in refusal(log(GOOD.replace("\t1\t", f"\t{correct}\t")))


@pytest.mark.parametrize("time", ["1:2:3:4", "nan", "s, , 3"])
def test_a_time_that_python_does_not_print_is_damage(time):
    assert "line 2 is damaged" in refusal(log(GOOD.replace("0:00:12.500000", time)))
