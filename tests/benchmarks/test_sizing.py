"""`task=sizing`: hours against arithmetic by hand and laws, and what the command measures."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothcert import commands
from smoothcert.benchmarks import (
    Estimate,
    Pace,
    Workload,
    certification_hours,
    measured_figures,
    scaling_table,
    sizing_table,
    unlike,
)
from smoothcert.commands import sizing
from smoothcert.errors import InvalidArgumentError
from smoothcert.records import COLUMNS, CertificateRow
from smoothcert.records.rows import format_row
from smoothcert.report.terminal import measurements_as_markdown
from tests.helpers.support import ROOT, TINY, composed

ROW = CertificateRow(0, 3, 3, 0.4, 1, 0.5, 0.84, 0.16, 450, 30, 500, "certified")
SUMMARY = {
    "model": "small_cnn",
    "data": "digits",
    "split": "test",
    "certifier": "sequential",
    "sigma": 0.5,
    "n0": 100,
    "n": 1000,
    "target": "selection",
    "precision": "float32",
    "compiled": False,
    "batch_size": 256,
    "device": "cpu",
}
START = "<!-- sizing: python -m src.benchmark task=sizing -->"
END = "<!-- end of sizing -->"


# The hours.


def test_hours_are_the_shared_work_and_the_longest_image():
    # 10,000 images of 5,000 samples at 1,000 a second: 50,000 s, of 8 devices at 80 % 7,812.5 s;
    # 100,100 samples more take 100.1 s.
    each = {"images": 10_000, "samples": 5_000, "rate": 1_000.0, "most": 100_100}
    one = certification_hours(**each, efficiency=1.0, devices=1)
    assert one == pytest.approx((50_000 + 100.1) / 3600, rel=1e-12)
    eight = certification_hours(**each, efficiency=0.8, devices=8)
    assert eight == pytest.approx((7_812.5 + 100.1) / 3600, rel=1e-12)


JOBS = st.fixed_dictionaries(
    {
        "images": st.integers(1, 10**6),
        "samples": st.floats(1, 1e5),
        "rate": st.floats(1e-2, 1e7),
        "efficiency": st.floats(0.01, 1),
        "most": st.integers(0, 200_000),
    }
)
DEVICES = st.integers(1, 10_000)


@given(JOBS, DEVICES, DEVICES)
def test_more_devices_take_fewer_hours_but_never_less_than_the_longest_image(job, devices, more):
    few, many = (certification_hours(**job, devices=d) for d in (devices, devices + more))
    assert many <= few
    assert many >= job["most"] / job["rate"] / 3600


@given(JOBS, DEVICES, DEVICES)
def test_more_devices_never_take_fewer_device_hours(job, devices, more):
    few, many = (d * certification_hours(**job, devices=d) for d in (devices, devices + more))
    assert many >= few * (1 - 1e-12)


@given(JOBS, DEVICES, st.integers(1, 10**6))
def test_hours_are_linear_in_the_images(job, devices, more):
    both, alone = (
        certification_hours(**{**job, "images": images}, devices=devices)
        for images in (job["images"] + more, job["images"])
    )
    added = certification_hours(**{**job, "images": more, "most": 0}, devices=devices)
    assert both == pytest.approx(alone + added, rel=1e-9)


@pytest.mark.parametrize("efficiency", [0, -0.5, 1.01, float("nan")])
def test_no_efficiency_is_above_one_or_below_zero(efficiency):
    with pytest.raises(InvalidArgumentError, match=r"`efficiency` in \(0, 1\]"):
        certification_hours(10, 10, 1.0, efficiency, 2, 0)


@pytest.mark.parametrize("wrong", ["images", "samples", "rate"])
def test_no_test_set_is_empty_or_takes_nothing(wrong):
    numbers = {"images": 10, "samples": Estimate(5.0), "rate": Estimate(1.0)}
    numbers[wrong] = 0 if wrong == "images" else Estimate(0.0)
    with pytest.raises(InvalidArgumentError, match=f"Expected `{wrong}`"):
        Workload("mine", **numbers)


# The table.


def test_each_figure_says_where_it_is_from():
    workloads = [
        Workload("small", 3600, Estimate(100.0), Estimate(100.0)),
        Workload("large", 7200, Estimate(100.0), Estimate(10.0, "given")),
    ]
    table = sizing_table(workloads, Estimate(0.9), [1, 2, 8], most=36_000)
    assert [(row["test_set"], row["devices"]) for row in table] == [
        (name, devices) for name in ("small", "large") for devices in (1, 2, 8)
    ]
    assert {row["samples_per_second"]["source"] for row in table[:3]} == {"measured"}
    assert table[3]["samples_per_second"] == {"value": 10.0, "source": "given"}
    efficiencies = [tuple(row["efficiency"].values()) for row in table[:3]]
    assert efficiencies == [(1.0, "one device"), (0.9, "measured"), (0.9, "assumed")]
    assert [row["hours"] for row in table[:3]] == pytest.approx([1.1, 1 / 1.8 + 0.1, 1 / 7.2 + 0.1])
    assert table[2]["device_hours"] == pytest.approx(8 * (1 / 7.2 + 0.1))
    assert [row["last_image_hours"] for row in table[2:4]] == pytest.approx([0.1, 1.0])


def test_an_efficiency_that_is_given_is_so_for_any_number_of_devices():
    one = Workload("mine", 10, Estimate(1.0), Estimate(1.0))
    table = sizing_table([one], Estimate(0.9, "given"), [2, 8], most=0)
    assert [row["efficiency"]["source"] for row in table] == ["given", "given"]


TURNS = [
    {1: Pace(100.0, 1.0), 2: Pace(190.0, 1.9)},
    {1: Pace(80.0, 0.8), 2: Pace(144.0, 1.44)},
    {1: Pace(200.0, 2.0), 2: Pace(320.0, 3.2)},
]


def test_efficiency_is_that_of_the_same_turn():
    alone, together = scaling_table(TURNS, [100, 100, 400])
    assert alone["efficiency"] == {"median": 1, "min": 1, "max": 1}
    assert together["efficiency"] == pytest.approx({"median": 0.9, "min": 0.8, "max": 0.95})
    assert together["images_per_second"] == [1.9, 1.44, 3.2]
    assert alone["samples_per_image"] == pytest.approx({"mean": 200, "median": 100, "p95": 370})


def test_measured_figures_are_medians_over_turns():
    samples, rate, efficiency = measured_figures(scaling_table(TURNS, [100, 100, 400]))
    assert (samples.value, rate.value, efficiency.value) == pytest.approx((200, 100, 0.9))


def test_rows_are_compared_by_image_whatever_their_order_and_time():
    rows = [replace(ROW, idx=idx) for idx in range(3)]
    again = [replace(row, time=9.0) for row in reversed(rows)]
    assert unlike(rows, [again, rows]) == []
    assert unlike(rows, [again, [replace(rows[2], n_b=31), rows[0]]]) == [1, 2]


# The command.


class Launches:
    """In place of certifying in new processes: writes rows and a pace for what is requested."""

    def __init__(self, **rows):
        self.configurations = []
        self.jobs = []
        self.processes = []
        self.changes = rows

    def __call__(self, function, cfg, hydra, each):
        assert function.func == sizing._certify_silently
        assert function.args == (1 if sizing._on_cpu(cfg) else None,)
        self.configurations.append(cfg)
        self.jobs.append(hydra)
        self.processes.append(each)
        self.write(Path(hydra.runtime.output_dir), cfg.max_images, each)

    def write(self, folder, images, processes):
        changes = self.changes if processes == 2 else {}
        rows = [replace(ROW, idx=idx, time=processes, **changes) for idx in range(images)]
        lines = [list(COLUMNS), *map(format_row, rows)]
        text = "".join("\t".join(line) + "\n" for line in lines)
        (folder / "certificates.tsv").write_text(text)
        paces = {1: (600.0, 1.0), 2: (1080.0, 1.8)}
        pace = dict(zip(("samples_per_second", "images_per_second"), paces[processes], strict=True))
        summary = {**SUMMARY, "images": images, **pace}
        (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def started(monkeypatch):
    replaced = Launches()
    monkeypatch.setattr(sizing, "start", replaced)
    return replaced


def sized(own, *overrides):
    """Benchmark in this process and return what was written."""
    with composed(own, ["task=sizing", "device=cpu", *overrides], "benchmark") as cfg:
        commands.benchmark(cfg)
    return json.loads((own / "benchmark.json").read_text())["results"]


def test_the_certification_has_the_settings_of_this_command(started, tmp_path):
    given = ["images=5", "n=2000", "execution=fast", "execution.compile=false", "radii=[0,0.5]"]
    sized(tmp_path, "run='a,b=1'", "repeats=2", *given, "certifier.bound=cohen", "seed=3")
    warmup, *measured = started.configurations
    assert (warmup.max_images, warmup.n) == (2, 1000)
    assert started.processes == [2, 1, 2, 1, 2]
    assert len({each.runtime.output_dir for each in started.jobs}) == 5
    for cfg in measured:
        assert (cfg.run, cfg.max_images, cfg.split) == ("a,b=1", 5, "test")
        assert (cfg.n, cfg.n0, cfg.seed, cfg.radii) == (2000, 100, 3, [0, 0.5])
        assert (cfg.execution.precision, cfg.execution.compile) == ("bfloat16", False)
        assert cfg.certifier._target_.endswith("SequentialCertifier")
        assert cfg.certifier.bound == "cohen"


def test_a_checkpoint_file_is_certified_with_its_network_and_data(started, tmp_path):
    network = ["ckpt=a.ckpt", "model=resnet50", "model.normalization=none", "sigma=0.5"]
    sized(tmp_path, *network, "data.root=/images", "+certify.data=imagenet", "+certify.split=val")
    cfg = started.configurations[1]
    assert (cfg.ckpt, cfg.sigma, cfg.split, cfg.data.root) == ("a.ckpt", 0.5, "val", "/images")
    assert cfg.model.normalization == "none"
    assert cfg.data._target_.endswith("ImageNetDataModule")
    assert started.jobs[1].runtime.choices["model"] == "resnet50"


def test_what_is_measured_and_given_makes_the_tables(started, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    results = sized(tmp_path, "run=run", "test_sets.ImageNet.rate=60", f"readme={page}")
    assert [row["processes"] for row in results["scaling"]] == [1, 2]
    assert results["scaling"][1]["efficiency"]["median"] == pytest.approx(0.9)
    # 500 estimation samples and 100 of the selection.
    assert results["scaling"][0]["samples_per_image"]["mean"] == 600
    assert (results["scaling"][0]["threads"], results["scaling"][0]["different_rows"]) == (1, 0)
    hours = {(row["test_set"], row["devices"]): row["hours"] for row in results["sizing"]}
    most = 100_100 / 600
    assert hours["CIFAR-10", 1] == pytest.approx((10_000 + most) / 3600)
    assert hours["CIFAR-10", 8] == pytest.approx((10_000 / 7.2 + most) / 3600)
    assert hours["ImageNet", 64] == pytest.approx(10 * (50_000 / 57.6 + most) / 3600)
    printed = capsys.readouterr().out
    for text in ("small_cnn on digits", "0.90 (0.90–0.90)", "60 (given)", "600 (measured)"):
        assert text in printed
    part = measurements_as_markdown("sizing", results)
    assert page.read_text() == f"before\n{START}\n\n{part}\n{END}\nafter\n"
    assert (tmp_path / "sizing.md").read_text() == part
    assert "| ImageNet | 50,000 | 600 (measured) | 60 (given) | 64 | 0.9 (assumed) |" in part


def test_different_votes_are_counted_and_warned_of(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sizing, "start", Launches(n_a=451))
    results = sized(tmp_path, "run=run", "images=4", "repeats=1")
    assert results["scaling"][0]["different_rows"] == 4
    assert "4 of 4 images have different votes" in caplog.text


def test_a_page_without_marks_loses_no_measurement(started, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(SystemExit, match="Expected the marks"):
        sized(tmp_path, "run=run", f"readme={page}")
    assert (tmp_path / "benchmark.json").is_file()
    assert (tmp_path / "sizing.md").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "Expected run=<run folder>, or ckpt="),
        (["run=run", "processes=[1]"], "more than one process to measure, or efficiency="),
        (["run=run", "processes=[0,1]"], "`processes` a whole number >= 1"),
        (["run=run", "repeats=0"], "`repeats` a whole number >= 1"),
        (["run=run", "efficiency=1.5"], r"`efficiency` in \(0, 1\]"),
        (["run=run", "test_sets.ImageNet.rate=0"], "`rate` > 0 and finite"),
        (["run=run", "devices=[0]"], "`devices` a whole number >= 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(
    overrides, message, started, tmp_path
):
    with pytest.raises(SystemExit, match=message):
        sized(tmp_path, *overrides)
    assert started.processes == []


def test_more_processes_than_gpus_are_refused_and_one_takes_a_given_efficiency(
    started, tmp_path, monkeypatch
):
    monkeypatch.setattr(sizing, "_on_cpu", lambda cfg: False)
    monkeypatch.setattr(sizing.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit, match="at most 1, one per GPU, got 2"):
        sized(tmp_path, "run=run")
    results = sized(tmp_path, "run=run", "processes=[1]", "efficiency=0.9")
    assert [row["processes"] for row in results["scaling"]] == [1]
    assert results["sizing"][1]["efficiency"] == {"value": 0.9, "source": "given"}


def test_a_certification_that_fails_ends_the_command_with_its_message(tmp_path):
    with pytest.raises(SystemExit, match=r"Expected a run folder, got 'nowhere'"):
        sized(tmp_path, "run=nowhere")
    assert not (tmp_path / "benchmark.json").exists()


def succeeded(command, *arguments):
    """Run a command as a user types it."""
    line = [sys.executable, "-m", f"src.{command}", *arguments]
    process = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_a_run_is_certified_by_the_command_with_one_and_two_processes(tmp_path):
    run, own = tmp_path / "run", tmp_path / "own"
    trained = ["experiment=digits_reg", "trainer.max_epochs=1", "trainer.limit_train_batches=3"]
    succeeded("train", *TINY, *trained, f"hydra.run.dir={run}")
    asked = [f"run={run}", "images=6", "n=1000", "repeats=1", "device=cpu"]
    succeeded("benchmark", "task=sizing", *asked, f"hydra.run.dir={own}")
    results = json.loads((own / "benchmark.json").read_text())["results"]
    assert [row["processes"] for row in results["scaling"]] == [1, 2]
    assert [row["images"] for row in results["scaling"]] == [6, 6]
    assert results["scaling"][0]["different_rows"] == 0
    assert results["scaling"][1]["efficiency"]["median"] > 0
    assert all(row["hours"] > 0 for row in results["sizing"])
