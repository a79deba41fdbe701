"""What the paths of published logs say of them."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smoothcert.report.grouping import method_of, sections_of
from smoothcert.report.load import read_runs
from smoothcert.report.log_paths import LogPath
from smoothcert.report.tables import envelope
from tests.helpers.runs_by_hand import log_by_hand, rows_of, write_log

LAYOUTS = (
    "{name}/noise_{sigma}/test/sigma_{sigma}",  # Cohen et al., Salman et al.
    "noise_{sigma}/{name}/noise_{sigma}.tsv",  # CAT-RS
    "{name}/noise_{sigma}/sigma_{sigma}",
    "noise_{sigma}/{name}/sigma_{sigma}.txt",
    "{name}/sigma_{sigma}.tsv",
    "sigma{sigma}/{name}.csv",
    "{name}_noise_{sigma}.log",
    "noise_{sigma}_{name}",
    "resnet110/noise_sd={sigma}/{name}/certified",
)
NAMES = st.text("abcXYZ019 ._-+=,é", min_size=1, max_size=12).filter(lambda name: name.strip(" ._"))
SIGMAS = st.integers(1, 1000).map(lambda number: f"{number / 100:.2f}")


def sections(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sections_of(read_runs(files).runs)


@given(
    st.sampled_from(LAYOUTS),
    st.sets(NAMES, min_size=2, max_size=3),
    st.sets(SIGMAS, min_size=2, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_every_published_layout_gives_one_method_a_name_with_all_its_sigmas(layout, names, sigmas):
    with tempfile.TemporaryDirectory() as folder:
        for place, name in enumerate(sorted(names)):
            for sigma in sigmas:
                path = Path(folder) / layout.format(name=name, sigma=sigma)
                # Equal logs would be copies.
                write_log(path, rows_of([0.1 + place / 10, float(sigma)]))
        [section] = sections(Path(folder))
    assert len(section.methods) == len(names)
    for groups in section.methods.values():
        assert [group.sigma for group in groups] == sorted(map(float, sigmas))
        assert [len(group.runs) for group in groups] == [1] * len(sigmas)
    for name in names:
        assert sum(name in method for method in section.methods) >= 1
    assert len(envelope(section, [0.0]).rows) == len(names)


def test_two_logs_in_the_layout_of_cohen_are_one_method(tmp_path):
    for sigma in ("0.25", "0.50"):
        path = tmp_path / "logs" / f"noise_{sigma}" / "test" / f"sigma_{sigma}"
        write_log(path, rows_of([0.2, float(sigma)]))
    [section] = sections(tmp_path)
    assert {name: len(groups) for name, groups in section.methods.items()} == {"test": 2}


def test_noise_of_training_and_certification_are_kept_apart_and_named(tmp_path):
    """A grid as Cohen et al. certify it: each network at each σ."""
    for trained in (0.25, 0.5, 1.0):
        for sigma in (0.25, 0.5, 1.0):
            path = tmp_path / "cohen" / f"noise_{trained:.2f}" / "test" / f"sigma_{sigma:.2f}"
            write_log(path, rows_of([trained / 10, sigma / 10, 0.5]))
    [section] = sections(tmp_path)
    methods = {name: [group.sigma for group in each] for name, each in section.methods.items()}
    assert methods.pop("test") == [0.25, 0.5, 1.0]
    assert methods == {
        f"test (trained at σ = {trained:g}, certified at {sigma:g})": [sigma]
        for trained in (0.25, 0.5, 1.0)
        for sigma in (0.25, 0.5, 1.0)
        if trained != sigma
    }
    assert any("different σ for training" in note for note in section.notes)


def test_the_noise_of_the_training_may_stand_above_all_logs(tmp_path):
    """`runs='models/cohen/noise_0.50/test/*'`"""
    for sigma in (0.25, 0.5):
        path = tmp_path / "cohen" / "noise_0.50" / "test" / f"sigma_{sigma}"
        write_log(path, rows_of([sigma, 0.1]))
    [section] = sections(tmp_path / "cohen")
    assert set(section.methods) == {"test", "test (trained at σ = 0.5, certified at 0.25)"}


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("noise_0.50_pgd_eps64/sigma_0.5", "pgd_eps64"),
        ("resnet110/noise_0.25/test/sigma_0.25", "resnet110/test"),
        ("PGD_10steps/eps_64/cifar10/noise_0.25/sigma_0.25", "PGD_10steps/eps_64/cifar10"),
        ("sigma0.25", "published"),
        ("noise_0.25/sigma_0.25.TSV", "published"),
        # Nothing says that this is a σ: it may be an ε or a weight.
        ("0.25/cohen.tsv", "0.25/cohen"),
        ("lambda/0.5/noise_0.5", "lambda/0.5"),
        ("noise_0.00/smooth/sigma_0.25", "smooth (trained at σ = 0, certified at 0.25)"),
        ("noise_1.0/a/noise_0.5/sigma_.25", "a (trained at σ = 1 and 0.5, certified at 0.25)"),
        ("noise2noise/noise_1", "noise2noise"),
        ("cohen/noise_100000/sigma_0.25", "cohen/noise_100000"),
    ],
)
def test_what_a_path_states_of_the_noise_is_no_part_of_the_method(name, method):
    assert method_of(log_by_hand([0.5], name)) == method


def test_settings_are_found_by_their_place_and_by_their_word():
    path = LogPath("PGD_10steps/eps_64/noise_0.25/lr=0.1,seed=3/resnet110_sigma0.25.tsv")
    assert path.settings == {
        "path.1": "PGD_10steps", "path.2": "eps_64", "path.4": "lr=0.1,seed=3",
        "path.5": "resnet110", "eps": "eps_64", "lr": "lr=0.1", "seed": "seed=3",
        "resnet": "resnet110",
    }  # fmt: skip


def logs_of(*names):
    return [
        log_by_hand(rows_of([0.1 + place / 10]), name) for place, name in enumerate(sorted(names))
    ]


def methods(group_by, *names):
    [section] = sections_of(logs_of(*names), group_by)
    return {name: [group.sigma for group in groups] for name, groups in section.methods.items()}


def test_logs_are_grouped_by_parts_of_their_path():
    names = [
        f"{folder}/noise_{sigma}/x{sigma}"
        for folder in ("a/eps_64/one", "b/eps_255/two")
        for sigma in (0.25, 0.5)
    ]
    assert len(methods((), *names)) == 4
    both = [0.25, 0.5]
    assert methods(["path.1"], *names) == {"a": both, "b": both}
    assert methods(["eps"], *names) == {"eps_64": both, "eps_255": both}
    assert methods(["path.3", "eps"], *names) == {"one + eps_64": both, "two + eps_255": both}


def test_logs_that_a_key_would_average_keep_the_rest_of_their_path():
    names = [f"pgd/eps_{eps}/sigma_{sigma}" for eps in (64, 255) for sigma in (0.25, 0.5)]
    both = [0.25, 0.5]
    assert methods(["path.1"], *names) == {"pgd/eps_64": both, "pgd/eps_255": both}


def test_keys_of_our_runs_take_nothing_from_a_log():
    """By default a log is named after its whole path, whatever words stand there."""
    names = [f"attack_8/{name}/sigma_0.5" for name in ("a", "b")]
    assert set(methods((), *names)) == {"attack_8/a", "attack_8/b"}
