"""README and docs: what they show runs, what they name exists."""

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from support import ROOT, composed
from test_checkpoint_files import UNCERTIFIED, trained

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^\$ python -m src\.(\w+) (.*)$", re.MULTILINE)


def blocks(language):
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(
            re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
        )
    ]


def commands():
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


@pytest.mark.parametrize(("name", "overrides"), list(commands()))
def test_commands_compose(name, overrides, tmp_path):
    given = [override for override in overrides if override != "-m"]
    parsed = OverridesParser.create().parse_overrides(given)
    first = [
        f"{each.get_key_element()}={next(iter(each.sweep_string_iterator()))}"
        if each.is_sweep_override()
        else each.input_line
        for each in parsed
    ]
    with composed(tmp_path, first, name) as cfg:
        assert cfg


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
