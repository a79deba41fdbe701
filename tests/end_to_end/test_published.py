"""The pages' figures are those of the runs in `outputs/published`."""

import json
import re

import numpy as np
import pytest

from smoothcert.records import read_certificates
from smoothcert.report.grids import to_markdown
from smoothcert.report.grouping import experiments_of
from smoothcert.report.load import read_runs
from smoothcert.report.markdown import marks
from smoothcert.report.tables import experiments
from tests.helpers.support import ROOT

PUBLISHED = ROOT / "outputs" / "published"
RADII = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
RUNS = sorted(path.parent for path in PUBLISHED.glob("*/*/summary.json"))
PAGE = (ROOT / "docs" / "results.md").read_text()


def test_the_table_is_that_of_the_published_runs():
    folders = [folder for folder in RUNS if folder.parent.name == "cifar_fast"]
    assert len(folders) == 24
    groups = experiments_of(read_runs(folders, named=folders).runs)
    table = to_markdown(experiments(groups, RADII, "", "CIFAR-10 (JPEG copy)"))
    start, end = marks("cifar_fast", "python -m src.report runs=… table=cifar_fast")
    assert PAGE.partition(start)[2].partition(end)[0].strip() == table.strip()


@pytest.mark.parametrize("folder", RUNS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_summary_has_the_figures_of_its_certificates(folder):
    summary = json.loads((folder / "summary.json").read_text())
    rows = read_certificates(folder / "certificates.tsv")
    radius = np.array([row.radius * row.correct for row in rows])
    assert summary["images"] == len({row.idx for row in rows}) == 500
    assert summary["bounds"]["tight"]["acr"] == pytest.approx(radius.mean(), abs=1e-9)
    for r, share in summary["certified_accuracy"].items():
        right = np.array([row.correct for row in rows]) & (radius >= float(r))
        assert share == pytest.approx(right.mean(), abs=1e-9)


def test_every_trial_that_is_named_has_its_figure_from_its_run():
    rows = re.findall(r"^\| (.*) \| (\.\d{3}) \| `(\w+)` \|$", PAGE, re.MULTILINE)
    trials = {folder.name for folder in RUNS if folder.parent.name == "cifar_fast_trials"}
    assert {name for *_, name in rows} == trials
    for _, acr, name in rows:
        path = PUBLISHED / "cifar_fast_trials" / name / "summary.json"
        assert f"{json.loads(path.read_text())['acr']:.3f}" == f"0{acr}"
