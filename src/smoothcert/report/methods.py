"""Names of training methods as in their papers, and one colour per method for all figures."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from smoothcert.errors import InvalidArgumentError

PAPER_NAMES = {
    ("gaussian", "none"): "Gaussian",
    ("gaussian", "pgd"): "SmoothAdv (PGD)",
    ("gaussian", "ddn"): "SmoothAdv (DDN)",
    ("adre", "none"): "ADRE",
    ("adre", "pgd"): "ADREADV",
    ("stability", "none"): "Stability",
    ("macer", "none"): "MACER",
    ("consistency", "none"): "Consistency",
    ("smoothmix", "none"): "SmoothMix",
    ("catrs", "none"): "CAT-RS",
}
"""Names by objective and attack, as `summary.json` records them."""

UNSAID = (None, "", "none")


class Colour(NamedTuple):
    """A colour as `#rrggbb`.

    Attributes:
        light: on a light background.
        dark: on a dark background.
    """

    light: str
    dark: str


# After Okabe and Ito and after Tol, with a contrast of at least 3 to the page's backgrounds.
OF_PAPERS = {
    "Gaussian": Colour("#0072b2", "#4aa3e0"),
    "SmoothAdv (PGD)": Colour("#008a63", "#2fc496"),
    "SmoothAdv (DDN)": Colour("#7a7a00", "#c9c95a"),
    "ADRE": Colour("#d55e00", "#ff8a4a"),
    "ADREADV": Colour("#1b1f24", "#e8eaed"),
    "Stability": Colour("#882255", "#e0678f"),
    "MACER": Colour("#c2629b", "#eb9cc8"),
    "Consistency": Colour("#a87900", "#e5b83c"),
    "SmoothMix": Colour("#2b8fc9", "#9fd8fb"),
    "CAT-RS": Colour("#7446a8", "#b79bea"),
}
OTHERS = (
    *(Colour("#8c510a", "#d8a35c"), Colour("#00707a", "#45c4cf"), Colour("#b3261e", "#ff9187")),
    *(Colour("#3b4cc0", "#8f9df5"), Colour("#6b7280", "#b6bcc6"), Colour("#4b6a00", "#a6cf4a")),
    *(Colour("#a000c8", "#e07bff"), Colour("#1f3a6d", "#9db4e0"), Colour("#d6336c", "#ff7aa8")),
    *(Colour("#2e7d32", "#7bd67f"), Colour("#b35900", "#ffb066"), Colour("#5c2751", "#cf9bc4")),
)


def method_name(objective: Any, attack: Any) -> str:
    """Return the name of a method: its paper's name, or `objective + attack`.

    Args:
        objective: name of the objective; None or `none` if unknown.
        attack: name of the attack; None or `none` for none.

    Example:
        >>> method_name("adre", "pgd"), method_name("mine.Loss", "pgd")
        ('ADREADV', 'mine.Loss + pgd')
    """
    known = PAPER_NAMES.get((str(objective), str(attack or "none")))
    return known or " + ".join(str(part) for part in (objective, attack) if part not in UNSAID)


def chosen_method(given: str, names: Sequence[str]) -> str:
    """Return the method that a user chose, by its name or by objective and attack.

    Args:
        given: a name in the tables, or objective and attack such as `adre + pgd` for ADREADV,
            followed by the same settings as in the tables.
        names: the existing methods.

    Raises:
        InvalidArgumentError: if there is no such method.

    Example:
        >>> chosen_method("gaussian, epochs=18", ["ADRE", "Gaussian, epochs=18"])
        'Gaussian, epochs=18'
    """
    if given in names:
        return given
    name, comma, settings = given.partition(", ")
    objective, _, attack = name.partition(" + ")
    known = method_name(objective, attack) + comma + settings
    if known not in names:
        raise InvalidArgumentError(f"Expected `baseline` one of {', '.join(names)}; got {given!r}")
    return known


def method_colour(name: str) -> Colour:
    """Return the colour of a method, the same in every figure, page and run.

    Args:
        name: the name in the tables. Methods without a fixed colour get one of 12 by a hash of
            the name, so two of them may share a colour; their dashes or symbols then differ.

    Example:
        >>> method_colour("ADRE").light
        '#d55e00'
    """
    place = int.from_bytes(sha256(name.encode()).digest()[:4], "big") % len(OTHERS)
    return OF_PAPERS.get(name, OTHERS[place])
