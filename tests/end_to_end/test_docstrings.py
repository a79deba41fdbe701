"""Examples in docstrings run, and public functions have docstrings."""

import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

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
