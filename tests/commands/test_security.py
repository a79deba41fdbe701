"""Files from elsewhere run no code and no markup, reach no other files, and get no secrets."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError
from PIL import Image
from rich.console import Console

from smoothcert import commands
from smoothcert.commands.security import refuse_secrets
from smoothcert.data.decoding import decode_all
from smoothcert.report.grouping import sections_of
from smoothcert.report.load import read_runs
from smoothcert.report.page import write_page
from smoothcert.report.tables import tables_of
from smoothcert.report.terminal import print_summary
from tests.helpers.runs_by_hand import rows_of, run_by_hand, write_log, write_run
from tests.helpers.support import ROOT, TINY, composed

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


def started(folder, *overrides):
    """Leave what Hydra does of a training that has not begun."""
    with composed(folder, overrides) as cfg:
        (folder / ".hydra").mkdir(parents=True)
        OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
        OmegaConf.save({"hydra": HydraConfig.get()}, folder / ".hydra" / "hydra.yaml")
    return folder


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
    started(run, *SMALL)
    return run / "checkpoints" / "best.ckpt", lambda: certified(own, f"run={run}")


def best_of_a_benchmark(run, own):
    path, _ = best(run, own)
    return path, lambda: measured(own, f"run={run}", "task=precisions")


def ckpt(run, own):
    path = run / "published.pth.tar"
    asked = [f"ckpt={path}", "data=digits", "model=small_cnn", "sigma=0.25"]
    return path, lambda: certified(own, *asked, name="certify_checkpoint")


def weights(run, own):
    path = run / "weights.pt"
    return path, lambda: trained(own, f"model.weights={path}")


def ckpt_path(run, own):
    path = run / "other.ckpt"
    return path, lambda: trained(own, f"ckpt_path={path}")


def votes(run, own):
    path = run / "votes.npz"
    return path, lambda: measured(own, "task=designs", f"votes={path}")


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
        measured(tmp_path / "own", "task=designs", f"votes={path}")


@pytest.mark.parametrize("kept", [0, 4, 300, None])
def test_votes_that_are_cut_off_or_another_file_are_named(kept, tmp_path):
    path = tmp_path / "votes.npz"
    np.savez(path, **VOTES, sigma=0.5)
    path.write_bytes(path.read_bytes()[:kept])
    if kept is None:
        with path.open("wb") as file:
            np.save(file, VOTES["votes"])
    with pytest.raises(SystemExit, match=re.escape(str(path))):
        measured(tmp_path / "own", "task=designs", f"votes={path}")


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
@pytest.mark.parametrize(("do", "options"), [(certified, []), (measured, ["task=precisions"])])
def test_a_runs_configuration_calls_nothing_else(do, options, other, sprung, tmp_path):
    folder = started(tmp_path / "run", *SMALL)
    changed(folder, "smoothcert.models.small_cnn\n", f"{other}\n  path: {sprung}\n")
    config = re.escape(str(folder / ".hydra" / "config.yaml"))
    expected = rf"{config} calls '{re.escape(other)}' as 'model', which is not allowed"
    with pytest.raises(SystemExit, match=expected):
        do(tmp_path / "own", f"run={folder}", *options)
    assert not sprung.exists()


def test_a_run_that_would_call_something_else_does_not_go_on(sprung, tmp_path):
    folder = started(tmp_path / "run", *TRAIN)
    evil = f"callbacks:\n  x: {{_target_: os.mkdir, path: '{sprung}'}}\n"
    changed(folder, "callbacks:\n", evil)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    process = command("train", f"run={folder}")
    assert process.returncode == 1
    assert "config.yaml calls 'os.mkdir' as 'callbacks.x', which is not allowed" in process.stderr
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


def test_a_terminal_is_told_nothing_by_names(tmp_path):
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
