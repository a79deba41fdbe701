"""`python -m src.merge`: the certifications of shards as one."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from smoothcert import commands
from smoothcert.certify import (
    Certified,
    Execution,
    SmoothedClassifier,
    Subset,
    TightCertifier,
    certify_examples,
)
from smoothcert.commands import merging
from smoothcert.commands.summary import write_summary
from smoothcert.data.datasets import InMemoryImages
from smoothcert.errors import RecordsError
from smoothcert.noise import generator
from smoothcert.records import (
    CertificateFile,
    FolderLock,
    RunFolder,
    Shard,
    gather_shards,
    part_path,
    read_certificates,
    settings_path,
)
from smoothcert.records.summary import summarize
from smoothcert.report.load import read_runs
from tests.helpers.faults import largest_file
from tests.helpers.row_files import rows_in
from tests.helpers.runs_by_hand import ABSTAINED, SETTINGS, WRONG, rows_of, with_bounds
from tests.helpers.support import ROOT, TINY, composed

RADII = [0.0, 0.25, 0.5, 1.0]
OUTCOMES = [0.25, WRONG, ABSTAINED, 0.75, 0.0, 1.5, WRONG]
ROWS = [with_bounds(row, 0.5) for row in rows_of(OUTCOMES)]
WHOLE = {**SETTINGS, "sigma": 0.5, "weights": "f00d", "max_images": None}
FACTS = {
    "data": "digits",
    "objective": "adre",
    "attack": "none",
    "model": "small_cnn",
    "run": "outputs/run",
}
SPEED = {
    "images_per_second": 3.0,
    "samples_per_second": 900.0,
    "peak_memory_bytes": 10**8,
    "batch_size": 1000,
    "compiled": False,
    "device": "cpu",
    "processes": 2,
}
FILES = [
    *("certificates.settings.json", "certificates.tsv", "certified_accuracy.png"),
    *("summary.json", "thumbnails.png"),
]


def write_certification(folder, rows, values):
    """Write what `python -m src.certify` leaves."""
    with CertificateFile(folder / "certificates.tsv", values) as file:
        file.extend(rows)
    summary = {**FACTS, **summarize(rows, values, RADII), "images_asked": len(rows), **SPEED}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "thumbnails.png").write_bytes(b"a picture")
    return folder


def write_shards(parent, of=3, name="test_shard-{}-of-{}", rows=ROWS, **values):
    """Write the certifications of all shards, and return their folders."""
    folders = []
    for number in range(1, of + 1):
        shard = Shard(number, of)
        own = shard.share(rows)
        of_shard = {**WHOLE, **values, **shard.settings([row.idx for row in own])}
        folders.append(write_certification(parent / name.format(number, of), own, of_shard))
    return folders


def merged(*overrides):
    """Merge in this process as the command does, and return the ACR."""
    with composed(".", overrides, "merge") as cfg:
        return commands.merge(cfg)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_merged_rows_are_where_the_same_command_without_shards_puts_them(tmp_path, capsys):
    write_shards(tmp_path)
    acr = merged(f"runs='{tmp_path}/test_shard-*'")
    assert names(tmp_path / "test") == FILES
    assert read_certificates(tmp_path / "test" / "certificates.tsv") == ROWS
    assert json.loads(settings_path(tmp_path / "test" / "certificates.tsv").read_text()) == WHOLE
    assert (tmp_path / "test" / "thumbnails.png").read_bytes() == b"a picture"
    assert acr == pytest.approx(sum(row.radius * row.correct for row in ROWS) / 7)
    printed = capsys.readouterr().out
    assert "7 test images" in printed
    assert str(tmp_path / "test") in printed


def test_the_summary_is_that_of_an_unsharded_run_without_its_speed(tmp_path):
    write_shards(tmp_path)
    merged(f"runs='{tmp_path}/test_shard-*'", f"out='{tmp_path}/out'")
    assert not (tmp_path / "test").exists()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    unsharded = write_certification(tmp_path / "unsharded", ROWS, WHOLE) / "summary.json"
    assert summary == {
        **json.loads(unsharded.read_text()),
        **dict.fromkeys(SPEED),
        "shards": 3,
    }


def test_a_report_reads_the_whole_and_names_the_shards(tmp_path):
    write_shards(tmp_path)
    merged(f"runs='{tmp_path}/test_shard-*'")
    found = read_runs(tmp_path.iterdir())
    assert [run.name for run in found.runs] == ["test"]
    assert len(found.notes) == 3


def test_certifying_without_shards_resumes_in_the_merged_folder(tmp_path):
    write_shards(tmp_path)
    merged(f"runs='{tmp_path}/test_shard-*'")
    with CertificateFile(tmp_path / "test" / "certificates.tsv", WHOLE) as file:
        assert file.finished == {row.idx for row in ROWS}


@pytest.mark.parametrize(
    ("shard", "whole"),
    [
        ("test_shard-{}-of-{}", "test"),
        ("val_max_images-7_shard-{}-of-{}_skip-2", "val_max_images-7_skip-2"),
        # Names of earlier versions.
        ("test_shard={}_{}", "test"),
        ("val_max_images=7,shard={}_{},skip=2", "val_max_images=7,skip=2"),
        ("test_shard={}_{},skip=2", "test_skip=2"),
        ("test_certifier=tight,shard={}_{}", "test_certifier=tight"),
        ("test_radii=[0.0,0.5],shard={}_{}", "test_radii=[0.0,0.5]"),
    ],
)
def test_the_folder_of_the_whole_has_the_shards_name_without_their_number(tmp_path, shard, whole):
    write_shards(tmp_path, 2, shard)
    merged(f"runs='{tmp_path}/{shard.format('*', 2)}'")
    assert names(tmp_path / whole) == FILES


def test_a_single_shard_is_merged_alone(tmp_path):
    write_shards(tmp_path, 1)
    merged(f"runs='{tmp_path}/test_shard-1-of-1'")
    assert read_certificates(tmp_path / "test" / "certificates.tsv") == ROWS


def test_shards_of_machines_are_given_by_several_globs_folders_or_files(tmp_path):
    folders = write_shards(tmp_path)
    given = [f"'{tmp_path}/*d-1-*'", f"'{folders[1]}/'", f"'{folders[2]}/certificates.tsv'"]
    merged(f"runs=[{','.join(given)}]")
    assert read_certificates(tmp_path / "test" / "certificates.tsv") == ROWS


def test_a_shard_may_be_where_the_command_is_started(tmp_path, monkeypatch):
    folders = write_shards(tmp_path)
    monkeypatch.chdir(folders[0])
    merged(f"runs=['.','{folders[1]}','{folders[2]}']")
    assert names(tmp_path / "test") == FILES


def test_a_shard_and_a_link_to_it_are_one(tmp_path):
    folders = write_shards(tmp_path)
    (tmp_path / "link").symlink_to(folders[1])
    merged(f"runs='{tmp_path}/*'", f"out='{tmp_path}/out'")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["shards"] == 3


def test_folders_of_several_names_need_a_merged_folder(tmp_path):
    write_shards(tmp_path / "a", 2)[1].rename(tmp_path / "test_shard-2-of-2")
    both = f"runs=['{tmp_path}/*shard*','{tmp_path}/a/*']"
    with pytest.raises(SystemExit, match="Expected out=<folder>"):
        merged(both)
    merged(both, f"out='{tmp_path}/whole'")
    assert names(tmp_path / "whole") == FILES


def test_folders_that_do_not_name_their_shard_need_a_merged_folder(tmp_path):
    write_shards(tmp_path, 1, "machine_{}")
    with pytest.raises(SystemExit, match="Expected out=<folder>"):
        merged(f"runs='{tmp_path}/*'")


def refusal(folder, *overrides):
    """Return why shards are not merged; nothing must be written then."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        merged(f"runs='{folder}/test_shard-*'", *overrides)
    assert sorted(folder.rglob("*")) == before
    return str(caught.value)


def test_a_glob_that_matches_nothing_is_named(tmp_path):
    assert refusal(tmp_path) == (
        f"InvalidArgumentError: Expected folders of shards at ['{tmp_path}/test_shard-*'], got none"
    )


def test_a_missing_shard_is_refused_before_anything_is_written(tmp_path):
    (write_shards(tmp_path)[1] / "certificates.tsv").unlink()
    assert "RecordsError: The shards are not one certification: shard 2/3 is missing" in refusal(
        tmp_path
    )


def test_shards_of_another_certification_are_refused_before_anything_is_written(tmp_path):
    write_shards(tmp_path, 2)
    rows = [with_bounds(row, 1.0) for row in ROWS]
    write_shards(tmp_path, 3, "test_shard-{}-of-{}_sigma-1", rows, sigma=1.0)
    assert "different configurations: sigma 0.5 and 1.0" in refusal(tmp_path, f"out='{tmp_path}/o'")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"certified_accuracy": [1]}'])
def test_a_damaged_summary_is_refused_before_anything_is_written(tmp_path, text):
    path = write_shards(tmp_path)[0] / "summary.json"
    path.write_text(text)
    assert f"{path} is damaged" in refusal(tmp_path)


def test_without_any_summary_nothing_is_written(tmp_path):
    for folder in write_shards(tmp_path):
        (folder / "summary.json").unlink()
    assert "No shard has a summary.json: run the command" in refusal(tmp_path)


def test_one_summary_is_enough(tmp_path):
    for folder in write_shards(tmp_path)[:2]:
        (folder / "summary.json").unlink()
        (folder / "thumbnails.png").unlink()
    merged(f"runs='{tmp_path}/test_shard-*'")
    assert names(tmp_path / "test") == FILES


def test_the_whole_is_no_shard_of_itself(tmp_path):
    write_shards(tmp_path)
    merged(f"runs='{tmp_path}/test_shard-*'")
    with pytest.raises(SystemExit, match=r"test/certificates\.tsv is not a shard"):
        merged(f"runs='{tmp_path}/test*'", f"out='{tmp_path}/out'")
    assert not (tmp_path / "out").exists()


def test_a_shards_folder_is_no_merged_folder(tmp_path):
    folders = write_shards(tmp_path)
    before = (folders[0] / "certificates.tsv").read_bytes()
    with pytest.raises(SystemExit, match="another configuration"):
        merged(f"runs='{tmp_path}/test_shard-*'", f"out='{folders[0]}'")
    assert (folders[0] / "certificates.tsv").read_bytes() == before


def test_certificates_that_vanish_while_the_picture_is_drawn_are_written_anew(
    tmp_path, monkeypatch
):
    def removing(rows, settings, path):
        path.with_name("certificates.tsv").unlink()
        path.write_bytes(b"a picture")

    write_shards(tmp_path)
    monkeypatch.setattr(merging, "plot_certified_accuracy", removing)
    merged(f"runs='{tmp_path}/test_shard-*'")
    assert read_certificates(tmp_path / "test" / "certificates.tsv") == ROWS
    assert names(tmp_path / "test") == FILES


def test_a_summary_is_never_without_its_certificates(tmp_path):
    """As certification and training end: pictures and loggers took their time."""
    summary = {**FACTS, **summarize(ROWS, WHOLE, RADII), "images_asked": len(ROWS), **SPEED}
    write_summary(summary, RunFolder(tmp_path), Certified(ROWS, WHOLE, None, len(ROWS)))
    assert read_certificates(tmp_path / "certificates.tsv") == ROWS
    assert json.loads((tmp_path / "summary.json").read_text())["images"] == len(ROWS)


def test_merging_again_changes_nothing(tmp_path):
    write_shards(tmp_path)
    merged(f"runs='{tmp_path}/test_shard-*'")
    before = {path: path.read_bytes() for path in (tmp_path / "test").iterdir()}
    merged(f"runs='{tmp_path}/test_shard-*'")
    assert {path: path.read_bytes() for path in (tmp_path / "test").iterdir()} == before


def test_an_unfinished_certification_without_shards_is_completed(tmp_path):
    write_shards(tmp_path)
    own = [replace(row, time=9.0) for row in ROWS]
    write_certification(tmp_path / "test", own[2:4], WHOLE)
    with CertificateFile(part_path(tmp_path / "test" / "certificates.tsv", 1), WHOLE) as part:
        part.extend(own[5:6])
    merged(f"runs='{tmp_path}/test_shard-*'")
    expected = [*ROWS[:2], *own[2:4], ROWS[4], own[5], ROWS[6]]
    assert read_certificates(tmp_path / "test" / "certificates.tsv") == expected
    assert names(tmp_path / "test") == FILES


def test_a_certification_of_another_configuration_is_left_alone(tmp_path):
    write_shards(tmp_path)
    other = write_certification(tmp_path / "test", ROWS[:2], {**WHOLE, "seed": 1})
    before = {path: path.read_bytes() for path in other.iterdir()}
    with pytest.raises(SystemExit, match="seed was 1 and is now 0"):
        merged(f"runs='{tmp_path}/test_shard-*'")
    assert before.items() <= {path: path.read_bytes() for path in other.iterdir()}.items()


def test_a_folder_that_another_command_is_writing_is_refused(tmp_path):
    write_shards(tmp_path)
    with FolderLock(tmp_path / "test"), pytest.raises(SystemExit, match="by another process"):
        merged(f"runs='{tmp_path}/test_shard-*'")
    assert not (tmp_path / "test" / "certificates.tsv").exists()


@pytest.mark.parametrize("name", [".lock", "certificates.tsv", "thumbnails.png"])
def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path, name):
    """Shards come from other machines, and a folder for their whole may come with them."""
    write_shards(tmp_path / "shards")
    (tmp_path / "precious").write_text("")
    (tmp_path / "shards" / "test").mkdir()
    (tmp_path / "shards" / "test" / name).symlink_to(tmp_path / "precious")
    assert f"{name}, a link to {tmp_path}/precious" in refusal(tmp_path / "shards")
    assert (tmp_path / "precious").read_text() == ""


@pytest.mark.parametrize("name", FILES)
def test_links_out_of_a_shard_are_not_followed(tmp_path, name):
    path = write_shards(tmp_path)[1] / name
    path.unlink(missing_ok=True)
    (tmp_path / "precious").write_text("nobody else's")
    path.symlink_to(tmp_path / "precious")
    message = refusal(tmp_path)
    assert f"got {path}, a link to {tmp_path}/precious" in message
    assert "nobody else's" not in message


def test_a_shard_that_claims_too_many_images_is_refused(tmp_path):
    path = settings_path(write_shards(tmp_path)[1] / "certificates.tsv")
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "shard_images": "0-100000000000:1"}))
    assert "is damaged: expected at most 5,000,000 images, got '0-100" in refusal(tmp_path)


def test_the_merged_files_may_be_next_to_links_to_the_shards(tmp_path):
    (tmp_path / "all").mkdir()
    for number, folder in enumerate(write_shards(tmp_path / "machines")):
        (tmp_path / "all" / str(number)).symlink_to(folder)
    merged(f"runs='{tmp_path}/all/*'", f"out='{tmp_path}/all'")
    assert read_certificates(tmp_path / "all" / "certificates.tsv") == ROWS


def test_on_a_full_disk_the_same_command_resumes(tmp_path):
    write_shards(tmp_path)
    room = 2000  # Enough for the certificates, not for the picture.
    with (
        largest_file(room),
        pytest.raises(SystemExit, match=r"test cannot be written: File too large.*Resume"),
    ):
        merged(f"runs='{tmp_path}/test_shard-*'")
    assert read_certificates(tmp_path / "test" / "certificates.tsv") == ROWS
    assert not (tmp_path / "test" / "summary.json").exists()
    merged(f"runs='{tmp_path}/test_shard-*'")
    assert names(tmp_path / "test") == FILES


def test_the_command_takes_names_of_folders(tmp_path):
    write_shards(tmp_path, 2, "val_max_images-7_shard-{}-of-{}")
    command = [sys.executable, "-m", "src.merge", f"runs={tmp_path}/val*_shard-*"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "7 test images" in done.stdout
    assert names(tmp_path / "val_max_images-7") == FILES
    picture = tmp_path / "val_max_images-7" / "certified_accuracy.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(names(tmp_path)) == 3


def test_folders_of_earlier_versions_are_named_in_quotes(tmp_path):
    write_shards(tmp_path, 2, "val_max_images=7,shard={}_{}")
    merged(f"runs='{tmp_path}/val_max_images=7,shard=*'")
    assert names(tmp_path / "val_max_images=7") == FILES
    assert len(names(tmp_path)) == 3


# With certificates of the engine.

COUNT = 13
INDICES = [10 * ((5 * place) % COUNT) for place in range(COUNT)]
"""Of a split that was drawn: they do not increase with the images' places."""


def certified(path, shard=None, sigma=0.5, weight=1.0, seed=0, **subset):
    pixels = torch.rand(COUNT, 1, 6, 6, generator=generator("cpu", 3))
    images = InMemoryImages(pixels, torch.arange(COUNT) % 3, torch.tensor(INDICES))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    network[1].weight.data.mul_(weight)
    smoothed = SmoothedClassifier(network, sigma, 3, Execution(batch_size=64))
    which = Subset("test", **subset)
    certifier = TightCertifier(n0=20, n=200)
    shard = None if shard is None else Shard.parse(shard)
    certify_examples(smoothed, certifier, images, which, path, seed, shard=shard)
    return path


def certified_shards(folder, of, **options):
    return [certified(folder / f"{k}.tsv", f"{k}/{of}", **options) for k in range(1, of + 1)]


@pytest.mark.parametrize("subset", [{}, {"max_images": 5}, {"skip": 2}, {"skip": 2, "start": 3}])
@pytest.mark.parametrize("of", [1, 2, 5])
def test_shards_have_the_certificates_of_an_unsharded_certification(tmp_path, of, subset):
    whole = certified(tmp_path / "whole.tsv", **subset)
    out = gather_shards(certified_shards(tmp_path, of, **subset)).write(tmp_path / "out.tsv").path
    assert rows_in(out) == rows_in(whole)
    assert settings_path(out).read_bytes() == settings_path(whole).read_bytes()
    before = out.read_bytes()
    certified(out, **subset)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "other", [{"sigma": 0.25}, {"weight": 2.0}, {"seed": 1}, {"max_images": 9}], ids=str
)
def test_shards_that_were_certified_otherwise_are_refused(tmp_path, other):
    paths = certified_shards(tmp_path, 2)
    paths[1] = certified(tmp_path / "other.tsv", "2/2", **other)
    name = {"weight": "weights"}.get(*other, *other)
    with pytest.raises(
        RecordsError, match=rf"1\.tsv and .*other\.tsv have different configurations: .*{name} "
    ):
        gather_shards(paths)
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.slow
def test_shards_of_a_run_are_certified_and_merged_by_the_commands(tmp_path):
    """One by two processes; the merged folder is named like that of an unsharded certification."""
    run = tmp_path / "run"
    overrides = ["certifier=tight", "max_images=7", "n=100"]
    for command, *arguments in (
        ["train", *TINY, "trainer.max_epochs=1", "data=digits", f"hydra.run.dir={run}"],
        ["certify", f"run={run}", *overrides, "shard=1/2"],
        ["certify", f"run={run}", *overrides, "shard=2/2", "devices=2"],
        ["merge", f"runs={run}/certify/*shard*"],
    ):
        process = [sys.executable, "-m", f"src.{command}", *arguments]
        subprocess.run(process, cwd=ROOT, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    with composed(tmp_path / "whole", [f"run='{run}'", *overrides], "certify") as cfg:
        commands.certify(cfg)
    folders = [run / "certify" / "test_certifier-tight_max_images-7_n-100", tmp_path / "whole"]
    merged_one, unsharded = (rows_in(folder / "certificates.tsv") for folder in folders)
    assert merged_one == unsharded
    merged_one, unsharded = (
        json.loads((folder / "summary.json").read_text()) for folder in folders
    )
    assert merged_one["shards"] == 2
    measured = {*SPEED, "seconds_certifying", "shards"}
    assert {name for name in merged_one if merged_one[name] != unsharded.get(name)} <= measured
    assert unsharded.keys() == merged_one.keys() - {"shards"}


def test_shards_that_all_guess_make_a_whole_that_does(tmp_path):
    folders = write_shards(tmp_path, of=2)
    found = [
        {"chance": 0.3, "base_accuracy": 1.0, "base_accuracy_noisy": 0.25},
        {"chance": 0.2, "base_accuracy": 0.5, "base_accuracy_noisy": 0.25},
    ]
    for folder, each in zip(folders, found, strict=True):
        change_summary(folder, near_chance=each)
    merged(f"runs='{tmp_path}/test_shard-*'")
    summary = json.loads((tmp_path / "test" / "summary.json").read_text())
    # Four images and three.
    expected = {"chance": (4 * 0.3 + 3 * 0.2) / 7, "base_accuracy": (4 + 3 * 0.5) / 7}
    expected["base_accuracy_noisy"] = 0.25
    assert summary["near_chance"] == pytest.approx(expected)


def test_a_whole_of_which_one_shard_is_better_than_chance_does_not_guess(tmp_path):
    folders = write_shards(tmp_path, of=2)
    change_summary(folders[0], near_chance={"chance": 0.3, "base_accuracy": 1.0})
    merged(f"runs='{tmp_path}/test_shard-*'")
    assert "near_chance" not in json.loads((tmp_path / "test" / "summary.json").read_text())


def change_summary(folder, **changes):
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
