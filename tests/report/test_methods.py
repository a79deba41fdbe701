"""Names of methods as papers print them, and one colour per method."""

from itertools import product

import pytest

from smoothcert.errors import InvalidArgumentError
from smoothcert.report.methods import (
    OF_PAPERS,
    OTHERS,
    PAPER_NAMES,
    chosen_method,
    method_colour,
    method_name,
)
from tests.helpers.support import CONF

GROUNDS = (("light", "#ffffff"), ("dark", "#14171b"))


def options(group):
    return {path.stem for path in (CONF / group).glob("*.yaml")} - {"custom"}


def test_every_objective_has_its_papers_name():
    assert {objective for objective, _ in PAPER_NAMES} == options("objective")
    assert {attack for _, attack in PAPER_NAMES} == options("attack")


def test_names_differ_whatever_the_combination():
    pairs = list(product(options("objective"), options("attack")))
    assert len({method_name(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(
    ("objective", "attack", "name"),
    [
        ("gaussian", None, "Gaussian"),
        ("adre", "ddn", "adre + ddn"),
        ("mine.Loss", "none", "mine.Loss"),
        (None, None, ""),
    ],
)
def test_other_combinations_are_named_by_their_parts(objective, attack, name):
    assert method_name(objective, attack) == name


def test_old_words_choose_a_method():
    names = ["ADREADV", "adre + ddn", "gaussian", "Gaussian", "MACER, epochs=5"]
    given = ["adre + pgd", "adre + ddn", "gaussian", "Gaussian", "macer, epochs=5"]
    assert [chosen_method(each, names) for each in given] == names
    with pytest.raises(InvalidArgumentError, match=r"one of ADRE, MACER; got 'macer \+ pgd'"):
        chosen_method("macer + pgd", ["ADRE", "MACER"])


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(("tone", "ground"), GROUNDS)
def test_every_colour_stands_out_from_its_ground_and_from_the_others(tone, ground):
    colours = [getattr(colour, tone) for colour in (*OF_PAPERS.values(), *OTHERS)]
    assert len(set(colours)) == len(colours)
    for colour in colours:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def test_a_colour_follows_from_the_name_alone():
    assert set(OF_PAPERS) == set(PAPER_NAMES.values())
    assert method_colour("mine.Loss") == method_colour("mine.Loss")
    assert {method_colour(f"method {number}") for number in range(200)} == set(OTHERS)
