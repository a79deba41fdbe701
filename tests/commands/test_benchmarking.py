"""`python -m src.benchmark task=train`: what it measures, writes, draws and prints."""

import json

import numpy as np
import pytest
from PIL import Image

from smoothcert import commands
from smoothcert.report import figures, plot_losses
from tests.helpers.support import composed

# Python 3.12 warns of every fork beside threads; the loader's workers are forks.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
SMALL = [
    "task=train",
    "device=cpu",
    "model=small_cnn",
    "model.width=4",
    "input_shape=[3,8,8]",
    "batch_size=8",
    "noise_draws=2",
    "turns=2",
    "steps=1",
]
STEPS = 12
GAUSSIAN = ["~methods", "+methods={gaussian: {objective: gaussian, attack: none}}"]


def measured(own, *overrides):
    """Benchmark in this process and return what was written."""
    own.mkdir(exist_ok=True)
    with composed(own, [*SMALL, *overrides], "benchmark") as cfg:
        commands.benchmark(cfg)
    return json.loads((own / "benchmark.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One method with an attack and one without, and the curves of two seeds."""
    folder = tmp_path_factory.mktemp("benchmark")
    asked = ["~methods.gaussian", f"curve_steps={STEPS}", "curve_seeds=[0,1]"]
    return folder, measured(folder, *asked)


def test_each_method_is_measured_in_both_forms(finished):
    _, written = finished
    assert written["task"] == "train"
    assert [(row["method"], row["form"]) for row in written["results"]] == [
        ("adre", "plain"),
        ("adre", "ours"),
        ("adre_pgd", "plain"),
        ("adre_pgd", "ours"),
    ]
    for row in written["results"]:
        assert len(row["images_per_second"]) == 2
        assert all(rate > 0 for rate in row["images_per_second"])
        assert row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
        assert row["peak_memory_bytes"] >= 0
    for row in written["results"][::2]:
        assert row["ratio"] == {"median": 1, "min": 1, "max": 1}


def test_ratios_are_those_of_the_same_turn(finished):
    _, written = finished
    for plain, ours in zip(written["results"][::2], written["results"][1::2], strict=True):
        rates = np.array(ours["images_per_second"]) / np.array(plain["images_per_second"])
        said = [ours["ratio"][name] for name in ("min", "median", "max")]
        assert said == pytest.approx([rates.min(), np.median(rates), rates.max()])


def test_the_measured_machine_is_recorded_with_the_figures(finished):
    _, written = finished
    assert written["configuration"]["batch_size"] == 8
    assert list(written["configuration"]["methods"]) == ["adre", "adre_pgd"]
    assert written["machine"]
    assert "torch" in written["versions"]


def test_losses_are_kept_by_form_seed_and_step(finished):
    folder, _ = finished
    curves = json.loads((folder / "losses.json").read_text())
    assert list(curves) == ["plain", "ours"]
    for seeds in curves.values():
        assert [len(losses) for losses in seeds] == [STEPS, STEPS]
        assert np.isfinite(seeds).all()
        assert seeds[0] != seeds[1]


def test_both_forms_start_at_the_loss_of_a_network_that_knows_nothing(finished):
    """About log 10, cross-entropy alone, and the same weights in both."""
    folder, _ = finished
    curves = json.loads((folder / "losses.json").read_text())
    firsts = [losses[0] for seeds in curves.values() for losses in seeds]
    assert firsts == pytest.approx([np.log(10)] * 4, rel=0.3)


def test_the_losses_are_drawn_as_a_picture(finished):
    folder, _ = finished
    with Image.open(folder / "losses.png") as picture:
        picture.load()
        width, height = (round(300 * inches) for inches in figures.INCHES)
        assert picture.format == "PNG"
        assert picture.size == (width, height)
        assert len(set(picture.convert("L").resize((60, 40)).tobytes())) > 5


def test_the_table_is_printed_with_what_its_figures_mean(tmp_path, capsys):
    written = measured(tmp_path, *GAUSSIAN, "turns=1", "curve_steps=0")
    printed = capsys.readouterr().out
    assert [row["form"] for row in written["results"]] == ["plain", "ours"]
    for word in ("method", "form", "images/s", "× plain", "peak MB", "gaussian", "ratio to the"):
        assert word in printed
    assert not (tmp_path / "losses.json").exists()
    assert not (tmp_path / "losses.png").exists()


def lines_of(curves, tmp_path, monkeypatch, window):
    """Return the (steps, values) of every line of the picture."""
    drawn = []

    class Recorded(figures.Figure):
        def savefig(self, *arguments, **options):
            [axes] = self.axes
            drawn.extend((line.get_xdata(), line.get_ydata()) for line in axes.lines)
            super().savefig(*arguments, **options)

    monkeypatch.setattr(figures, "Figure", Recorded)
    plot_losses(curves, tmp_path / "losses.png", "adre", window)
    return drawn


def test_a_line_is_the_mean_of_the_last_steps(tmp_path, monkeypatch):
    losses = [8.0, 4.0, 2.0, 1.0, 3.0]
    drawn = lines_of({"plain": [losses], "ours": [losses[::-1]]}, tmp_path, monkeypatch, 2)
    assert drawn[0][0].tolist() == [2, 3, 4, 5]
    assert drawn[0][1] == pytest.approx([6, 3, 1.5, 2])
    assert drawn[1][1] == pytest.approx([2, 1.5, 3, 6])


# What does not hold yet; each fails for the reason given.


def test_fewer_steps_than_a_mean_takes_are_drawn_at_their_values(tmp_path, monkeypatch):
    drawn = lines_of({"plain": [[1.0, 1.0]]}, tmp_path, monkeypatch, 10)
    assert all(values == pytest.approx(1.0) for _, values in drawn if len(values))


def test_grey_images_are_measured_too(tmp_path):
    grey = ["input_shape=[1,8,8]", "mean=[0.5]", "std=[0.5]", "turns=1", "curve_steps=0"]
    measured(tmp_path, *grey, *GAUSSIAN)
