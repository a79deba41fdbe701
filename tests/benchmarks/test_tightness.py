"""Tightness and coverage of the bounds, as the scripts of `benchmarks/` measure them."""

import json

import numpy as np
import pytest
from scipy.stats import binom, norm

import coverage_of_bounds
import tightness
from coverage_of_bounds import coverage_table
from smoothcert.stats import clopper_pearson_lower
from tightness import CLASSES, tightness_table


@pytest.fixture(scope="module")
def table():
    return {
        (entry["classes"], entry["bound"]): entry for entry in tightness_table([1000], draws=50)
    }


def test_every_list_of_probabilities_adds_up_and_leads_with_the_selected_class():
    for p in CLASSES.values():
        assert sum(p) == pytest.approx(1)
        assert p[0] == max(p)


def test_slack_of_cohens_bound_is_that_of_its_definition(table):
    """With one runner-up the radius is σ Φ⁻¹(p_A): the exact mean of its bound is a sum."""
    n, a, alpha = 1000, 0.7, 0.001
    k = np.arange(1, n + 1)
    mass = binom.pmf(k, n, a)
    mean = (mass * norm.ppf(clopper_pearson_lower(k, n, alpha))).sum()
    deviation = np.sqrt(a * (1 - a) / n) / norm.pdf(norm.ppf(a))
    expected = (norm.ppf(a) - mean) / (norm.isf(alpha) * deviation)
    entry = table[".7 .3 0", "cohen"]
    assert entry["slack"] == pytest.approx(expected, abs=5 * entry["error"] + 1e-3)


def test_the_joint_bound_is_the_tightest_up_to_its_nuisances_share(table):
    for classes in CLASSES:
        joint = table[classes, "joint"]
        for other in ("cohen", "rectangle"):
            entry = table[classes, other]
            assert joint["slack"] < entry["slack"] + 0.01 + 4 * np.hypot(
                joint["error"], entry["error"]
            )


def test_the_joint_bound_is_as_tight_as_the_theory_measured(table):
    published = dict(zip(CLASSES, [1.15, 1.03, 1.01, 1.13, 1.08, 1.30, 0.79, 1.11], strict=True))
    for classes, slack in published.items():
        entry = table[classes, "joint"]
        assert entry["slack"] < slack + 0.02 + 4 * entry["error"]


def test_no_bound_errs_more_often_than_alpha():
    for entry in coverage_table(24, steps=5):
        assert 0 < entry["error_over_alpha"] <= 1


def test_a_bound_that_errs_is_found_out(monkeypatch):
    honest = coverage_of_bounds.lower_bound
    monkeypatch.setattr(coverage_of_bounds, "lower_bound", lambda *a: honest(*a) + 0.2)
    assert max(entry["error_over_alpha"] for entry in coverage_table(24, [0.05], steps=5)) > 1


def test_the_scripts_write_what_they_measure_and_print_it(tmp_path, capsys):
    tightness.main(["--draws", "2", "--folder", str(tmp_path / "tightness")])
    coverage_of_bounds.main(["--sizes", "5", "--folder", str(tmp_path / "coverage")])
    printed = capsys.readouterr().out
    for task, rows in (("tightness", tightness_table(draws=2)), ("coverage", coverage_table(5))):
        written = json.loads((tmp_path / task / "benchmark.json").read_text())
        assert (written["task"], written["results"]) == (task, rows)
        assert written["machine"]
        assert "torch" in written["versions"]
        assert rows[0]["bound"] in printed
