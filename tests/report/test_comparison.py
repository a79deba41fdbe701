"""Many runs in one table, against NumPy and the statistics module on summaries by hand."""

import statistics

import numpy as np
import pytest
import scipy.stats
from markdown_it import MarkdownIt
from summaries import summary, written

from smoothcert.errors import RecordsError
from smoothcert.report.comparison import (
    NEEDED,
    comparison_markdown,
    conditions,
    grouped,
    read_summaries,
)

RADII = (0.0, 0.25, 0.5)


def rows(summaries, radii=RADII):
    """Read the table back as one mapping of column to cell for each line."""
    lines = comparison_markdown(grouped(summaries), radii).splitlines()
    table = [[cell.strip() for cell in li.strip("|").split("|")] for li in lines if li[:1] == "|"]
    assert set(table[1]) == {"---"}
    return [dict(zip(table[0], cells, strict=True)) for cells in table[2:]]


ACRS, CLEAN = (0.31, 0.352, 0.294, 0.41), (0.75, 0.71, 0.8125, 0.66)
SECONDS = (90.0, 61.5, 720.25, 100.0)


def four_seeds():
    every = zip(ACRS, CLEAN, SECONDS, strict=True)
    return [
        summary(seed=seed, acr=acr, clean=clean, seconds_training=seconds)
        for seed, (acr, clean, seconds) in enumerate(every)
    ]


def spread(values, digits):
    return f"{np.mean(values):.{digits}f} ± {scipy.stats.sem(values):.{digits}f}"


def test_figures_are_means_and_standard_errors_over_seeds():
    first, second = rows(four_seeds())
    assert (first["bound"], second["bound"]) == ("tight", "cohen")
    assert first["ACR"] == spread(ACRS, 3)
    assert second["ACR"] == spread(np.array(ACRS) - 0.1, 3)
    percent = 100 * np.array(CLEAN)
    for row, share in ((first, 1), (second, 0.5)):
        assert row["clean"] == spread(percent, 1)
        assert row["0"] == spread(percent * share, 1)
        assert row["0.25"] == spread(percent * share / 2, 1)
        assert row["0.5"] == spread(percent * share / 4, 1)
        assert row["training, minutes"] == spread(np.array(SECONDS) / 60, 1)
        assert (row["seeds"], row["epochs"]) == ("0, 1, 2, 3", "20")


def test_the_error_is_that_of_a_mean_over_a_sample():
    [row, _] = rows([summary(acr=0.3), summary(seed=1, acr=0.4)])
    assert row["ACR"] == f"0.350 ± {statistics.stdev([0.3, 0.4]) / 2**0.5:.3f}"


def test_one_seed_has_no_deviation():
    for row in rows([summary()]):
        assert not any("±" in cell for cell in row.values())
    assert [row["ACR"] for row in rows([summary()])] == ["0.300", "0.200"]


def test_the_order_of_the_runs_makes_no_difference():
    assert rows(four_seeds()[::-1]) == rows(four_seeds())


def test_runs_stand_by_sigma_and_then_by_name():
    mixed = [("b", 0.5), ("a", 1.0), ("b", 0.25), ("a", 0.25), ("c", 0.12), ("a", 0.5)]
    table = rows([summary(name, sigma=sigma) for name, sigma in mixed])[::2]
    expected = [("c", 0.12), ("a", 0.25), ("b", 0.25), ("a", 0.5), ("b", 0.5), ("a", 1.0)]
    assert [(row["experiment"], float(row["σ"])) for row in table] == [
        (f"`{name}`", sigma) for name, sigma in expected
    ]


def test_a_seed_counts_at_its_own_sigma_and_its_own_method_only():
    table = rows([summary(), summary(sigma=0.5), summary("other"), summary(seed=3)])[::2]
    assert [(row["experiment"], row["seeds"]) for row in table] == [
        ("`cifar_reg`", "0, 3"),
        ("`other`", "0"),
        ("`cifar_reg`", "0"),
    ]


def test_seeds_are_sorted_as_numbers():
    assert rows([summary(seed=seed) for seed in (10, 9, 2)])[0]["seeds"] == "2, 9, 10"


def trained(**settings):
    return {"training": {"seed": 3, "data": {"seed": 3, "batch_size": 64}, **settings}}


def test_trainings_of_one_method_differ_by_their_seeds_alone():
    first, second = summary(**trained()), summary(seed=1, **trained(seed=7))
    second["training"]["data"] = {"seed": 7, "batch_size": 64}
    [group] = grouped([first, second])
    assert group.seeds == [0, 1]


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
    first = {**summary(**trained()), "training_seed": 0}
    with pytest.raises(RecordsError, match=said):
        grouped([first, {**summary(seed=1, **trained()), **other}])


def test_a_radius_beyond_all_that_were_recorded_has_no_figure():
    [first, _] = rows([summary()], radii=(0.5, 4.0))
    assert first["4"] == "–"


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("n", 100_000),
        ("n0", 10),
        ("alpha", 0.01),
        ("data", "cifar10"),
        ("split", "val"),
        ("images", 10_000),
        ("precision", "bfloat16"),
    ],
)
@pytest.mark.parametrize("same_method", [True, False])
def test_runs_that_were_certified_otherwise_are_refused(field, other, same_method):
    theirs = summary("cifar_reg" if same_method else "other", seed=1, **{field: other})
    with pytest.raises(RecordsError, match=f"certified alike, got {field} .*{other}"):
        grouped([summary(), theirs])


def test_two_runs_of_one_seed_are_refused_with_both_folders():
    twice = [summary(folder="runs/a"), summary(seed=1), summary(folder="runs/b")]
    with pytest.raises(RecordsError, match=r"cifar_reg at sigma=0\.25.*runs/a.*runs/b"):
        grouped(twice)


def test_what_the_runs_share_stands_below_the_table():
    text = conditions(grouped([summary(), summary("other", model="resnet20")]))
    assert text.startswith("digits; resnet20, small_cnn, trained on 45,000 images; ")
    assert "500 test images certified at n0 = 100, n = 10,000, α = 0.001 in float32" in text
    assert text.endswith(".")
    assert conditions(grouped([summary()]), "CIFAR-10 (JPEG)").startswith("CIFAR-10 (JPEG); ")


def test_the_table_is_markdown_of_one_width_and_ends_with_a_line():
    text = comparison_markdown(grouped(four_seeds()), RADII, "Digits")
    table, below = text.split("\n\n")
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert below.startswith("Digits; ")
    assert text.endswith(".\n")


def test_summaries_are_read_with_their_folders(tmp_path):
    folders = [written(tmp_path / str(seed), summary(seed=seed)) for seed in (0, 1)]
    read = read_summaries(folders)
    assert [(each["training_seed"], each["folder"]) for each in read] == [
        (seed, str(folder)) for seed, folder in enumerate(folders)
    ]


def test_a_folder_without_a_summary_is_named(tmp_path):
    with pytest.raises(RecordsError, match=rf"finished run in {tmp_path}"):
        read_summaries([tmp_path])


@pytest.mark.parametrize("text", ["", "{", '{"name": "cifar_reg"', "\x00"])
def test_a_damaged_summary_is_named(tmp_path, text):
    with pytest.raises(RecordsError, match=f"finished run in {tmp_path}/run"):
        read_summaries([written(tmp_path / "run", text)])


@pytest.mark.parametrize("field", NEEDED)
def test_a_summary_of_an_old_version_is_named_with_what_it_lacks(tmp_path, field):
    old = summary()
    del old[field]
    with pytest.raises(RecordsError, match=f"{tmp_path}/run/summary.json lacks {field};"):
        read_summaries([written(tmp_path / "run", old)])


# What does not hold yet; each fails for the reason given.


@pytest.mark.parametrize("field", ["epochs", "seconds_training", "model"])
def test_every_figure_that_the_table_shows_is_asked_of_a_summary(tmp_path, field):
    """A certified run that never wrote its own summary lacks what training tells."""
    old = summary()
    del old[field]
    folder = written(tmp_path / "run", old)
    with pytest.raises(RecordsError, match=field):
        comparison_markdown(grouped(read_summaries([folder])), RADII)


@pytest.mark.parametrize("text", ["3", "null"])
def test_a_summary_that_is_no_mapping_is_named(tmp_path, text):
    with pytest.raises(RecordsError, match="summary"):
        read_summaries([written(tmp_path / "run", text)])


def test_seeds_that_were_certified_under_other_bounds_are_refused():
    other = summary(seed=1)
    del other["bounds"]["tight"]
    with pytest.raises(RecordsError, match=r"same bounds, got .*tight, cohen"):
        comparison_markdown(grouped([summary(), other]), RADII)


def test_a_radius_that_was_not_recorded_is_not_shown_as_0():
    """Recorded at 0.1 and 0.5: what holds at 0.5 holds at 0.25, and cannot be none."""
    shares = {"0.1": 0.9, "0.5": 0.5}
    recorded = summary(bounds={"tight": {"acr": 0.4, "certified_accuracy": shares}})
    [row] = rows([recorded])
    assert row["0.5"] == "50.0"
    assert row["0.25"] != "0.0"
    assert row["0"] != "0.0"


def test_runs_that_were_certified_under_other_noise_are_refused():
    with pytest.raises(RecordsError):
        grouped([summary(noise="gaussian"), summary(seed=1, noise="discrete")])


def test_runs_that_were_certified_on_other_images_are_refused():
    every = [{"examples": digest} for digest in ("every fifth", "the first")]
    with pytest.raises(RecordsError, match="got images every fifth, the first"):
        grouped([summary(seed=s, certifier_settings=each) for s, each in enumerate(every)])


def test_runs_whose_certifiers_had_other_settings_are_refused():
    every = [{"examples": "all", "split": split} for split in ("selection", "paper")]
    with pytest.raises(RecordsError, match="split of the certifier paper, selection"):
        grouped([summary(seed=s, certifier_settings=each) for s, each in enumerate(every)])


@pytest.mark.parametrize("sigmas", [(0.25, 0.5), (0.25, 0.25)])
def test_the_grid_of_radii_may_differ_between_sigmas_only(sigmas):
    every = [
        summary(seed=s, sigma=sigma, certifier_settings={"examples": "all", "radii": [0.0, s]})
        for s, sigma in enumerate(sigmas)
    ]
    if len(set(sigmas)) == 2:
        assert len(grouped(every)) == 2
    else:
        with pytest.raises(RecordsError, match="radii of the certifier"):
            grouped(every)


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "a` | b <b>c", "a\n\n# b", "[a](javascript:b)", "cifar_fast a_b"],
)
def test_texts_of_summaries_are_shown_as_they_are(text):
    plain = summary()
    bounds = {text: plain["bounds"]["tight"], "cohen": plain["bounds"]["cohen"]}
    facts = dict.fromkeys(("data", "model", "split", "precision"), text)
    made = summary(name=text, bounds=bounds, epochs=text, training_seed=text, **facts)
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = reader.parse(comparison_markdown(grouped([made]), RADII))
    parts = [part for token in tokens if token.type == "inline" for part in token.children]
    assert {token.type for token in tokens} & {"html_block", "heading_open"} == set()
    assert {part.type for part in parts} <= {"text", "code_inline"}
    said = ["".join(part.content for part in t.children) for t in tokens if t.type == "inline"]
    shown = " ".join(text.splitlines())
    # Of two rows: names, seeds and epochs; and the one bound of that name.
    assert said.count(shown) == 7
