"""A table of experiments, against NumPy and the statistics module on runs by hand."""

import statistics

import numpy as np
import pytest
import scipy.stats
from markdown_it import MarkdownIt

from smoothcert.errors import RecordsError
from smoothcert.report.grids import to_markdown
from smoothcert.report.grouping import check_experiment, experiments_of
from smoothcert.report.load import read_runs
from smoothcert.report.tables import experiments
from tests.helpers.runs_by_hand import ABSTAINED, WRONG, experiment_by_hand, write_run

RADII = (0.0, 0.25, 0.5)
NEEDED = (
    *("name", "model", "training_seed", "epochs", "training_images", "seconds_training"),
    "certified_accuracy",
)


def rows(runs, radii=RADII):
    """Read the table back as one mapping of column to cell for each line."""
    grid = experiments(experiments_of(runs), radii, "")
    lines = to_markdown(grid).splitlines()
    table = [[cell.strip() for cell in li.strip("|").split("|")] for li in lines if li[:1] == "|"]
    assert set(table[1]) == {"---"}
    return [dict(zip(table[0], cells, strict=True)) for cells in table[2:]]


OUTCOMES = (
    (0.31, 0.52, WRONG, 0.2, 0.7),
    (0.352, WRONG, WRONG, 0.28, 0.6),
    (0.294, 0.5, ABSTAINED, 0.25, 0.55),
    (0.41, WRONG, 0.35, WRONG, ABSTAINED),
)
SECONDS = (90.0, 61.5, 720.25, 100.0)


def four_seeds():
    every = zip(OUTCOMES, SECONDS, strict=True)
    return [
        experiment_by_hand(seed=seed, outcomes=outcomes, seconds_training=seconds)
        for seed, (outcomes, seconds) in enumerate(every)
    ]


def spread(values, digits):
    return f"{np.mean(values):.{digits}f} ± {scipy.stats.sem(values):.{digits}f}"


def test_figures_are_means_and_standard_errors_over_seeds():
    runs = four_seeds()
    first, second = rows(runs)
    assert (first["bound"], second["bound"]) == ("tight", "cohen")
    clean = [100 * np.mean([bool(row.correct) for row in run.rows]) for run in runs]
    for place, row in enumerate((first, second)):
        readings = [run.bounds[place] for run in runs]
        counted = [np.where(each.correct, each.radius, 0) for each in readings]
        assert row["ACR"] == spread([each.mean() for each in counted], 3)
        for radius in (0.25, 0.5):
            shares = [100 * np.mean(each >= radius) for each in counted]
            assert row[f"{radius:g}"] == spread(shares, 1)
        assert row["clean"] == spread(clean, 1)
        assert row["training, minutes"] == spread(np.array(SECONDS) / 60, 1)
        assert (row["seeds"], row["epochs"]) == ("0, 1, 2, 3", "20")
    assert first["0"] == spread(clean, 1)
    assert first["ACR"] != second["ACR"]


def test_the_error_is_that_of_a_mean_over_a_sample():
    pair = [experiment_by_hand(seed=seed, outcomes=[each]) for seed, each in enumerate((0.3, 0.4))]
    [row, _] = rows(pair)
    assert row["ACR"] == f"0.350 ± {statistics.stdev([0.3, 0.4]) / 2**0.5:.3f}"


def test_one_seed_has_no_deviation():
    shown = rows([experiment_by_hand(outcomes=[0.3])])
    for row in shown:
        assert not any("±" in cell for cell in row.values())
    assert shown[0]["ACR"] == "0.300"


def test_the_order_of_the_runs_makes_no_difference():
    assert rows(four_seeds()[::-1]) == rows(four_seeds())


def test_runs_stand_by_sigma_and_then_by_name():
    mixed = [("b", 0.5), ("a", 1.0), ("b", 0.25), ("a", 0.25), ("c", 0.12), ("a", 0.5)]
    table = rows([experiment_by_hand(name, sigma=sigma) for name, sigma in mixed])[::2]
    expected = [("c", 0.12), ("a", 0.25), ("b", 0.25), ("a", 0.5), ("b", 0.5), ("a", 1.0)]
    assert [(row["experiment"], float(row["σ"])) for row in table] == [
        (f"`{name}`", sigma) for name, sigma in expected
    ]


def test_a_seed_counts_at_its_own_sigma_and_its_own_method_only():
    table = rows(
        [
            experiment_by_hand(),
            experiment_by_hand(sigma=0.5),
            experiment_by_hand("other"),
            experiment_by_hand(seed=3),
        ]
    )[::2]
    assert [(row["experiment"], row["seeds"]) for row in table] == [
        ("`cifar_reg`", "0, 3"),
        ("`other`", "0"),
        ("`cifar_reg`", "0"),
    ]


def test_seeds_are_sorted_as_numbers():
    assert rows([experiment_by_hand(seed=seed) for seed in (10, 9, 2)])[0]["seeds"] == "2, 9, 10"


def trained(**settings):
    return {"training": {"seed": 3, "data": {"seed": 3, "batch_size": 64}, **settings}}


def test_trainings_of_one_method_differ_by_their_seeds_alone():
    other = trained(seed=7, data={"seed": 7, "batch_size": 64})
    pair = [experiment_by_hand(**trained()), experiment_by_hand(seed=1, **other)]
    [group] = experiments_of(pair)
    assert [run.seed for run in group.runs] == [0, 1]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"epochs": 5}, "epochs 20 and 5"),
        ({"model": "resnet110"}, "model small_cnn and resnet110"),
        (trained(optimizer={"lr": 0.5}), r"optimizer\.lr None and 0\.5"),
        (trained(data={"batch_size": 32}), r"data\.batch_size 64 and 32"),
    ],
)
def test_other_trainings_are_not_averaged(other, said):
    first = experiment_by_hand(**trained())
    with pytest.raises(RecordsError, match=said):
        experiments_of([first, experiment_by_hand(seed=1, **{**trained(), **other})])


def test_a_radius_that_was_not_recorded_has_no_figure():
    recorded = {"0.1": 0.9, "0.4": 0.5}
    [first, _] = rows([experiment_by_hand(certified_accuracy=recorded)], radii=(0.25, 0.4, 4.0))
    assert (first["0.25"], first["0.4"], first["4"]) == ("–", "33.3", "–")


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("n", 100_000),
        ("n0", 10),
        ("alpha", 0.01),
        ("data", "cifar10"),
        ("split", "val"),
        ("precision", "bfloat16"),
        ("noise", "discrete"),
        ("certifier", "CohenCertifier"),
        ("examples", "the first"),
        ("alpha_split", "paper"),
    ],
)
@pytest.mark.parametrize("same_method", [True, False])
def test_runs_that_were_certified_differently_are_refused(field, other, same_method):
    second = experiment_by_hand("cifar_reg" if same_method else "other", seed=1, **{field: other})
    with pytest.raises(RecordsError, match=f"certification settings, got {field} .*{other}"):
        experiments_of([experiment_by_hand(), second])


def test_runs_that_were_certified_on_other_images_are_refused():
    fewer = experiment_by_hand(seed=1, outcomes=[0.3, 0.4])
    with pytest.raises(RecordsError, match=r"certification settings, got images 2 \(.*\), 3 \("):
        experiments_of([experiment_by_hand(), fewer])


@pytest.mark.parametrize("sigmas", [(0.25, 0.5), (0.25, 0.25)])
def test_the_grid_of_radii_may_differ_between_sigmas_only(sigmas):
    every = [
        experiment_by_hand(seed=seed, sigma=sigma, radii=[0.0, seed])
        for seed, sigma in enumerate(sigmas)
    ]
    if len(set(sigmas)) == 2:
        assert len(experiments_of(every)) == 2
    else:
        with pytest.raises(RecordsError, match="certification settings, got radii"):
            experiments_of(every)


def test_two_runs_of_one_seed_are_refused_with_both_folders(tmp_path):
    outcomes = {"a": (0, [0.3]), "b": (1, [0.3]), "c": (0, [0.4])}
    folders = [
        write_run(tmp_path / name, experiment_by_hand(seed=seed, outcomes=each))
        for name, (seed, each) in outcomes.items()
    ]
    said = rf"cifar_reg at sigma=0\.25, got seeds 0, 1, 0.*{tmp_path}/a.*{tmp_path}/c"
    with pytest.raises(RecordsError, match=said):
        experiments_of(read_runs(folders).runs)


def conditions(runs, data=""):
    return experiments(experiments_of(runs), RADII, "", data).notes[0]


def test_what_the_runs_share_stands_below_the_table():
    text = conditions([experiment_by_hand(), experiment_by_hand("other", model="resnet20")])
    assert text.startswith("digits; resnet20, small_cnn, trained on 45,000 images; ")
    assert "3 test images certified at n0 = 100, n = 10,000, α = 0.001 in float32" in text
    assert text.endswith(".")
    assert conditions([experiment_by_hand()], "CIFAR-10 (JPEG)").startswith("CIFAR-10 (JPEG); ")


def test_the_table_is_markdown_of_one_width_and_ends_with_a_line():
    text = to_markdown(experiments(experiments_of(four_seeds()), RADII, "", "Digits"))
    table, below = text.split("\n\n")
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert below.startswith("Digits; ")
    assert text.endswith(".\n")


@pytest.mark.parametrize("field", NEEDED)
def test_a_summary_of_an_old_version_is_named_with_what_it_lacks(tmp_path, field):
    old = experiment_by_hand()
    del old.summary[field]
    [read] = read_runs([write_run(tmp_path / "run", old)]).runs
    with pytest.raises(RecordsError, match=f"{tmp_path}/run/summary.json lacks {field};"):
        check_experiment(read)


@pytest.mark.parametrize(
    "damage",
    [
        {"certified_accuracy": 3},
        {"seconds_training": "x"},
        {"training_images": None},
        {"seconds_training": float("nan")},
    ],
)
def test_a_value_that_the_table_cannot_show_is_named(damage):
    with pytest.raises(RecordsError, match=r"summary\.json is damaged: expected"):
        check_experiment(experiment_by_hand(**damage))


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "a` | b <b>c", "a\n\n# b", "[a](javascript:b)", "cifar_fast a_b"],
)
def test_texts_of_summaries_are_shown_as_they_are(text):
    facts = dict.fromkeys(("data", "split", "precision"), text)
    made = experiment_by_hand(text, model=text, epochs=text, training_seed=text, **facts)
    grid = experiments(experiments_of([made]), RADII, "")
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(to_markdown(grid))
    parts = [part for token in tokens if token.type == "inline" for part in token.children]
    assert {token.type for token in tokens} & {"html_block", "heading_open"} == set()
    assert {part.type for part in parts} <= {"text", "text_special", "code_inline"}
    said = ["".join(part.content for part in t.children) for t in tokens if t.type == "inline"]
    shown = " ".join(text.splitlines())
    # Of two rows: names, seeds and epochs.
    assert said.count(shown) == 6
    assert said[-1].count(shown) == 4
