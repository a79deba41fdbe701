"""Which runs stand in one table, under which name, and what is said of them."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import sem

from smoothcert.report.grouping import Estimate, method_of, sections_of, settings_apart
from tests.helpers.runs_by_hand import ABSTAINED, WRONG, log_by_hand, rows_of, run_by_hand

KEYS = ("objective", "attack")
OUTCOMES = [0.25, WRONG, ABSTAINED, 0.75]
OTHERWISE = {
    "data": "cifar10",
    "split": "val",
    "n0": 10,
    "n": 100_000,
    "alpha": 0.01,
    "certifier": "TightCertifier",
    "precision": "bfloat16",
    "noise": "discrete",
    "target": "label",
    "examples": "other pixels",
}


def sections(*runs):
    return sections_of(sorted(runs, key=lambda run: run.name), KEYS)


def members(section):
    return sorted(run.name for run in section.runs)


def groups(section):
    return {(group.method, group.sigma): len(group.runs) for group in section.groups}


def said(section):
    return " ".join([section.title, *section.notes])


@pytest.mark.parametrize("name", OTHERWISE)
def test_runs_that_were_certified_otherwise_stand_apart(name):
    one = run_by_hand(OUTCOMES, "a")
    other = run_by_hand(OUTCOMES, "b", objective="adre", **{name: OTHERWISE[name]})
    assert [members(each) for each in sections(one, other)] == [["a"], ["b"]]


def test_runs_on_other_images_stand_apart():
    rows = rows_of(OUTCOMES)
    first = rows[0]
    others = [
        rows[:3],
        rows_of([*OUTCOMES, 0.5]),
        [type(first)(**{**vars(first), "idx": 1000}), *rows[1:]],
        [type(first)(**{**vars(first), "label": 1, "correct": 0}), *rows[1:]],
    ]
    made = [run_by_hand(each, str(place)) for place, each in enumerate([rows, *others])]
    assert sorted(members(each) for each in sections(*made)) == [[str(k)] for k in range(5)]


@given(
    st.lists(
        st.dictionaries(st.sampled_from(sorted(OTHERWISE)), st.booleans(), max_size=2),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=40)
def test_every_run_is_in_one_section_with_comparable_runs_only(chosen):
    changes = [{key: OTHERWISE[key] for key in each if each[key]} for each in chosen]
    made = [
        run_by_hand(OUTCOMES, str(k), objective=f"method {k}", **each)
        for k, each in enumerate(changes)
    ]
    found = [{int(name) for name in members(each)} for each in sections(*made)]
    assert sorted(k for part in found for k in part) == list(range(len(made)))
    for k, j in itertools.combinations(range(len(made)), 2):
        together = any({k, j} <= part for part in found)
        assert together == (changes[k] == changes[j])


def test_sigma_seed_and_method_do_not_keep_runs_apart():
    [section] = sections(
        run_by_hand(OUTCOMES, "a"),
        run_by_hand(OUTCOMES[::-1], "b", sigma=0.25),
        run_by_hand(OUTCOMES, "c", seed=1),
        run_by_hand(OUTCOMES, "d", objective="adre", attack="pgd"),
    )
    assert groups(section) == {
        ("ADREADV", 0.5): 1,
        ("Gaussian", 0.25): 1,
        ("Gaussian", 0.5): 2,
    }
    assert not section.notes


def test_rows_in_another_order_are_the_same_images():
    rows = rows_of(OUTCOMES)
    assert len(sections(run_by_hand(rows, "a"), run_by_hand(rows[::-1], "b", seed=1))) == 1


def test_the_largest_part_comes_first():
    small = [run_by_hand(OUTCOMES, "a", n=1000)]
    large = [run_by_hand(OUTCOMES, f"b{seed}", seed=seed) for seed in range(3)]
    assert [len(each.runs) for each in sections(*small, *large)] == [3, 1]


def test_the_title_says_under_which_conditions():
    [section] = sections(run_by_hand(OUTCOMES, alpha=0.005, n=20_000, n0=64, split="val"))
    for part in ("digits", "4 val images", "cohen", "64", "20,000", "0.005", "float32"):
        assert part in section.title
    for change, words in [({"noise": "discrete"}, "discrete"), ({"target": "label"}, "label")]:
        [other] = sections(run_by_hand(OUTCOMES, **change))
        assert words in other.title
        assert words not in section.title


def test_a_log_on_the_same_images_joins_with_a_warning():
    ours, theirs = run_by_hand(OUTCOMES, "ours"), log_by_hand(OUTCOMES[::-1], "cohen/sigma_0.5")
    [section] = sections(ours, theirs)
    assert members(section) == ["cohen/sigma_0.5", "ours"]
    [note] = section.notes
    assert note.startswith("cohen/sigma_0.5: logged by other code")
    assert "not recorded" in note


def test_a_log_joins_every_part_on_its_images():
    log = log_by_hand(OUTCOMES)
    found = sections(
        run_by_hand(OUTCOMES, "a"), run_by_hand(OUTCOMES, "b", n=500), log, run_by_hand([0.5], "c")
    )
    assert sorted(members(each) for each in found) == [["a", log.name], ["b", log.name], ["c"]]
    assert [log.name in said(each) for each in found] == [True, True, False]


def test_a_log_on_other_images_or_labels_stands_alone_and_says_what_is_not_known():
    rows = rows_of(OUTCOMES)
    relabeled = [type(row)(**{**vars(row), "label": 9 - row.label}) for row in rows]
    for other in (rows[:3], relabeled):
        found = sections(run_by_hand(rows, "ours"), log_by_hand(other, "theirs/sigma_0.5"))
        assert sorted(members(each) for each in found) == [["ours"], ["theirs/sigma_0.5"]]
        [alone] = [each for each in found if members(each) != ["ours"]]
        assert "not recorded" in said(alone)


def test_logs_on_the_same_images_stand_together():
    logs = [log_by_hand(OUTCOMES, f"{name}/sigma_0.5") for name in ("cohen", "macer")]
    found = sections(*logs, log_by_hand([0.5], "z/sigma_1"))
    assert [members(each) for each in found] == [
        ["cohen/sigma_0.5", "macer/sigma_0.5"],
        ["z/sigma_1"],
    ]
    assert set(found[0].methods) == {"cohen", "macer"}


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("cohen/sigma_0.25", "cohen"),
        ("macer_sigma_0.50", "macer"),
        ("noise_0.25/smoothadv", "smoothadv"),
        ("noise_0.25/a/sigma_0.5", "a (trained at σ = 0.25, certified at 0.5)"),
        ("macer/sigma_0.25.tsv", "macer"),
        ("salman", "salman"),
    ],
)
def test_a_log_is_named_after_its_path_without_its_sigma(name, method):
    assert method_of(log_by_hand([0.5], name), KEYS) == method


def test_a_run_is_named_after_what_makes_it_a_method():
    training = {"objective": {"weight": 0.30000000000000004}}
    run = run_by_hand([0.5], "folder", objective="adre", attack="pgd", training=training)
    assert method_of(run, KEYS) == "ADREADV"
    assert method_of(run, ["objective", "objective.weight"]) == "adre + 0.3"
    assert method_of(run, ["attack"]) == "pgd"
    assert method_of(run_by_hand([0.5], "folder"), ["attack", "nothing"]) == "folder"


def trained(name, seed=0, sigma=0.5, **weights):
    return run_by_hand(
        OUTCOMES, name, seed=seed, sigma=sigma,
        training={"objective": weights, "sigma": sigma, "seed": seed, "data": {"seed": seed}},
    )  # fmt: skip


def test_runs_of_one_seed_are_told_apart_by_the_settings_in_which_they_differ():
    [section] = sections(
        *(trained(f"{w}{seed}", seed, weight=w, draws=2) for w in (0.1, 0.3) for seed in (0, 1)),
    )
    assert groups(section) == {
        ("Gaussian, objective.weight=0.1", 0.5): 2,
        ("Gaussian, objective.weight=0.3", 0.5): 2,
    }
    assert not section.notes


def test_seeds_and_sigmas_alone_make_no_other_method():
    [section] = sections(
        *(trained(f"{sigma}{k}", k, sigma, weight=1) for sigma in (0.25, 1.0) for k in range(3))
    )
    assert groups(section) == {("Gaussian", 0.25): 3, ("Gaussian", 1.0): 3}


def test_a_setting_that_only_one_run_has_tells_it_apart():
    [section] = sections(trained("a", weight=0.1), trained("b", weight=0.1, floor=0.05))
    assert groups(section) == {("Gaussian", 0.5): 1, ("Gaussian, objective.floor=0.05", 0.5): 1}


def test_runs_of_one_seed_that_nothing_tells_apart_are_not_averaged():
    [section] = sections(run_by_hand(OUTCOMES, "a"), run_by_hand(OUTCOMES, "b"))
    assert groups(section) == {("Gaussian, a", 0.5): 1, ("Gaussian, b", 0.5): 1}


def test_settings_apart_have_a_value_a_run():
    runs = [trained("a", weight=0.1, draws=2), trained("b", 1, draws=2), trained("c", 2, weight=1)]
    summaries = [run.summary for run in runs]
    assert settings_apart(summaries) == {
        "objective.weight": [0.1, None, 1],
        "objective.draws": [2, 2, None],
    }
    assert settings_apart(summaries[:1]) == {}


def test_bounds_on_a_grid_are_called_so():
    run = run_by_hand(
        OUTCOMES, certifier="SequentialCertifier", summary={"radius_is_lower_bound": True}
    )
    [section] = sections(run)
    assert "lower bounds" in said(section)
    assert "lower bounds" not in said(sections(run_by_hand(OUTCOMES))[0])


@given(st.lists(st.floats(0, 4), min_size=2, max_size=8))
@settings(max_examples=40)
def test_an_estimate_is_the_mean_and_scipys_standard_error(values):
    estimate = Estimate.over(values)
    assert estimate.value == pytest.approx(math.fsum(values) / len(values))
    assert estimate.error == pytest.approx(sem(values), abs=1e-9)


def test_an_estimate_of_one_training_has_no_error():
    assert Estimate.over([0.25]) == Estimate(0.25, None)


def test_the_bounds_of_a_group_are_those_that_all_have():
    [section] = sections(
        *(run_by_hand(OUTCOMES, f"{k}", seed=k, certifier="TightCertifier") for k in (0, 1))
    )
    [group] = section.groups
    assert group.bounds == ["tight", "cohen"]
    for bound in group.bounds:
        assert [reading.name for reading in group.readings(bound)] == [bound, bound]


# What does not hold yet.


def test_titles_tell_sections_apart():
    """Three on other images, and three on other pixels of the same numbers and labels."""
    images = [
        run_by_hand([type(r)(**{**vars(r), "idx": r.idx + k}) for r in rows_of(OUTCOMES)], str(k))
        for k in range(3)
    ]
    pixels = [run_by_hand(OUTCOMES, name, examples=name) for name in "abc"]
    for runs in (images, pixels):
        titles = [each.title for each in sections(*runs)]
        for one, other in itertools.permutations(titles, 2):
            assert not one.startswith(other)


@pytest.mark.parametrize(
    ("certifier", "name", "values"),
    [
        ("TightCertifier", "bound", ("joint", "rectangle")),
        ("TightCertifier", "alpha_split", ("selection", 0.5)),
        ("SequentialCertifier", "radii", ([0.0, 0.5], [0.0, 0.25, 0.5])),
        ("PrecisionCertifier", "tolerance", (0.01, 0.1)),
    ],
)
def test_certifiers_with_other_settings_are_not_compared_without_a_word(certifier, name, values):
    runs = [
        run_by_hand(
            OUTCOMES, str(value), objective=f"method {k}", certifier=certifier, **{name: value}
        )
        for k, value in enumerate(values)
    ]
    found = sections(*runs)
    assert len(found) == 2 or name in said(found[0])


def test_a_log_that_is_called_like_our_method_is_not_taken_for_a_seed_of_it():
    [section] = sections(
        run_by_hand(OUTCOMES, "ours"), log_by_hand([0.5] * 4, "gaussian/sigma_0.5")
    )
    assert sorted(len(group.runs) for group in section.groups) == [1, 1]
    assert all(group.bounds for group in section.groups)


def test_a_log_that_is_called_like_our_method_at_another_sigma_is_another_method():
    [section] = sections(
        run_by_hand(OUTCOMES, "ours"), log_by_hand(OUTCOMES, "gaussian/sigma_0.25")
    )
    assert len(section.methods) == 2


def test_logs_of_one_method_and_sigma_are_not_averaged_without_a_word():
    """Cohen's logs: networks trained at other noise, all certified at 0.5."""
    logs = [log_by_hand(OUTCOMES, f"cohen/noise_{noise}/sigma_0.5") for noise in (0.25, 0.5)]
    [section] = sections(*logs)
    assert all(len(group.runs) == 1 for group in section.groups) or section.notes


def test_other_settings_at_another_seed_are_no_seeds_of_one_method_without_a_word():
    [section] = sections(trained("a", 0, weight=0.1), trained("b", 1, weight=10.0))
    assert len(section.groups) == 2 or "weight" in said(section)


def test_logs_of_other_kinds_of_files_have_their_method_and_not_their_ending():
    """One log a σ in one folder, as text files."""
    for name in ("sigma_0.25.tsv", "sigma_0.5.txt"):
        assert method_of(log_by_hand([0.5], name), KEYS) not in ("tsv", "txt")


def test_networks_that_differ_across_sigma_are_no_one_method():
    """An envelope over them would be of no method that anyone can train."""
    small, large = ({"model": {"depth": depth}} for depth in (20, 110))
    made = [
        run_by_hand(OUTCOMES, "a", sigma=0.25, training=small),
        run_by_hand(OUTCOMES, "b", sigma=0.5, training=large),
    ]
    [section] = sections(*made)
    assert set(section.methods) == {"Gaussian, model.depth=20", "Gaussian, model.depth=110"}


def test_what_papers_let_follow_sigma_is_one_method():
    made = [
        run_by_hand(OUTCOMES, str(weight), sigma=sigma, training={"objective": {"weight": weight}})
        for sigma, weight in ((0.25, 20.0), (0.5, 10.0))
    ]
    [section] = sections(*made)
    assert list(section.methods) == ["Gaussian"]


def test_summaries_alone_tell_trainings_apart():
    made = [
        run_by_hand(OUTCOMES, name, seed=seed, summary={"model": name})
        for seed, name in enumerate(("resnet20", "resnet110"))
    ]
    [section] = sections(*made)
    assert len(section.methods) == 2


def test_a_training_without_a_record_beside_one_with_it_is_noted():
    made = [
        run_by_hand(OUTCOMES, "with", training={"objective": {"weight": 1.0}}),
        run_by_hand(OUTCOMES, "without", seed=1),
    ]
    [section] = sections(*made)
    assert any("without are not recorded" in note for note in section.notes)


def test_what_follows_from_the_epochs_is_not_repeated():
    runs = [
        run_by_hand(
            OUTCOMES, f"{epochs}", seed=epochs, summary={"epochs": epochs},
            training={"scheduler": {"max_epochs": epochs}, "seed": epochs},
        )
        for epochs in (5, 9)
    ]  # fmt: skip
    [section] = sections(*runs)
    assert groups(section) == {("Gaussian, epochs=5", 0.5): 1, ("Gaussian, epochs=9", 0.5): 1}


def test_an_average_of_the_weights_is_another_method():
    with_it = run_by_hand(OUTCOMES, "b", seed=1, training={"ema": 0.99, "seed": 1})
    [section] = sections(run_by_hand(OUTCOMES, "a", training={"seed": 0}), with_it)
    assert groups(section) == {("Gaussian", 0.5): 1, ("Gaussian, ema=0.99", 0.5): 1}
