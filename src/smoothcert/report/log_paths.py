"""Information in the path of a published log: σ, the noise of the training, the method."""

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
"""Larger numbers in a path are not σ of pixels in [0, 1]."""
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

    Only numbers after `sigma` or `noise` are noise: a bare `0.25` may be an ε or a weight.

    Attributes:
        name: the log's name, with `/` between folders.
        above: the folders that contain this name, outermost first.

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
        """σ of the certification: the last `sigma…`, or `noise…`, of the name, then of folders."""
        for part in [
            "/".join(self.parts),
            *self.above[:-2:-1],
            *map(_if_only_sigma, self.above[-2::-1]),
        ]:
            found = [each for each in _stated(part) if float(each["value"]) > 0]
            named = [each for each in found if each["what"].lower() == "sigma"]
            if found:
                return float((named or found)[-1]["value"])
        return None

    @cached_property
    def training_sigmas(self) -> list[float]:
        """Every other σ in the path: the noise that the network was trained with."""
        parts = [*map(_if_only_sigma, self.above), *self.parts]
        values = [float(each["value"]) for part in parts for each in _stated(part)]
        return [] if self.sigma is None else [v for v in dict.fromkeys(values) if v != self.sigma]

    @property
    def method(self) -> str:
        """The path without σ; if nothing is left, the nearest folder above."""
        kept = "/".join(part for part in map(_without_sigma, self.parts) if part)
        above = (part for part in map(_without_sigma, self.above[::-1]) if part)
        return self.with_training(kept or next(above, "log"))

    def with_training(self, method: str) -> str:
        """Return a method's name, with both σ if training and certification differ."""
        if not self.training_sigmas:
            return method
        trained = " and ".join(f"{sigma:g}" for sigma in self.training_sigmas)
        return f"{method}{TRAINED}{trained}, certified at {self.sigma:g})"

    @cached_property
    def settings(self) -> dict[str, str]:
        """Parts of the path that may define a method, by the keys of `group_by`.

        `path.1` is the first part of the name, and so on. A part such as `eps_64`, `eps64` or
        `attack=pgd` also has its word as a key.
        """
        rest = [_without_sigma(part) for part in self.parts]
        numbered = {f"path.{place}": part for place, part in enumerate(rest, 1) if part}
        found = [each for part in rest for each in SETTING.finditer(part)]
        return {**{each["word"] or each["key"]: each[0] for each in found}, **numbered}


def _stated(text: str) -> list[re.Match[str]]:
    return [each for each in STATED.finditer(text) if float(each["value"]) <= LARGEST_SIGMA]


def _if_only_sigma(folder: str) -> str:
    """Return a folder's name if it is only σ: other numbers far above may not concern the log."""
    return folder if STATED.fullmatch(folder) else ""


def _without_sigma(part: str) -> str:
    """Return a part of a path without σ and without the separators around it."""
    for each in _stated(part)[::-1]:
        before, after = part[: each.start()], part[each.end() :]
        joint = before[-1] if before and after and before[-1] in SEPARATORS else ""
        before = before[:-1] if before.endswith(tuple(SEPARATORS)) else before
        part = before + joint + (after[1:] if after.startswith(tuple(SEPARATORS)) else after)
    return part
