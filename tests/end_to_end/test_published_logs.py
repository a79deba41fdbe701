"""The report over published logs: one method a name, one envelope, its figures by hand."""

import csv
from collections import defaultdict

import pytest

from smoothcert import commands
from tests.helpers.support import ROOT, composed

PUBLISHED = ROOT / "data" / "published-logs"
SMALL = """\
idx\tlabel\tpredict\tradius\tcorrect\ttime
0\t3\t3\t{0}\t1\t0:00:01.5
4\t1\t-1\t0.0\t0\t0:00:01
8\t2\t5\t{1}\t0\t0:00:02
12\t2\t2\t{1}\t1\t0:00:02
"""


def reported(folder, pattern, *overrides):
    with composed(folder, [f"runs='{pattern}'", *overrides], "report") as cfg:
        commands.report(cfg)
    with (folder / "tables" / "envelope.csv").open(newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def best(logs, radius):
    """Return the largest certified accuracy at a radius and the largest ACR of a method's logs."""
    accuracies, means = [], []
    for log in logs:
        rows = [line.split("\t") for line in log.read_text().splitlines()[1:]]
        radii = [float(row[3]) if int(row[4]) else None for row in rows]
        accuracies.append(sum(r is not None and r >= radius for r in radii) / len(rows))
        means.append(sum(r or 0.0 for r in radii) / len(rows))
    return max(accuracies), max(means)


def check(envelope, logs):
    assert envelope.keys() == logs.keys()
    for method, row in envelope.items():
        radii = [name for name in row if name.replace(".", "").isdigit()]
        assert len(radii) > 3
        for radius in radii:
            accuracy, acr = best(logs[method], float(radius))
            assert float(row[radius]) == pytest.approx(accuracy, abs=1e-12)
            assert float(row["ACR"]) == pytest.approx(acr, abs=1e-12)


def by_folder(folder):
    logs = defaultdict(list)
    for path in sorted(folder.rglob("*.tsv")):
        logs[path.parent.name].append(path)
    return logs


def test_the_envelopes_of_small_logs_are_those_by_hand(tmp_path):
    for place, method in enumerate(("cohen", "cat-rs", "macer")):
        for sigma in (0.25, 0.5, 1.0):
            path = tmp_path / "logs" / f"noise_{sigma}" / method / f"noise_{sigma}.tsv"
            path.parent.mkdir(parents=True)
            path.write_text(SMALL.format(sigma * (place + 1) / 2, 1 / (place + 1 + sigma)))
    envelope = reported(tmp_path / "report", tmp_path / "logs" / "**")
    assert {row["σ"] for row in envelope.values()} == {"0.25, 0.5, 1"}
    check(envelope, by_folder(tmp_path / "logs"))


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"no published logs in {PUBLISHED}")
def test_the_envelopes_of_published_logs_are_those_by_hand(tmp_path, capsys):
    logs = by_folder(PUBLISHED)
    assert len(logs) >= 7
    envelope = reported(tmp_path, PUBLISHED / "**")
    check(envelope, logs)
    for method, row in envelope.items():
        assert len(row["σ"].split(", ")) == len(logs[method])
    said = capsys.readouterr().out
    assert "note" not in said
    assert f"runs   {sum(map(len, logs.values()))}, in one part" in said
