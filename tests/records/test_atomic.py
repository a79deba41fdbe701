"""Files that are written whole or not at all."""

import pytest

from smoothcert.records import write_atomically
from tests.helpers.faults import largest_file
from tests.helpers.row_files import contents


def test_the_whole_text_is_replaced(tmp_path):
    path = tmp_path / "summary.json"
    for text in ("a much longer first text", "σ"):
        write_atomically(path, text)
        assert path.read_text(encoding="utf-8") == text
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace"])
def test_the_old_text_stays_when_writing_is_stopped(tmp_path, monkeypatch, where):
    path = tmp_path / "summary.json"
    path.write_text("old")

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stopped)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("room", [0, 1, 99])
def test_the_old_text_stays_when_the_disk_is_full(tmp_path, room):
    path = tmp_path / "summary.json"
    path.write_text("old")
    with largest_file(room), pytest.raises(OSError, match="File too large"):
        write_atomically(path, "x" * 100)
    assert contents(tmp_path) == {"summary.json": b"old"}
    with largest_file(100):
        write_atomically(path, "x" * 100)
    assert path.read_text() == "x" * 100


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "elsewhere").write_text("theirs")
    path = tmp_path / "summary.json"
    path.symlink_to(tmp_path / "elsewhere")
    write_atomically(path, "ours")
    assert (path.read_text(), path.is_symlink()) == ("ours", False)
    assert (tmp_path / "elsewhere").read_text() == "theirs"
