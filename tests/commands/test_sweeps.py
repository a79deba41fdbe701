"""The end of a sweep: failed jobs are named, and the others are compared."""

import json

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from smoothcert.commands.sweeps import SweepEnd
from smoothcert.errors import InvalidArgumentError
from tests.helpers.commands import QUICK, run
from tests.helpers.faults import small_disk, under_permissions
from tests.helpers.support import CONF, guarded


def job(folder, mode=RunMode.MULTIRUN, number=0):
    """Return a job's configuration, its folder made as Hydra makes it."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").touch()
    (folder / "certificates.tsv").touch()
    hydra = {
        "mode": mode,
        "sweep": {"dir": str(folder.parent)},
        "job": {"num": number},
        "runtime": {"output_dir": str(folder)},
    }
    return OmegaConf.create({"hydra": hydra})


def ended(error=None):
    status = JobStatus.COMPLETED if error is None else JobStatus.FAILED
    return JobReturn(status=status, _return_value=error if error is not None else 0.5)


def test_a_failed_job_of_a_sweep_keeps_its_error_and_stops_nothing(tmp_path, caplog):
    result = ended(InvalidArgumentError("Expected `sigma` > 0, got 0"))
    SweepEnd().on_job_end(job(tmp_path / "1_sigma-0", number=1), result)
    said = (tmp_path / "1_sigma-0" / "error.txt").read_text()
    assert said == "InvalidArgumentError: Expected `sigma` > 0, got 0\n"
    assert result.return_value != result.return_value  # NaN, for sweepers that optimize
    assert "Job 1 failed, the sweep continues" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_error_that_says_little_is_logged_with_its_trace(tmp_path, caplog):
    try:
        {}["key"]
    except KeyError as error:
        result = ended(error)
    SweepEnd().on_job_end(job(tmp_path / "0"), result)
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("mode", [RunMode.RUN, None])
def test_a_single_run_fails_as_it_would(tmp_path, mode):
    result = ended(InvalidArgumentError("no"))
    SweepEnd().on_job_end(job(tmp_path / "run", mode), result)
    assert not (tmp_path / "run" / "error.txt").exists()
    with pytest.raises(InvalidArgumentError):
        _ = result.return_value


def test_a_job_that_is_tried_again_forgets_its_error(tmp_path):
    cfg = job(tmp_path / "0")
    SweepEnd().on_job_end(cfg, ended(InvalidArgumentError("no")))
    SweepEnd().on_job_start(cfg)
    assert not (tmp_path / "0" / "error.txt").exists()


def test_the_end_names_the_failed_and_the_command_for_the_others(tmp_path, caplog):
    caplog.set_level("INFO")
    cfg = job(tmp_path / "0_sigma-0.5")
    other = job(tmp_path / "1_sigma-0", number=1)
    SweepEnd().on_job_end(other, ended(InvalidArgumentError("no")))
    with pytest.raises(SystemExit) as exit_code:
        SweepEnd().on_multirun_end(cfg)
    assert exit_code.value.code == 1
    assert f"1 of 2 jobs finished in {tmp_path}" in caplog.text
    assert "Failed: 1_sigma-0: InvalidArgumentError: no" in caplog.text
    assert f"python -m src.report 'runs={tmp_path}/**'" in caplog.text


def test_a_sweep_without_failures_ends_well(tmp_path, caplog):
    caplog.set_level("INFO")
    SweepEnd().on_multirun_end(job(tmp_path / "0"))
    assert "1 of 1 jobs finished" in caplog.text
    assert "Failed" not in caplog.text


@pytest.mark.parametrize(
    ("name", "multirun", "setting"),
    [
        ("train", False, "hydra.run.dir"),
        # Its name comes from what the command overrides, which Hydra's own configuration knows.
        ("certify", False, "hydra.run.dir"),
        ("train", True, "hydra.sweep.dir"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named_before_anything_is(
    tmp_path, name, multirun, setting
):
    where = "paths.outputs" if name == "train" else "hydra.run.dir"
    asked = [f"{where}={tmp_path}/a"]
    if multirun:
        asked = [f"hydra.sweep.dir={tmp_path}/a"]
    if name == "certify":
        (tmp_path / "run" / ".hydra").mkdir(parents=True)
        (tmp_path / "run" / ".hydra" / "config.yaml").touch()
        asked = [f"run={tmp_path}/run"]
    with (
        under_permissions(tmp_path / "run" if name == "certify" else tmp_path, 0o500),
        pytest.raises(SystemExit, match=rf"{tmp_path}/.* cannot be written: .*by {setting}=…"),
    ):
        guarded(name, *asked, multirun=multirun)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "run" / "certify").exists()
    guarded(name, *asked, multirun=multirun)


@pytest.mark.parametrize("multirun", [False, True])
def test_a_disk_that_is_full_is_named_before_hydra_writes(tmp_path, multirun):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "file").write_bytes(bytes(2**15))
        where = [f"hydra.{kind}.dir={disk}/a" for kind in ("run", "sweep")]
        with pytest.raises(SystemExit, match=rf"{disk}/a cannot be written: No space left"):
            guarded("train", *where, multirun=multirun)


def folders_of_jobs(name, folder, *overrides):
    """Return the folders of a sweep's jobs, as Hydra's sweeper and launchers come to them."""
    config = guarded(name, *overrides, f"hydra.sweep.dir={folder}", multirun=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        [jobs] = BasicSweeper.split_arguments(given, None)
        try:
            for number, job in enumerate(jobs):
                each = loader.load_sweep_config(config, list(job))
                with open_dict(each):
                    each.hydra.job.num = number
                HydraConfig.instance().set_config(each)
                yield each.hydra.sweep.subdir
        finally:
            HydraConfig.instance().cfg = None


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        (
            "train",
            ["experiment=digits_gaussian", "n=100", "sigma=0.25,0.5", "seed=0"],
            ["0_sigma-0.25", "1_sigma-0.5"],
        ),
        (
            "train",
            ["objective=adre,gaussian", "+trainer.x=1", "~callbacks", "sigma=choice(0.5,1)"],
            [
                *("0_objective-adre_sigma-0.5", "1_objective-adre_sigma-1"),
                *("2_objective-gaussian_sigma-0.5", "3_objective-gaussian_sigma-1"),
            ],
        ),
        ("train", ["sigma=0.25"], ["0"]),
        ("train", ["seed=1,1"], ["0_seed-1", "1_seed-1"]),
        (
            "certify",
            ["run=outputs/first/run,outputs/second/run", "certifier=tight"],
            ["0_run-outputs_first_run", "1_run-outputs_second_run"],
        ),
        # What a certification's folder is not named by counts where it differs.
        ("certify", ["run=a", "split=val,test"], ["0_split-val", "1_split-test"]),
        (
            "certify",
            ["ckpt=a/best.pth,b/best.pth", "model=resnet20", "sigma=0.5"],
            ["0_ckpt-a_best.pth", "1_ckpt-b_best.pth"],
        ),
    ],
)
def test_folders_of_jobs_are_named_by_what_differs_between_them(
    tmp_path, name, overrides, expected
):
    assert list(folders_of_jobs(name, tmp_path, *overrides)) == expected


def test_long_names_keep_the_number_that_tells_jobs_apart(tmp_path):
    runs = ",".join(f"{'long/' * 60}{name}" for name in ("a", "b"))
    first, second = folders_of_jobs("certify", tmp_path, f"run={runs}")
    assert first[:2] == "0_"
    assert second[:2] == "1_"
    assert len(first) == len(second) == 200


@pytest.mark.slow
def test_a_sweep_with_a_bad_value_finishes_the_others_and_its_report_opens(tmp_path):
    sweep = tmp_path / "sweep"
    process = run("train", "-m", *QUICK, "sigma=0.25,0,0.5", f"hydra.sweep.dir={sweep}")
    assert process.returncode == 1
    assert "2 of 3 jobs finished" in process.stdout_text + process.stderr_text
    sigmas = {json.loads(path.read_text())["sigma"] for path in sweep.glob("*/summary.json")}
    assert sigmas == {0.25, 0.5}
    made = run("report", f"runs={sweep}/**", f"out={tmp_path}/report")
    assert made.returncode == 0, made.stderr_text
    assert (tmp_path / "report" / "index.html").is_file()
