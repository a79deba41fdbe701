"""The commands as a user types them, on the digits."""

import csv
import itertools
import json
import re
import shlex
import signal
import time
from types import SimpleNamespace

import pytest
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

import designs
import precision
from smoothcert import commands
from smoothcert.certify import engine, scheduling
from smoothcert.records import COLUMNS, read_certificates
from tests.helpers.commands import QUICK, class_folders, from_a_terminal, run, start, succeeded
from tests.helpers.row_files import in_order, rows_in
from tests.helpers.support import ROOT, TINY, composed, guarded, save_hydra_files

FILES = (
    ".hydra/config.yaml",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "metrics.csv",
    "certificates.tsv",
    "certificates.settings.json",
    "summary.json",
    "certified_accuracy.png",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small finished run, which tests read and certify but do not change."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    printed = succeeded(run("train", *QUICK, f"hydra.run.dir={folder}"))
    return folder, printed


def test_a_run_leaves_every_file_of_the_contract(finished):
    folder, _ = finished
    assert [name for name in FILES if not (folder / name).is_file()] == []


def test_the_summary_says_what_was_done_and_how_it_came_out(finished):
    folder, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    rows = read_certificates(folder / "certificates.tsv")
    assert summary["acr"] == pytest.approx(sum(r.radius * r.correct for r in rows) / 4)
    assert summary["clean_smoothed_accuracy"] == sum(r.correct for r in rows) / 4
    expected = {
        "data": "digits",
        "model": "small_cnn",
        "objective": "adre",
        "attack": "none",
        "certifier": "tight",
        "sigma": 0.5,
        "alpha": 0.001,
        "n0": 10,
        "n": 100,
        "seed": 0,
        "images": 4,
        "split": "val",
        "mean_samples_per_image": 110,
    }
    assert {name: summary[name] for name in expected} == expected
    assert set(summary["versions"]) >= {"torch", "pytorch-lightning", "smoothcert"}
    assert summary["images_per_second"] > 0
    # All votes, the selection's included.
    assert summary["samples_per_second"] == pytest.approx(110 * summary["images_per_second"])
    assert (summary["precision"], summary["noise"], summary["target"]) == (
        "float32",
        "gaussian",
        "selection",
    )
    assert "git_commit" in summary


def test_the_terminal_shows_the_table_and_where_the_files_are(finished):
    folder, printed = finished
    accuracy = json.loads((folder / "summary.json").read_text())["certified_accuracy"]
    for radius, share in accuracy.items():
        assert re.search(rf" {re.escape(radius)} .* {share:.1%}", printed)
    assert "ACR" in printed
    assert str(folder) in printed


def test_the_first_columns_are_the_fields_own(finished):
    folder, _ = finished
    header = (folder / "certificates.tsv").read_text().splitlines()[0].split("\t")
    assert tuple(header) == COLUMNS
    assert header[:6] == ["idx", "label", "predict", "radius", "correct", "time"]


def certified(folder, own, *overrides):
    """Certify in this process and return the summary."""
    with composed(own, [f"run={folder}", *overrides], "certify") as cfg:
        commands.certify(cfg)
    return json.loads((own / "summary.json").read_text())


def test_certify_names_its_folder_after_what_it_overrides(finished):
    """Another certifier has a folder of its own beside the default one, which stays as it is."""
    folder, _ = finished
    options = ["max_images=2", "skip=45", "split=val"]
    default = folder / "certify" / "val_max_images-2_skip-45"
    assert certified(folder, default, *options)["certifier"] == "sequential"
    before = {path.name: path.read_bytes() for path in default.iterdir() if path.is_file()}
    process = run("certify", f"run={folder}", "certifier=tight", *options)
    succeeded(process)
    assert "Warning" not in process.stderr_text
    own = folder / "certify" / "val_certifier-tight_max_images-2_skip-45"
    assert (own / "certified_accuracy.png").read_bytes().startswith(b"\x89PNG")
    trained = read_certificates(folder / "certificates.tsv")
    # The same weights, seed and images: the same certificates as at the end of training.
    assert rows_in(own / "certificates.tsv")[0] == rows_in(folder / "certificates.tsv")[0]
    rows = read_certificates(own / "certificates.tsv")
    assert [row.idx for row in rows[:2]] == [trained[0].idx, trained[2].idx]
    assert {p.name: p.read_bytes() for p in default.iterdir() if p.is_file()} == before
    assert {"certificates.tsv", "certificates.settings.json", "summary.json"} <= before.keys()


def test_certify_takes_missing_settings_from_the_run(finished, tmp_path, caplog):
    folder, _ = finished
    summary = certified(folder, tmp_path / "a", "max_images=2")
    assert (summary["certifier"], summary["n"], summary["sigma"]) == ("sequential", 100, 0.5)
    assert summary["split"] == "test"
    options = ["certifier=cohen", "n=50", "alpha=0.01", "max_images=2"]
    summary = certified(folder, tmp_path / "b", *options)
    assert (summary["certifier"], summary["n"], summary["n0"]) == ("cohen", 50, 10)
    assert (summary["alpha"], summary["split"], summary["images"]) == (0.01, "test", 2)
    assert "With n=50 samples" in caplog.text
    options = ["~certifier", "certifier.bound=rectangle", "certifier.split=paper", "max_images=1"]
    summary = certified(folder, tmp_path / "c", *options)
    assert summary["certifier"] == "tight (unproven split)"
    assert (summary["n"], summary["certifier_settings"]["alpha_split"]) == (100, "paper")
    summary = certified(folder, tmp_path / "d", "certifier=precision", "max_images=1")
    assert (summary["n0"], summary["n"]) == (1000, 100)


def test_a_setting_that_the_certifier_does_not_have_is_named(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(SystemExit, match=r"settings of SequentialCertifier, .*got 'split'"):
        certified(folder, tmp_path, "certifier.split=paper", "max_images=1")


def test_certify_leaves_out_the_first_images_where_a_start_is_given(finished, tmp_path):
    folder, _ = finished
    first = certified(folder, tmp_path / "a", "max_images=3", "skip=2")
    later = certified(folder, tmp_path / "b", "max_images=2", "skip=2", "start=2")
    rows = {name: read_certificates(tmp_path / name / "certificates.tsv") for name in "ab"}
    assert (first["images"], later["images"]) == (3, 2)
    assert later["certifier_settings"]["start"] == 2
    # The first image of the one is beyond the start of the other.
    assert min(row.idx for row in rows["a"]) not in {row.idx for row in rows["b"]}


def test_certify_ends_when_its_time_is_up_and_resumes_from_there(
    finished, tmp_path, caplog, monkeypatch
):
    folder, _ = finished
    options = ["certifier=tight", "n=300", "max_images=20", "execution.batch_size=16"]
    with pytest.raises(SystemExit, match=r"Time is up before the first image.*raise max_hours"):
        certified(folder, tmp_path / "own", *options, "max_hours=1e-12")
    with monkeypatch.context() as patched:
        # A clock that goes on by a second at each look.
        ticks = itertools.count()
        clock = SimpleNamespace(perf_counter=lambda: next(ticks))
        patched.setattr(scheduling, "time", clock)
        patched.setattr(engine, "time", clock)
        some = certified(folder, tmp_path / "own", *options, "max_hours=0.02")
    assert 0 < some["images"] < some["images_asked"] == 20
    assert f"Time is up: the first {some['images']} of 20 images" in caplog.text
    every = certified(folder, tmp_path / "own", *options, "max_hours=1")
    assert every["images"] == every["images_asked"] == 20
    certified(folder, tmp_path / "whole", *options)
    files = [tmp_path / name / "certificates.tsv" for name in ("own", "whole")]
    assert in_order(files[0]) == in_order(files[1])


PERFORMANCE = ("images_per_second", "samples_per_second", "peak_memory_bytes", "batch_size")


def test_certifying_again_what_is_finished_keeps_how_fast_it_was(finished, tmp_path):
    folder, _ = finished
    first = certified(folder, tmp_path / "own", "max_images=3")
    before = (tmp_path / "own" / "certificates.tsv").read_bytes()
    again = certified(folder, tmp_path / "own", "max_images=3")
    assert all(first[name] > 0 for name in PERFORMANCE)
    assert again == first
    assert (tmp_path / "own" / "certificates.tsv").read_bytes() == before


def test_certifying_at_another_sigma_warns_and_names_both(finished, tmp_path, caplog):
    folder, _ = finished
    certified(folder, tmp_path, "sigma=0.25", "max_images=1")
    assert "sigma=0.25 a classifier that was trained at sigma=0.5" in caplog.text


@pytest.mark.slow
def test_a_killed_certification_resumes_where_it_stopped(finished, tmp_path):
    """kill −9 as soon as the first rows are there; the same command ends with the same rows."""
    folder, _ = finished
    options = ("certifier=tight", "n=2000", "max_images=40")
    command = ("certify", f"run={folder}", *options)
    own = folder / "certify" / "test_certifier-tight_max_images-40_n-2000"
    path = own / "certificates.tsv"
    process = start(*command)
    while process.poll() is None and not (path.is_file() and path.read_bytes().count(b"\n") > 3):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    survivors = rows_in(path)
    assert 3 <= len(survivors) < 40
    # How it is run is no part of the folder's name.
    assert "40 test images" in succeeded(run(*command, "execution.batch_size=100", "device=cpu"))
    resumed = rows_in(path)
    assert all(row in resumed for row in survivors)
    assert len(resumed) == 40
    certified(folder, tmp_path / "whole", *options, "execution.batch_size=37")
    assert in_order(tmp_path / "whole" / "certificates.tsv") == in_order(path)


@pytest.mark.slow
def test_a_killed_training_resumes_by_run(tmp_path):
    """kill −9 during the certification after training; `run=` ends the very run."""
    command = [*QUICK, "n=3000", "callbacks.certification.max_images=30"]
    folder, path = tmp_path / "run", tmp_path / "run" / "certificates.tsv"
    process = start("train", *command, f"hydra.run.dir={folder}")
    while process.poll() is None and not (path.is_file() and path.read_bytes().count(b"\n") > 3):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    survivors = rows_in(path)
    weights = (folder / "checkpoints" / "best.ckpt").read_bytes()
    assert 3 <= len(survivors) < 30
    succeeded(run("train", f"run={folder}"))
    assert all(row in rows_in(path) for row in survivors)
    assert len(read_certificates(path)) == 30
    assert (folder / "checkpoints" / "best.ckpt").read_bytes() == weights
    assert json.loads((folder / "summary.json").read_text())["n"] == 3000


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT]
)
def test_a_signal_ends_a_run_with_its_exit_code_and_the_way_to_resume(tmp_path, number):
    with from_a_terminal():
        process = start("train", *QUICK, "trainer.max_epochs=500", f"hydra.run.dir={tmp_path}/run")
    while process.poll() is None and not (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file():
        time.sleep(0.05)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"Resume with: python -m src.train run={tmp_path}/run" in printed + errors
    assert "Traceback" not in printed + errors


@pytest.mark.slow
def test_a_sweep_leaves_a_complete_run_for_each_value_in_one_folder(tmp_path):
    arguments = [*QUICK, "sigma=0.12,0.25", f"hydra.sweep.dir={tmp_path}/sweep"]
    succeeded(run("train", "-m", *arguments))
    folders = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert len(folders) == 2
    for folder, sigma in zip(folders, (0.12, 0.25), strict=True):
        assert f"sigma-{sigma}" in folder.name
        assert [name for name in FILES if not (folder / name).is_file()] == []
        assert json.loads((folder / "summary.json").read_text())["sigma"] == sigma


@pytest.mark.slow
def test_all_loggers_at_once_and_none_of_them_prompts(tmp_path):
    succeeded(run("train", *QUICK, "logger=many", f"hydra.run.dir={tmp_path}/run"))
    assert list((tmp_path / "run" / "wandb").rglob("*.wandb"))
    assert list((tmp_path / "run" / "tensorboard").rglob("events.*"))
    assert (tmp_path / "run" / "metrics.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fast", "overfit", "profile"])
def test_debug_configurations_run(tmp_path, name):
    short = ["trainer.max_epochs=2"] if name == "overfit" else []
    succeeded(
        run(
            "train",
            "experiment=digits_reg_adv",
            f"debug={name}",
            *short,
            f"hydra.run.dir={tmp_path}",
        )
    )


@pytest.mark.slow
def test_fast_dev_run_certifies_one_image_with_one_batch(tmp_path):
    arguments = ["experiment=digits_gaussian", "trainer.fast_dev_run=true"]
    succeeded(run("train", *arguments, f"hydra.run.dir={tmp_path}"))
    assert [row.n_samples for row in read_certificates(tmp_path / "certificates.tsv")] == [256]


def test_a_mistyped_option_gets_hydras_list_of_what_exists():
    process = run("train", "experiment=cifar_reg_adv", "objective=adr")
    assert process.returncode != 0
    assert "Could not find 'objective/adr'" in process.stderr_text
    assert re.search(r"adre\s+catrs\s+consistency", process.stderr_text)


def test_bad_input_is_answered_in_one_line(tmp_path):
    process = run("train", "sigma=0", f"hydra.run.dir={tmp_path}")
    assert process.returncode == 1
    assert "Expected `sigma` > 0 and finite, got 0" in process.stderr_text
    assert "Traceback" not in process.stderr_text


def configuration(folder):
    return {path.name: path.read_bytes() for path in (folder / ".hydra").iterdir()}


@pytest.mark.parametrize("way", ["run={}", "hydra.run.dir={}"])
def test_a_run_takes_no_other_overrides_and_its_configuration_stays(finished, way):
    folder, _ = finished
    before = configuration(folder)
    with pytest.raises(SystemExit, match=r"nothing else may be set|was started with"):
        guarded("train", way.format(folder), "sigma=0.25")
    assert configuration(folder) == before


def test_class_folders_of_other_names_are_refused(tmp_path):
    run_folder = tmp_path / "run"
    data = class_folders(tmp_path / "a", ("cat", "dog"))
    class_folders(tmp_path / "b", ("ant", "cat"))
    with composed(run_folder, [*data, *TINY, "trainer.max_epochs=1"]) as cfg:
        commands.train(cfg)
        save_hydra_files(cfg, run_folder)
    certified(run_folder, tmp_path / "own", "max_images=1")
    with pytest.raises(SystemExit, match="class 'ant' where the run was trained with 'cat'"):
        certified(run_folder, tmp_path / "other", f"data.root={tmp_path}/b")


def test_a_folder_that_is_no_run_is_refused():
    with pytest.raises(SystemExit, match="Expected a run folder, got 'no/such'"):
        guarded("train", "run=no/such")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["alpha=1.5"], r"Expected `alpha` in \(0, 1\), got 1\.5"),
        (["n=0"], "Expected `n` a whole number >= 1, got 0"),
        (["experiment=cifar_reg", "data.root=no/such"], r"No CIFAR-10 in .*no/such.* data\.root="),
        (
            ["data=image_folder", "data.root=no/such"],
            "No class folders with images found in .*no/such: it does not exist",
        ),
        (["data=image_folder"], "^InvalidArgumentError: Expected data.root=<folder>, with"),
        (["data=image_folder", "data.root=null"], "Expected data.root=<folder>, with"),
        (["+model.num_classes=7"], "configured for 7 classes and the data has 10"),
        (["model=resnet50"], "resnet50 takes 3 channels, and the data has 1"),
        (["callbacks.certification.split=dev"], "one of train, val, test, got 'dev'"),
        (["trainer.max_epochs=abc"], r"Expected trainer\.max_epochs of type int, got 'abc'$"),
        (["trainer.max_epochs=-5"], "that trainer .* takes: `max_epochs` must be"),
        (
            ["trainer.accumulate_grad_batches=0"],
            r"`trainer\.accumulate_grad_batches` a whole",
        ),
        (["optimizer.lr=-1"], r"the optimizer takes, got optimizer\.lr=-1, .*: Invalid learning r"),
        (["optimizer=adamw", "optimizer.lr=abc"], r"got optimizer\.lr='abc', "),
        (["scheduler=cosine", "scheduler.T_max=x"], r"Expected scheduler\.T_max of type int, got"),
        (
            ["scheduler=one_cycle", "scheduler.pct_start=2"],
            r"scheduler takes, .*pct_start=2.*: ",
        ),
        (["objective=custom"], r"Expected objective\._target_=.* with objective=custom, got none$"),
        (
            ["objective._target_=nope.Nope"],
            r"be imported for objective \(nope\.Nope\)",
        ),
        (["+objective.foo=1"], r"that objective \(.*ADRE\) takes: .*unexpected keyword .*'foo'$"),
        (["callbacks.best.mode=up"], r"that callbacks\.best \(.*\) takes: `mode` can be min, max"),
        (
            ["callbacks.best.monitor=val/acc"],
            "one of val/cross_entropy, .*; certify/acr",
        ),
        (["callbacks.best.monitor=certify/acr"], r"every_n_epochs=1, got 'certify/acr'$"),
        (
            ["callbacks.best.monitor=train/acc"],
            "monitor=train/acc of ModelCheckpoint one",
        ),
        (
            ["experiment=cifar_reg", "data.root=no/such", "n=20000000"],
            "Expected `n` from 1 to 10000000 for the joint bound, got 20000000",
        ),
    ],
)
def test_bad_input_is_named_before_any_training(tmp_path, overrides, message):
    with (
        composed(tmp_path, ["trainer=cpu", *overrides]) as cfg,
        pytest.raises(SystemExit, match=message),
    ):
        commands.train(cfg)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("train", ["sigma=-0.5"]),
        ("train", ["seed=-1"]),
        ("certify", ["ckpt=a.ckpt", "model=resnet20", "n=0"]),
        ("benchmark", ["alpha=1"]),
    ],
)
def test_a_setting_out_of_range_leaves_no_folder(command, overrides, tmp_path):
    folder = tmp_path / "run"
    name = overrides[-1].partition("=")[0]
    with pytest.raises(SystemExit, match=f"^Expected `{name}`"):
        guarded(command, *overrides, f"hydra.run.dir={folder}")
    assert not folder.exists()


def test_certify_refuses_what_its_certifier_cannot_do_before_it_reads_images(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(SystemExit, match="Expected `n` from 1 to 10000000 for the joint bound"):
        certified(folder, tmp_path, "certifier=tight", "n=20000000", "data.root=no/such")


@pytest.mark.parametrize("command", ["train", "certify"])
def test_null_as_the_option_of_a_group_is_answered_with_its_options(command):
    commands.check_command_line([f"{ROOT}/src/{command}.py", "logger=csv", "seed=null"])
    with pytest.raises(SystemExit, match=r"Expected data= one of cifar10, .*, got null$"):
        commands.check_command_line([f"{ROOT}/src/{command}.py", "data=null"])
    with pytest.raises(SystemExit, match=r"Expected logger= one of csv, .* '~logger'$"):
        commands.check_command_line([f"{ROOT}/src/{command}.py", "logger=null"])


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("run=outputs/0_sigma=0.5,seed=1", "run='outputs/0_sigma=0.5,seed=1'"),
        ("runs=~/runs/**", "runs='~/runs/**'"),
        ("title=CIFAR-10 (JPEG copy)", "title='CIFAR-10 (JPEG copy)'"),
        ("ckpt=it's.pth", r"ckpt='it\'s.pth'"),
    ],
)
def test_a_value_that_hydra_cannot_parse_is_answered_with_its_quotes(argument, quoted):
    with pytest.raises(SystemExit) as caught:
        commands.check_command_line([f"{ROOT}/src/report.py", argument])
    assert str(caught.value).startswith("Expected quotes around the value of ")
    [typed] = shlex.split(str(caught.value).partition("cannot parse: ")[2])
    assert typed == quoted
    commands.check_command_line([f"{ROOT}/src/report.py", typed])


class Offline(Exception):  # noqa: N818
    """What W&B raises without a network."""

    __module__ = "wandb.errors.errors"


def test_a_dashboard_out_of_reach_is_answered_with_the_mode_that_needs_none(tmp_path, monkeypatch):
    def log_hyperparams(*_):
        raise Offline("Failed to get resume status for run x: context deadline exceeded\nwhile")

    monkeypatch.setattr("smoothcert.lightning.ResumingCSVLogger.log_hyperparams", log_hyperparams)
    expected = "W&B: Failed to get .* exceeded. Without a network: WANDB_MODE=offline"
    with composed(tmp_path, QUICK) as cfg, pytest.raises(SystemExit, match=expected):
        commands.train(cfg)


def test_a_training_without_certification_ends_with_what_it_reached_and_where(tmp_path, caplog):
    caplog.set_level("INFO")
    alone = [each for each in QUICK if "certification" not in each]
    options = [*alone, "callbacks.certification=null", "callbacks.best.monitor=val/cross_entropy"]
    with composed(tmp_path, [*options, "callbacks.best.mode=min", "trainer.max_epochs=3"]) as cfg:
        assert commands.train(cfg) is None
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["val/cross_entropy"]) for row in rows if row["val/cross_entropy"]]
    assert re.search(rf"Trained 3 epochs, .*val/cross_entropy {losses[-1]:.4g}", caplog.text)
    best = losses.index(min(losses)) + 1
    assert f"Best epoch: {best}, val/cross_entropy {min(losses):.4g}" in caplog.text
    assert f"Weights: {tmp_path}/checkpoints/best.ckpt" in caplog.text
    assert f"python -m src.certify run={tmp_path}" in caplog.text


def test_overfitting_logs_the_loss_of_every_step(tmp_path):
    options = ["experiment=digits_gaussian", "debug=overfit", "trainer=cpu", "trainer.max_epochs=3"]
    with composed(tmp_path, options) as cfg:
        commands.train(cfg)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["train/loss"]]) == 6
    assert [row["epoch"] for row in rows if row["val/cross_entropy"]] == ["2"]


def test_a_run_that_is_to_train_longer_is_answered_with_the_command(tmp_path):
    given = ["sigma=0.5", "trainer.max_epochs=4", "name='a b'"]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").touch()
    OmegaConf.save(given, tmp_path / ".hydra" / "overrides.yaml")
    with pytest.raises(SystemExit) as caught:
        guarded("train", f"run={tmp_path}", "trainer.max_epochs=8")
    command = str(caught.value).partition("in a new folder: ")[2]
    assert shlex.split(command) == [
        *("python", "-m", "src.train", "sigma=0.5", "name='a b'", "trainer.max_epochs=8"),
        f"ckpt_path={tmp_path}/checkpoints/last.ckpt",
    ]


def test_a_damaged_checkpoint_is_named_and_left_alone(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    (copy / ".hydra").mkdir()
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (copy / ".hydra" / name).write_bytes((folder / ".hydra" / name).read_bytes())
    damaged = (folder / "checkpoints" / "best.ckpt").read_bytes()[:2000]
    for name in ("best.ckpt", "last.ckpt"):
        (copy / "checkpoints" / name).write_bytes(damaged)
    with pytest.raises(SystemExit, match=r"best\.ckpt is damaged"):
        certified(copy, tmp_path / "own")
    with composed(copy, QUICK) as cfg, pytest.raises(SystemExit, match=r"last\.ckpt is damaged"):
        commands.train(cfg)
    assert (copy / "checkpoints" / "best.ckpt").read_bytes() == damaged


def test_help_lists_what_exists():
    text = succeeded(run("train", "--help"))
    assert re.search("objective +adre, catrs, consistency, custom, gaussian", text)


def test_the_run_keeps_its_configuration(finished):
    folder, _ = finished
    saved = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert (saved.name, saved.sigma, saved.trainer.max_epochs) == ("digits_reg", 0.5, 1)


def measured(own, *overrides):
    """Benchmark in this process and return what was written."""
    own.mkdir(exist_ok=True)
    with composed(own, overrides, "benchmark") as cfg:
        commands.benchmark(cfg)
    return json.loads((own / "benchmark.json").read_text())


def test_benchmark_measures_a_fresh_network_and_the_reference(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("smoothcert.benchmarks.throughput.has_art", lambda: False)
    options = ["model=small_cnn", "input_shape=[1,8,8]", "mean=[0.5]", "std=[0.5]", "n=500"]
    quick = ["repeats=2", "images=2", "reference_batches=1", "~executions"]
    own = ["+executions={ours: {compile: false}}"]
    written = measured(tmp_path, *options, *quick, *own)
    assert [entry["name"] for entry in written["results"]] == ["reference", "ours"]
    assert written["results"][0]["samples_per_image"] == 600
    assert written["results"][1]["samples_ratio"]["min"] > 0
    assert written["configuration"]["certifier"]["radii"] == [0.0, 0.25, 0.5, 0.75]
    assert "reference" in capsys.readouterr().out


def study(script, folder, own, *arguments):
    """Run a script of `benchmarks/` on a run in this process and return what was written."""
    script.main([str(folder), *arguments, "--images", "3", "--folder", str(own)])
    return json.loads((own / "benchmark.json").read_text())


def test_a_study_draws_the_votes_of_a_run_once_and_replays_them(finished, tmp_path, capsys):
    folder, _ = finished
    given = ["--n", "2000", "--votes", str(tmp_path / "v.npz")]
    first = study(designs, folder, tmp_path / "a", *given)
    assert (tmp_path / "v.npz").is_file()
    again = study(designs, "no folder", tmp_path / "b", *given)
    assert again["results"] == first["results"]
    assert (first["task"], first["results"][0]["samples_mean"]) == ("designs", 2100)
    assert "fixed, joint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["--n", "0"], "n"), (["--alpha", "2"], "alpha"), (["--seed", "-1"], "seed")],
)
def test_a_study_refuses_settings_out_of_range_before_it_reads_the_run(arguments, name, tmp_path):
    with pytest.raises(SystemExit, match=f"Expected `{name}`"):
        study(precision, "no/such", tmp_path / "own", *arguments)
    assert not (tmp_path / "own").exists()


def test_a_study_compares_the_votes_of_two_precisions(finished, tmp_path):
    folder, _ = finished
    [entry] = study(precision, folder, tmp_path, "--n", "200")["results"]
    assert (entry["images"], entry["votes_per_image"]) == (3, 200)
    assert 0 <= entry["share_of_votes_that_differ"] < 0.2


@pytest.mark.parametrize("script", [designs, precision])
def test_a_study_without_a_run_folder_is_refused_in_one_line(script, tmp_path):
    with pytest.raises(SystemExit, match=r"a run folder, got 'nowhere': it has no \.hydra"):
        study(script, "nowhere", tmp_path)


def test_benchmark_names_the_tasks_that_it_knows(tmp_path):
    expected = r"(?s)'task/speed'.*\smethods\s+sizing\s+throughput\s"
    with (
        pytest.raises(MissingConfigException, match=expected),
        composed(tmp_path, ["task=speed"], "benchmark"),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Expected run=<run folder>"),
        (["run=nowhere"], "got 'nowhere': it has no .hydra"),
        (["run=2026"], """quotes: "run='2026'"$"""),
        (["run=null"], "Expected run=<run folder>, got run=None"),
    ],
)
def test_certify_without_a_run_folder_makes_none(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        guarded("certify", *arguments)
    assert list(tmp_path.iterdir()) == []
