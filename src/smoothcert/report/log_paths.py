"""What the path of a published log says of it: σ, the noise of the training, the method."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

STATED = re.compile(
    r"(?<![A-Za-z])(?P<what>sigma|noise)(?:[-_ ]?(?:sd|std))?[-_= ]?"
    r"(?P<value>\d*\.\d+|0|[1-9]\d*)(?![A-Za-z\d]|[.,]\d)",
    re.IGNORECASE,
)
LARGEST_SIGMA = 10
"""Larger numbers in a path are no σ of pixels in [0, 1]."""
ENDING = re.compile(r"\.(tsv|txt|log|csv|out|dat)$", re.IGNORECASE)
SETTING = re.compile(
    r"(?<![A-Za-z])(?:(?P<word>[A-Za-z]+)[-_]?\d+(?:\.\d+)?(?![A-Za-z\d])"
    r"|(?P<key>[A-Za-z][\w.]*)=[^,]+)"
)
TRAINED = " (trained at σ = "
SEPARATORS = "_- .,"


@dataclass(frozen=True)
class LogPath:
    """The path of a log, read as published code and sweeps write such paths.

    Only the words `sigma` and `noise` state a noise: a bare `0.25` may be an ε or a weight.

    Attributes:
        name: the log's name among those that it was read with, `/` between folders.
        above: the folders that contain all of that, outermost first.

    Example:
        >>> path = LogPath("noise_0.50/cohen/test/sigma_0.25")
        >>> path.sigma, path.training_sigmas, path.method
        (0.25, [0.5], 'cohen/test (trained at σ = 0.5, certified at 0.25)')
    """

    name: str
    above: Sequence[str] = ()

    @property
    def parts(self) -> list[str]:
        """Folders and file of the name, without the file's ending."""
        return ENDING.sub("", self.name).split("/")

    @cached_property
    def sigma(self) -> float | None:
        """σ of the certification: the last `sigma…`, else the last `noise…`, else a folder's."""
        for part in ["/".join(self.parts), *self.above[:-2:-1], *map(_whole, self.above[-2::-1])]:
            found = [each for each in _stated(part) if float(each["value"]) > 0]
            named = [each for each in found if each["what"].lower() == "sigma"]
            if found:
                return float((named or found)[-1]["value"])
        return None

    @cached_property
    def training_sigmas(self) -> list[float]:
        """Every other σ that the path states: of the noise that the network was trained with."""
        parts = [*map(_whole, self.above), *self.parts]
        values = [float(each["value"]) for part in parts for each in _stated(part)]
        return [] if self.sigma is None else [v for v in dict.fromkeys(values) if v != self.sigma]

    @property
    def method(self) -> str:
        """The path without what it states of σ; if nothing is left, the nearest folder above."""
        kept = "/".join(part for part in map(_rest, self.parts) if part)
        above = (part for part in map(_rest, self.above[::-1]) if part)
        return self.with_training(kept or next(above, "log"))

    def with_training(self, method: str) -> str:
        """Return a method's name, with both σ where training and certification differ."""
        if not self.training_sigmas:
            return method
        trained = " and ".join(f"{sigma:g}" for sigma in self.training_sigmas)
        return f"{method}{TRAINED}{trained}, certified at {self.sigma:g})"

    @cached_property
    def settings(self) -> dict[str, str]:
        """What tells methods apart, by the keys of `group_by`.

        `path.1` is the first part of the name, and so on. A part such as `eps_64`, `eps64` or
        `attack=pgd` is found by its word, too.
        """
        rest = [_rest(part) for part in self.parts]
        numbered = {f"path.{place}": part for place, part in enumerate(rest, 1) if part}
        found = [each for part in rest for each in SETTING.finditer(part)]
        return {**{each["word"] or each["key"]: each[0] for each in found}, **numbered}


def _stated(text: str) -> list[re.Match[str]]:
    return [each for each in STATED.finditer(text) if float(each["value"]) <= LARGEST_SIGMA]


def _whole(folder: str) -> str:
    """Return a folder's name if it is nothing but a σ: one far above may speak of other things."""
    return folder if STATED.fullmatch(folder) else ""


def _rest(part: str) -> str:
    """Return a part of a path without what it states of σ, and without the signs around that."""
    for each in _stated(part)[::-1]:
        before, after = part[: each.start()], part[each.end() :]
        joint = before[-1] if before and after and before[-1] in SEPARATORS else ""
        before = before[:-1] if before.endswith(tuple(SEPARATORS)) else before
        part = before + joint + (after[1:] if after.startswith(tuple(SEPARATORS)) else after)
    return part
