"""The tables of a section, recomputed from the rows by other ways."""

import csv
import io
import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, sem, ttest_rel

from smoothcert.errors import SmoothCertError
from smoothcert.report.grids import marked, to_csv, to_latex, to_markdown
from smoothcert.report.grouping import sections_of
from smoothcert.report.load import read_runs
from smoothcert.report.tables import (
    differences,
    envelope,
    methods,
    radii_of,
    runs,
    tables_of,
)
from tests.helpers.runs_by_hand import (
    ABSTAINED,
    WRONG,
    log_by_hand,
    rows_of,
    run_by_hand,
    write_log,
    write_run,
)

RADII = [0.0, 0.25, 0.5, 0.75, 1.0]
NAMES = ["0", "0.25", "0.5", "0.75", "1"]
GOOD = [0.5, 0.8, WRONG, 1.1, ABSTAINED, 0.25, 0.0, 0.6]
BAD = [0.4, 0.2, WRONG, 0.9, ABSTAINED, WRONG, 0.1, ABSTAINED]
OUTCOMES = st.lists(
    st.one_of(st.sampled_from([WRONG, ABSTAINED, 0.0, 0.25, 0.5]), st.floats(0, 1.2)),
    min_size=6,
    max_size=6,
)


def section_of(*made):
    [section] = sections_of(sorted(made, key=lambda run: run.name), ["objective", "attack"])
    return section


def table(grid):
    return list(csv.DictReader(io.StringIO(to_csv(grid))))


def printed(grid):
    lines = [line for line in to_markdown(grid).splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def share(run, radius):
    """Certified accuracy as an exact fraction, image by image."""
    right = [row for row in run.rows if row.predict == row.label and row.radius >= radius]
    return Fraction(len(right), len(run.rows))


def acr(run):
    return sum(row.radius for row in run.rows if row.predict == row.label) / len(run.rows)


def numbers(row, names=(*NAMES, "ACR")):
    return [float(row[name]) for name in names]


def expected(run):
    return pytest.approx([*(float(share(run, radius)) for radius in RADII), acr(run)])


@given(OUTCOMES)
@settings(max_examples=40)
def test_figures_of_a_run_are_counted_over_all_images(outcomes):
    run = run_by_hand(outcomes)
    [row] = table(runs(section_of(run), RADII))
    assert numbers(row) == expected(run)
    assert float(row["clean"]) == pytest.approx(float(share(run, 0)))
    assert float(row["abstained"]) == pytest.approx(outcomes.count(ABSTAINED) / len(outcomes))
    assert (row["run"], row["method"], row["σ"], row["seed"]) == ("run", "Gaussian", "0.5", "0")
    assert float(row["samples per image"]) == 10_100


def test_figures_of_eight_images_by_hand():
    [row] = printed(runs(section_of(run_by_hand(GOOD)), RADII))
    assert [row[name] for name in NAMES] == ["75.0", "62.5", "50.0", "25.0", "12.5"]
    assert row["ACR"] == f"{3.25 / 8:.3f}"
    assert (row["clean"], row["abstained"], row["samples per image"]) == ("75.0", "12.5", "10,100")


def test_wrong_images_that_were_given_up_are_no_abstentions():
    rows = rows_of(GOOD)
    given_up = type(rows[0])(**{**vars(rows[2]), "predict": -1, "radius": 0.0, "stop": "wrong"})
    [row] = table(runs(section_of(run_by_hand([*rows[:2], given_up, *rows[3:]])), RADII))
    assert float(row["abstained"]) == pytest.approx(1 / 7)


def test_what_a_log_does_not_say_is_left_open():
    [row] = table(runs(section_of(log_by_hand(GOOD, "cohen")), RADII))
    assert numbers(row) == expected(log_by_hand(GOOD))
    assert (row["σ"], row["seed"], row["samples per image"]) == ("not recorded", "", "")


def seeds(outcomes, objective="gaussian", sigma=0.5, **values):
    return [
        run_by_hand(
            each, f"{objective}{sigma}{seed}", objective=objective, seed=seed, sigma=sigma, **values
        )
        for seed, each in enumerate(outcomes)
    ]


@given(st.lists(OUTCOMES, min_size=2, max_size=4))
@settings(max_examples=30)
def test_figures_of_a_method_are_means_and_scipys_standard_errors(outcomes):
    made = seeds(outcomes)
    [row] = table(methods(section_of(*made), RADII))
    figures = np.array([[*(float(share(run, r)) for r in RADII), acr(run)] for run in made])
    assert numbers(row) == pytest.approx(figures.mean(axis=0), abs=1e-9)
    errors = [f"{name} standard error" for name in (*NAMES, "ACR")]
    assert numbers(row, errors) == pytest.approx(sem(figures), abs=1e-9)
    assert (row["method"], row["σ"], float(row["seeds"])) == ("Gaussian", "0.5", len(made))


def test_one_training_has_no_standard_error():
    [row] = printed(methods(section_of(run_by_hand(GOOD)), RADII))
    assert not any("±" in cell for cell in row.values())
    assert row["seeds"] == "1"
    [row] = printed(methods(section_of(*seeds([GOOD, BAD])), RADII))
    assert row["0"] == "62.5 ± 12.5"  # 6 and 4 of 8 images
    assert row["seeds"] == "2"


def test_the_votes_are_read_under_cohens_bound_too():
    rows = [type(r)(**{**vars(r), "n_a": 6000 + 400 * k}) for k, r in enumerate(rows_of(GOOD))]
    run = run_by_hand(rows, certifier="TightCertifier")
    tight, cohen = table(methods(section_of(run), RADII))
    assert (tight["bound"], cohen["bound"]) == ("tight", "cohen")
    assert numbers(tight) == expected(run)
    lower = [
        binomtest(row.n_a, row.n_samples).proportion_ci(1 - 2 * 0.001, method="exact").low
        for row in rows
        if row.predict == row.label
    ]
    radii = 0.5 * norm.ppf(lower)
    shares = [(radii >= radius).sum() / 8 for radius in RADII]
    assert numbers(cohen) == pytest.approx([*shares, radii.sum() / 8])


@given(st.lists(OUTCOMES, min_size=3, max_size=3))
@settings(max_examples=30)
def test_the_envelope_is_the_largest_over_sigma(outcomes):
    sigmas = (0.25, 0.5, 1.0)
    made = [run_by_hand(o, f"{s}", sigma=s) for o, s in zip(outcomes, sigmas, strict=True)]
    [row] = table(envelope(section_of(*made), RADII))
    assert row["σ"] == "0.25, 0.5, 1"
    figures = np.array([[*(float(share(run, r)) for r in RADII), acr(run)] for run in made])
    assert numbers(row) == pytest.approx(figures.max(axis=0))
    for name, values in zip([*NAMES, "ACR"], figures.T, strict=True):
        if name == "ACR" or values.max() > 0:
            at = float(row[f"{name} note"].strip("()"))
            assert values[sigmas.index(at)] == pytest.approx(values.max())


def test_the_envelope_chooses_among_means_over_seeds():
    made = [*seeds([GOOD, BAD], sigma=0.25), *seeds([[0.5] * 8, [0.45] * 8], sigma=0.5)]
    [row] = printed(envelope(section_of(*made), [0.0, 0.5]))
    assert row["0"] == "100.0 ± 0.0 (0.5)"
    assert row["0.5"] == "50.0 ± 50.0 (0.5)"
    assert row["ACR"].endswith("(0.5)")


def test_a_method_at_one_sigma_does_not_repeat_it_in_each_cell():
    [row] = table(envelope(section_of(run_by_hand(GOOD)), RADII))
    assert not any("note" in name for name in row)


def bold(grid, column):
    return [row["method"] for row in printed(grid) if row[column].startswith("**")]


def test_the_best_are_bold_and_what_looks_the_same_is_marked_alike():
    made = [
        run_by_hand([0.5, 0.5, 0.3, WRONG], "a", objective="a"),
        run_by_hand([0.5, 0.5, WRONG, 0.3], "b", objective="b"),
        run_by_hand([0.8, 0.1, WRONG, WRONG], "c", objective="c"),
    ]
    section, radii = section_of(*made), [0.0, 0.25, 0.75, 1.0]
    for grid in (marked(envelope(section, radii)), marked(methods(section, radii))):
        assert bold(grid, "0") == ["a", "b"]
        assert bold(grid, "0.25") == ["a", "b"]
        assert bold(grid, "0.75") == ["c"]
        assert bold(grid, "1") == []  # nobody's
        assert bold(grid, "ACR") == ["a", "b"]


def test_methods_compete_at_their_own_sigma_and_under_their_own_bound():
    made = [
        run_by_hand([1.0] * 4, "a", objective="a", sigma=1.0),
        run_by_hand([0.3] * 4, "b", objective="b", sigma=0.25),
        run_by_hand([0.2] * 4, "c", objective="c", sigma=0.25),
        log_by_hand([1.2] * 4, "log/sigma_0.25"),
    ]
    section, radii = section_of(*made), [0.0, 0.25]
    best, by_sigma = marked(envelope(section, radii)), marked(methods(section, radii))
    assert bold(by_sigma, "ACR") == ["b"]
    assert bold(best, "ACR") == ["a"]


def test_one_method_alone_is_not_bold():
    for grid in tables_of(section_of(run_by_hand(GOOD)), RADII):
        assert "**" not in to_markdown(grid).replace(f"**{grid.title}**", "")


def by_image(run):
    return {row.idx: row.radius if row.predict == row.label else -1.0 for row in run.rows}


@given(OUTCOMES, OUTCOMES, st.permutations(range(6)))
@settings(max_examples=30)
def test_differences_are_paired_by_image_whatever_the_order_of_the_rows(first, second, order):
    base = run_by_hand(first, "base")
    rows = rows_of(second)
    other = run_by_hand([rows[k] for k in order], "other", objective="adre")
    [row] = table(differences(section_of(base, other), RADII))
    assert row["difference"] == "ADRE − Gaussian"
    one, two = by_image(base), by_image(other)
    gains = {r: [(two[i] >= r) - (one[i] >= r) for i in one] for r in RADII}
    assert numbers(row, NAMES) == pytest.approx([np.mean(gains[r]) for r in RADII], abs=1e-12)
    for name, radius in zip(NAMES, RADII, strict=True):
        up, down = (gains[radius].count(sign) + 0.5 for sign in (1, -1))
        center = (up - down) / 8
        reach = 1.959964 * np.sqrt(((up + down) / 8 - center**2) / 8)
        ends = numbers(row, (f"{name} lower", f"{name} upper"))
        assert ends == pytest.approx([max(-1, center - reach), min(1, center + reach)], abs=1e-6)
    radii = np.array([[max(one[i], 0.0), max(two[i], 0.0)] for i in one])
    assert float(row["ACR"]) == pytest.approx(acr(other) - acr(base), abs=1e-12)
    moved = radii[:, 1] - radii[:, 0]
    if np.ptp(moved) > 1e-9:
        interval = ttest_rel(radii[:, 1], radii[:, 0]).confidence_interval()
        ends = numbers(row, ("ACR lower", "ACR upper"))
        assert ends == pytest.approx([interval.low, interval.high], abs=1e-9)


def test_runs_are_paired_by_sigma_and_seed():
    made = [
        *seeds([[0.1] * 4, [0.2] * 4]),
        *seeds([[0.4] * 4, [0.7] * 4], "adre"),
        *seeds([[0.05] * 4], sigma=0.25),
        *seeds([[0.1] * 4], "adre", sigma=0.25),
        *seeds([[0.1] * 4], "adre", sigma=1.0),
    ]
    rows = table(differences(section_of(*made), [0.0]))
    found = {(row["σ"], row["seed"]): float(row["ACR"]) for row in rows}
    assert found == pytest.approx({("0.25", "0"): 0.05, ("0.5", "0"): 0.3, ("0.5", "1"): 0.5})


def test_the_baseline_is_gaussian_training_or_the_requested_one():
    made = [run_by_hand([0.5] * 4, name, objective=name) for name in ("adre", "gaussian", "macer")]
    section = section_of(*made)
    for asked, base in [(None, "Gaussian"), ("macer", "MACER"), ("ADRE", "ADRE")]:
        rows = table(differences(section, [0.0], asked))
        assert sorted(row["difference"] for row in rows) == sorted(
            f"{name} − {base}" for name in ("ADRE", "Gaussian", "MACER") if name != base
        )
    rows = table(differences(section_of(made[0], made[2]), [0.0]))
    assert [row["difference"] for row in rows] == ["MACER − ADRE"]


def test_a_log_is_compared_with_our_run_on_the_same_images():
    ours, theirs = run_by_hand([0.1, 0.2, WRONG, 0.4]), log_by_hand(rows_of([0.2, 0.3, 0.1, 0.5]))
    [row] = table(differences(section_of(ours, theirs), [0.0]))
    assert (row["difference"], row["0"]) == ("cohen − Gaussian", "0.25")
    assert float(row["ACR"]) == pytest.approx(0.1)


def test_only_intervals_above_0_are_bold():
    better = [run_by_hand([0.3] * 30, "a"), run_by_hand([0.6] * 30, "b", objective="adre")]
    [up] = printed(differences(section_of(*better), [0.0, 0.5]))
    [down] = printed(differences(section_of(*better), [0.0, 0.5], "adre"))
    assert up["0.5"].startswith("**+100.0")
    assert down["0.5"].startswith("−100.0")
    assert not up["0"].startswith("**")


def test_one_image_has_no_interval_of_acr():
    made = run_by_hand([0.5], "a"), run_by_hand([0.25], "b", objective="adre")
    [row] = printed(differences(section_of(*made), [0.0]))
    assert row["ACR"] == "–"


def test_runs_that_have_no_partner_make_no_table_of_differences():
    alone = section_of(run_by_hand(GOOD))
    # With one sigma the envelope would be the table of methods.
    assert [grid.name for grid in tables_of(alone, RADII)] == ["methods", "runs"]
    both = section_of(run_by_hand(GOOD, "a"), run_by_hand(BAD, "b", objective="adre"))
    names = [grid.name for grid in tables_of(both, RADII)]
    assert names == ["methods", "differences", "runs"]


@pytest.mark.parametrize(
    ("sigma", "largest", "radii"),
    [
        (0.25, 0.6, [0, 0.25, 0.5]),
        (0.5, 1.25, [0, 0.25, 0.5, 0.75, 1, 1.25]),
        (0.12, 0.11, [0, 0.05, 0.1]),
        (0.5, 0.0, [0]),
    ],
)
def test_radii_go_as_far_as_an_image_that_is_right(sigma, largest, radii):
    assert radii_of(section_of(run_by_hand([largest, WRONG], sigma=sigma))) == pytest.approx(radii)


def test_notes_of_the_section_stand_below_every_table():
    section = section_of(run_by_hand(GOOD), log_by_hand(GOOD))
    [note] = section.notes
    for grid in tables_of(section, RADII):
        assert note in grid.notes
        assert section.title in grid.title


def test_tables_do_not_depend_on_the_order_of_the_paths(tmp_path):
    made = [*seeds([GOOD, BAD]), *seeds([BAD], "adre")]
    paths = [write_run(tmp_path / run.name, run) for run in made]
    paths.append(write_log(tmp_path / "cohen" / "sigma_0.5", rows_of(GOOD)))
    texts = set()
    for order in itertools.permutations(paths):
        [section] = sections_of(read_runs(order).runs, ["objective", "attack"])
        grids = tables_of(section, radii_of(section))
        texts.add("".join(form(grid) for grid in grids for form in (to_markdown, to_csv, to_latex)))
    assert len(texts) == 1


# What does not hold yet.


def test_every_run_of_a_section_is_counted_in_the_tables_of_methods():
    """A published log has the name of a method of the run folders."""
    for name in ("gaussian/sigma_0.5", "gaussian/sigma_0.25"):
        section = section_of(run_by_hand(GOOD, "ours"), log_by_hand(GOOD, name))
        assert sum(float(row["seeds"]) for row in table(methods(section, RADII))) == 2
        bounds = [row["bound"] for row in table(envelope(section, RADII))]
        assert sorted(bounds) == ["as logged", "cohen"]


def test_gaussian_training_is_the_baseline_though_settings_tell_it_apart():
    made = [
        run_by_hand(GOOD, f"{name}{width}", objective=name, training={"width": width})
        for name in ("adre", "gaussian")
        for width in (16, 32)
    ]
    rows = table(differences(section_of(*made), RADII))
    assert {re.sub(r".* − ", "", row["difference"])[:8] for row in rows} == {"Gaussian"}


def test_a_baseline_that_is_not_there_is_not_replaced_without_a_word():
    made = [run_by_hand(GOOD, name, objective=name) for name in ("adre", "gaussian")]
    said = ""
    try:
        said = " ".join(differences(section_of(*made), RADII, "gausian").notes)
    except SmoothCertError as refusal:
        said = str(refusal)
    assert "gausian" in said


def test_logs_that_do_not_say_their_sigma_are_shown_as_far_as_they_reach():
    assert max(radii_of(section_of(log_by_hand([2.6, 1.3], "salman")))) >= 2.5


def test_what_bold_means_stands_below_the_differences():
    made = run_by_hand(GOOD, "a"), run_by_hand(BAD, "b", objective="adre")
    assert "bold" in " ".join(differences(section_of(*made), RADII).notes).lower()


def test_another_seed_of_the_baseline_is_named():
    """The row says seed 3, and its baseline was trained with seed 0."""
    made = run_by_hand(GOOD, "a", seed=0), run_by_hand(BAD, "b", seed=3, objective="adre")
    grid = differences(section_of(*made), RADII)
    if grid.rows:
        cells = [str(cell.value) for cell in grid.rows[0].cells]
        assert re.search(r"seed|0 and 3|3 and 0|3 − 0", " ".join([*grid.notes, *cells]))


def test_seeds_are_counted_as_whole_numbers():
    [row] = table(methods(section_of(*seeds([GOOD, BAD])), RADII))
    assert row["seeds"] == "2"


def test_a_radius_in_other_units_makes_no_thousand_columns():
    radii = radii_of(section_of(log_by_hand([1e5, 0.5], "pixels/sigma_0.5")))
    assert 10 <= len(radii) <= 21
    assert max(radii) <= 1e5
