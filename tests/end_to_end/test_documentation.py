"""README, docs and `--help`: what they show runs, what they name exists."""

import re
import shlex

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from smoothcert import commands
from tests.helpers.checkpoint_files import UNCERTIFIED, trained
from tests.helpers.pages import PAGES, blocks
from tests.helpers.support import CONF, ROOT, composed

COMMAND = re.compile(r"^\$ python -m src\.(\w+) (.*)$", re.MULTILINE)


def composable():
    """Yield the commands that can be composed: without placeholders, runs and files to be."""
    for block in blocks("console"):
        text = block.values[0].replace("\\\n", " ")
        for name, arguments in COMMAND.findall(text):
            overrides = shlex.split(arguments, comments=True)
            apart = ("<", "…", "--", "run=", "ckpt", "my_", "wandb/sweep")
            if not any(mark in override for override in overrides for mark in apart):
                yield pytest.param(name, overrides, id=f"{name} {' '.join(overrides)}")


@pytest.mark.parametrize("block", blocks("python"))
def test_examples_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "smoothcert.load(" in block:
        trained(tmp_path / "outputs" / "run", *UNCERTIFIED, "trainer.max_epochs=1")
    exec(compile(block, "README.md", "exec"), {"__name__": "example"})


@pytest.mark.parametrize(("name", "overrides"), list(composable()))
def test_commands_compose(name, overrides, tmp_path):
    compose_first_job(name, overrides, tmp_path)


def compose_first_job(name, overrides, folder):
    given = [override for override in overrides if override != "-m"]
    parsed = OverridesParser.create().parse_overrides(given)
    first = [
        f"{each.get_key_element()}={next(iter(each.sweep_string_iterator()))}"
        if each.is_sweep_override()
        else each.input_line
        for each in parsed
    ]
    with composed(folder, first, name) as cfg:
        assert cfg


HELPS = {
    "train": [("train", [])],
    "certify": [("certify", ["run=x"]), ("certify_checkpoint", ["ckpt=x", "model=resnet20"])],
    "merge": [("merge", ["runs=x"])],
    "report": [("report", ["runs=x"])],
    "benchmark": [("benchmark", [f"task={task}"]) for task in ("throughput", "methods", "sizing")],
}
"""Of each command, its configurations and what they need."""


def help_of(command, folder):
    """Return the sections of a command's help by their first words, and its configurations."""
    configurations = []
    for name, needed in HELPS[command]:
        with composed(folder, needed, name) as cfg:
            text = HydraConfig.get().help.template
            configurations.append(OmegaConf.to_container(cfg))
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 72
    sections = [section.splitlines() for section in text.split("\n\n")]
    return {head.split()[0].rstrip(":"): lines for head, *lines in sections}, configurations


@pytest.mark.parametrize("command", HELPS)
def test_examples_of_help_compose(command, tmp_path):
    sections, _ = help_of(command, tmp_path)
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "overrides.yaml").write_text("[sigma=0.5]")
    assert len(sections["Examples"]) == 5
    for line in sections["Examples"]:
        program, flag, *arguments = shlex.split(re.sub("<.*?>", str(run), line))
        assert (program, flag, arguments[0]) == ("python", "-m", f"src.{command}")
        name = "certify_checkpoint" if commands.names_checkpoint(arguments) else command
        compose_first_job(name, arguments[1:], run)


@pytest.mark.parametrize("command", HELPS)
def test_help_names_every_key_of_its_own_and_no_other(command, tmp_path):
    sections, configurations = help_of(command, tmp_path)
    # A longer text goes on in the next line.
    matches = [re.match(r"  (\S.*?)  +\S", line) for line in sections["Keys"]]
    named = [key for match in matches if match for key in match[1].split(", ")]
    assert len(named) == len(set(named))
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    own = {key for cfg in configurations for key in cfg} - groups
    assert own <= set(named)
    for key in set(named) - own:
        group, _, setting = key.partition(".")
        assert any(setting in cfg.get(group, {}) for cfg in configurations), key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target


def anchors(text):
    """Return the anchors that GitHub gives to headings."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_experiments_that_are_named_exist(page):
    named = set(re.findall(r"experiment=([a-z_0-9,]+)", page.read_text()))
    experiments = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    assert {name for names in named for name in names.split(",")} <= experiments


def test_the_readme_is_short_and_its_prose_fits_a_line():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    prose = [line for line in lines if not line.startswith(("|", "  title"))]
    assert [line for line in prose if len(line) > 120] == []


def first_table(page, heading=""):
    """Return the rows of the first table below a heading, as cells by their column's name."""
    text = page.read_text().partition(heading)[2] if heading else page.read_text()
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert table, heading
    head, _, *rows = [line.strip("| ").split(" | ") for line in table[0].splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_readmes_methods_are_those_of_the_whole_table():
    whole = first_table(ROOT / "docs" / "methods.md")
    short = first_table(ROOT / "README.md", "\n## Methods\n")
    assert short == [{name: cells[name] for name in short[0]} for cells in whole]


def test_the_readmes_results_are_rows_of_the_whole_table():
    whole = first_table(ROOT / "docs" / "results.md", "\n## CIFAR-10 in minutes\n")
    short = first_table(ROOT / "README.md", "\n## Results\n")
    rows = [cells for cells in whole if (cells["σ"], cells["bound"]) == ("0.5", "tight")]
    assert len(rows) == 6
    assert short == [{name: cells[name] for name in short[0]} for cells in rows]
