"""Shards of a certification, and the whole that they are merged into."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import (
    CertificateFile,
    Shard,
    part_path,
    read_certificates,
    read_settings,
    settings_path,
    shards,
)
from smoothcert.records.shards import numbers_of, ranges
from tests.helpers.faults import Killed, killed_after, largest_file
from tests.helpers.row_files import (
    ROWS,
    SETTINGS,
    by_index,
    contents,
    fresh_folder,
    merge,
    refusal,
    write,
)

MANY = [replace(ROWS[0], idx=idx, time=float(idx)) for idx in (7, 3, 12, 0, 5, 20, 9)]
"""Images in the order of their places in a data set, whose indices need not increase with these."""
ALL = by_index(MANY)


def write_shard(folder, number, of=3, rows=MANY, **values):
    """Write the certificates of a shard, and return their file."""
    shard = Shard(number, of)
    own = shard.share(rows)
    told = {**SETTINGS, **values, **shard.settings([row.idx for row in own])}
    return write(folder / f"test_shard-{number}-of-{of}" / "certificates.tsv", by_index(own), told)


def write_shards(folder, of=3, rows=MANY):
    return [write_shard(folder, number, of, rows) for number in range(1, of + 1)]


def rewrite(path, rows):
    """Leave other rows in a shard's file, under its settings."""
    path.unlink()
    write(path, rows, read_settings(settings_path(path)))


@given(st.lists(st.integers(0, 10**6), min_size=1))
def test_any_numbers_come_back_from_their_text(numbers):
    """Whether they increase, as the indices of a split that was drawn do not, or not."""
    assert numbers_of(ranges(numbers)) == numbers


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 500), st.integers(1, 20))
def test_every_so_many_images_are_a_short_text(start, step, length, shares):
    numbers = Shard(1, min(shares, length)).share(range(start, start + step * length, step))
    assert numbers_of(ranges(numbers)) == numbers
    assert len(ranges(numbers)) < 20


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "-3", "1-5", "1-5:0", "1-5:-1", "5-3:1", "1.5", "1 2", "None"]
)
def test_a_text_that_names_no_numbers_is_refused(text):
    with pytest.raises(ValueError, match="expected numbers"):
        numbers_of(text)


@pytest.mark.parametrize(
    "text", ["0-100000000000:1", "0-9" + "9" * 400 + ":2", "0-4999999:1,5000001", "7-5000007:1"]
)
def test_more_images_than_any_data_set_has_are_not_counted_out(text):
    with pytest.raises(ValueError, match="expected at most 5,000,000 images"):
        numbers_of(text)


def test_shards_of_more_images_than_any_data_set_has_are_refused(tmp_path, monkeypatch):
    paths = write_shards(tmp_path)
    monkeypatch.setattr(shards, "MOST_IMAGES", len(MANY) - 1)
    with pytest.raises(RecordsError, match="Expected shards of at most 6 images, got more"):
        shards.gather_shards(paths)


@given(st.lists(st.integers(), min_size=1), st.data())
def test_shards_are_disjoint_and_together_all_images(images, data):
    of = data.draw(st.integers(1, len(images)))
    shares = [Shard(number, of).share(images) for number in range(1, of + 1)]
    dealt = [share[place] for place in range(len(shares[0])) for share in shares if share[place:]]
    assert dealt == images
    assert len(shares[0]) - len(shares[-1]) in (0, 1)


@pytest.mark.parametrize("number", [1, 3, 6])
def test_more_shards_than_images_are_refused_by_each_of_them(number):
    """A merge could not tell an empty shard from one that is missing."""
    with pytest.raises(InvalidArgumentError, match="K at most 5, the number of images, got"):
        Shard(number, 6).share(range(5))


@given(st.integers(1, 99), st.integers(0, 99))
def test_a_shard_is_read_as_it_is_written(number, others):
    shard = Shard(number, number + others)
    assert Shard.parse(str(shard)) == shard


@pytest.mark.parametrize(
    "text", ["", "2", "0/4", "5/4", "1/0", "-1/4", "1/4/2", "1/ 4", "a/b", "1/4\n", "1" * 5000]
)
def test_what_names_no_shard_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="Expected `shard` k/K"):
        Shard.parse(text)


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shards_are_merged_into_the_file_of_an_unsharded_certification(tmp_path, of):
    paths = write_shards(tmp_path, of)
    whole = write(tmp_path / "whole" / "certificates.tsv", ALL)
    out = tmp_path / "test" / "certificates.tsv"
    assert merge(reversed(paths), out).rows == ALL
    assert contents(out.parent) == contents(whole.parent)


def test_merging_again_changes_nothing(tmp_path):
    paths, out = write_shards(tmp_path), tmp_path / "test" / "certificates.tsv"
    merge(paths, out)
    before = contents(tmp_path)
    merge(paths, out)
    assert contents(tmp_path) == before


def test_an_unfinished_unsharded_certification_is_completed_with_its_own_times(tmp_path):
    out = tmp_path / "test" / "certificates.tsv"
    begun = [replace(row, time=99.0) for row in MANY]
    write(out, begun[:2])
    out.write_bytes(out.read_bytes()[:-5])
    write(part_path(out, 1), begun[3:5])
    merge(write_shards(tmp_path), out)
    assert read_certificates(out) == by_index(begun[:1] + MANY[1:3] + begun[3:5] + MANY[5:])
    assert sorted(contents(out.parent)) == ["certificates.settings.json", "certificates.tsv"]


def test_a_merge_killed_at_any_step_resumes_to_the_same_rows():
    for steps in range(60):
        with fresh_folder() as folder:
            paths, out = write_shards(folder), folder / "test" / "certificates.tsv"
            done = False
            with contextlib.suppress(Killed), killed_after(steps):
                done = merge(paths, out).rows == ALL
            merge(paths, out)
            assert read_certificates(out) == ALL, f"killed after step {steps}"
        if done:
            break
    assert done
    assert steps > 3


@settings(max_examples=40)
@given(st.floats(0, 1, exclude_max=True))
def test_a_merge_on_a_full_disk_resumes_once_there_is_room(share):
    with fresh_folder() as folder:
        paths, out = write_shards(folder), folder / "test" / "certificates.tsv"
        room = int(share * write(folder / "whole.tsv", ALL).stat().st_size)
        with largest_file(room), pytest.raises(RecordsError, match=r"test/certificates\.tsv cann"):
            merge(paths, out)
        merge(paths, out)
        assert read_certificates(out) == ALL


def refused(paths, folder):
    """Return why shards are not merged; nothing must be written then."""
    before = contents(folder)
    with pytest.raises(RecordsError) as caught:
        merge(paths, folder / "test" / "certificates.tsv")
    assert contents(folder) == before
    assert not (folder / "test").exists()
    return str(caught.value)


OTHERS = [("sigma", 0.25, 1.0), ("weights", None, "4f"), ("seed", None, 3), ("examples", None, "a")]


@pytest.mark.parametrize(("name", "ours", "theirs"), OTHERS)
def test_a_shard_of_another_configuration_is_refused_with_the_difference(
    tmp_path, name, ours, theirs
):
    paths = write_shards(tmp_path)
    paths[1] = write_shard(tmp_path / "other", 2, **{name: theirs})
    message = refused(paths, tmp_path)
    assert message == (
        f"{paths[0]} and {paths[1]} have different configurations: {name} {ours!r} and {theirs!r}"
    )


def test_shards_of_different_numbers_of_shards_are_refused(tmp_path):
    paths = [*write_shards(tmp_path, 2), write_shard(tmp_path, 3, 3)]
    message = refused(paths, tmp_path)
    assert f"{paths[0]} and {paths[2]} have different configurations" in message
    assert message.endswith(": number of shards 2 and 3")


def test_a_missing_shard_is_named(tmp_path):
    paths = write_shards(tmp_path, 4)
    assert (
        refused(paths[1:], tmp_path) == "The shards are not one certification: shard 1/4 is missing"
    )
    assert "shard 2/4, 4/4 is missing" in refused(paths[::2], tmp_path)


def test_of_many_missing_shards_the_first_are_named(tmp_path):
    rows = [replace(ROWS[0], idx=idx) for idx in range(40)]
    message = refused([write_shard(tmp_path, 1, 40, rows)], tmp_path)
    assert "shard 2/40, 3/40, " in message
    assert "11/40 and 29 more is missing" in message


def test_a_shard_that_is_there_twice_is_named_with_both_places(tmp_path):
    paths = write_shards(tmp_path)
    copy = tmp_path / "copy" / "certificates.tsv"
    shutil.copytree(paths[1].parent, copy.parent)
    message = refused([*paths, copy], tmp_path)
    assert f"shard 2/3 is given twice, in {paths[1]} and {copy}" in message
    assert "missing" not in message


def test_missing_images_are_named_with_their_shard(tmp_path):
    paths = write_shards(tmp_path)
    rewrite(paths[0], [MANY[3]])
    message = refused(paths, tmp_path)
    assert "shard 1/3 lacks 2 of its 3 images, 7, 9" in message
    assert str(paths[0]) in message


def test_a_shard_that_is_still_being_written_lacks_its_image_in_flight(tmp_path):
    """Its lock is not touched, and nothing is cut off from its file."""
    paths = write_shards(tmp_path)
    rewrite(paths[2], [MANY[2]])
    with CertificateFile(paths[2], read_settings(settings_path(paths[2]))) as file:
        file._write([["20", "3"]])
        paths[2].write_bytes(paths[2].read_bytes()[:-1])
        assert "shard 3/3 lacks 1 of its 2 images, 20" in refused(paths, tmp_path)
        assert "shard 3/3 lacks 1" in refused(paths, tmp_path)


def test_an_image_in_two_shards_is_named(tmp_path):
    paths = write_shards(tmp_path)
    rewrite(paths[1], [*Shard(2, 3).share(MANY), MANY[0]])
    message = refused(paths, tmp_path)
    assert "images 7 are given twice" in message
    assert f"{paths[1]} has images of other shards, 7" in message


def test_an_image_of_no_shard_is_named(tmp_path):
    paths = write_shards(tmp_path)
    rewrite(paths[1], [*Shard(2, 3).share(MANY), replace(ROWS[0], idx=999)])
    assert f"{paths[1]} has images of other shards, 999" in refused(paths, tmp_path)


def test_everything_that_is_wrong_is_named_at_once(tmp_path):
    paths = write_shards(tmp_path, 4)
    rewrite(paths[0], [])
    message = refused([paths[0], *paths[2:]], tmp_path)
    assert "shard 2/4 is missing; shard 1/4 lacks 2 of its 2 images, 5, 7" in message


def test_a_file_that_is_no_shard_is_named(tmp_path):
    whole = write(tmp_path / "whole" / "certificates.tsv", ALL)
    message = refused([*write_shards(tmp_path), whole], tmp_path)
    assert message.startswith(f"{whole} is not a shard")


def test_no_file_at_all_is_refused(tmp_path):
    assert "got none" in refused([], tmp_path)


DAMAGED = ['{"shard": ', "[]", '{"shard": "4/3", "shard_images": "1"}']
DAMAGED += [f'{{"shard": "1/3", "shard_images": {images}}}' for images in ("null", '"5-3:1"')]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_settings_are_named(tmp_path, text):
    paths = write_shards(tmp_path)
    settings_path(paths[0]).write_text(text)
    assert refused(paths, tmp_path).startswith(f"{settings_path(paths[0])} is damaged")


def test_missing_settings_are_named(tmp_path):
    paths = write_shards(tmp_path)
    settings_path(paths[2]).unlink()
    assert refused(paths, tmp_path).startswith(f"{settings_path(paths[2])} cannot be read")


def test_a_damaged_line_of_a_shard_is_named(tmp_path):
    paths = write_shards(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes().replace(b"\tfixed\n", b"\n", 1))
    assert f"{paths[1]}, line 2 is damaged" in refused(paths, tmp_path)


def test_a_file_of_another_configuration_is_not_completed(tmp_path):
    """Nor that of a shard."""
    paths = write_shards(tmp_path)
    other = write(tmp_path / "other.tsv", MANY[:2], {**SETTINGS, "sigma": 1.0})
    for out, why in ((other, "sigma was 1.0 and is now 0.25"), (paths[0], "shard was '1/3'")):
        before = contents(tmp_path)
        with pytest.raises(RecordsError, match=f"another configuration.*{why}"):
            merge(paths, out)
        assert contents(tmp_path) == before


def test_a_file_with_another_certificate_of_an_image_is_not_completed(tmp_path):
    out = write(tmp_path / "c.tsv", [replace(MANY[2], radius=0.1)])
    before = contents(tmp_path)
    with pytest.raises(RecordsError, match="different certificates of image 12"):
        merge(write_shards(tmp_path / "shards"), out)
    assert before.items() <= contents(tmp_path).items()
    assert read_certificates(out) == [replace(MANY[2], radius=0.1)]


def test_a_file_that_is_being_written_is_not_completed(tmp_path):
    paths, out = write_shards(tmp_path), tmp_path / "c.tsv"
    with CertificateFile(out, SETTINGS), pytest.raises(RecordsError, match="another process"):
        merge(paths, out)
    assert merge(paths, out).rows == ALL


def test_a_shard_is_no_whole_that_a_certification_may_go_on_with(tmp_path):
    path = write_shard(tmp_path, 1)
    assert "shard was '1/3' and is now None" in refusal(path, SETTINGS)
    assert json.loads(settings_path(path).read_text())["shard_images"] == "7,0,9"
