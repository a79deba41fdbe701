"""Files from elsewhere run no code and no markup, reach no other files, and get no secrets.

And what a run folder from elsewhere may call, set, and write to.
"""

import io
import json
import os
import pickle
import re
import socket
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError
from PIL import Image
from rich.console import Console

import designs
from smoothcert import commands
from smoothcert.commands.certification import trained_configuration
from smoothcert.commands.commandline import overrides_of, read_yaml
from smoothcert.commands.security import check_places, check_targets, refuse_secrets, trusted
from smoothcert.data.decoding import decode_all
from smoothcert.errors import InvalidArgumentError, RecordsError
from smoothcert.records import RunFolder, check_links
from smoothcert.report.grouping import sections_of
from smoothcert.report.load import read_runs
from smoothcert.report.page import write_page
from smoothcert.report.tables import tables_of
from smoothcert.report.terminal import print_summary
from tests.helpers.runs_by_hand import rows_of, run_by_hand, write_log, write_run
from tests.helpers.support import CONF, ROOT, TINY, composed, guarded, save_hydra_files

SMALL = ["trainer=cpu", "model.width=4", "objective=gaussian", "sigma=0.25", "n0=10", "n=100"]
TRAIN = [*SMALL, "trainer.limit_train_batches=3", "callbacks.certification=null"]
KEY = "0123456789abcdef" * 2 + "01234567"


# Code in files.


class Trap:
    """What makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def sprung(tmp_path):
    return tmp_path / "sprung"


def as_pickle(path, trap):
    path.write_bytes(pickle.dumps(trap))


def as_checkpoint(path, trap):
    torch.save({"state_dict": {"model.1.fc.weight": torch.zeros(1)}, "callbacks": trap}, path)


def as_array(path, trap):
    with path.open("wb") as file:
        np.save(file, np.array([trap], dtype=object))


def as_votes(path, trap):
    trapped = np.array([trap], dtype=object)
    with path.open("wb") as file:
        np.savez(file, votes=trapped, labels=trapped, num_classes=2, sigma=0.5)


def saved(folder, *overrides):
    """Leave the configuration of a training that has not begun; return its values."""
    with composed(folder, overrides) as cfg:
        save_hydra_files(cfg, folder, overrides)
        return OmegaConf.to_container(cfg, resolve=True)


def trained(folder, *overrides):
    with composed(folder, [*TRAIN, *overrides]) as cfg:
        commands.train(cfg)
    return folder


def certified(folder, *overrides, name="certify"):
    with composed(folder, overrides, name) as cfg:
        commands.certify(cfg)


def measured(folder, *overrides):
    with composed(folder, overrides, "benchmark") as cfg:
        commands.benchmark(cfg)


def replayed(votes, folder):
    designs.main(["run", "--votes", str(votes), "--folder", str(folder)])


def test_the_trap_is_a_real_one(sprung, tmp_path):
    as_checkpoint(tmp_path / "file", Trap(sprung))
    torch.load(tmp_path / "file", weights_only=False)
    assert sprung.is_dir()
    sprung.rmdir()
    as_votes(tmp_path / "file", Trap(sprung))
    with np.load(tmp_path / "file", allow_pickle=True) as file:
        assert len(file["votes"]) == 1
    assert sprung.is_dir()


def last(run, own):
    return run / "checkpoints" / "last.ckpt", lambda: trained(run)


def best(run, own):
    saved(run, *SMALL)
    return run / "checkpoints" / "best.ckpt", lambda: certified(own, f"run={run}")


def best_of_a_benchmark(run, own):
    path, _ = best(run, own)
    return path, lambda: measured(own, f"run={run}")


def ckpt(run, own):
    path = run / "published.pth.tar"
    overrides = [f"ckpt={path}", "data=digits", "model=small_cnn", "sigma=0.25"]
    return path, lambda: certified(own, *overrides, name="certify_checkpoint")


def weights(run, own):
    path = run / "weights.pt"
    return path, lambda: trained(own, f"model.weights={path}")


def ckpt_path(run, own):
    path = run / "other.ckpt"
    return path, lambda: trained(own, f"ckpt_path={path}")


def votes(run, own):
    path = run / "votes.npz"
    return path, lambda: replayed(path, own)


CHECKPOINTS = [last, best, best_of_a_benchmark, ckpt, weights, ckpt_path]
FILES = [
    *((where, write) for where in CHECKPOINTS for write in (as_pickle, as_checkpoint)),
    *((votes, write) for write in (as_pickle, as_votes)),
]


@pytest.mark.parametrize(("where", "write"), FILES)
def test_no_file_that_a_command_reads_runs_code(where, write, sprung, tmp_path):
    path, command = where(tmp_path / "run", tmp_path / "own")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, Trap(sprung))
    before = path.read_bytes()
    with pytest.raises(SystemExit, match=re.escape(str(path))):
        command()
    assert not sprung.exists()
    assert path.read_bytes() == before


VOTES = {"votes": np.zeros((2, 9), np.uint8), "labels": np.zeros(2, np.int64), "num_classes": 2}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"votes": np.zeros((2, 9))},
        {"votes": np.zeros(9, np.uint8)},
        {"votes": np.full((2, 9), 5, np.uint8)},
        {"labels": np.zeros(3, np.int64)},
        {"sigma": "a text"},
    ],
    ids=["no sigma", "floats", "one row", "classes", "labels", "text"],
)
def test_votes_that_are_none_are_named(changes, tmp_path):
    path = tmp_path / "votes.npz"
    np.savez(path, **{**VOTES, **({"sigma": 0.5} if changes else {}), **changes})
    with pytest.raises(SystemExit, match=re.escape(str(path))):
        replayed(path, tmp_path / "own")


@pytest.mark.parametrize("kept", [0, 4, 300, None])
def test_votes_that_are_cut_off_or_another_file_are_named(kept, tmp_path):
    path = tmp_path / "votes.npz"
    np.savez(path, **VOTES, sigma=0.5)
    path.write_bytes(path.read_bytes()[:kept])
    if kept is None:
        with path.open("wb") as file:
            np.save(file, VOTES["votes"])
    with pytest.raises(SystemExit, match=re.escape(str(path))):
        replayed(path, tmp_path / "own")


@pytest.mark.parametrize("write", [as_pickle, as_array])
def test_decoded_images_that_were_exchanged_are_decoded_again(write, sprung, tmp_path, caplog):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for number, path in enumerate(paths):
        Image.new("RGB", (4, 4), (90 * number, 7, 7)).save(path)
    first = decode_all(paths, tmp_path / "cache").images
    [stored] = (tmp_path / "cache").glob("*.npy")
    write(stored, Trap(sprung))
    assert torch.equal(decode_all(paths, tmp_path / "cache").images, first)
    assert not sprung.exists()
    assert str(stored) in caplog.text


def test_thumbnails_that_are_something_else_are_left_out(sprung, tmp_path):
    folder = tmp_path / "runs" / "a"
    write_run(folder, run_by_hand([0.5, 0.2], "a"))
    as_pickle(folder / "thumbnails.png", Trap(sprung))
    assert 'id="thumbnails-' not in page_of(tmp_path)
    assert not sprung.exists()


def changed(folder, text, other):
    path = folder / ".hydra" / "config.yaml"
    before = path.read_text()
    assert text in before
    path.write_text(before.replace(text, other))


@pytest.mark.parametrize("other", ["os.mkdir", "smoothcert.data.base.torch.hub.load"])
@pytest.mark.parametrize(("do", "options"), [(certified, []), (measured, [])])
def test_a_runs_configuration_calls_nothing_else(do, options, other, sprung, tmp_path):
    folder = tmp_path / "run"
    saved(folder, *SMALL)
    changed(folder, "smoothcert.models.small_cnn\n", f"{other}\n  path: {sprung}\n")
    config = re.escape(str(folder / ".hydra" / "config.yaml"))
    expected = rf"{config} calls '{re.escape(other)}' as 'model', which is not allowed"
    with pytest.raises(SystemExit, match=expected):
        do(tmp_path / "own", f"run={folder}", *options)
    assert not sprung.exists()


def test_a_run_that_would_call_something_else_is_not_resumed(sprung, tmp_path):
    folder = tmp_path / "run"
    saved(folder, *TRAIN)
    evil = f"callbacks:\n  x: {{_target_: os.mkdir, path: '{sprung}'}}\n"
    changed(folder, "callbacks:\n", evil)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    expected = r"config\.yaml calls 'os\.mkdir' as 'callbacks\.x', which is not allowed"
    with pytest.raises(SystemExit, match=expected):
        guarded("train", f"run={folder}")
    assert not sprung.exists()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# Paths in files.


@pytest.mark.parametrize("way", ["{run}/checkpoints/../../precious", "local://{precious}"])
def test_a_checkpoint_has_nothing_removed_outside_of_its_folder(way, tmp_path):
    """Lightning removes what a checkpoint calls its earlier self; of a folder, all of it."""
    run, precious = trained(tmp_path / "run", "trainer.max_epochs=1"), tmp_path / "precious"
    precious.mkdir()
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path)
    for state in checkpoint["callbacks"].values():
        if "best_model_path" in state:
            state["best_model_path"] = way.format(run=run, precious=precious)
    torch.save(checkpoint, path)
    with pytest.raises(SystemExit, match=rf"{re.escape(str(path))} names .* a checkpoint of its"):
        trained(run, "trainer.max_epochs=2")
    assert precious.is_dir()


# Texts in files.

TEXTS = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)//",
    "\"><img src=x onerror='alert(3)'>",
    "'--><!-- </title><style>*{display:none}</style>",
    "&lt;b&gt; &amp; $script $$ ${vega} \\u003c \u2028 {{1}}",
]


class Page(HTMLParser):
    """A page as a browser takes it apart."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.values, self.data, self.inside = [], [], [], {}, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, *sorted(name for name, _ in attrs)))
        self.values += [value for _, value in attrs]
        self.inside = dict(attrs).get("id", "code") if tag == "script" else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside is None:
            self.texts.append(data)
        elif self.inside != "code":
            self.data[self.inside] = json.loads(data)

    @property
    def text(self):
        return "".join(self.texts)


def page_of(folder, notes=()):
    places = [path for path in sorted((folder / "runs").rglob("*")) if path.is_dir()]
    places += [path for path in (folder / "runs").rglob("*_sigma_*") if path.is_file()]
    found = read_runs(places, skip_damaged=True)
    sections = sections_of(found.runs, ("objective", "attack"))
    parts = [(section, tables_of(section)) for section in sections]
    write_page(parts, [*notes, *found.notes], folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


def folder_full_of(text, root):
    """Write runs and a log whose every text is the given one, their names too."""
    settings = {"data": text, "split": text, "precision": text, "target": text, text: text}
    training = {"class_names": [text] * 3, text: {text: [text]}, "objective": {text: text}}
    facts = {"model": text, "git_commit": text, "device": text, "versions": {text: text}}
    for number, sigma in enumerate((0.25, 0.5)):
        run = run_by_hand(
            [0.5, 0.2, "wrong"],
            f"{number}",
            objective=text,
            attack=text,
            sigma=sigma,
            training=training,
            summary={**facts, "training_seed": text, "name": text},
            **settings,
        )
        write_run(root / "runs" / f"{number}" / text, run)
    damaged = write_run(root / "runs" / "2" / text, run_by_hand([0.5], "2"))
    (damaged / "certificates.tsv").write_text(f"{text}\n")
    write_log(root / "runs" / "3" / text / "x_sigma_0.25", rows_of([0.4, 0.1, "wrong"]))
    return root


@pytest.fixture(scope="module", params=TEXTS, ids=["script", "end", "image", "comment", "signs"])
def text(request):
    return request.param


@pytest.fixture(scope="module")
def page(text, tmp_path_factory):
    return Page(page_of(folder_full_of(text, tmp_path_factory.mktemp("page")), [text]))


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    text = "harm less/and well"
    return Page(page_of(folder_full_of(text, tmp_path_factory.mktemp("page")), [text]))


def kinds(page):
    # Where a name may be broken follows from its signs.
    return Counter(each for each in page.elements if each != ("wbr",))


def test_no_text_adds_an_element_to_the_page(page, harmless):
    assert kinds(page) == kinds(harmless)
    assert sum(names[0] == "script" for names in page.elements) == 3 + len(page.data)
    assert page.data.keys() == harmless.data.keys()


def test_every_text_stands_on_the_page_as_it_is(page, text):
    assert page.text.count(text) > 10
    name = f"0/{Path(text).as_posix()}"
    method = f"{text} + {text}"
    assert name in page.text
    assert method in page.values
    assert page.data["gallery-0"]["classes"][0] == [text] * 3
    assert page.data["gallery-0"]["runs"][0]["run"] == name
    assert page.data["curves-0"]["methods"][0]["name"] == method
    rows = {
        row["name"]: row["texts"]
        for part in page.data["settings-0"]["parts"]
        for row in part["rows"]
    }
    assert rows["model"][0] == rows["git_commit"][0] == rows[text][0] == text
    assert rows[f"{text}.{text}"][0] == json.dumps([text], ensure_ascii=False)


def test_names_control_no_terminal(tmp_path):
    """A terminal obeys an escape sign; and half a character cannot be written to a file."""
    names = {"class_names": ["\x1b]0;owned\x07", "\ud800", "a\tb", "c"], "\x9b2J": 1}
    run = run_by_hand([0.5, 0.2], "run", training=names, summary={"name": "\x1b[2J"})
    write_run(tmp_path / "runs" / "\x1b[31mred", run)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page_of(tmp_path))
    [found] = read_runs([tmp_path / "runs" / "\x1b[31mred"]).runs
    assert found.name == "\ufffd[31mred"
    assert found.value("class_names") == ["\ufffd]0;owned\ufffd", "\ufffd", "a\tb", "c"]


@pytest.mark.parametrize("file", ["summary.json", "certificates.settings.json"])
@pytest.mark.parametrize("value", ["'<script>'", "null", "[1]", "NaN", "-Infinity", "true"])
def test_a_text_in_place_of_a_number_leaves_a_run_out(file, value, tmp_path):
    write_run(tmp_path / "runs" / "a", run_by_hand([0.5], "a"))
    folder = write_run(tmp_path / "runs" / "b", run_by_hand([0.4], "b", seed=1))
    name = "mean_samples_per_image" if file == "summary.json" else "alpha"
    content = (folder / file).read_text()
    other = re.sub(rf'"{name}": [^,}}]+', f'"{name}": {value}'.replace("'", '"'), content)
    assert other != content
    (folder / file).write_text(other)
    page = Page(page_of(tmp_path))
    assert "1 run of" in page.text
    assert f"b is left out: {file} is damaged: expected a number for {name}, got" in page.text


def test_the_terminal_reads_no_markup_in_names():
    names = {"model": "net[/b]", "ckpt": "/x/[link=y]c[q].pth", "data": "[red]data"}
    shares = {"certified_accuracy": {"0": 0.5}, "acr": 0.1}
    facts = {"sigma": 0.5, "images": 3, "n0": 1, "n": 9, "alpha": 0.1, "abstention_rate": 0.0}
    summary = {**names, **facts, **shares, "split": "[b]val", "bounds": {"[i]tight": shares}}
    summary |= {"clean_smoothed_accuracy": 0.5, "mean_samples_per_image": 9, "normalization": "[x]"}
    console = Console(file=io.StringIO(), width=120)
    print_summary(summary, Path("/runs/[bold]a"), console)
    printed = console.file.getvalue()
    expected = (
        "net[/b] of [link=y]c[q].pth on [red]data",
        "[b]val",
        "[i]tight",
        "[x]",
        "/runs/[bold]a",
    )
    assert [each for each in expected if each not in printed] == []


# Secrets.


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("logger.wandb.api_key=x", "logger.wandb.api_key"),
        ("+logger.wandb.settings={api_key: x, a: b}", "api_key"),
        ("++a.apikey=1a", "++a.apikey".lstrip("+")),
        ("+db.password='p'", "db.password"),
        ("+db.password=123456", "db.password"),
        ("+secret=x", "secret"),
        ("+a.client-secret=x", "a.client-secret"),
        ("logger.neptune.api_token=abc", "logger.neptune.api_token"),
        ("+hub.token=hf_abc", "hub.token"),
        ("hydra.job.env_set.WANDB_API_KEY=x", "hydra.job.env_set.WANDB_API_KEY"),
        ("+hydra.job.env_set={MY_KEY: x}", "MY_KEY"),
        ("+note=${oc.env:WANDB_API_KEY}", "oc.env:WANDB_API_KEY"),
        ("+note='a ${oc.env:AWS_SECRET_ACCESS_KEY,none}'", "oc.env:AWS_SECRET_ACCESS_KEY"),
        (f"+note={KEY}", "the value of WANDB_API_KEY"),
        (f"run=outputs/{KEY}/x", "the value of WANDB_API_KEY"),
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(argument, named, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with pytest.raises(SystemExit) as caught:
        refuse_secrets(["src/train.py", "sigma=0.5", argument])
    message = str(caught.value)
    assert message.startswith(
        f"Expected no secret on the command line, got one by {named}: it would"
    )
    assert "WANDB_API_KEY, or use `wandb login`" in message
    assert KEY not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "argument",
    [
        *("--help", "sigma=0.5", "-m", "model.arguments.class_token=true", "+model.tokens=16"),
        *("+model.arguments={class_token: false, num_tokens: 4}", "+a.monkey=x", "+a.sort_key=x"),
        *(
            "data.root=${oc.env:DATA}",
            "hydra.job.env_set.OMP_NUM_THREADS=1",
            "logger.x.api_key=null",
        ),
        *("run='outputs/a,b=c'", "name=passwords_of_images"),
    ],
)
def test_what_is_no_secret_is_fine(argument, monkeypatch):
    # As short as this it is found in other words.
    monkeypatch.setenv("SOME_TOKEN", "sigma")
    refuse_secrets(["src/train.py", argument])


def test_configurations_interpolate_no_secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("SMOOTHCERT_DATA", "here")
    config = OmegaConf.create(
        {
            "a": "${oc.env:WANDB_API_KEY}",
            "b": "${oc.env:${name},x}",
            "name": "HF_TOKEN",
            "c": "${oc.env:SMOOTHCERT_DATA}",
            "d": "${oc.env:SMOOTHCERT_NO_SUCH,default}",
            "e": "${oc.env:SMOOTHCERT_NO_SUCH,null}",
            "f": "${oc.env:SMOOTHCERT_NO_SUCH}",
        }
    )
    assert (config.c, config.d, config.e) == ("here", "default", None)
    for name in "abf":
        with pytest.raises(InterpolationResolutionError) as caught:
            config[name]
        assert KEY not in str(caught.value)


def command(name, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"src.{name}", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", ["train", "certify", "report", "benchmark"])
def test_every_command_refuses_a_secret_before_it_begins(name, tmp_path):
    arguments = [f"hydra.run.dir={tmp_path}/run", f"+logger.wandb.api_key={KEY}"]
    process = command(name, *arguments, "run=x", "runs=x")
    assert process.returncode == 1
    assert process.stderr.startswith("Expected no secret on the command line")
    assert KEY not in process.stdout + process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["wandb", "many"])
def test_no_file_of_a_run_and_nothing_printed_holds_wandbs_key(logger, tmp_path):
    """Of a key in the environment and of another one in `.netrc`, W&B's own files included."""
    other, home = KEY[::-1], tmp_path / "home"
    home.mkdir()
    netrc = home / ".netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {other}\n")
    netrc.chmod(0o600)
    known = {"HOME": str(home), "NETRC": str(netrc), "WANDB_API_KEY": KEY}
    quick = [
        *TINY,
        "experiment=digits_reg",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=3",
    ]
    folder = tmp_path / "run"
    process = command("train", *quick, f"logger={logger}", f"hydra.run.dir={folder}", **known)
    assert process.returncode == 0, process.stderr
    [logged] = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"digits_reg" in logged.read_bytes()
    holding = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file()
        and path != netrc
        and any(key.encode() in path.read_bytes() for key in (KEY, other))
    ]
    assert holding == []
    assert not any(key in process.stdout + process.stderr for key in (KEY, other))


# What a configuration calls.

CONFIGURATION = {
    "name": "run",
    "sigma": 0.25,
    "seed": 0,
    "data": {"_target_": "smoothcert.data.DigitsDataModule"},
    "model": {"_target_": "smoothcert.models.small_cnn", "width": "${size}"},
    "certifier": {"_target_": "smoothcert.certify.TightCertifier"},
    "size": 4,
}
MODULE = """
import os, subprocess
from torch.nn.functional import cross_entropy
from torch.optim import SGD

class HardDraws:
    @classmethod
    def made(cls): ...
    @staticmethod
    def also(): ...

def network(): ...

draws = HardDraws()
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder in a project, where its user works and has modules."""
    folder = tmp_path / "outputs" / "run"
    (folder / ".hydra").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) in (None, *map(str, tmp_path.rglob("*"))):
            del sys.modules[name]


def written(path, text=MODULE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def calling(target, place="model.inner"):
    values = {"_target_": target}
    for name in reversed(place.split(".")):
        values = {name: values}
    return values


def refused(target, run, place="model.inner", **options):
    with pytest.raises(InvalidArgumentError) as caught:
        check_targets(calling(target, place), run / "config.yaml", run, **options)
    return str(caught.value)


OPTIONS = [
    path.relative_to(CONF)
    for path in sorted(CONF.rglob("*.yaml"))
    if path.relative_to(CONF).parts[0] not in ("hydra", "task", "wandb")
]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_what_our_configurations_call_is_allowed_where_they_call_it(option, run):
    values = OmegaConf.to_container(OmegaConf.load(CONF / option))
    values.pop("defaults", None)
    if len(option.parts) > 1 and "@package _global_" not in (CONF / option).read_text():
        values = {option.parts[0]: values}
    for owner in ("objective", "attack") if "warmup" in values else (None,):
        placed = values if owner is None else {owner: values}
        check_targets(placed, run / "config.yaml", run)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("optimizer", "torch.optim.RMSprop"),
        ("optimizer", "torch.optim.Adafactor"),
        ("scheduler", "torch.optim.lr_scheduler.LinearLR"),
        ("model.head", "torch.nn.modules.linear.Linear"),
        ("objective.loss", "torch.nn.CrossEntropyLoss"),
        ("objective.teacher", "smoothcert.models.small_cnn"),
        ("model", "torchvision.models.resnet18"),
        ("model", "torchvision.models.ResNet"),
        ("model.parts.0", "smoothcert.models.wide_resnet"),
        ("callbacks.stop", "pytorch_lightning.callbacks.EarlyStopping"),
        ("callbacks.bar", "pytorch_lightning.callbacks.RichProgressBar"),
        (
            "callbacks.bar.theme",
            "pytorch_lightning.callbacks.progress.rich_progress.RichProgressBarTheme",
        ),
        ("callbacks.second.certifier", "smoothcert.certify.CohenCertifier"),
        ("logger.other", "pytorch_lightning.loggers.CSVLogger"),
        ("trainer.profiler", "pytorch_lightning.profilers.SimpleProfiler"),
        ("trainer.strategy", "pytorch_lightning.strategies.DDPStrategy"),
        ("trainer.plugins.0", "pytorch_lightning.plugins.environments.SLURMEnvironment"),
        ("objective", "smoothcert.objectives.adre.ADRE"),
    ],
)
def test_what_users_of_these_libraries_name_is_allowed(place, target, run):
    check_targets(calling(target, place), run / "config.yaml", run)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        # They write where their arguments say, which is looked at in other places alone.
        ("model.evil", "smoothcert.report.plot_certified_accuracy"),
        ("model.evil", "smoothcert.report.figures.plot_certified_accuracy"),
        ("callbacks.evil", "smoothcert.report.plot_certified_accuracy"),
        ("callbacks.certification.plot.path", "smoothcert.report.plot_certified_accuracy"),
        ("model.evil", "pytorch_lightning.callbacks.ModelCheckpoint"),
        ("data.evil", "pytorch_lightning.loggers.TensorBoardLogger"),
        ("objective.evil", "smoothcert.lightning.ResumingCSVLogger"),
        ("callbacks.evil", "smoothcert.lightning.wandb_logger"),
        ("certifier.evil", "pytorch_lightning.profilers.SimpleProfiler"),
        # Parts in each other's places.
        *(("model", "torch.optim.SGD"), ("optimizer", "torch.nn.Linear")),
        *(("certifier", "smoothcert.data.DigitsDataModule"), ("trainer", "torch.nn.Linear")),
        # Where nothing is called.
        *(("evil", "torch.nn.Linear"), ("speed.evil", "torch.nn.Linear")),
        *(("callbacks", "torch.nn.Linear"), ("paths", "my_objective.HardDraws")),
        ("evil.a.b", "my_objective.HardDraws"),
    ],
)
def test_what_belongs_elsewhere_is_refused_with_its_place(place, target, run, tmp_path):
    written(tmp_path / "my_objective.py")
    for options in ({}, {"all_used": False}):
        message = refused(target, run, place, **options)
        assert f"calls {target!r} as {place!r}, which is not allowed" in message


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.eval", "subprocess.Popen", "functools.partial", "pickle.loads"),
        # Of libraries, but not of what they offer to configurations.
        *("torch.load", "torch.hub.load", "torch.utils.cpp_extension.load", "numpy.load"),
        *("hydra.utils.instantiate", "omegaconf.OmegaConf.load", "wandb.init", "yaml.load"),
        *("pytorch_lightning.cli.LightningCLI", "torch.nn.functional.cross_entropy"),
        "pytorch_lightning.LightningModule.load_from_checkpoint",
        # Ours, with paths to write to as arguments; and those by another way.
        *("smoothcert.records.write_atomically", "smoothcert.records.CertificateFile"),
        *("smoothcert.data.write_thumbnails", "smoothcert.commands.train", "src.train.train"),
        *("smoothcert.benchmarks.VoteLog", "src.smoothcert.records.write_atomically"),
        "tests.support.composed",
        # From an allowed module into another one.
        *("smoothcert.data.base.torch.hub.load", "torch.nn.modules.os.system"),
        *("torch.optim.optimizer.functools.partial", "smoothcert.models.checkpoints.re.compile"),
        # Neither class nor function, or somebody's inside.
        *("smoothcert.models", "smoothcert.models.SmallCNN.forward", "torch.nn.Module.__init__"),
        *("smoothcert", "", "os", ".os.system", "torch..nn", "os.system ", "__main__.run"),
        *("${name}", "torch.nn.${name}", None, 5, "smoothcert.report.print_summary"),
        *("smoothcert.objectives.NoSuch", "torch.nn.NoSuch.inner"),
    ],
)
def test_everything_else_is_refused_with_its_name_and_the_files(target, run):
    for options in ({}, {"all_used": False}):
        message = refused(target, run, **options)
        expected = f"{run / 'config.yaml'} calls {target!r} as 'model.inner', which is not allowed"
        assert message.startswith(expected)
        assert "Allowed there are torch.nn, torchvision.models, timm.models" in message


def test_what_is_refused_is_not_imported(run):
    for name in ("this", "setuptools", "antigravity"):
        sys.modules.pop(name, None)
        refused(f"{name}.thing", run)
        assert name not in sys.modules


@pytest.mark.parametrize("target", ["timm.models.resnet18", "timm.models.VisionTransformer"])
def test_networks_of_timm_are_allowed(target, run):
    pytest.importorskip("timm")
    check_targets(calling(target), run / "config.yaml", run)


LOADING = ["create_model", "models.load_checkpoint", "models.load_pretrained"]


@pytest.mark.parametrize("name", LOADING)
def test_what_loads_files_by_timm_is_refused(name, run):
    pytest.importorskip("timm")
    refused(f"timm.{name}", run)


@pytest.mark.parametrize(
    "target",
    [
        "my_objective.HardDraws",
        "my_objective.network",
        "my_parts.inner.objective.HardDraws",
        "my_package.objective.HardDraws",
    ],
)
def test_a_module_of_the_users_own_is_allowed(target, run, tmp_path):
    written(tmp_path / "my_objective.py")
    written(tmp_path / "my_parts" / "inner" / "objective.py")
    written(tmp_path / "my_package" / "objective.py")
    written(tmp_path / "my_package" / "__init__.py", "")
    check_targets(calling(target), run / "config.yaml", run)
    # What a user has imported on purpose may be called where it might have been by its own name.
    check_targets(calling("my_objective.SGD", "optimizer"), run / "config.yaml", run)
    refused("my_objective.SGD", run)


@pytest.mark.parametrize(
    "name",
    ["os.system", "subprocess.Popen", "cross_entropy", "HardDraws.made", "HardDraws.also", "draws"],
)
def test_what_such_a_module_has_imported_is_refused(name, run, tmp_path):
    written(tmp_path / "my_objective.py")
    refused(f"my_objective.{name}", run)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("outputs/run/evil.py", "outputs.run.evil.HardDraws"),
        # What came with the folder in one archive.
        ("outputs/evil.py", "outputs.evil.HardDraws"),
        ("outputs/other/__init__.py", "outputs.other.HardDraws"),
        ("outputs/__init__.py", "outputs.HardDraws"),
        ("lib/site-packages/evil.py", "evil.HardDraws"),
    ],
)
def test_a_module_that_came_with_the_folder_is_never_imported(
    place, target, run, tmp_path, monkeypatch
):
    touched = tmp_path / "touched"
    monkeypatch.syspath_prepend(str(tmp_path / "lib" / "site-packages"))
    written(tmp_path / place, f"open({str(touched)!r}, 'w').close()\n{MODULE}")
    refused(target, run)
    assert not touched.exists()


@pytest.mark.parametrize("packages", [["outputs"], ["outputs", "outputs/run"], ["outputs/run"]])
@pytest.mark.parametrize("name", ["outputs.evil", "outputs.run.evil", "outputs.code.evil"])
def test_a_package_that_holds_the_run_is_not_the_users(packages, name, run, tmp_path):
    touched = tmp_path / "touched"
    for package in packages:
        written(tmp_path / package / "__init__.py", f"open({str(touched)!r}, 'w').close()")
    written(tmp_path / f"{name.replace('.', '/')}.py", f"open({str(touched)!r}, 'w').close()")
    refused(f"{name}.HardDraws", run)
    assert not touched.exists()


def test_a_package_within_ones_own_that_holds_the_run_is_not_the_users(run, tmp_path):
    inner = written(tmp_path / "mine" / "runs" / "evil.py").parent
    for folder in (inner, inner.parent):
        written(folder / "__init__.py", "")
    (inner / "run").mkdir()
    refused("mine.runs.evil.HardDraws", inner / "run")
    check_targets(calling("mine.runs.evil.HardDraws"), run / "config.yaml", run)


def test_a_package_holds_a_run_by_links_too(run, tmp_path):
    written(run.parent / "__init__.py", "")
    written(run.parent / "evil.py")
    (tmp_path / "linked").symlink_to(run.parent)
    refused("linked.evil.HardDraws", run)
    # And a run that is a link itself, beside what came with it.
    (tmp_path / "elsewhere").mkdir()
    (run.parent / "latest").symlink_to(tmp_path / "elsewhere")
    refused("outputs.evil.HardDraws", run.parent / "latest")
    refused("outputs.evil.HardDraws", tmp_path / "linked" / "latest")


def test_a_link_to_a_module_in_the_folder_is_no_module_of_the_users(run, tmp_path):
    (tmp_path / "mine.py").symlink_to(written(run / "evil.py"))
    refused("mine.HardDraws", run)


def test_a_missing_module_is_named_where_it_is_needed(run):
    assert "no such module is found: add its folder to PYTHONPATH" in refused("nowhere.X", run)
    check_targets(calling("nowhere.X"), run / "config.yaml", run, all_used=False)


def test_a_module_that_fails_is_named(run, tmp_path):
    written(tmp_path / "my_broken.py", "import not_installed")
    assert "my_broken cannot be imported: ModuleNotFoundError" in refused("my_broken.X", run)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"model": {"arguments": {"checkpoint_path": "x"}}}, "files"),
        ({"model": {"arguments": {"pretrained_cfg_overlay": {"file": "x"}}}}, "files"),
        ({"model": {"_target_": "torch.nn.Linear", "_args_": [1, 2]}}, "arguments by position"),
        ({"model": {"arguments": {"cache_dir": "x"}}}, "folders"),
        ({"logger": {"a": {"settings": {"https_proxy": "http://elsewhere"}}}}, "servers"),
        ({"callbacks": {"a": {"base_url": "http://elsewhere"}}}, "servers"),
        ({"a": {"_target_": ["os.system"]}}, "targets in parts"),
        ({"logger": {"a": {"tracking_uri": "http://elsewhere"}}}, "servers"),
    ],
)
def test_settings_that_would_name_files_or_servers_are_refused(values, what, run):
    with pytest.raises(
        InvalidArgumentError, match=rf"sets .*, and a run folder may name no {what}"
    ):
        check_targets(values, run / "config.yaml", run)


# Runs that are resumed.


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["experiment=digits_reg_adv", "logger=many", "callbacks=ema", "seed=3"],
        ["experiment=cifar_fast_smoothadv", "size=gpu", "speed=plain", "~callbacks.best"],
        ["trainer=slurm", "debug=profile", "~logger", "scheduler=one_cycle", "optimizer=adamw"],
        ["data=image_folder", "data.root='/a b'", "paths.data=/x", "ckpt_path=../other/last.ckpt"],
        ["objective=macer", "warmup@objective.warmup=linear", "+note='${sigma}'"],
    ],
)
def test_a_run_is_resumed_with_the_configuration_that_it_has_saved(overrides, run):
    before = saved(run, *overrides)
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config = guarded("train", f"run={run}")
    with open_dict(config):
        hydra = config.pop("hydra")
    assert OmegaConf.to_container(config) == before
    assert (hydra.run.dir, hydra.output_subdir) == (str(run), None)
    kind = OmegaConf.load(CONF / "data" / f"{hydra.runtime.choices.data}.yaml")
    assert kind._target_ == before["data"]["_target_"]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_a_run_keeps_its_settings_where_defaults_have_changed(run):
    saved(run)
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    config.optimizer.lr, config.old = 0.125, 1
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    resumed = guarded("train", f"run={run}")
    assert (resumed.optimizer.lr, resumed.old) == (0.125, 1)


@pytest.mark.parametrize("part", ["objective", "attack", "optimizer", "scheduler", "trainer"])
def test_every_part_of_a_resumed_run_is_checked(part, run):
    saved(run)
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    config[part]._target_ = "os.system"
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    with pytest.raises(SystemExit, match=rf"config\.yaml calls 'os\.system' as '{part}', which is"):
        guarded("train", f"run={run}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logger": {"x": "${y}"}, "y": {"_target_": "os.system"}}, "calls 'os.system' as 'y'"),
        ({"optimizer": "${oc.create:'{_target_: os.system}'}"}, "it computes values"),
        ({"note": "${oc.env:DATABASE_URL}"}, "it reads DATABASE_URL from the environment"),
        ({"note": "${oc.decode:${oc.env:HOME,1}}"}, "it computes values"),
        ({"hydra": {"job": {"env_set": {"LD_PRELOAD": "x.so"}}}}, "sets hydra, and a run folder"),
        ({"model": {"arguments": {"checkpoint_path": "x"}}}, "may name no files"),
        ({f"a{n}": [f"${{a{n - 1}}}"] * 9 for n in range(1, 30)}, "by interpolation"),
        ({"objective": {"_target_": "nowhere.Objective"}}, "no such module is found"),
    ],
)
def test_a_run_that_does_more_is_not_resumed(changes, message, run):
    saved(run)
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    OmegaConf.save({**config, **changes}, run / ".hydra" / "config.yaml")
    with pytest.raises(SystemExit) as caught:
        guarded("train", f"run={run}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_choices_are_not_interpolated(run):
    saved(run)
    path = run / ".hydra" / "hydra.yaml"
    path.write_text(path.read_text().replace("data: digits", "data: ${oc.env:HOME}"))
    with pytest.raises(SystemExit, match=r"hydra\.yaml is damaged: expected plain choices"):
        guarded("train", f"run={run}")


@pytest.mark.parametrize(
    "override",
    [
        *("--config-dir=/x", "hydra.run.dir=/x", "+hydra.searchpath=[/x]", "hydra/launcher=x"),
        *(
            "+callbacks.x={_target_: os.system}",
            "experiment=../../evil",
            "model._target_=os.system",
        ),
        *("name=${oc.env:HOME}", "+experiment@hydra=x"),
    ],
)
def test_no_command_to_paste_has_overrides_that_do_more(override, run):
    saved(run)
    written(run / ".hydra" / "overrides.yaml", json.dumps(["sigma=0.5", override]))
    with pytest.raises(SystemExit, match="nothing else may be set") as caught:
        guarded("train", f"run={run}", "trainer.max_epochs=8")
    assert override not in str(caught.value)
    assert "the command that it was started with, and trainer.max_epochs=8 ckpt_" in str(
        caught.value
    )


DAMAGED = ["a: 1", "just a text", "[", "- !!python/object:os.x {}", "\0"]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_overrides_are_named(content, run):
    written(run / ".hydra" / "overrides.yaml", content)
    with pytest.raises(RecordsError, match=r"overrides\.yaml is damaged"):
        overrides_of(RunFolder(run))


# The configuration of a training.


def configuration(**changes):
    return OmegaConf.create({**CONFIGURATION, **changes})


def test_certification_gets_plain_values(run):
    taken = trusted(configuration(other=1), OmegaConf.create({"data": "here"}), run)
    assert "other" not in taken
    assert OmegaConf.to_container(taken)["model"]["width"] == 4


def test_places_on_this_machine_replace_the_runs(run):
    config = configuration(paths={"data": "there"}, data={"root": "${paths.data}/x"})
    assert trusted(config, OmegaConf.create({"data": "here"}), run).data.root == "here/x"


EVIL = "{_target_: os.system, command: ls}"


@pytest.mark.parametrize(
    "changes",
    [
        {"callbacks": {"a": {"_target_": "os.system"}}},
        {"model": {"_target_": "torch.nn.Linear", "inner": [{"_target_": "os.system"}]}},
        {"model": "${other}", "other": {"_target_": "os.system"}},
        # Only to be seen once it is resolved.
        {"model": f"${{oc.create:'{EVIL}'}}"},
        {"model": {"inner": "${oc.create:${text}}"}, "text": EVIL},
        {"model": "${for_sigma:1,{1:{_target_:os.system}}}"},
        {"model": {"_target_": "${name}"}, "name": "os.system"},
        # And this would be a step later.
        {"model": {"inner": r"\${oc.create:'" + EVIL + "'}"}},
    ],
)
def test_a_target_is_found_however_it_is_written(changes, run):
    with pytest.raises(InvalidArgumentError, match=r"\.hydra/config\.yaml (calls|sets) "):
        trusted(configuration(**changes), OmegaConf.create({}), run)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "${oc.env:DATABASE_URL}"},
        {"name": "${ oc.env : DATABASE_URL }"},
        {"name": "${oc.env:${other}}", "other": "DATABASE_URL"},
        {"name": "${${other}}", "other": "oc.env:DATABASE_URL"},
        {"name": "${other}", "other": {"a": "b ${oc.env:DATABASE_URL,x}"}},
        {"name": "${other.a}", "other": "${third}", "third": {"a": "${oc.env:DATABASE_URL}"}},
        {"data": {"root": "${.other}", "other": "${oc.env:DATABASE_URL}"}},
        {"name": "${oc.decode:'${other}'}", "other": "${oc.env:DATABASE_URL}"},
        {"name": "${oc.select:other}", "other": "${oc.env:DATABASE_URL}"},
        {"name": "${for_sigma:1,{1:${oc.env:DATABASE_URL}}}"},
    ],
)
def test_the_environment_is_not_read(changes, run, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://somebody:something@somewhere")
    with pytest.raises(InvalidArgumentError, match=r"\.hydra/config\.yaml sets ") as caught:
        trusted(configuration(**changes), OmegaConf.create({}), run)
    assert "postgres" not in str(caught.value)


def test_what_ones_own_paths_read_of_the_environment_is_ones_own(run, monkeypatch):
    monkeypatch.setenv("MY_DATA", "here")
    paths = OmegaConf.create({"data": "${oc.env:MY_DATA}"})
    config = configuration(data={"root": "${paths.data}/x"})
    assert trusted(config, paths, run).data.root == "here/x"
    monkeypatch.setenv("SCRATCH", "there")
    config = configuration(data={"root": "${oc.env:SCRATCH}/x"})
    assert trusted(config, paths, run).data.root == "there/x"


GROWING_LISTS = {"a0": ["x"] * 9, **{f"a{n}": [f"${{a{n - 1}}}"] * 9 for n in range(1, 30)}}
GROWING_TEXTS = {"a0": "x" * 9, **{f"a{n}": f"${{a{n - 1}}}" * 9 for n in range(1, 30)}}


@pytest.mark.parametrize("many", [GROWING_LISTS, GROWING_TEXTS], ids=["lists", "texts"])
def test_what_grows_by_interpolation_is_refused_at_once(many, run):
    """It would be 9 to the power of 30 values."""
    with pytest.raises(InvalidArgumentError, match="to more than 100,000 characters by interpol"):
        trusted(configuration(**many, model="${a29}"), OmegaConf.create({}), run)
    # What is not needed is not interpolated.
    assert trusted(configuration(**many), OmegaConf.create({}), run).name == "run"


def test_what_leads_back_to_itself_is_damaged(run):
    config = configuration(name="${other}", other="${name}")
    with pytest.raises(RecordsError, match=r"config\.yaml is damaged"):
        trusted(config, OmegaConf.create({}), run)


def test_a_run_by_an_objective_that_is_not_here_is_certified(run):
    config = configuration(objective={"_target_": "nowhere.Objective"})
    assert trusted(config, OmegaConf.create({}), run).name == "run"
    with pytest.raises(InvalidArgumentError, match="no such module"):
        trusted(configuration(model={"_target_": "nowhere.net"}), OmegaConf.create({}), run)


@pytest.mark.parametrize(
    "config",
    [
        OmegaConf.create([1]),
        OmegaConf.create({"name": "run"}),
        configuration(seed="${nowhere}"),
        configuration(sigma="???"),
    ],
)
def test_a_damaged_configuration_is_named(config, run):
    with pytest.raises(RecordsError, match=r"\.hydra/config\.yaml is damaged"):
        trusted(config, OmegaConf.create({}), run)


def test_yaml_makes_no_objects(run, tmp_path):
    path = tmp_path / "touched"
    written(run / ".hydra" / "config.yaml", f"a: !!python/object/apply:os.mkdir ['{path}']\n")
    with pytest.raises(RecordsError, match=r"config\.yaml is damaged: .*python/object/apply"):
        read_yaml(RunFolder(run), "config")
    assert not path.exists()


ALIASES = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (ALIASES, "expected no aliases"),
        ("[" * 30_000, "expected at most 10,000 values, nested at most 50 deep"),
        ("a: {" * 15_000, "expected at most 10,000 values, nested at most 50 deep"),
        ("[" + "1," * 30_000 + "]", "expected at most 10,000 values"),
        ("a: " + "x" * 100_000, "expected at most 65,536 bytes"),
    ],
    ids=["aliases", "deep lists", "deep mappings", "many", "long"],
)
@pytest.mark.parametrize("name", ["config", "overrides", "hydra"])
def test_yaml_that_would_keep_the_machine_busy_is_refused(name, text, what, run):
    written(run / ".hydra" / f"{name}.yaml", text)
    with pytest.raises(RecordsError, match=f"{name}.yaml is damaged: .*{what}"):
        read_yaml(RunFolder(run), name)


# Places.


def checked(folder, *overrides):
    with composed(folder, ["trainer=cpu", *overrides]) as cfg:
        check_places(cfg)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["logger=many", "name=a/b"],
        ["callbacks=ema", "callbacks.best.filename=best"],
        ["~logger"],
        ["~callbacks"],
        ["callbacks.best.dirpath=null", "callbacks.last=null"],
        ["callbacks.best.dirpath='{run}/other'"],
        ["data.root=/somewhere", "ckpt_path=../x.ckpt", "model.weights=/x.pt", "data=cifar10"],
    ],
)
def test_paths_inside_the_run_folder_are_fine(overrides, tmp_path):
    checked(tmp_path, *(each.format(run=tmp_path) for each in overrides))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("paths.run=/elsewhere", "paths.run"),
        ("callbacks.best.dirpath=/elsewhere", "callbacks.best.dirpath"),
        # Such a path leads from where the command is started.
        ("callbacks.best.dirpath=checkpoints", "callbacks.best.dirpath"),
        ("callbacks.last.dirpath='{run}/../x'", "callbacks.last.dirpath"),
        ("callbacks.last.dirpath='{run}x'", "callbacks.last.dirpath"),
        ("callbacks.last.filename=../../x", "callbacks.last.filename"),
        ("callbacks.best.dirpath='~/x'", "callbacks.best.dirpath"),
        ("callbacks.best.dirpath='s3://bucket/x'", "callbacks.best.dirpath"),
        ("callbacks.certification.folder=/elsewhere", "callbacks.certification.folder"),
        ("logger.csv.folder=/elsewhere", "logger.csv.folder"),
        ("+logger.x={{save_dir: /elsewhere}}", "logger.x.save_dir"),
        ("+logger.csv.name=../x", "logger.csv.name"),
        ("+logger.csv.version=/x", "logger.csv.version"),
        ("trainer.default_root_dir=/elsewhere", "trainer.default_root_dir"),
        ("trainer.default_root_dir=null", "trainer.default_root_dir"),
        ("trainer.profiler={{dirpath: /elsewhere}}", "trainer.profiler.dirpath"),
        ("+callbacks.certification.plot.path=/x.png", "callbacks.certification.plot.path"),
        ("+callbacks.x={{exclude_batches_path: /x}}", "callbacks.x.exclude_batches_path"),
    ],
)
def test_what_would_be_written_elsewhere_is_refused_with_its_key(override, key, tmp_path):
    with pytest.raises(InvalidArgumentError) as caught:
        checked(tmp_path, override.format(run=tmp_path))
    start = f"Expected `{key}` inside the run folder {tmp_path}, got "
    assert str(caught.value).startswith(start)


@pytest.mark.parametrize(
    "override",
    [
        "+model.evil={_target_: smoothcert.report.plot_certified_accuracy, path: '/x.png'}",
        # What no override names, but leads to.
        "+model.evil=${callbacks.certification.plot}",
        "+objective.evil=[{a: '${logger}'}]",
        "+evil=${callbacks.best}",
    ],
)
def test_what_writes_is_called_by_parts_that_are_looked_at_alone(override, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"in callbacks, logger, trainer, got it in `"):
        checked(tmp_path, override)


def test_a_training_begins_with_this_check(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    overrides = ["trainer=cpu", f"callbacks.best.dirpath={elsewhere}"]
    with (
        composed(tmp_path / "run", overrides) as cfg,
        pytest.raises(SystemExit, match=r"`callbacks\.best\.dirpath` inside the run folder"),
    ):
        commands.train(cfg)
    assert not elsewhere.exists()


@pytest.mark.parametrize("place", ["checkpoints", "metrics.csv", ".hydra/config.yaml", "a/b/c"])
def test_a_link_out_of_the_run_folder_is_refused_before_anything_is_written(place, run, tmp_path):
    OmegaConf.save(["sigma=0.5"], run / ".hydra" / "overrides.yaml")
    link, elsewhere = run / place, tmp_path / "elsewhere"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    expected = re.escape(f"in the run folder {run}, got {link}, a link to {elsewhere}")
    with pytest.raises(SystemExit, match=expected):
        guarded("train", "sigma=0.5", f"hydra.run.dir={run}")
    with pytest.raises(RecordsError, match=expected):
        checked(run)
    if place != ".hydra/config.yaml":
        written(run / ".hydra" / "config.yaml", "")
    for command in ("certify", "train"):
        with pytest.raises(SystemExit, match=f"{expected}|has no .hydra/config.yaml"):
            guarded(command, f"run={run}")
    with pytest.raises(RecordsError, match=expected):
        trained_configuration(RunFolder(run), OmegaConf.create({}))


def test_links_within_the_folder_and_to_it_are_fine(run, tmp_path):
    written(run / "checkpoints" / "epoch=3.ckpt")
    (run / "checkpoints" / "last.ckpt").symlink_to("epoch=3.ckpt")
    (run / "loop").symlink_to("loop")
    # W&B links to its own logs.
    (run / "wandb" / "offline-run" / "logs").mkdir(parents=True)
    (run / "wandb" / "offline-run" / "logs" / "core.log").symlink_to(tmp_path / "core.log")
    check_links(run)
    (tmp_path / "latest").symlink_to(run)
    check_links(tmp_path / "latest")
    checked(tmp_path / "latest")


@pytest.mark.parametrize("kind", ["a FIFO", "a socket"])
def test_only_files_are_opened_in_a_run_folder(kind, run):
    path = run / "x"
    if kind == "a FIFO":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(os.path.relpath(path))
    with pytest.raises(RecordsError, match=f"got {path}, which is not a regular file"):
        check_links(run)
    with pytest.raises(RecordsError, match=f"got {path}, which is not a regular file"):
        check_links(run, nested=False)


def test_hydra_itself_writes_through_no_link(run, tmp_path):
    (run / ".hydra").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (run / ".hydra").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match=r"a link to .*/elsewhere"):
        guarded("train", f"hydra.run.dir={run}")


def test_certificates_are_not_written_through_a_link(run, tmp_path):
    written(run / ".hydra" / "config.yaml", "")
    guarded("certify", f"run={run}")
    (run / "certify").rename(tmp_path / "elsewhere")
    (run / "certify").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match=r"got .*/certify, a link to .*/elsewhere"):
        guarded("certify", f"run={run}")
