"""Loggers read back from what they leave on the disk."""

import csv
import json
import os
import struct
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import wandb
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.lightning.loggers import (
    ResumingCSVLogger,
    log_certificates,
    log_noisy_examples,
    log_summary,
    wandb_logger,
)
from smoothcert.records import COLUMNS, CertificateRow

ROWS = [
    CertificateRow(7, 3, 3, 0.4217, 1, 0.5, 0.94, 0.04, 9500, 300, 10_000, "fixed"),
    CertificateRow(8, 3, -1, 0.0, 0, 0.5, 0.48, 0.52, 4900, 4800, 10_000, "fixed"),
]
RADII = [0.0, 0.25, 0.5]
SHARES = [0.5, 0.5, 0.0]
THUMBNAIL = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
CAPTION = "left: images; right: under noise, sigma = 0.25, clipped for display"
EXAMPLES = np.random.default_rng(2).uniform(-0.2, 1.2, (2, 3, 1, 4, 5))


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "certified_accuracy.png"
    Image.fromarray(pixels).save(path)
    return path


# --- CSV ------------------------------------------------------------------------------------------


def log(folder, *rows):
    logger = ResumingCSVLogger(str(folder))
    for step, values in rows:
        logger.log_metrics(values, step)
    logger.finalize("success")


def read(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_run_folder_gets_metrics_csv_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    logger = ResumingCSVLogger(str(folder))
    logger.log_hyperparams({"sigma": 0.25})
    logger.log_metrics({"loss": 1.5}, step=3)
    logger.finalize("success")
    assert read(folder) == [{"loss": "1.5", "step": "3"}]
    assert [path.name for path in folder.iterdir()] == ["metrics.csv"]


def test_other_files_of_the_run_folder_stay(tmp_path):
    (tmp_path / "certificates.tsv").write_text("rows")
    log(tmp_path, (0, {"loss": 1.0}))
    assert (tmp_path / "certificates.tsv").read_text() == "rows"


def test_a_resumed_run_keeps_the_old_rows(tmp_path):
    log(tmp_path, (0, {"loss": 1.0}), (1, {"loss": 0.5}))
    log(tmp_path, (2, {"loss": 0.25}))
    assert [row["loss"] for row in read(tmp_path)] == ["1.0", "0.5", "0.25"]


def test_a_resumed_run_may_add_columns(tmp_path):
    log(tmp_path, (0, {"loss": 1.0}))
    log(tmp_path, (1, {"certify/acr": 0.3, "loss": 0.5}))
    assert read(tmp_path) == [
        {"certify/acr": "", "loss": "1.0", "step": "0"},
        {"certify/acr": "0.3", "loss": "0.5", "step": "1"},
    ]


def test_a_resumed_run_that_logs_fewer_columns_keeps_the_others(tmp_path):
    log(tmp_path, (0, {"a": 1.0, "b": 2.0}))
    log(tmp_path, (1, {"b": 3.0}))
    assert read(tmp_path)[1] == {"a": "", "b": "3.0", "step": "1"}


def test_no_more_than_the_agreed_steps_are_lost_by_a_kill(tmp_path):
    logger = ResumingCSVLogger(str(tmp_path), flush_every_n_steps=5)
    for step in range(13):
        logger.log_metrics({"loss": 1.0}, step)
    assert 13 - len(read(tmp_path)) < 5


@pytest.mark.parametrize("values", [{"a": 3.0}, {"a": 3.0, "new": 4.0}], ids=["same", "new column"])
def test_a_run_killed_while_it_wrote_a_line_resumes_without_that_line(tmp_path, values):
    log(tmp_path, (0, {"a": 1.0, "b": 1.0}), (1, {"a": 2.0, "b": 2.0}))
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes().removesuffix(b"0,1\r\n"))
    log(tmp_path, (2, values))
    assert [row["step"] for row in read(tmp_path)] == ["0", "2"]


def test_artefacts_are_no_business_of_a_csv_file(tmp_path, picture):
    logger = ResumingCSVLogger(str(tmp_path / "run"))
    log_certificates([logger], ROWS, RADII, picture, step=1)
    log_summary([logger], {"acr": 0.2})
    assert not (tmp_path / "run").exists()


# --- TensorBoard ----------------------------------------------------------------------------------


def tensorboard(folder, picture):
    logger = TensorBoardLogger(str(folder), name="", version="")
    log_certificates([logger], ROWS, RADII, picture, step=12)
    log_summary([logger], {"acr": 0.2})
    logger.experiment.close()
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_shows_the_picture_pixel_by_pixel(tmp_path, picture):
    events = tensorboard(tmp_path / "run", picture)
    [image] = events.Images("certify/certified_accuracy")
    copy = tmp_path / "copy.png"
    copy.write_bytes(image.encoded_image_string)
    assert image.step == 12
    np.testing.assert_array_equal(np.asarray(Image.open(copy)), np.asarray(Image.open(picture)))


def test_tensorboard_does_without_a_picture(tmp_path):
    assert tensorboard(tmp_path / "run", tmp_path / "none.png").Tags()["images"] == []


# --- W&B ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """A user whom W&B does not know, with nobody at the keyboard."""
    leave_alone(monkeypatch, tmp_path / "home")


def leave_alone(patch, home):
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        patch.delenv(name, raising=False)
    # What wandb_logger sets is unset again afterwards.
    patch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        patch.setenv(name, str(home))
    home.mkdir()
    patch.setattr(sys, "stdin", None)
    patch.setattr("builtins.input", asked)
    patch.setattr("getpass.getpass", asked)


def asked(*arguments, **options):
    pytest.fail("W&B asked the user")


@pytest.fixture
def mode(tmp_path, monkeypatch):
    """Return the mode that a run would have, without starting it."""

    def started(**arguments):
        options = {}

        def init(**given):
            options.update(given)
            raise KeyboardInterrupt

        monkeypatch.setattr(wandb, "init", init)
        with pytest.raises(KeyboardInterrupt):
            wandb_logger(str(tmp_path), "project", **arguments).experiment  # noqa: B018
        return options["mode"] or wandb.setup().settings.mode

    # W&B reads the environment and its settings files once.
    wandb.teardown()
    yield started
    wandb.teardown()


def write_netrc(path, host="api.wandb.ai"):
    path.write_text(f"machine {host}\n  login user\n  password {'0' * 40}\n")
    path.chmod(0o600)
    return str(path)


def test_without_a_key_a_run_is_offline(mode):
    assert mode() == "offline"


def test_with_a_key_in_the_environment_a_run_is_online(mode, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert mode() == "online"


@pytest.mark.parametrize("file", [".netrc", "_netrc"])
def test_with_a_key_from_wandb_login_a_run_is_online(mode, tmp_path, file):
    write_netrc(tmp_path / "home" / file)
    assert mode() == "online"


def test_a_key_is_found_in_the_file_that_netrc_names(mode, monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", write_netrc(tmp_path / "keys"))
    assert mode() == "online"


def test_a_key_of_another_host_is_no_key(mode, monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", write_netrc(tmp_path / "keys", "github.com"))
    assert mode() == "offline"


def test_a_key_of_the_users_own_server_is_a_key(mode, monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", write_netrc(tmp_path / "keys", "wandb.example.org"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert mode() == "online"


def test_a_damaged_netrc_is_no_key(mode, monkeypatch, tmp_path):
    (tmp_path / "keys").write_text("machine")
    monkeypatch.setenv("NETRC", str(tmp_path / "keys"))
    assert mode() == "offline"


@pytest.mark.parametrize(
    ("asked_for", "key"),
    [
        ("online", "0" * 40),
        *((mode, key) for mode in ("offline", "disabled") for key in ("", "0" * 40)),
    ],
)
def test_wandb_mode_decides_with_and_without_a_key(mode, monkeypatch, asked_for, key):
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setenv("WANDB_MODE", asked_for)
    assert mode() == asked_for


def test_an_argument_decides_over_the_environment(mode, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    assert mode(mode="disabled") == "disabled"


@pytest.mark.parametrize("how", ["WANDB_MODE=dryrun", "wandb offline"])
def test_a_user_who_chose_offline_stays_offline(mode, monkeypatch, tmp_path, how):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.chdir(tmp_path)
    if how == "wandb offline":
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    else:
        monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert mode() in ("offline", "dryrun")


def test_a_disabled_run_takes_everything_and_keeps_nothing(tmp_path, picture):
    logger = wandb_logger(str(tmp_path / "run"), "project", mode="disabled")
    log_certificates([logger], ROWS, RADII, picture, step=1)
    log_summary([logger], {"acr": 0.2})
    wandb.finish()
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def test_starting_offline_decides_nothing_for_later_runs(mode):
    before = dict(os.environ)
    mode(mode="offline")
    assert dict(os.environ) == before


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """An offline run's folder, the picture that it was given, and the records of its file."""
    folder = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        leave_alone(patch, folder / "home")
        picture = folder / "curve.png"
        Image.new("RGB", (6, 4), "red").save(picture)
        write_offline_run(folder, picture)
    [file] = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    return file.parent / "files", picture, [Record.FromString(each) for each in leveldb(file)]


def write_offline_run(folder, picture):
    logger = wandb_logger(
        str(folder),
        "smoothcert",
        name="a run",
        group="a sweep",
        job_type="train",
        tags=["digits"],
        configuration={"sigma": 0.25, "model": {"name": "small_cnn"}},
    )
    logger.log_metrics({"loss": 0.625}, step=4)
    log_certificates([logger], ROWS, RADII, picture, step=4, thumbnails={8: THUMBNAIL})
    log_noisy_examples([logger], EXAMPLES, sigma=0.25)
    log_summary([logger], {"acr": 0.2109, "certifier": "tight"})
    wandb.finish()
    # finish() may return before W&B's service has written its file; this waits for the service.
    wandb.teardown()


def leveldb(path):
    """Yield the records of a file in LevelDB's log format, after W&B's own header."""
    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:  # too short for a header: the block is padded
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield record
            record = b""


def values(items):
    return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


def history(records):
    merged = {}
    for record in records:
        merged.update(values(record.history.item))
    return merged


def test_an_offline_run_holds_the_scalars(offline):
    _, _, records = offline
    [logged] = [v for v in (values(r.history.item) for r in records) if "loss" in v]
    assert logged["loss"] == 0.625
    assert logged["trainer/global_step"] == 4


def test_an_offline_run_holds_its_names_and_configuration(offline):
    _, _, records = offline
    [run] = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.display_name, run.run_group) == ("smoothcert", "a run", "a sweep")
    assert (run.job_type, list(run.tags)) == ("train", ["digits"])
    configuration = values(run.config.update)
    assert configuration["sigma"] == 0.25
    assert configuration["model"] == {"name": "small_cnn"}


def test_an_offline_run_holds_the_summary(offline):
    _, _, records = offline
    summary = {}
    for record in records:
        summary.update(values(record.summary.update))
    assert summary["acr"] == 0.2109
    assert summary["certifier"] == "tight"


def table(offline, name):
    files, _, records = offline
    logged = history(records)
    assert logged[f"{name}/_type"] == "table-file"
    return json.loads((files / logged[f"{name}/path"]).read_text())


def test_an_offline_run_holds_the_certificates(offline):
    certificates = table(offline, "certify/certificates")
    assert certificates["columns"] == ["image", *COLUMNS]
    # Those with a picture first.
    rows = [list(astuple(row)) for row in reversed(ROWS)]
    assert [cells[1:] for cells in certificates["data"]] == rows


def artifact(offline, name):
    """The files of the table that is shown online, by their paths in it."""
    _, _, records = offline
    [found] = [r.artifact for r in records if r.HasField("artifact") and name in r.artifact.name]
    return {each.path: Path(each.local_path) for each in found.manifest.contents}


def test_an_offline_run_holds_the_certificates_images(offline):
    files = artifact(offline, "certifycertificates")
    shown = json.loads(files["certify/certificates.table.json"].read_text())
    (image, *first), (missing, *second) = shown["data"]
    assert missing is None
    assert [first, second] == [list(astuple(row)) for row in reversed(ROWS)]
    np.testing.assert_array_equal(np.asarray(Image.open(files[image["path"]])), THUMBNAIL)


def test_an_offline_run_holds_examples_under_noise(offline):
    files, _, records = offline
    logged = history(records)
    assert logged["examples/under_noise/captions"] == [CAPTION]
    [path] = logged["examples/under_noise/filenames"]
    pixels = np.asarray(Image.open(files / path))
    assert pixels.shape == (2 * 4, 3 * 5, 3)
    for row in range(2):
        for draw in range(3):
            tile = pixels[4 * row : 4 * row + 4, 5 * draw : 5 * draw + 5, 0]
            shown = np.round(255 * np.clip(EXAMPLES[row, draw, 0], 0, 1))
            np.testing.assert_array_equal(tile, shown)


def test_an_offline_run_holds_the_curve_and_how_to_draw_it(offline):
    curve = table(offline, "certify/curve_table")
    assert curve["data"] == [list(point) for point in zip(RADII, SHARES, strict=True)]
    config = {}
    for record in offline[2]:
        config.update(values(record.config.update))
    chart = config["_wandb/visualize/certify/curve"]["panel_config"]["fieldSettings"]
    assert [chart["x"], chart["y"]] == curve["columns"]


def test_an_offline_run_holds_the_picture(offline):
    files, picture, records = offline
    logged = history(records)
    assert logged["certify/certified_accuracy/_type"] == "image-file"
    copy = files / logged["certify/certified_accuracy/path"]
    np.testing.assert_array_equal(np.asarray(Image.open(copy)), np.asarray(Image.open(picture)))


def test_everything_that_an_offline_run_shows_is_announced_for_its_upload(offline):
    files, _, records = offline
    announced = {file.path for record in records for file in record.files.files}
    media = {str(p.relative_to(files)) for p in Path(files, "media").rglob("*") if p.is_file()}
    assert len(media) == 4
    assert media <= announced


def test_steps_that_a_resumed_training_repeats_are_forgotten(tmp_path):
    log(tmp_path, *((step, {"loss": float(step)}) for step in range(6)))
    logger = ResumingCSVLogger(str(tmp_path))
    logger.drop_from(4)
    logger.log_metrics({"loss": 40.0, "new": 1.0}, 4)
    logger.save()
    assert [(row["step"], row["loss"]) for row in read(tmp_path)] == [
        *((str(step), str(float(step))) for step in range(4)),
        ("4", "40.0"),
    ]


def test_nothing_to_forget_is_no_error(tmp_path):
    ResumingCSVLogger(str(tmp_path)).drop_from(3)


def test_online_without_a_key_is_an_error_and_no_prompt(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidArgumentError, match="Expected an API key"):
        wandb_logger(str(tmp_path), "project", mode="online")


HEADER = b"epoch,step,train/loss\n"


@pytest.mark.parametrize(
    "content",
    [
        *(HEADER + b"0,abc,1.5\n", HEADER + b"0,9\n", HEADER + b"0,9,1.5,7\n"),
        *(b"epoch,train/loss\n0,1.5\n", HEADER + b'0,"9\n', b"\xff\xfe\n", b"\0\n\0\n"),
    ],
)
def test_a_damaged_metrics_file_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(RecordsError, match=rf"^{path} is damaged \(.*\)\. Move it away"):
        ResumingCSVLogger(str(tmp_path)).drop_from(5)
    assert path.read_bytes() == content


def test_a_metrics_file_whose_last_line_a_kill_has_torn_is_none_that_is_damaged(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(HEADER + b"0,3,1.5\n0,9,1.\n1,1")
    ResumingCSVLogger(str(tmp_path)).drop_from(5)
