"""The picture of certified accuracy: what is drawn, and that all of it is on the paper."""

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from PIL import Image
from scipy.stats import binomtest, norm

from smoothcert.records import CertificateRow
from smoothcert.report import plot_certified_accuracy

SETTINGS = {
    "certifier": "TightCertifier",
    "n0": 100,
    "n": 1000,
    "alpha": 0.001,
    "sigma": 0.5,
    "seed": 0,
    "split": "val",
    "data": "digits",
}
COHEN = {**SETTINGS, "certifier": "CohenCertifier"}


def row(idx, radius, predict=1, n_a=900):
    correct = int(predict == 1)
    return CertificateRow(idx, 1, predict, radius, correct, 0.1, 0.9, 0.1, n_a, 10, 1000, "fixed")


def many(images=60):
    """Images with ties, wrong ones and abstentions."""
    rng = np.random.default_rng(0)
    radius = rng.choice(np.linspace(0.05, 1.2, 25), images).round(6).tolist()
    predict = rng.choice([1, 1, 1, 2, -1], images).tolist()
    n_a = rng.integers(520, 990, images).tolist()
    return [row(i, 0.0 if predict[i] < 0 else radius[i], predict[i], n_a[i]) for i in range(images)]


CASES = {
    "many": many(),
    "all abstain": [row(i, 0.0, predict=-1) for i in range(5)],
    "all equal": [row(i, 0.5) for i in range(5)],
    "all wrong": [row(i, 0.5, predict=2) for i in range(5)],
    "one image": [row(0, 0.5)],
}
BY_CASE = pytest.mark.parametrize("rows", CASES.values(), ids=CASES)
BY_CERTIFIER = pytest.mark.parametrize("values", [SETTINGS, COHEN], ids=["tight", "cohen"])


@pytest.fixture
def axes_of(monkeypatch, tmp_path):
    """Return the axes of the figure that would be saved."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: kept.append(self))

    def drawn(rows, values):
        plot_certified_accuracy(rows, values, tmp_path / "curve.png")
        [axes] = kept[-1].axes
        return axes

    return drawn


def curves(axes):
    return [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]


def height(curve, r):
    """Return a step curve's height just left of a radius: an image of that radius counts."""
    return curve.values[np.searchsorted(curve.edges, r, side="left") - 1]


def share(rows, radii, r):
    return sum(each.correct and own >= r for each, own in zip(rows, radii, strict=True)) / len(rows)


def cohen(row):
    if row.predict < 0:
        return 0.0
    p_a = binomtest(row.n_a, row.n_samples).proportion_ci(1 - 2 * 0.001, method="exact").low
    return max(0.0, 0.5 * norm.ppf(p_a))


def assert_passes_through(curve, rows, radii, limit):
    positive = [r for r in radii if r > 0]
    between = np.random.default_rng(1).uniform(1e-9, limit, 200)
    for r in [*positive, *between]:
        assert height(curve, r) == pytest.approx(share(rows, radii, r)), r


@BY_CASE
@BY_CERTIFIER
def test_the_curve_is_certified_accuracy_at_every_radius(axes_of, rows, values):
    axes = axes_of(rows, values)
    radii = [each.radius for each in rows]
    assert_passes_through(curves(axes)[0], rows, radii, axes.get_xlim()[1])


@BY_CASE
def test_the_second_curve_is_cohens_bound_on_the_same_votes(axes_of, rows):
    axes = axes_of(rows, SETTINGS)
    curve = curves(axes)[1]
    radii = [cohen(each) for each in rows]
    limit = axes.get_xlim()[1]
    for r in np.random.default_rng(1).uniform(1e-9, limit, 200):
        assert height(curve, r) == pytest.approx(share(rows, radii, r)), r


def test_cohens_own_certificates_are_drawn_once(axes_of):
    assert len(curves(axes_of(many(), COHEN))) == 1


@BY_CASE
@BY_CERTIFIER
def test_every_radius_and_every_share_is_in_view(axes_of, rows, values):
    axes = axes_of(rows, values)
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    for curve in curves(axes):
        assert left == curve.edges[0] == 0
        assert max(each.radius * each.correct for each in rows) < right <= curve.edges[-1]
        assert bottom <= min(curve.values)
        assert max(curve.values) <= top


def test_the_band_is_the_exact_interval_over_images(axes_of):
    rows = [row(0, 0.2), row(1, 0.4), row(2, 0.4), row(3, 0.6, predict=2), row(4, 0.8)]
    axes = axes_of(rows, COHEN)
    [band] = [c for c in axes.collections if isinstance(c, PolyCollection)]
    [outline] = band.get_paths()
    for r, right in ((0.19, 4), (0.21, 3), (0.39, 3), (0.41, 1), (0.79, 1), (0.81, 0)):
        low, high = binomtest(right, 5).proportion_ci(0.95, method="exact")
        inside = [outline.contains_point((r, y)) for y in (low + 0.001, high - 0.001)]
        outside = [outline.contains_point((r, y)) for y in (low - 0.001, high + 0.001)]
        assert (inside, outside) == ([True, True], [False, False]), r


def test_the_legend_names_each_bound_with_its_acr(axes_of):
    rows = many()
    tight, other, _ = (text.get_text() for text in axes_of(rows, SETTINGS).get_legend().get_texts())
    acr = sum(each.radius for each in rows if each.correct) / len(rows)
    cohens = sum(cohen(each) for each in rows if each.correct) / len(rows)
    assert tight == f"T-CERTIFY, ACR {acr:.3f}"
    assert other == f"Cohen et al. (2019), ACR {cohens:.3f}"


def test_curves_differ_in_more_than_colour(axes_of):
    one, other = (p for p in axes_of(many(), SETTINGS).patches if isinstance(p, StepPatch))
    assert one.get_linestyle() != other.get_linestyle()


def test_the_title_says_what_was_certified(axes_of):
    title = axes_of(many(), SETTINGS).get_title()
    for words in ("digits", "0.5", "60 val images", "1,000", "0.001"):
        assert words in title


def test_a_data_set_without_a_name_is_left_out(axes_of):
    unnamed = {name: value for name, value in SETTINGS.items() if name != "data"}
    assert "60 val images" in axes_of(many(), unnamed).get_title()


def saved(rows, values, folder):
    path = folder / "curve.png"
    plot_certified_accuracy(rows, values, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("L"))


@BY_CASE
def test_the_file_is_a_picture_wide_enough_for_print(tmp_path, rows):
    pixels = saved(rows, SETTINGS, tmp_path)
    assert pixels.shape[1] >= 1000
    assert pixels.min() < 128


def has_a_white_border(pixels):
    inside = pixels.copy()
    inside[3:-3, 3:-3] = 255
    return bool(np.all(inside == 255))


@BY_CASE
def test_nothing_is_cut_off(tmp_path, rows):
    assert has_a_white_border(saved(rows, SETTINGS, tmp_path))


def test_no_title_is_cut_off_on_a_full_test_set(tmp_path):
    rows = [row(i, 0.5) for i in range(10_000)]
    values = {**SETTINGS, "data": "image_folder", "split": "test", "n": 100_000}
    assert has_a_white_border(saved(rows, values, tmp_path))


def test_drawing_leaves_no_figure_open_in_pyplot(tmp_path):
    from matplotlib import pyplot

    plot_certified_accuracy(many(), SETTINGS, tmp_path / "curve.png")
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("name", ["$\\frac{$", "a$b$", "_x"])
def test_names_are_no_formulas(name, tmp_path):
    settings = {**SETTINGS, "certifier": name, "data": name, "split": name}
    plot_certified_accuracy(many(), settings, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").is_file()


def test_a_name_stands_in_the_title_as_it_is(axes_of):
    title = axes_of(many(), {**SETTINGS, "data": "a$b$"}).get_title()
    assert title.startswith(r"a\$b\$, 60 val images")
