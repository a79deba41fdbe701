"""What the terminal shows, read back as text."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from smoothcert.report import print_measurements, print_summary
from smoothcert.report.grids import Cell, Column, Grid, Row
from smoothcert.report.terminal import FILE_WIDTH, print_grid, terminal

SUMMARY = {
    "objective": "adre",
    "attack": "pgd",
    "data": "digits",
    "sigma": 0.25,
    "images": 180,
    "split": "val",
    "n0": 100,
    "n": 10_000,
    "alpha": 0.001,
    "acr": 0.3123,
    "clean_smoothed_accuracy": 0.875,
    "abstention_rate": 0.025,
    "mean_samples_per_image": 6789.6,
    "samples_per_second": 54321.2,
    "precision": "bfloat16",
    "target": "selection",
    "radius_is_lower_bound": False,
    "certified_accuracy": {"0": 0.875, "0.25": 0.5, "0.5": 0.125},
    "bounds": {
        "tight": {"acr": 0.3123, "certified_accuracy": {"0": 0.875, "0.25": 0.5, "0.5": 0.125}},
        "cohen": {"acr": 0.2987, "certified_accuracy": {"0": 0.75, "0.25": 0.375, "0.5": 0.0}},
    },
}


def printed(summary=SUMMARY, folder="/runs/adre", width=80):
    console = Console(file=io.StringIO(), width=width)
    print_summary(summary, Path(folder), console)
    return console.file.getvalue()


def line_with(text, words):
    [line] = [line for line in text.splitlines() if words in line]
    return line.replace("│", " ").split()


@pytest.mark.parametrize(
    ("radius", "shares"),
    [("0", ["87.5%", "75.0%"]), ("0.25", ["50.0%", "37.5%"]), ("0.5", ["12.5%", "0.0%"])],
)
def test_each_radius_is_shown_with_its_accuracy_under_each_bound(radius, shares):
    assert line_with(printed(), f" {radius} │") == [radius, *shares]


def test_the_columns_name_their_bounds_in_order():
    header = next(line for line in printed().splitlines() if "radius" in line)
    assert header.index("tight") < header.index("cohen")


def test_each_bound_has_its_acr():
    assert line_with(printed(), "ACR")[1:] == ["tight", "0.3123", "cohen", "0.2987"]


def test_the_other_shares_are_percentages():
    assert line_with(printed(), "clean")[-1] == "87.5%"
    assert line_with(printed(), "abstained")[-1] == "2.5%"


def test_a_reader_learns_what_was_certified_and_how():
    text = " ".join(printed().split())
    assert "ADREADV on digits, σ = 0.25" in text
    assert "180 val images at n0 = 100, n = 10,000, α = 0.001" in text


def test_a_checkpoint_file_stands_where_a_run_has_its_method():
    of_file = {"objective": None, "attack": None, "model": "resnet110", "ckpt": "noise/x.pth.tar"}
    text = " ".join(printed({**SUMMARY, **of_file}).split())
    assert "resnet110 of x.pth.tar on digits, σ = 0.25" in text
    assert "None" not in text


def test_a_reader_learns_how_many_samples_it_took_and_how_fast_they_came():
    line = " ".join(line_with(printed(), "samples "))
    assert line == "samples 6,790 per image, 54,321 per second in bfloat16"


@pytest.mark.parametrize("rate", [{}, {"samples_per_second": None}])
def test_a_rate_that_is_not_known_is_left_out(rate):
    summary = {name: value for name, value in SUMMARY.items() if name != "samples_per_second"}
    assert (
        " ".join(line_with(printed({**summary, **rate}), "samples ")) == "samples 6,790 per image"
    )


def test_an_acr_that_more_samples_would_raise_says_so():
    assert "at least" not in printed()
    text = printed({**SUMMARY, "radius_is_lower_bound": True})
    assert "(at least)" in " ".join(line_with(text, "ACR"))


def test_certificates_of_the_label_say_that_they_predict_nothing():
    assert "no prediction" not in printed()
    assert "no prediction" in printed({**SUMMARY, "target": "label"})


def test_one_bound_makes_one_column():
    summary = {**SUMMARY, "bounds": {"cohen": SUMMARY["bounds"]["cohen"]}}
    assert line_with(printed(summary), " 0.25 │") == ["0.25", "37.5%"]


def test_the_folder_can_be_copied_from_a_narrow_terminal():
    folder = "/runs/" + "a_long_name/" * 10 + "seed=0"
    assert folder in printed(folder=folder, width=40)


@pytest.mark.parametrize("folder", ["/runs/lr=[small]/0", "/runs/[/b]"])
def test_a_folder_with_brackets_is_printed_as_it_is(folder):
    assert folder in printed(folder=folder)


def test_radii_that_differ_look_different():
    shares = {"0.12": 0.75, "0.125": 0.5}
    bounds = {"cohen": {"acr": 0.2, "certified_accuracy": shares}}
    text = printed({**SUMMARY, "certified_accuracy": shares, "bounds": bounds})
    assert line_with(text, " 50.0%") == ["0.125", "50.0%"]


# --- Tables that fit ------------------------------------------------------------------------------

NAMES = st.text("abcABC019_/=,.-+éσ漢", min_size=1, max_size=120)
WIDTHS = [40, 60, 80, 120]


def grid_of(names, columns=12):
    radii = [Column(f"{0.25 * k:g}", 1, percent=True, best=True) for k in range(columns)]
    cells = [Cell(0.5 + k / 100, 0.012, note="(0.25)", best=k == 3) for k in range(columns)]
    rows = [Row([Cell(name), Cell(f"{sigma}"), *cells]) for name in names for sigma in (0.25, 0.5)]
    return Grid("g", "A title: " + "words " * 20, [Column("method"), Column("σ"), *radii], rows)


def lines_of(width, show, *arguments):
    console = Console(file=io.StringIO(), width=width)
    show(*arguments, console=console)
    return console.file.getvalue().splitlines()


def first_column(lines):
    """Return the texts of the first column of the first table, put together from its lines."""
    ruled = next(place for place, line in enumerate(lines) if line.startswith("─"))
    width, names = lines[ruled - 1].index("σ"), []
    for line in lines[ruled + 1 :]:
        if not line:
            break
        # Wide signs take two places.
        end = next(k for k in range(len(line) + 1) if cell_len(line[:k]) >= width)
        if line[end:].startswith("0."):
            names.append("")
        names[-1] += line[:end].strip()
    return names


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True), st.sampled_from(WIDTHS))
@settings(max_examples=60, deadline=None)
def test_a_table_fits_every_terminal_and_cuts_no_name(names, width):
    lines = lines_of(width, print_grid, grid_of(names))
    assert max(map(cell_len, lines)) <= width
    assert first_column(lines) == [name for name in names for _ in range(2)]


@pytest.mark.parametrize("width", [*WIDTHS, 400])
def test_every_cell_of_a_table_is_shown_once(width):
    lines = lines_of(width, print_grid, grid_of(["cohen", "macer"]))
    text = " ".join(" ".join(lines).split())
    for k in range(12):
        assert text.count(f"{50 + k:.1f} ± 1.2 (0.25)") == 4
    tables = sum(line.startswith("─") for line in lines)
    assert sum(line.startswith("method") for line in lines) == tables
    assert (tables == 1) == (width == 400)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_a_benchmark_and_a_run_print_fits_too(width):
    entries = [
        {"name": name, **{f"rate {k}": 1234.5 + k for k in range(12)}}
        for name in ("a network " * 9, "another")
    ]
    lines = lines_of(width, measured, entries)
    assert max(map(cell_len, lines[:-1])) <= width
    assert sum("another" in line for line in lines) == sum("─" in line for line in lines)
    summary = {**SUMMARY, "data": "a_data_set_" * 9}
    assert max(map(cell_len, printed(summary, "/runs", width).splitlines())) <= width


def measured(entries, console):
    print_measurements("task", entries, {"name": "a machine", "threads": 2}, Path("/runs"), console)


def test_without_a_terminal_lines_have_the_width_of_a_file(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("os.isatty", lambda number: False)
    assert terminal().width == FILE_WIDTH
    monkeypatch.setenv("COLUMNS", "60")
    assert terminal().width == 60


@pytest.mark.parametrize(
    ("plain", "noisy", "cause"),
    [
        (0.95, 0.11, "not trained with this noise; sigma in units of 0-255"),
        (0.12, 0.11, "wrong without noise, too: wrong weights, normalization"),
        (0.95, 0.8, "too few samples"),
    ],
)
def test_a_classifier_that_guesses_is_called_so_with_the_usual_causes(plain, noisy, cause):
    found = {"chance": 0.1, "base_accuracy": plain, "base_accuracy_noisy": noisy}
    text = printed({**SUMMARY, "clean_smoothed_accuracy": 0.1, "near_chance": found})
    assert "near chance        guessing gets 10.0%" in text
    assert f"{plain:.1%} without noise, {noisy:.1%} under one noise draw" in text
    assert cause in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_no_other_run_is_compared_with_chance():
    assert "chance" not in printed()
