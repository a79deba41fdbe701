"""The figures of many runs: what is drawn, against counts made image by image."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.patches import StepPatch
from PIL import Image
from scipy.stats import binomtest, norm

from smoothcert.records import FIELD_COLUMNS, CertificateFile, CertificateRow
from smoothcert.records.summary import read_as
from smoothcert.report.figures import (
    BINS,
    DASHES,
    FEW,
    NAME_LENGTH,
    accuracy_figure,
    band,
    bounds_figure,
    cumulative,
    draw_figures,
    envelope,
    histogram,
    radii_figure,
    samples_figure,
)
from smoothcert.report.grouping import sections_of
from smoothcert.report.load import read_runs
from smoothcert.report.methods import PAPER_NAMES, method_colour
from smoothcert.stats import certified_accuracy, largest_radius
from tests.helpers.runs_by_hand import with_bounds, write_log

IMAGES, LIMIT = 30, 4.0
STOPS = {"Sequential": "futile", "Precision": "planned"}
SHARED = {
    "n0": 100,
    "n": 1000,
    "alpha": 0.001,
    "split": "test",
    "data": "digits",
    "precision": "float32",
    "noise": "gaussian",
    "target": "selection",
}


def some_rows(seed, sigma=0.5, samples=(1000,), images=IMAGES, certifier="Tight"):
    """Images with ties, radii of 0, wrong ones, abstentions and ones that were given up."""
    rng = np.random.default_rng(seed)
    rows = []
    for idx in range(images):
        n = int(rng.choice(samples))
        predict = int(rng.choice([1, 1, 1, 1, 2, -1])) if n else -1
        radius = sigma * float(rng.choice([0.0, 0.1, 0.25, 0.5, 0.75, 1.5, 2.0]))
        n_a = int(n * rng.uniform(0.55, 0.99))
        n_b = (n - n_a) // 2
        if predict >= 0:
            of_shares = sigma / 2 * (norm.ppf(n_a / n) - norm.ppf(n_b / n))
            largest = min(largest_radius(n, sigma, 0.001), of_shares)
            radius = min(radius, math.floor(1e6 * largest) / 1e6)
        else:
            radius = 0.0
        bounds = 0.5, 0.5, n_a, n_b, n, STOPS.get(certifier, "fixed") if n else "wrong"
        row = CertificateRow(idx, 1, predict, radius, int(predict == 1), 0.1, *bounds)
        rows.append(with_bounds(row, sigma) if certifier == "Cohen" else row)
    return rows


def run_folder(folder, rows, method="gaussian", sigma=0.5, seed=0, certifier="Tight", **changes):
    settings = {**SHARED, "certifier": f"{certifier}Certifier", "sigma": sigma, "seed": 0}
    with CertificateFile(folder / "certificates.tsv", settings | {"weights": str(folder)}) as file:
        for row in rows:
            file.append(row)
    summary = {**SHARED, "certifier": certifier.lower(), "sigma": sigma, "training_seed": seed}
    summary |= {"images": len(rows), "objective": method, **changes}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def log_file(folder, rows, name="published/sigma_0.5"):
    path = folder / name
    path.parent.mkdir(parents=True)
    cells = [[getattr(row, column) for column in FIELD_COLUMNS] for row in rows]
    lines = ["\t".join(map(str, line)) for line in [FIELD_COLUMNS, *cells]]
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class Sweep:
    """Runs that are written one by one, and read as one section."""

    folder: object
    paths: list

    def add(self, method="gaussian", sigma=0.5, seed=0, samples=(1000,), **changes):
        number = len(self.paths)
        own = samples, IMAGES, changes.get("certifier", "Tight")
        rows = changes.pop("rows", None) or some_rows(number, sigma, *own)
        place = self.folder / str(number)
        self.paths.append(run_folder(place, rows, method, sigma, seed, **changes))
        return rows

    def add_log(self, rows, **names):
        self.paths.append(log_file(self.folder, rows, **names))

    def section(self):
        [section] = sections_of(read_runs(self.paths).runs)
        return section


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path / "sweep", [])


@pytest.fixture(scope="module")
def sigmas(tmp_path_factory):
    """Two methods at three σ, with two seeds; and their rows. Tests do not change them."""
    sweep, rows = Sweep(tmp_path_factory.mktemp("sigmas"), []), {}
    for sigma in (0.25, 0.5, 1.0):
        for method in ("gaussian", "adre"):
            rows[method, sigma] = [sweep.add(method, sigma, seed) for seed in (0, 1)]
    return sweep.section(), rows


def accuracy(runs, r):
    """Mean over runs of the share of images that are right with a radius of at least r."""
    counts = [sum(bool(row.correct) and row.radius >= r for row in rows) for rows in runs]
    return sum(counts) / len(counts) / len(runs[0])


def height(edges, heights, r):
    """Height of a step curve, a radius where it falls counting to its left."""
    return heights[np.searchsorted(edges, r, side="left") - 1]


def radii_to_try(runs, limit):
    own = {row.radius for rows in runs for row in rows if 0 < row.radius < limit}
    between = np.random.default_rng(0).uniform(1e-9, limit, 100)
    beside = [np.nextafter(r, towards) for r in own for towards in (0, 9)]
    return sorted([*own, *beside, *between])


def steps(axes, **style):
    """The step curves of a panel, as edges and heights; only those of a style, where given."""
    return [
        (patch.get_data().edges, patch.get_data().values)
        for patch in axes.patches
        if isinstance(patch, StepPatch)
        and all(getattr(patch, f"get_{name}")() == value for name, value in style.items())
    ]


def panels(figure):
    return figure.get_axes()


def titles(figure):
    return [axes.get_title() for axes in panels(figure)]


def labels(figure):
    [legend] = figure.legends
    return [text.get_text() for text in legend.get_texts()]


# Certified accuracy


def test_one_sigma_is_drawn_as_certified_accuracy_itself(sweep):
    rows = sweep.add()
    [axes] = panels(accuracy_figure(sweep.section()))
    [(edges, heights)] = steps(axes)
    assert axes.get_xlim() == (0, edges[-1])
    radius, correct = [row.radius for row in rows], [bool(row.correct) for row in rows]
    radii = radii_to_try([rows], edges[-1])
    drawn = [height(edges, heights, r) for r in radii]
    np.testing.assert_array_equal(drawn, certified_accuracy(radius, correct, radii))
    # The curve begins at the height that it has at 0, images of radius 0 and all.
    assert heights[0] == certified_accuracy(radius, correct, 0.0) > heights[1]
    assert heights[-1] == 0


def test_the_envelope_is_the_largest_mean_over_seeds_at_every_radius(sigmas):
    section, rows = sigmas
    for method, groups in section.methods.items():
        curve = envelope(groups, LIMIT)
        runs = [rows[method.lower(), group.sigma] for group in groups]
        for r in radii_to_try([each for pair in runs for each in pair], LIMIT):
            expected = max(accuracy(pair, r) for pair in runs)
            assert height(curve.edges, curve.heights, r) == pytest.approx(expected), r
        assert curve.heights[0] == pytest.approx(max(accuracy(pair, 0) for pair in runs))


def test_the_envelope_lies_on_the_highest_curve_of_a_single_sigma(sigmas):
    section, rows = sigmas
    groups = section.methods["ADRE"]
    curve, singles = envelope(groups, LIMIT), [envelope([group], LIMIT) for group in groups]
    for r in radii_to_try([each for pair in rows.values() for each in pair], LIMIT):
        below = [height(each.edges, each.heights, r) for each in singles]
        assert height(curve.edges, curve.heights, r) == max(below)


def test_single_sigmas_stand_thin_behind(sigmas):
    section, _ = sigmas
    figure = accuracy_figure(section)
    [axes] = panels(figure)
    assert len(steps(axes, linewidth=0.5)) == 6
    assert len(steps(axes, linewidth=1.2)) == 2
    lower = [patch.zorder for patch in axes.patches if patch.get_linewidth() == 0.5]
    upper = [patch.zorder for patch in axes.patches if patch.get_linewidth() == 1.2]
    assert max(lower) < min(upper)
    assert "at a single σ" in labels(figure)
    assert titles(figure) == ["upper envelope over σ = 0.25, 0.5, 1"]


def test_one_sigma_has_no_thin_curve_and_is_named(sweep):
    sweep.add("gaussian")
    sweep.add("adre")
    figure = accuracy_figure(sweep.section())
    assert steps(panels(figure)[0], linewidth=0.5) == []
    assert "at a single σ" not in labels(figure)
    assert titles(figure) == ["σ = 0.5"]


def test_the_band_is_the_exact_interval_of_the_rounded_count(sigmas):
    section, _ = sigmas
    curve = envelope(section.methods["Gaussian"], LIMIT)
    low, high = band(curve, IMAGES)
    for share, lower, upper in zip(curve.heights, low, high, strict=True):
        expected = binomtest(round(share * IMAGES), IMAGES).proportion_ci(0.95, method="exact")
        assert (lower, upper) == pytest.approx((expected.low, expected.high))
        assert lower <= share <= upper


def test_the_band_is_drawn_around_its_curve(sweep):
    sweep.add()
    [axes] = panels(accuracy_figure(sweep.section()))
    [(edges, heights)] = steps(axes)
    [area] = [each for each in axes.collections if isinstance(each, PolyCollection)]
    [outline] = area.get_paths()
    for r in np.random.default_rng(1).uniform(0, edges[-1], 50):
        right = round(height(edges, heights, r) * IMAGES)
        low, high = binomtest(right, IMAGES).proportion_ci(0.95, method="exact")
        inside = [outline.contains_point((r, y)) for y in (low + 0.001, high - 0.001)]
        outside = [outline.contains_point((r, y)) for y in (low - 0.001, high + 0.001)]
        assert (inside, outside) == ([True, True], [False, False])


@pytest.mark.parametrize("count", [1, FEW, FEW + 1])
def test_bands_of_many_methods_would_hide_each_other(sweep, count):
    for number in range(count):
        for sigma in (0.25, 0.5):
            sweep.add(f"method {number}", sigma)
    figure = accuracy_figure(sweep.section())
    [axes] = panels(figure)
    drawn = [each for each in axes.collections if isinstance(each, PolyCollection)]
    few = count <= FEW
    assert len(drawn) == (count if few else 0)
    assert len(steps(axes, linewidth=0.5)) == (2 * count if few else 0)
    assert ("95 % interval over images" in labels(figure)) == few


def looks(figure):
    [legend] = figure.legends
    return [(line.get_color(), line._dash_pattern) for line in legend.get_lines()]


def test_ten_methods_differ_in_colour_and_in_dashes(sweep):
    for objective, attack in PAPER_NAMES:
        sweep.add(objective, attack=attack)
    colours, dashes = zip(*looks(accuracy_figure(sweep.section())), strict=True)
    assert len(set(colours)) == 10
    assert len({str(each) for each in dashes}) == 10


def test_more_methods_than_colours_still_differ(sweep):
    for number in range(24):
        sweep.add(f"method {number:02d}", rows=some_rows(number))
    assert len({str(look) for look in looks(accuracy_figure(sweep.section()))}) == 24


def test_dashes_are_distinct():
    assert len(set(DASHES)) == len(DASHES)


def test_a_method_looks_the_same_in_every_figure(sweep):
    for method in ("adre", "gaussian"):
        sweep.add(method, samples=(0, 10, 1000), certifier="Sequential")
    section = sweep.section()
    first, *others = (looks(d(section)) for d in (accuracy_figure, radii_figure, samples_figure))
    colours = [colour for colour, _ in first]
    assert all([colour for colour, _ in other] == colours for other in others)


# Bounds


def test_bounds_are_both_curves_of_the_same_votes_by_sigma(sigmas):
    section, rows = sigmas
    figure = bounds_figure(section)
    assert titles(figure) == ["σ = 0.25", "σ = 0.5", "σ = 1"]
    assert {axes.get_ylim() for axes in panels(figure)} == {(0, 1.02)}
    for axes, sigma in zip(panels(figure), (0.25, 0.5, 1.0), strict=True):
        # Methods stand by name.
        for place, method in enumerate(("adre", "gaussian")):
            runs = rows[method, sigma]
            edges, heights = steps(axes, linestyle="-")[place]
            for r in radii_to_try(runs, edges[-1]):
                assert height(edges, heights, r) == pytest.approx(accuracy(runs, r))
            edges, heights = steps(axes, linestyle="--")[place]
            cohen = [read_as("cohen", each, sigma, 0.001) for each in runs]
            for r in np.random.default_rng(2).uniform(1e-9, edges[-1], 100):
                expected = np.mean([each.accuracy([r])[0] for each in cohen])
                assert height(edges, heights, r) == pytest.approx(expected)
    assert labels(figure) == ["ADRE", "Gaussian", "T-CERTIFY", "Cohen et al. (2019)"]


def test_one_bound_makes_no_figure_of_bounds(sweep):
    sweep.add(certifier="Cohen")
    assert bounds_figure(sweep.section()) is None


def test_published_logs_have_no_second_bound(sweep):
    rows = sweep.add()
    sweep.add_log(rows)
    figure = bounds_figure(sweep.section())
    assert labels(figure) == ["Gaussian", "T-CERTIFY", "Cohen et al. (2019)"]
    assert labels(accuracy_figure(sweep.section()))[:2] == ["Gaussian", "published"]


# Radii


def counts(row):
    return bool(row.correct) and row.radius > 0


def test_a_histogram_holds_every_image_that_counts_once(sigmas):
    section, rows = sigmas
    for group in section.groups:
        runs = rows[group.method.lower(), group.sigma]
        edges = np.linspace(0, LIMIT, 8)
        shares = histogram(group, edges)
        images = [row for each in runs for row in each]
        assert sum(shares) == pytest.approx(np.mean([counts(row) for row in images]))
        for low, high, share in zip(edges, edges[1:], shares, strict=False):
            within = [counts(row) and low <= row.radius < high for row in images]
            assert share == pytest.approx(np.mean(within))


def test_methods_share_the_bins_of_a_panel_and_panels_their_height(sigmas):
    section, rows = sigmas
    figure = radii_figure(section)
    assert titles(figure) == ["σ = 0.25", "σ = 0.5", "σ = 1"]
    assert len({axes.get_ylim() for axes in panels(figure)}) == 1
    for axes, sigma in zip(panels(figure), (0.25, 0.5, 1.0), strict=True):
        (edges, one), (others, other) = steps(axes)
        np.testing.assert_array_equal(edges, others)
        assert len(one) == BINS
        for method, shares in (("adre", one), ("gaussian", other)):
            images = [row for each in rows[method, sigma] for row in each]
            assert sum(shares) == pytest.approx(np.mean([counts(row) for row in images]))
        assert max([*one, *other]) <= axes.get_ylim()[1]


def test_the_legend_says_how_many_images_count_0(sigmas):
    section, rows = sigmas
    figure = radii_figure(section)
    for method, label in zip(("ADRE", "Gaussian"), labels(figure), strict=True):
        zeros = [
            100 * np.mean([not counts(row) for each in rows[method.lower(), sigma] for row in each])
            for sigma in (0.25, 0.5, 1.0)
        ]
        assert label == f"{method}: {', '.join(f'{zero:.1f}' for zero in zeros)} %"
    [legend] = figure.legends
    assert legend.get_title().get_text().endswith("at σ = 0.25, 0.5, 1")


def test_a_method_without_a_sigma_is_missing_there_alone(sweep):
    sweep.add("adre", 0.5)
    sweep.add("gaussian", 1.0)
    figure = radii_figure(sweep.section())
    assert [len(steps(axes)) for axes in panels(figure)] == [1, 1]
    first, second = labels(figure)
    assert first.endswith(", – %")
    assert second.startswith("Gaussian: –, ")


# Samples


def test_samples_are_the_distribution_over_images(sweep):
    rows = sweep.add(samples=(0, 10, 100, 1000), certifier="Sequential")
    section = sweep.section()
    numbers, shares = cumulative(section.groups[0])
    taken = np.array([row.n_samples for row in rows])
    assert list(numbers) == sorted(set(taken[taken > 0]))
    assert shares[0] == np.mean(taken == 0) > 0
    assert [np.mean(taken <= number) for number in numbers] == list(shares[1:])
    figure = samples_figure(section)
    [axes] = panels(figure)
    [(edges, heights)] = steps(axes)
    np.testing.assert_array_equal(edges[1:-1], numbers)
    np.testing.assert_array_equal(heights, shares)
    assert axes.get_xscale() == "log"
    assert tuple(edges[[0, -1]]) == axes.get_xlim()
    assert 0 < edges[0] < numbers[0] < numbers[-1] < edges[-1]
    assert labels(figure) == [f"Gaussian: {100 * shares[0]:.1f} %"]


def test_equal_numbers_of_samples_make_no_figure(sigmas):
    section, _ = sigmas
    assert samples_figure(section) is None


def test_images_that_were_given_up_make_one(sweep):
    sweep.add(samples=(0, 1000))
    assert samples_figure(sweep.section()) is not None


def test_published_logs_record_no_samples(sweep):
    rows = sweep.add(samples=(10, 1000), certifier="Sequential")
    sweep.add_log(rows)
    assert labels(samples_figure(sweep.section())) == ["Gaussian: 0.0 %"]


def test_published_logs_alone_have_figures_too(sweep, tmp_path):
    sweep.add_log(some_rows(0), name="published/unnamed")
    section = sweep.section()
    names = {path.stem for path in draw_figures(section, tmp_path / "drawn")}
    assert names == {"certified_accuracy", "radii"}
    assert titles(radii_figure(section)) == ["σ not recorded"]


# Names


def test_long_names_are_short_and_still_differ(sweep):
    start = "gaussian + an attack of many words, training.attack.step_size="
    for step in ("0.25", "0.5"):
        sweep.add(start + step)
    one, other, *_ = labels(accuracy_figure(sweep.section()))
    assert one != other
    assert (one[:10], one[-4:]) == (start[:10], "0.25")
    assert "…" in one
    assert len(one) == len(other) == NAME_LENGTH


def test_a_long_name_keeps_both_noises_of_a_log(sweep):
    for number, trained in enumerate(("0.5", "1")):
        name = f"{'a_long_name' * 4}/noise_{trained}/sigma_0.25"
        sweep.paths.append(write_log(sweep.folder / name, some_rows(number)))
    texts = labels(accuracy_figure(sweep.section()))
    for trained in ("0.5", "1"):
        [text] = [t for t in texts if t.endswith(f" (trained at σ = {trained}, certified at 0.25)")]
        assert "…" in text


def test_names_that_differ_in_the_middle_alone_are_not_shortened(sweep):
    names = ["a" * 30 + middle + "b" * 30 for middle in ("one", "two")]
    for name in names:
        sweep.add(name)
    assert sorted(labels(accuracy_figure(sweep.section()))[:2]) == sorted(names)


def test_signs_in_names_are_no_formulas(sweep, tmp_path):
    sweep.add("$x$ and $")
    sweep.add("_hidden")
    section = sweep.section()
    assert len(draw_figures(section, tmp_path / "drawn")) == 6
    shown = labels(accuracy_figure(section))[:2]
    assert any("hidden" in label for label in shown)


# Files


def is_white_outside(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L")).copy()
    assert pixels.shape[1] == 1260
    pixels[3:-3, 3:-3] = 255
    return bool(np.all(pixels == 255))


def drawn(sweep, folder):
    return draw_figures(sweep.section(), folder)


CASES = {
    "one": (["gaussian"], [0.5]),
    "sigmas": (["gaussian", "adre"], [0.12, 0.25, 0.5, 1.0]),
    "many": ([f"a method of {n} with a very long name of its own" for n in range(10)], [0.25, 1.0]),
}


@pytest.mark.parametrize(("methods", "at"), CASES.values(), ids=CASES)
def test_nothing_is_cut_off(sweep, tmp_path, methods, at):
    for method in methods:
        for sigma in at:
            sweep.add(method, sigma, samples=(0, 10, 1000), certifier="Precision")
    paths = drawn(sweep, tmp_path / "new" / "folder")
    names = ("certified_accuracy", "bounds", "radii", "samples")
    assert [p.name for p in paths] == [f"{n}.{kind}" for n in names for kind in ("png", "pdf")]
    assert all(is_white_outside(path) for path in paths if path.suffix == ".png")
    assert all(path.read_bytes()[:5] == b"%PDF-" for path in paths if path.suffix == ".pdf")


def boxes(figure):
    """What stands around the panels, and the panels with their names and ticks."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    [inside] = figure.subfigs
    around = [figure.legends[0], figure._suptitle, figure._supxlabel, inside._supxlabel]
    every = [*(each for each in around if each is not None), *figure.get_axes()]
    return [each.get_tightbbox(canvas.get_renderer()) for each in every]


@pytest.mark.parametrize("draw", [accuracy_figure, bounds_figure, radii_figure])
@pytest.mark.parametrize(("methods", "at"), CASES.values(), ids=CASES)
def test_nothing_overlaps(sweep, methods, at, draw):
    for method in methods:
        for sigma in at:
            sweep.add(method, sigma)
    every = boxes(draw(sweep.section()))
    for place, one in enumerate(every):
        for other in every[place + 1 :]:
            width = min(one.x1, other.x1) - max(one.x0, other.x0)
            depth = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(width, depth) < 1


def test_images_that_all_count_0_are_drawn(sweep, tmp_path):
    sweep.add(rows=[CertificateRow(0, 1, -1, 0.0, 0, 0.1, 0.0, 1.0, 500, 500, 1000, "fixed")])
    assert len(drawn(sweep, tmp_path / "drawn")) == 6


def test_figures_that_make_no_sense_are_not_written(sweep, tmp_path):
    sweep.add(certifier="Cohen")
    folder = tmp_path / "drawn"
    paths = drawn(sweep, folder)
    assert sorted(folder.iterdir()) == sorted(paths)
    assert {path.stem for path in paths} == {"certified_accuracy", "radii"}


SCRIPT = """
import sys
from math import floor
from pathlib import Path
from smoothcert.report.figures import draw_figures
from smoothcert.report.load import read_runs
from smoothcert.report.grouping import sections_of
*paths, folder = map(Path, sys.argv[1:])
[section] = sections_of(read_runs(paths).runs)
draw_figures(section, folder)
assert "torch" not in sys.modules and "matplotlib.pyplot" not in sys.modules
"""


def test_files_are_the_same_in_another_process_at_another_time(sweep, tmp_path):
    for method in ("gaussian", "adre", "a method of another name, which is long"):
        for sigma in (0.25, 0.5):
            sweep.add(method, sigma, samples=(0, 10, 1000), certifier="Precision")
    here = {path.name: path.read_bytes() for path in drawn(sweep, tmp_path / "here")}
    assert len(here) == 8
    # Another order of sets, and another year, should one of them be written down.
    other = {"PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": str(10**9)}
    command = [sys.executable, "-c", SCRIPT, *map(str, sweep.paths), str(tmp_path / "there")]
    subprocess.run(command, check=True, env=os.environ | other)
    assert {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()} == here


def test_drawing_twice_in_one_process_is_the_same_too(sweep, tmp_path):
    sweep.add()
    one, two = (drawn(sweep, tmp_path / name) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_colours_are_those_of_the_palette(sweep):
    sweep.add()
    [axes] = panels(accuracy_figure(sweep.section()))
    assert to_hex(axes.patches[0].get_edgecolor()) == method_colour("Gaussian").light
