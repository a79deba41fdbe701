"""Files and folders from anywhere: what is opened, followed and walked through."""

import os
import re
import socket
from glob import glob
from pathlib import Path

import pytest

from smoothcert.errors import RecordsError
from smoothcert.records import (
    check_links,
    paths_matching,
    read_bounded,
    read_field_log,
    read_settings,
    run_left_by,
)


def written(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def made(kind, path):
    """Make what is no regular file, and return it."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(os.path.relpath(path))
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["FIFO", "socket", "folder"])
def test_only_regular_files_are_opened(kind, tmp_path):
    path = made(kind, tmp_path / "x")
    with pytest.raises(OSError, match="expected a regular file"):
        read_bounded(path)
    with pytest.raises(RecordsError, match=f"{path} cannot be read: expected a regular file"):
        read_settings(path)
    with pytest.raises(OSError, match="expected a regular file"):
        read_field_log(path)


def test_a_link_that_somebody_names_is_read(tmp_path):
    written(tmp_path / "a", "text")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_bounded(tmp_path / "b") == b"text"


def test_a_file_is_read_up_to_its_largest_size(tmp_path):
    path = written(tmp_path / "a", "12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(OSError, match="expected at most 4 bytes"):
        read_bounded(path, 4)


def test_a_file_with_holes_does_not_fill_the_memory(tmp_path):
    path = written(tmp_path / "certificates.settings.json")
    os.truncate(path, 2**40)
    with pytest.raises(RecordsError, match="cannot be read: expected at most 33,554,432 bytes"):
        read_settings(path)


@pytest.mark.parametrize("kind", ["FIFO", "socket"])
@pytest.mark.parametrize("nested", [True, False])
def test_a_run_folder_holds_nothing_but_files_and_folders(kind, nested, tmp_path):
    path = made(kind, tmp_path / "x")
    with pytest.raises(RecordsError, match=f"got {path}, which is not a regular file"):
        check_links(tmp_path, nested)


def test_links_in_folders_of_a_run_are_looked_at_where_these_are_read(tmp_path):
    link = tmp_path / "run" / "inner" / "x"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    expected = re.escape(f"got {link}, a link to {tmp_path / 'elsewhere'}. Replace the link")
    with pytest.raises(RecordsError, match=expected):
        check_links(tmp_path / "run")
    check_links(tmp_path / "run", nested=False)
    with pytest.raises(RecordsError, match=expected):
        check_links(link.parent, nested=False)


def test_a_path_leaves_its_run_by_links_alone(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        written(folder / ".hydra" / "config.yaml")
        written(folder / "certify" / "test" / "certificates.tsv")
    (run / "own").symlink_to("certify")
    (run / "foreign").symlink_to(other / "certify")
    (tmp_path / "latest").symlink_to(run)
    assert run_left_by(run) is None
    assert run_left_by(run / "own" / "test") is None
    assert run_left_by(tmp_path / "latest") is None
    assert run_left_by(tmp_path / "latest" / "certify") is None
    assert run_left_by(run / "foreign") == run
    assert run_left_by(run / "foreign" / "test" / "certificates.tsv") == run


def test_globs_name_what_pythons_own_name(tmp_path, monkeypatch):
    for name in ("a/b/c/x.tsv", "a/b/x.tsv", "a/x.txt", "b/c/d/x.tsv", "a/.hidden/x.tsv", "s=1/y"):
        written(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    patterns = ["**", "a/**", "**/x.tsv", "a/**/x.*", "*/**/c", "**/b/**", "a/*", "nowhere/**"]
    patterns += ["**/c/**/x.tsv", "a**", "**x", "s=1/**", "[ab]/**/x.tsv"]
    for pattern in [*patterns, *(f"{tmp_path}/{each}" for each in patterns)]:
        expected = {Path(path) for path in glob(pattern, recursive=True) if Path(path).exists()}  # noqa: PTH207
        assert {path for path in paths_matching(pattern) if path.exists()} == expected


def test_links_to_folders_are_followed_once_and_not_out_of_a_run(tmp_path):
    """Python's own glob would look at 2 to the power of 40 folders here."""
    written(tmp_path / "scratch" / "run" / "certificates.tsv")
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        written(runs / "run" / ".hydra" / "config.yaml")
        (runs / "run" / name).symlink_to(".")
    (runs / "run" / "out").symlink_to(tmp_path)
    (runs / "more").symlink_to(tmp_path / "scratch")
    found = {path.relative_to(tmp_path).as_posix() for path in paths_matching(f"{runs}/**")}
    assert "runs/more/run/certificates.tsv" in found
    assert found <= {
        *("runs", "runs/run", "runs/run/a", "runs/run/b", "runs/run/out", "runs/more"),
        *("runs/more/run", "runs/more/run/certificates.tsv"),
    }
