"""The HTML page of a report, in one file: curves, tables, settings and certificates of runs."""

import base64
import json
import math
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from importlib import resources
from io import BytesIO
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from smoothcert import __version__
from smoothcert.records import CertificateRow, RunFolder, read_bounded, write_atomically
from smoothcert.records.summary import Reading
from smoothcert.report.grids import Grid, shown
from smoothcert.report.grouping import UNRECORDED, Group, Section, upper_envelope
from smoothcert.report.load import Run
from smoothcert.report.methods import method_colour
from smoothcert.report.tables import radii_of

POINTS = 500
"""Most points of a curve; between points it shows up to 1/500 less than is certified."""
LONGEST = 300
"""Most characters of a setting that are shown."""
OF_RUN = (
    *("sigma", "training_seed", "seed", "name", "data", "model", "objective", "attack", "ckpt"),
    *("normalization", "epochs", "batch_size", "training_images", "seconds_training"),
    *("seconds_certifying", "device", "git_commit"),
)
"""Entries of a summary about the run itself, not about training or certifier."""
RIGHT, WRONG, ABSTAINED, GIVEN_UP = range(4)
"""Outcomes of a certificate, in the order of page.js."""
DAMAGED = (
    *(OSError, ValueError, KeyError, SyntaxError, EOFError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""Errors that Pillow or a wrong description raise for a damaged picture."""
IN_SCRIPT = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})
"""Characters in data that could end a script element, or a line of a script."""

Curve = dict[str, list[float]]


@dataclass(frozen=True)
class Thumbnails:
    """Small pictures of images in one PNG.

    Attributes:
        name: a digest of the file.
        address: the complete file as a data URI.
        sheet: width and height of the file in pixels.
        tile: width and height of one picture.
        columns: pictures per row.
        indices: the image of each picture, row by row.
    """

    name: str
    address: str
    sheet: tuple[int, int]
    tile: tuple[int, int]
    columns: int
    indices: list[int]


def write_page(
    parts: Sequence[tuple[Section, Sequence[Grid]]],
    notes: Sequence[str],
    path: Path,
    radii: Sequence[float] | None = None,
) -> None:
    """Write a page that shows runs side by side, as a file that needs no network.

    The same run folders give the same bytes, independent of their path and of the page's path.

    Args:
        parts: each section of `sections_of`, with its tables of `tables_of`.
        notes: sentences about runs that were left out.
        path: the HTML file to write; its folder is created if it does not exist.
        radii: radii that every curve marks; None: `radii_of` each section.
    """
    sections = [section for section, _ in parts]
    chosen = [radii_of(section) if radii is None else list(radii) for section in sections]
    runs = list({id(run): run for section in sections for run in section.runs}.values())
    methods = list(dict.fromkeys(name for section in sections for name in section.methods))
    pictures = [_thumbnails(run) for run in runs]
    page = (
        _environment()
        .get_template("page.html")
        .render(
            style=Markup(_web_file("page.css")),
            colours=[method_colour(name) for name in methods],
            summary=_summary_of(runs, methods, sections),
            notes=notes,
            sections=parts,
            version=__version__,
            data=dict(_data(sections, chosen, runs, methods, pictures)),
            vega=Markup(_vega()),
            script=Markup(_web_file("page.js")),
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)


def _web_file(name: str) -> str:
    return (resources.files("smoothcert.report") / "web" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    """Return the templates, which escape every text that is not marked as HTML here."""
    loader = PackageLoader("smoothcert.report", "web")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters.update(
        json=_json, with_code=_with_code, breakable=_breakable, numeric_columns=_numeric_columns
    )
    environment.globals["shown"] = shown
    return environment


@cache
def _vega() -> str:
    """Return the chart library as one script."""
    # The bundle of version 1.9 exports vega-embed, and null for the other default exports.
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Version 1.9 contains neither; either would end or open a script element.
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _summary_of(runs: Sequence[Run], methods: Sequence[str], sections: Sequence[Section]) -> str:
    counts = ((len(runs), "run"), (len(methods), "method"), (len(sections), "part"))
    texts = [f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in counts]
    certificates = sum(len(run.rows) for run in runs)
    return f"{texts[0]} of {texts[1]} in {texts[2]}; {certificates:,} certificates."


def _with_code(note: str) -> Markup:
    """Return a note as HTML; text in backticks becomes code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(note)))


def _breakable(name: str) -> Markup:
    """Return a name as HTML with places for line breaks, for narrow screens."""
    return Markup(re.sub(r"(?<=[_/=,])(?=\w)", "<wbr>", escape(name)))


def _json(data: Any) -> Markup:
    """Return data as the content of a script element, which no text in the data can end."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(IN_SCRIPT))


def _numeric_columns(grid: Grid) -> list[bool]:
    """Return which columns contain only numbers, possibly written as texts."""
    columns = zip(*(row.cells for row in grid.rows), strict=True)
    return [all(_is_number(cell.value) for cell in cells) for cells in columns]


def _is_number(value: Any) -> bool:
    try:
        return value in (None, UNRECORDED) or isinstance(float(value), float)
    except ValueError:
        return False


# Data that page.js shows.


def _data(
    sections: Sequence[Section],
    radii: Sequence[Sequence[float]],
    runs: Sequence[Run],
    methods: Sequence[str],
    pictures: Sequence[Thumbnails | None],
) -> Iterable[tuple[str, Any]]:
    """Return the data of each script element, by its id."""
    numbers = {id(run): number for number, run in enumerate(runs)}
    for place, section in enumerate(sections):
        own = [numbers[id(run)] for run in section.runs]
        yield f"curves-{place}", _curves(section, methods, radii[place])
        yield f"settings-{place}", _settings(section)
        yield f"gallery-{place}", _gallery(section, own, [pictures[number] for number in own])
    for number, run in enumerate(runs):
        yield f"certificates-{number}", _certificates(run.rows)
    for name, picture in {each.name: each for each in pictures if each is not None}.items():
        yield f"thumbnails-{name}", vars(picture)


def _curves(section: Section, methods: Sequence[str], radii: Sequence[float]) -> dict[str, Any]:
    """Return every curve of a section: per method, per σ and per run."""
    sigmas = sorted({group.sigma for group in section.groups}, key=lambda sigma: sigma or 0.0)
    largest = max(float(run.radii_that_count.max()) for run in section.runs)
    reread = next((run for run in section.runs if len(run.bounds) > 1), section.runs[0])
    lines = [
        *({"of": name, **_two(groups, radii)} for name, groups in section.methods.items()),
        *({**_group(group, sigmas), **_two([group], radii)} for group in section.groups),
        *(
            {**_group(group, sigmas), **_named(run), **_two([replace(group, runs=[run])], radii)}
            for group in section.groups
            for run in group.runs
        ),
    ]
    return {
        "methods": [{"name": name, "place": methods.index(name)} for name in section.methods],
        "sigmas": sigmas,
        "bounds": [bound.name for bound in reread.bounds],
        "radii": radii,
        "limit": math.ceil(largest * 105) / 100 or 0.25,
        "lines": lines,
    }


def _group(group: Group, sigmas: Sequence[float | None]) -> dict[str, Any]:
    sigma = sigmas.index(group.sigma)
    return {"of": group.method, "sigma": sigma, "seeds": len(group.runs)}


def _named(run: Run) -> dict[str, Any]:
    return {"run": run.name, "seed": None if run.seed is None else str(run.seed)}


def _two(groups: Sequence[Group], radii: Sequence[float]) -> dict[str, Curve]:
    """Return the curve as certified and, if every run has two bounds, under the second bound."""
    several = all(len(run.bounds) > 1 for group in groups for run in group.runs)
    return {
        name: _curve([[run.bounds[place] for run in group.runs] for group in groups], radii)
        for place, name in enumerate(["certified", "again"] if several else ["certified"])
    }


def _curve(groups: Sequence[Sequence[Reading]], radii: Sequence[float]) -> Curve:
    """Return the upper envelope over groups of the mean accuracy of each.

    Each `share` holds from the previous `radius` (excluded) to its own `radius` (included).
    """
    rounded = [[replace(each, radius=_floored(each.radius)) for each in group] for group in groups]
    largest = max(float((each.radius * each.correct).max()) for group in rounded for each in group)
    steps, shares = upper_envelope(rounded, [radius for radius in radii if radius <= largest])
    chosen = thinned(shares, np.flatnonzero(np.isin(steps, radii)))
    return {"radius": steps[chosen].tolist(), "share": _floored(shares[chosen]).tolist()}


def _floored(values: np.ndarray) -> np.ndarray:
    """Return numbers rounded down to six decimals, as in certificate files."""
    short = np.round(values, 6) == values
    return np.where(short, values, np.floor(values * 1e6) / 1e6)


def thinned(shares: np.ndarray, kept: Sequence[int] | np.ndarray = ()) -> np.ndarray:
    """Return the points of a falling curve to draw, evenly spread over its height.

    Between two points a curve is drawn at the height of the right one, so a curve with fewer points
    is never above the exact curve.

    Args:
        shares: non-increasing heights, shape (K,).
        kept: indices of points that are always drawn, far fewer than `POINTS`.

    Returns:
        Increasing indices, at most `POINTS`, including the first and the last point.

    Example:
        >>> thinned(np.array([0.9, 0.5, 0.2])).tolist()
        [0, 1, 2]
    """
    if len(shares) <= POINTS:
        return np.arange(len(shares))
    levels = np.linspace(shares[0], shares[-1], max(2, POINTS - 1 - len(kept)))
    places = np.searchsorted(-shares, -levels, side="right") - 1
    return np.unique([0, *places, *kept])


def _settings(section: Section) -> dict[str, Any]:
    """Return the settings of each run: each distinct text of a row once, and its index per run."""
    runs = section.runs
    settings = [_parts(run) for run in runs]
    parts = []
    for part in settings[0]:
        names = dict.fromkeys(name for each in settings for name in each[part])
        rows = [
            _compared(name, [each[part].get(name) for each in settings], runs) for name in names
        ]
        parts.append({"name": part, "rows": rows})
    return {"runs": _heads(section), "parts": parts}


def _heads(section: Section) -> list[dict[str, Any]]:
    """Return name, method, σ and seed of each run of a section."""
    return [
        {**_named(run), "of": group.method, "sigma": group.sigma}
        for group in section.groups
        for run in group.runs
    ]


def _compared(name: str, texts: Sequence[str | None], runs: Sequence[Run]) -> dict[str, Any]:
    """Return a row; published logs, which record no settings, do not count as different."""
    distinct = list(dict.fromkeys(texts))
    recorded = [text for text, run in zip(texts, runs, strict=True) if not run.is_foreign] or texts
    [(usual, count)] = Counter(recorded).most_common(1)
    return {
        "name": name,
        "texts": [
            f"{text[:LONGEST]}…" if text is not None and len(text) > LONGEST else text
            for text in distinct
        ],
        "of": [distinct.index(text) for text in texts],
        "differs": count < len(recorded),
        # Without a majority no value is marked.
        "usual": distinct.index(usual) if count * 2 > len(recorded) else None,
    }


def _parts(run: Run) -> dict[str, dict[str, str]]:
    """Return all that is recorded of a run, by its place in the summary."""
    summary = run.summary
    places = {
        "run": {name: summary[name] for name in OF_RUN if name in summary},
        "training": summary.get("training"),
        "certification": summary.get("certifier_settings") or run.settings,
        "versions": summary.get("versions"),
    }
    return {part: dict(_flat(values)) for part, values in places.items()}


def _flat(values: Any, prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    """Return a value as text; an absolute path is shortened to its last name."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    place = PureWindowsPath(value)
    return f"…/{place.name}" if place.root and place.name else value


def _gallery(
    section: Section, numbers: Sequence[int], pictures: Sequence[Thumbnails | None]
) -> dict[str, Any]:
    """Return the runs to choose from, with the names of their certificates and thumbnails."""
    classes = [_class_names(run) for run in section.runs]
    distinct = [list(names) for names in dict.fromkeys(map(tuple, classes))]
    heads = _heads(section)
    return {
        "classes": distinct,
        "runs": [
            {
                **head,
                "certificates": number,
                "classes": distinct.index(names),
                "thumbnails": None if picture is None else picture.name,
            }
            for head, number, names, picture in zip(heads, numbers, classes, pictures, strict=True)
        ],
    }


def _class_names(run: Run) -> list[str]:
    training = run.summary.get("training")
    names = training.get("class_names") if isinstance(training, Mapping) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _certificates(rows: Sequence[CertificateRow]) -> dict[str, Any]:
    """Return certificates by column; values that a published log does not record are null."""
    return {
        "index": [row.idx for row in rows],
        "label": _packed([row.label for row in rows]),
        "predicted": _packed([row.predict for row in rows]),
        "outcome": _packed([_outcome(row) for row in rows]),
        "radius": _packed([_number(row.radius, math.floor) for row in rows]),
        "lower": _packed([_number(row.p_a_lower, math.floor) for row in rows]),
        "upper": _packed([_number(row.p_b_upper, math.ceil) for row in rows]),
        "samples": _packed([row.n_samples if row.stop else None for row in rows]),
    }


def _outcome(row: CertificateRow) -> int:
    if row.correct:
        return RIGHT
    if row.stop == "wrong":
        return GIVEN_UP
    return ABSTAINED if row.predict < 0 else WRONG


def _number(value: float, towards: Callable[[float], int]) -> float | None:
    """Return a number with six decimals, rounded to the safe side if it has more."""
    if not math.isfinite(value):
        return None
    short = round(value, 6)
    return short if short == value else towards(value * 1e6) / 1e6


def _packed(values: list[Any]) -> Any:
    """Return a column, or its value if all are equal."""
    return values[0] if len(set(values)) == 1 else values


# Thumbnails.


def _thumbnails(run: Run) -> Thumbnails | None:
    """Return the thumbnails in a run's folder; None if there are no readable ones."""
    try:
        content = read_bounded(RunFolder(run.path.parent).thumbnails)
    except OSError:
        return None
    return _read_thumbnails(content)


@cache
def _read_thumbnails(content: bytes) -> Thumbnails | None:
    try:
        sheet, text = _opened(content)
        width, height = (int(side) for side in text["tile"].split("x"))
        indices = [int(index) for index in text["indices"].split(",")]
        columns = int(text["columns"])
    except DAMAGED:
        return None
    fits = min(width, height, columns) > 0 and columns * width <= sheet[0]
    if not fits or math.ceil(len(indices) / columns) * height > sheet[1]:
        return None
    address = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    name = sha256(content).hexdigest()[:16]
    return Thumbnails(name, address, sheet, (width, height), columns, indices)


def _opened(content: bytes) -> tuple[tuple[int, int], Mapping[str, str]]:
    """Return size and texts of a PNG, after reading every pixel."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
            return picture.size, dict(getattr(picture, "text", {}))
