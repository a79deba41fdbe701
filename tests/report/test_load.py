"""Run folders and published logs as runs."""

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smoothcert.errors import RecordsError
from smoothcert.records import CertificateFile, settings_path
from smoothcert.report.load import Run, read_runs
from tests.helpers.runs_by_hand import (
    ABSTAINED,
    WRONG,
    log_by_hand,
    rows_of,
    run_by_hand,
    write_log,
    write_run,
)

OUTCOMES = [0.25, WRONG, ABSTAINED, 0.75, 0.0]


def names(paths):
    return [run.name for run in read_runs(paths).runs]


def written(folder, name, **values):
    return write_run(folder / name, run_by_hand(OUTCOMES, name, **values))


def test_a_run_folder_is_read_as_it_was_written(tmp_path):
    expected = run_by_hand(OUTCOMES, seed=3, sigma=0.25, objective="adre")
    read = read_runs([write_run(tmp_path / "run", expected)])
    [run] = read.runs
    assert run.rows == expected.rows
    assert (run.settings, run.summary) == (expected.settings, expected.summary)
    assert (run.name, run.seed, run.sigma, run.is_foreign) == ("run", 3, 0.25, False)
    assert not read.notes


def test_a_log_is_a_run_of_which_only_the_rows_are_known(tmp_path):
    [run] = read_runs([write_log(tmp_path / "noise_0.25", rows_of(OUTCOMES))]).runs
    assert (run.sigma, run.seed, run.conditions, run.is_foreign) == (0.25, None, {}, True)
    assert run.radii_that_count.tolist() == [0.25, 0, 0, 0.75, 0]
    assert run.certified.correct.tolist() == [True, False, False, True, True]
    assert [reading.name for reading in run.bounds] == ["as logged"]


def test_a_log_may_have_the_name_of_our_own_certificates(tmp_path):
    path = write_log(tmp_path / "sigma_0.5" / "certificates.tsv", rows_of(OUTCOMES))
    for given in (path, path.parent):
        [run] = read_runs([given]).runs
        assert run.is_foreign


def test_a_shard_is_left_out_with_and_without_its_merged_certification(tmp_path):
    written(tmp_path, "test")
    for number in (1, 2):
        shard = {"shard": f"{number}/2", "shard_images": "2-30:7"}
        written(tmp_path, f"test_shard-{number}-of-2", **shard)
    read = read_runs(tmp_path.iterdir())
    assert [run.name for run in read.runs] == ["test"]
    assert [note.partition(" and is left out")[0] for note in read.notes] == [
        f"test_shard-{number}-of-2 is shard {number}/2 of a certification" for number in (1, 2)
    ]
    alone = read_runs([tmp_path / "test_shard-1-of-2"])
    assert not alone.runs
    assert "python -m src.merge merges all shards" in alone.notes[0]


def test_a_folder_and_its_file_are_one_run(tmp_path):
    folder = written(tmp_path, "run")
    read = read_runs([folder, folder / "certificates.tsv", folder / "summary.json", folder])
    assert len(read.runs) == 1
    assert not read.notes


def test_the_order_of_the_paths_makes_no_difference(tmp_path):
    paths = [written(tmp_path, "b"), written(tmp_path, "a", seed=1)]
    paths.append(write_run(tmp_path / "c", run_by_hand(OUTCOMES, "b")))  # a copy of b
    paths.append(write_log(tmp_path / "logs" / "sigma_0.5", rows_of(OUTCOMES)))
    with CertificateFile(tmp_path / "0" / "certificates.tsv", {"sigma": 1}):
        paths.append(tmp_path / "0")
    first, *others = [read_runs(order) for order in itertools.permutations(paths)]
    assert [run.name for run in first.runs] == ["a", "b", "logs/sigma_0.5"]
    assert len(first.notes) == 2
    assert all(other == first for other in others)


def test_names_are_as_short_as_tells_them_apart(tmp_path):
    long = tmp_path / "outputs" / "sweeps"
    assert names([written(long, "a/0"), written(long, "b/0", seed=1)]) == ["a/0", "b/0"]
    assert names([written(long, "a/1"), written(long, "a/2", seed=1)]) == ["1", "2"]
    assert names([long / "a" / "1"]) == ["1"]
    logs = [write_log(long / "x" / f"sigma_{sigma}", rows_of(OUTCOMES)) for sigma in (0.25, 1)]
    assert names(logs) == ["sigma_0.25", "sigma_1"]


def test_what_is_no_run_is_passed_over(tmp_path):
    folder = written(tmp_path, "run")
    (folder / "metrics.csv").write_text("epoch,loss\n1,0.5\n")
    (folder / "plot.png").write_bytes(b"\x89PNG\r\n")
    (folder / "empty").touch()
    (tmp_path / "checkpoints").mkdir()
    read = read_runs([*folder.iterdir(), *tmp_path.iterdir()])
    assert [run.name for run in read.runs] == ["run"]
    assert not read.notes
    assert read_runs([]).runs == []


def test_certificates_of_single_epochs_are_no_runs(tmp_path):
    folder = written(tmp_path, "run")
    (folder / "certificates").mkdir()
    epoch = (folder / "certificates.tsv").read_bytes()
    (folder / "certificates" / "epoch_0001_1a2b3c4d.tsv").write_bytes(epoch)
    read = read_runs(sorted(folder.rglob("*")))
    assert [run.name for run in read.runs] == ["run"]
    assert not read.notes


def test_nor_are_those_of_a_training_that_was_killed(tmp_path):
    written(tmp_path, "run")
    rows = (tmp_path / "run" / "certificates.tsv").read_bytes()
    for name in ("certificates/epoch_0001_1a2b3c4d.tsv", "certificates.part2.tsv"):
        path = tmp_path / "killed" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(rows)
    read = read_runs(sorted(tmp_path.rglob("*")))
    assert ([run.name for run in read.runs], read.notes) == (["run"], [])


@pytest.mark.parametrize("name", ["certificates.tsv", "copy.tsv", "sigma_0.5"])
def test_a_copy_of_our_certificates_without_their_settings_is_a_log(tmp_path, name):
    folder = written(tmp_path, "run")
    path = tmp_path / "elsewhere" / name
    path.parent.mkdir()
    path.write_bytes((folder / "certificates.tsv").read_bytes())
    for named in ([], [path]):
        [run] = read_runs([path], named=named).runs
        assert run.is_foreign
        assert run.radii_that_count.tolist() == [0.25, 0, 0, 0.75, 0]


def test_a_file_that_begins_like_a_log_is_read_or_named(tmp_path):
    log = write_log(tmp_path / "a" / "sigma_0.5", rows_of(OUTCOMES))
    lacking = tmp_path / "b" / "sigma_0.5.csv"
    lacking.parent.mkdir()
    lacking.write_text("idx,label,predict,correct,time\n1,2,2,1,0.5\n")
    found = sorted(tmp_path.rglob("*"))
    read = read_runs(found, skip_damaged=True)
    assert [run.name for run in read.runs] == ["a/sigma_0.5"]
    [note] = read.notes
    assert note.startswith("b/sigma_0.5.csv is left out: Expected a log")
    assert "lacks radius: 'idx,label" in note
    with pytest.raises(RecordsError, match=f"{lacking}, whose first line lacks radius"):
        read_runs(found)
    with pytest.raises(RecordsError, match=f"{lacking}, whose first line lacks radius"):
        read_runs([log], skip_damaged=True, named=[lacking])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "first line lacks idx, label, predict, radius, correct: ''"),
        (b"epoch,loss\n1,0.5\n", "lacks idx, label, predict, radius, correct: 'epoch,loss'"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "lacks idx"),
        (b"idx label predict radius correct time\n", "is an empty log"),
        (b"idx label predict radius correct time\n1 2 2 much 1 3\n", "line 2 is damaged"),
    ],
)
def test_a_file_that_is_named_is_read_or_refused(tmp_path, content, reason):
    path = tmp_path / "mine.tsv"
    path.write_bytes(content)
    with pytest.raises(RecordsError) as caught:
        read_runs([path], skip_damaged=True, named=[path])
    assert "mine.tsv" in str(caught.value)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_is_named_and_holds_no_run_says_how_to_read_what_is_in_it(tmp_path):
    write_log(tmp_path / "logs" / "sigma_0.5", rows_of(OUTCOMES))
    with pytest.raises(RecordsError, match=f"without certificates.tsv; runs='{tmp_path}/logs/\\*"):
        read_runs([], named=[tmp_path / "logs"])


def test_a_run_without_a_summary_is_named_and_not_read(tmp_path):
    folders = [written(tmp_path, "done"), written(tmp_path, "cut", seed=1)]
    (folders[1] / "summary.json").unlink()
    read = read_runs(folders)
    assert [run.name for run in read.runs] == ["done"]
    [note] = read.notes
    assert note.startswith("cut is not finished")
    assert f"{len(OUTCOMES)} certificates" in note


@pytest.mark.parametrize("images", [4, 6, 500, None])
def test_a_run_whose_summary_speaks_of_other_images_is_named_and_not_read(tmp_path, images):
    folders = [written(tmp_path, "done"), written(tmp_path, "more", summary={"images": images})]
    read = read_runs(folders)
    assert [run.name for run in read.runs] == ["done"]
    [note] = read.notes
    assert note.startswith("more is not finished")
    assert str(images) in note
    assert "5 certificates" in note


def test_an_empty_log_is_named(tmp_path):
    read = read_runs([write_log(tmp_path / "sigma_0.5", [])])
    assert not read.runs
    assert read.notes == ["sigma_0.5 is an empty log."]


def test_copies_are_left_out_and_named(tmp_path):
    run = run_by_hand(OUTCOMES, "run")
    read = read_runs([write_run(tmp_path / name, run) for name in ("one", "two", "three")])
    assert [run.name for run in read.runs] == ["one"]
    assert len(read.notes) == 2
    for name, note in zip(("three", "two"), read.notes, strict=True):
        assert note.startswith(f"{name} ")
        assert "one" in note
        assert "left out" in note


@pytest.mark.parametrize(
    "changed", [{"sigma": 0.25}, {"weights": "other"}, {"alpha": 0.01}, {"seed": 1}]
)
def test_runs_that_differ_in_anything_are_no_copies(tmp_path, changed):
    first = write_run(tmp_path / "a", run_by_hand(OUTCOMES))
    second = write_run(tmp_path / "b", run_by_hand(OUTCOMES, **changed))
    read = read_runs([first, second])
    assert len(read.runs) == 2
    assert not read.notes


def test_a_damaged_line_is_named_with_its_file(tmp_path):
    path = written(tmp_path, "run") / "certificates.tsv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3].replace("\t", " "), *lines[4:]]) + "\n")
    with pytest.raises(RecordsError, match=f"{path}, line 4 is damaged"):
        read_runs([path])
    log = write_log(tmp_path / "sigma_1", rows_of(OUTCOMES))
    log.write_text(log.read_text().replace("\t0.75\t", "\tmuch\t"))
    with pytest.raises(RecordsError, match=f"{log}, line 5 is damaged"):
        read_runs([log])


@pytest.mark.parametrize("name", ["summary.json", "certificates.settings.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "3", b"\xff\xfe"])
def test_a_damaged_file_next_to_the_rows_is_named(tmp_path, name, text):
    damaged = written(tmp_path, "run") / name
    damaged.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecordsError, match=str(damaged)):
        read_runs([damaged.parent])


@pytest.mark.parametrize(("text", "found"), [("", "an empty file"), ('{"acr":', "Expecting")])
def test_a_damaged_summary_says_how_to_write_it_again(tmp_path, text, found):
    folder = written(tmp_path, "run")
    (folder / "summary.json").write_text(text)
    with pytest.raises(RecordsError, match=f"summary.json is damaged: .*{found}.* Remove it and"):
        read_runs([folder])


BESIDE = ["certificates.tsv", "certificates.settings.json", "summary.json", "thumbnails.png"]


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("which", ["folder", "file"])
def test_a_link_out_of_a_run_is_named_and_not_read(name, which, tmp_path):
    folder, private = written(tmp_path, "bad"), tmp_path / "private"
    private.write_text("nobody else's\n")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(private)
    path = folder if which == "folder" else folder / "certificates.tsv"
    expected = f"got {folder / name}, a link to {private}"
    with pytest.raises(RecordsError, match=expected):
        read_runs([path])
    read = read_runs([path, written(tmp_path, "good")], skip_damaged=True)
    assert [run.name for run in read.runs] == ["good"]
    [note] = read.notes
    assert note.startswith("bad is left out: ")
    assert f"got {name}, a link to {private}" in note
    assert "nobody else's" not in note


def test_another_run_within_a_run_is_read_from_where_it_is_alone(tmp_path):
    friends, mine = written(tmp_path, "friends"), written(tmp_path, "mine", seed=1)
    (friends / ".hydra").mkdir()
    (friends / "certify").symlink_to(mine)
    read = read_runs([friends, mine, friends / "certify"], skip_damaged=True)
    assert [run.name for run in read.runs] == ["friends", "mine"]
    [note] = read.notes
    assert note.startswith(f"{friends / 'certify'} is left out: Expected files in the run folder")
    # A folder that somebody links to is where the link leads.
    (tmp_path / "latest").symlink_to(friends)
    assert [run.path.parent for run in read_runs([tmp_path / "latest"]).runs] == [friends]


def test_logs_may_be_links_where_they_are_no_part_of_a_run(tmp_path):
    log = write_log(tmp_path / "far" / "sigma_0.5", rows_of(OUTCOMES))
    for name in ("logs", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sigma_0.5").symlink_to(log)
    assert len(read_runs([tmp_path / "logs" / "sigma_0.5"]).runs) == 1
    (tmp_path / "run" / ".hydra").mkdir()
    with pytest.raises(RecordsError, match=f"in the run folder {tmp_path / 'run'}, got"):
        read_runs([tmp_path / "run" / "sigma_0.5"])


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    folder = written(tmp_path, "run")
    (folder / "summary.json").unlink()
    os.mkfifo(folder / "summary.json")
    with pytest.raises(RecordsError, match=r"summary\.json, which is not a regular file"):
        read_runs([folder])


def test_missing_settings_are_named(tmp_path):
    folder = written(tmp_path, "run")
    path = settings_path(folder / "certificates.tsv")
    path.unlink()
    with pytest.raises(RecordsError, match=str(path)):
        read_runs([folder])


@pytest.mark.parametrize(
    ("name", "sigma"),
    [
        ("cohen/noise_0.25/test/sigma_0.50", 0.5),
        ("resnet110_noise_0.25", 0.25),
        ("sigma=1", 1.0),
        ("macer/sigma1.00", 1.0),
        ("SIGMA-.12", 0.12),
        ("smoothadv/noise 0.5.tsv", 0.5),
        ("certified_test", None),
        ("resnet110/2019", None),
    ],
)
def test_sigma_of_a_log_is_what_its_path_says(name, sigma):
    assert log_by_hand([0.5], name).sigma == sigma


def test_sigma_of_a_log_may_stand_in_the_folders_above():
    assert Run("test", Path("/x/noise_0.25/test"), rows_of([0.5])).sigma == 0.25
    assert Run("a/sigma_1", Path("/x/noise_0.25/a/sigma_1"), rows_of([0.5])).sigma == 1


def test_images_are_identified_by_index_and_label_in_any_order():
    rows = rows_of([0.25, WRONG, ABSTAINED, 0.5])
    run = run_by_hand(rows)
    assert run_by_hand(rows[::-1]).images == run.images == log_by_hand(rows[2:] + rows[:2]).images
    assert run_by_hand(rows_of([WRONG, 0.1, 0.2, 0.3])).images == run.images
    first = rows[0]
    others = [
        rows[:3],
        [type(first)(**{**vars(first), "idx": 1}), *rows[1:]],
        [type(first)(**{**vars(first), "label": 2}), *rows[1:]],
    ]
    assert len({run.images, *(run_by_hand(each).images for each in others)}) == 4


def test_what_counts_is_the_radius_of_the_images_that_are_right():
    run = run_by_hand([0.25, WRONG, ABSTAINED, 0.75, 0.0])
    np.testing.assert_array_equal(run.radii_that_count, [0.25, 0, 0, 0.75, 0])


def test_values_stand_in_the_summary_or_in_the_training():
    training = {"objective": {"name": "adre", "weight": 0.3}, "epochs": 40, "seed": 0}
    run = run_by_hand([0.5], objective="adre", training=training)
    assert run.value("objective") == "adre"
    assert run.value("objective.weight") == 0.3
    assert run.value("training.objective.weight") == 0.3
    assert run.value("epochs") == 40
    assert run.value("seed") == 0
    for unknown in ("nothing", "objective.weight.more", "objective.floor", "", "."):
        assert run.value(unknown) is None
    assert run_by_hand([0.5]).value("objective.weight") is None
    assert log_by_hand([0.5]).value("objective") is None


def test_a_run_that_was_trained_before_seeds_were_recorded_has_that_of_its_summary():
    run = run_by_hand([0.5], seed=4)
    old = {key: value for key, value in run.summary.items() if key != "training_seed"}
    assert Run("old", run.path, run.rows, run.settings, {**old, "seed": 7}).seed == 7
    assert run.seed == 4


# What does not hold yet.


def test_a_run_that_holds_another_still_has_a_name(tmp_path):
    """`python -m src.certify` writes below the run that it certifies."""
    outer = written(tmp_path, "demo")
    inner = write_run(outer / "certify" / "val", run_by_hand(OUTCOMES, "inner"))
    found = names([outer, inner])
    assert len(set(found)) == 2
    assert not {"", "."} & set(found)


def test_relative_and_absolute_paths_may_be_mixed(tmp_path, monkeypatch):
    written(tmp_path, "a")
    other = written(tmp_path, "b", seed=1)
    monkeypatch.chdir(tmp_path)
    assert len(read_runs([Path("a"), other]).runs) == 2


def test_one_folder_named_in_two_ways_is_one_run(tmp_path, monkeypatch):
    written(tmp_path, "a")
    other = written(tmp_path, "b", seed=1)
    monkeypatch.chdir(tmp_path)
    read = read_runs([other, other / ".." / "a", other.parent / "a"])
    assert (len(read.runs), read.notes) == (2, [])


def test_the_folder_in_which_one_stands_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(written(tmp_path, "mine"))
    assert names([Path()]) == ["mine"]


@pytest.mark.parametrize("lost", ["sigma", "certifier", "alpha", None])
def test_settings_that_say_too_little_are_named(tmp_path, lost):
    """Without any, the run passes for a published log."""
    folder = written(tmp_path, "run", certifier="TightCertifier")
    path = settings_path(folder / "certificates.tsv")
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key != lost}
    path.write_text(json.dumps(kept if lost else {}))
    with pytest.raises(RecordsError, match=str(path)):
        _ = [(run.sigma, run.bounds, run.is_foreign) for run in read_runs([folder]).runs]


def test_copies_of_a_log_are_left_out_and_named(tmp_path):
    logs = [write_log(tmp_path / name / "sigma_0.5", rows_of(OUTCOMES)) for name in ("a", "b")]
    read = read_runs(logs)
    assert [run.name for run in read.runs] == ["a/sigma_0.5"]
    assert "b/sigma_0.5" in " ".join(read.notes)


def test_a_path_that_does_not_exist_is_not_silently_nothing(tmp_path):
    missing = tmp_path / "outpust"
    said = ""
    try:
        said = " ".join(read_runs([missing]).notes)
    except RecordsError as refusal:
        said = str(refusal)
    assert missing.name in said


@pytest.mark.parametrize(
    ("name", "sigma"),
    [
        ("noise_0.50/sigma_0.25", 0.25),
        ("sigma_0.25_noise_100000.tsv", 0.25),
        ("noise_1.00/test", 1.0),
        ("noise2noise/cohen.tsv", None),
        ("sigma_0,25.tsv", None),
        ("sigma_0p50.tsv", None),
        ("designoise_0.25x", None),
    ],
)
def test_sigma_is_what_a_path_says_plainly_or_not_recorded(name, sigma):
    assert log_by_hand(OUTCOMES, name).sigma == sigma


def test_equal_certificates_of_two_logs_are_no_copies_if_their_times_differ(tmp_path):
    """Two classifiers that abstain everywhere have the same rows."""
    rows = rows_of([ABSTAINED, ABSTAINED])
    write_log(tmp_path / "a" / "sigma_0.25", rows)
    write_log(tmp_path / "b" / "sigma_0.25", rows)
    head, first, *others = (tmp_path / "b" / "sigma_0.25").read_text().splitlines()
    first = "\t".join([*first.split("\t")[:5], "9.5"])
    (tmp_path / "b" / "sigma_0.25").write_text("\n".join([head, first, *others, ""]))
    read = read_runs([tmp_path / name / "sigma_0.25" for name in "ab"])
    assert len(read.runs) == 2


def test_a_run_that_was_repeated_counts_once_whatever_time_it_took(tmp_path):
    first = run_by_hand([0.5, 0.25])
    again = replace(first, rows=[replace(row, time=row.time + 1) for row in first.rows])
    paths = [write_run(tmp_path / name, run) for name, run in (("a", first), ("b", again))]
    found = read_runs(paths)
    assert [run.name for run in found.runs] == ["a"]
    assert found.notes == ["b has the certificates of a and is left out."]
