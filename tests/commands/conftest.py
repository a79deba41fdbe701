"""What the tests of the commands share."""

import pytest

from smoothcert.commands import certification, merging


def write_no_picture(rows, settings, path):
    path.write_bytes(bytes(5000))


@pytest.fixture(autouse=True)
def quick_picture(monkeypatch):
    """Draw nothing in this process, which takes longer than all else; `tests/report` draws."""
    for module in (certification, merging):
        monkeypatch.setattr(module, "plot_certified_accuracy", write_no_picture)
