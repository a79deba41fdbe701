"""A run folder as an object: against a folder that a command has written."""

import json
import os

import pytest

from smoothcert.errors import RecordsError
from smoothcert.records import RunFolder

PUBLISHED = RunFolder("outputs/published/cifar_fast/reg_0.5_1")


def test_a_published_run_is_read():
    summary = json.loads((PUBLISHED.path / "summary.json").read_text("utf-8"))
    lines = (PUBLISHED.path / "certificates.tsv").read_text("utf-8").splitlines()[1:]
    assert PUBLISHED.is_certified
    assert PUBLISHED.is_summarized
    assert PUBLISHED.summary() == summary
    assert [row.idx for row in PUBLISHED.rows()] == [int(line.split("\t")[0]) for line in lines]


def test_an_empty_folder_has_nothing(tmp_path):
    run = RunFolder(tmp_path / "none")
    assert not run.is_certified
    assert not run.is_summarized
    assert run.summary() is None
    with pytest.raises(RecordsError, match=r"No certificate file at .*certificates\.tsv"):
        run.rows()
    run.check_links()


def test_a_summary_is_written_whole_and_read_again(tmp_path):
    run = RunFolder(tmp_path)
    run.write_summary({"acr": 0.25, "images": 3})
    assert run.summary() == {"acr": 0.25, "images": 3}
    run.summary_file.write_text('{"acr": 0.')
    with pytest.raises(RecordsError, match=r"summary\.json is damaged"):
        run.summary()


def test_one_command_at_a_time_writes_it(tmp_path):
    run = RunFolder(tmp_path)
    with run.lock(), pytest.raises(RecordsError, match="another process"), run.lock():
        pass
    with run.lock():
        assert run.path.is_dir()


@pytest.mark.parametrize("nested", [False, True])
def test_a_link_out_of_it_is_refused(nested, tmp_path):
    run = RunFolder(tmp_path / "run")
    place = run.checkpoint("best") if nested else run.certificates
    place.parent.mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", place)  # noqa: PTH211
    with pytest.raises(RecordsError, match=f"got {place}, a link to"):
        run.check_links()
    if nested:
        run.check_links(nested=False)
