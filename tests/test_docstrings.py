"""Examples in docstrings and in the README run, and public functions have docstrings."""

import doctest
import inspect
import pkgutil
import re
from importlib import import_module

import pytest
from support import ROOT

import smoothcert

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(smoothcert.__path__, "smoothcert.")
)


def public_members(module):
    for name, member in vars(module).items():
        if inspect.isfunction(member) or inspect.isclass(member):
            own = member.__module__ == module.__name__
            if own and not name.startswith("_"):
                yield name, member


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    failures, _ = doctest.testmod(import_module(name))
    assert failures == 0


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_says_what_it_is(name):
    module = import_module(name)
    assert module.__doc__
    assert [name for name, member in public_members(module) if not inspect.getdoc(member)] == []


def test_public_names_can_be_imported():
    assert all(getattr(smoothcert, name) is not None for name in smoothcert.__all__)
    with pytest.raises(AttributeError, match="no attribute 'certfy'"):
        smoothcert.certfy  # noqa: B018


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
def test_readme_examples_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_every_experiment_that_the_readme_names_exists():
    named = set(re.findall(r"experiment=([a-z_0-9,]+)", (ROOT / "README.md").read_text()))
    experiments = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    assert {name for names in named for name in names.split(",")} <= experiments
