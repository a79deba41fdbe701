"""One page in one file: curves, tables, settings and certificates of many runs."""

import base64
import html
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
from string import Template
from typing import Any

import numpy as np
import vl_convert
from PIL import Image

from smoothcert import __version__
from smoothcert.records import CertificateRow, read_bounded, write_atomically
from smoothcert.records.summary import Reading
from smoothcert.report.grids import Cell, Column, Grid, Row, shown
from smoothcert.report.grouping import UNRECORDED, Group, Section, upper_envelope
from smoothcert.report.load import Run
from smoothcert.report.tables import radii_of, tables_of

POINTS = 500
"""Points of a curve, at most; between them it shows up to 1/500 less than is certified."""
LONGEST = 300
"""Characters of a setting that are shown."""
THUMBNAILS = "thumbnails.png"
OF_RUN = (
    *("sigma", "training_seed", "seed", "name", "data", "model", "objective", "attack", "ckpt"),
    *("normalization", "epochs", "batch_size", "training_images", "seconds_training"),
    *("seconds_certifying", "device", "git_commit"),
)
"""What a summary says of a run beside its training and its certifier."""
RIGHT, WRONG, ABSTAINED, GIVEN_UP = range(4)
"""What became of an image, as page.js names it."""
DAMAGED = (
    *(OSError, ValueError, KeyError, SyntaxError, EOFError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
"""What Pillow and a wrong description raise on a damaged picture."""
IN_SCRIPT = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})
"""Signs that could end a script element, or a line of a script, in the middle of data."""

Curve = dict[str, list[float]]


@dataclass(frozen=True)
class Thumbnails:
    """Small pictures of images, as they lie in one PNG.

    Attributes:
        name: one that equal files share.
        address: the whole file as a data URI.
        sheet: width and height of the file in pixels.
        tile: width and height of one picture.
        columns: pictures in a row.
        indices: which image each is of, row by row.
    """

    name: str
    address: str
    sheet: tuple[int, int]
    tile: tuple[int, int]
    columns: int
    indices: list[int]


def write_page(
    sections: Sequence[Section],
    notes: Sequence[str],
    path: Path,
    baseline: str | None = None,
    radii: Sequence[float] | None = None,
) -> None:
    """Write a page that shows runs side by side, as a file that needs no network.

    The same run folders give the same bytes, wherever they lie and wherever the page is written.

    Args:
        sections: what `sections_of` returns.
        notes: what a reader should know of what was left out, in sentences.
        path: the HTML file to write; its folder is made where it does not exist.
        baseline: the method that others are compared with; see `tables_of`.
        radii: radii of the tables; None: those of `radii_of` for each section.
    """
    chosen = [radii_of(section) if radii is None else list(radii) for section in sections]
    runs = list({id(run): run for section in sections for run in section.runs}.values())
    methods = list(dict.fromkeys(name for section in sections for name in section.methods))
    pictures = [_thumbnails(run) for run in runs]
    page = Template(_part("page.html")).substitute(
        style=_part("page.css"),
        summary=html.escape(_summary_of(runs, methods, sections)),
        notes=_listed(notes),
        contents=_contents(sections),
        sections="\n".join(
            _section(section, number, own, baseline)
            for number, (section, own) in enumerate(zip(sections, chosen, strict=True), 1)
        ),
        version=html.escape(__version__),
        data="\n".join(_data(sections, chosen, runs, methods, pictures)),
        vega=_vega(),
        script=_part("page.js"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)


def _part(name: str) -> str:
    return (resources.files("smoothcert.report") / "web" / name).read_text(encoding="utf-8")


@cache
def _vega() -> str:
    """Return the chart library as one script."""
    # The bundle of version 1.9 has vega-embed whole, and null for the default exports of the rest.
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Neither stands in today's version; either would end or open a script element.
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _summary_of(runs: Sequence[Run], methods: Sequence[str], sections: Sequence[Section]) -> str:
    counts = ((len(runs), "run"), (len(methods), "method"), (len(sections), "part"))
    said = [f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in counts]
    certificates = sum(len(run.rows) for run in runs)
    return f"{said[0]} of {said[1]} in {said[2]}; {certificates:,} certificates."


# What is written as HTML.


def _listed(notes: Sequence[str]) -> str:
    """Return notes as a list; what stands in backticks is code."""
    if not notes:
        return ""
    items = (re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(note)) for note in notes)
    return f'<ul class="notes">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def _contents(sections: Sequence[Section]) -> str:
    parts = ("curves", "tables", "settings", "certificates")
    items = []
    for number, section in enumerate(sections, 1):
        name = f"section-{number}"
        links = "".join(f'<a href="#{name}-{part}">{part}</a>' for part in parts)
        title = html.escape(section.title)
        items.append(f'<li><a href="#{name}">{title}</a> <span class="parts">{links}</span></li>')
    return "".join(items)


def _section(section: Section, number: int, radii: Sequence[float], baseline: str | None) -> str:
    name, place = f"section-{number}", number - 1
    grids = tables_of(section, radii, baseline if baseline in section.methods else None)
    tables = "\n".join(_table(grid, section, f"{name}-{grid.name}") for grid in grids)
    return "\n".join(
        [
            f'<section id="{name}" aria-labelledby="{name}-title">',
            f'<h2 id="{name}-title">{html.escape(section.title)}</h2>',
            _listed(section.notes),
            f'<h3 id="{name}-curves">Certified accuracy by radius</h3>',
            f'<div class="curves" data-build="curves" data-section="{place}"></div>',
            f'<h3 id="{name}-tables">Tables</h3>',
            tables,
            f'<h3 id="{name}-settings">Settings of the runs</h3>',
            f'<div class="settings" data-build="settings" data-section="{place}"></div>',
            f'<h3 id="{name}-certificates">Certificates</h3>',
            f'<div class="gallery" data-build="gallery" data-section="{place}"></div>',
            "</section>",
        ]
    )


def _table(grid: Grid, section: Section, name: str) -> str:
    caption = html.escape(grid.title.removesuffix(f": {section.title}"))
    right = [_is_right(grid, place) for place in range(len(grid.columns))]
    pairs = list(zip(grid.columns, right, strict=True))
    head = "".join(
        f'<th scope="col"{_class(number=numeric)}>'
        f'<button type="button">{html.escape(column.name)}</button></th>'
        for column, numeric in pairs
    )
    rows = "\n".join(_row(row, pairs) for row in grid.rows)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}">'
        f'<table class="sortable"><caption id="{name}">{caption}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n"
        # What holds for the whole section stands at its head.
        + _listed([note for note in grid.notes if note not in section.notes])
    )


def _row(row: Row, columns: Sequence[tuple[Column, bool]]) -> str:
    cells = [
        _cell(cell, column, numeric, "td" if place else "th")
        for place, (cell, (column, numeric)) in enumerate(zip(row.cells, columns, strict=True))
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(cell: Cell, column: Column, numeric: bool, tag: str) -> str:
    scope = ' scope="row"' if tag == "th" else ""
    value = "" if cell.value is None else f' data-value="{html.escape(str(cell.value))}"'
    text = html.escape(shown(cell, column))
    text = f"<strong>{text}</strong>" if cell.best else text
    # Names of runs are long, and a phone is narrow.
    text = re.sub(r"(?<=[_/=,])(?=\w)", "<wbr>", text) if tag == "th" else text
    return f"<{tag}{scope}{_class(number=numeric)}{value}>{text}</{tag}>"


def _class(**names: bool) -> str:
    said = " ".join(name for name, holds in names.items() if holds)
    return f' class="{said}"' if said else ""


def _is_right(grid: Grid, place: int) -> bool:
    """Return whether a column holds numbers, be they written as texts."""
    values = [row.cells[place].value for row in grid.rows]
    return all(value in (None, UNRECORDED) or _is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


# What is written as data, and shown by page.js.


def _data(
    sections: Sequence[Section],
    radii: Sequence[Sequence[float]],
    runs: Sequence[Run],
    methods: Sequence[str],
    pictures: Sequence[Thumbnails | None],
) -> Iterable[str]:
    numbers = {id(run): number for number, run in enumerate(runs)}
    for place, section in enumerate(sections):
        mine = [numbers[id(run)] for run in section.runs]
        seen = [pictures[number] for number in mine]
        yield _script(f"curves-{place}", _curves(section, methods, radii[place]))
        yield _script(f"settings-{place}", _settings(section))
        yield _script(f"gallery-{place}", _gallery(section, mine, seen))
    for number, run in enumerate(runs):
        yield _script(f"certificates-{number}", _certificates(run.rows))
    for name, picture in {each.name: each for each in pictures if each is not None}.items():
        yield _script(f"thumbnails-{name}", vars(picture))


def _script(name: str, data: Any) -> str:
    """Return data as an element that no content of it can end."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f'<script type="application/json" id="{name}">{text.translate(IN_SCRIPT)}</script>'


def _curves(section: Section, methods: Sequence[str], radii: Sequence[float]) -> dict[str, Any]:
    """Return every curve of a section: of each method, of each σ and of each run."""
    sigmas = sorted({group.sigma for group in section.groups}, key=lambda sigma: sigma or 0.0)
    largest = max(float(run.radii_that_count.max()) for run in section.runs)
    ours = next((run for run in section.runs if len(run.bounds) > 1), section.runs[0])
    lines = [
        *({"of": name, **_two(groups, radii)} for name, groups in section.methods.items()),
        *({**_group(group, sigmas), **_two([group], radii)} for group in section.groups),
        *(
            {**_group(group, sigmas), **_named(run), **_two([_alone(group, run)], radii)}
            for group in section.groups
            for run in group.runs
        ),
    ]
    return {
        "methods": [{"name": name, "place": methods.index(name)} for name in section.methods],
        "sigmas": sigmas,
        "bounds": [bound.name for bound in ours.bounds],
        "radii": radii,
        "limit": math.ceil(largest * 105) / 100 or 0.25,
        "lines": lines,
    }


def _group(group: Group, sigmas: Sequence[float | None]) -> dict[str, Any]:
    sigma = sigmas.index(group.sigma)
    return {"of": group.method, "sigma": sigma, "seeds": len(group.runs)}


def _named(run: Run) -> dict[str, Any]:
    return {"run": run.name, "seed": None if run.seed is None else str(run.seed)}


def _alone(group: Group, run: Run) -> Group:
    return Group(group.method, group.sigma, [run])


def _two(groups: Sequence[Group], radii: Sequence[float]) -> dict[str, Curve]:
    """Return the curve as certified, and if every run has it, the one on the same votes."""
    curves = {"certified": _curve([_bound(group, 0) for group in groups], radii)}
    if all(len(run.bounds) > 1 for group in groups for run in group.runs):
        curves["again"] = _curve([_bound(group, 1) for group in groups], radii)
    return curves


def _bound(group: Group, place: int) -> list[Reading]:
    return [run.bounds[place] for run in group.runs]


def _curve(groups: Sequence[Sequence[Reading]], radii: Sequence[float]) -> Curve:
    """Return the upper envelope over groups of the mean accuracy of each.

    A pair of `radius` and `share` says that the share holds from the radius before, which does
    not belong to it, up to its own, which does.
    """
    digits = [[_with_digits_of_a_file(reading) for reading in group] for group in groups]
    largest = max(float((each.radius * each.correct).max()) for group in digits for each in group)
    steps, shares = upper_envelope(digits, [radius for radius in radii if radius <= largest])
    chosen = thinned(shares, np.flatnonzero(np.isin(steps, radii)))
    return {"radius": steps[chosen].tolist(), "share": _floored(shares[chosen]).tolist()}


def _with_digits_of_a_file(reading: Reading) -> Reading:
    return replace(reading, radius=_floored(reading.radius))


def _floored(values: np.ndarray) -> np.ndarray:
    """Return numbers with six decimals, none of them larger than it was."""
    short = np.round(values, 6) == values
    return np.where(short, values, np.floor(values * 1e6) / 1e6)


def thinned(shares: np.ndarray, kept: Sequence[int] | np.ndarray = ()) -> np.ndarray:
    """Return which points of a falling curve are drawn, evenly spread over its height.

    Between two of them a curve is drawn at the height of the right one, so that leaving points
    out never shows more than is true.

    Args:
        shares: heights, none larger than the one before it.
        kept: places that are drawn in any case, far fewer than `POINTS`.

    Returns:
        Places in order, at most `POINTS`, the first and the last among them.

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
    """Return the settings of each run: the texts of a row once, and which one a run has."""
    runs = section.runs
    said = [_parts(run) for run in runs]
    parts = []
    for part in said[0]:
        names = dict.fromkeys(name for each in said for name in each[part])
        rows = [_compared(name, [each[part].get(name) for each in said], runs) for name in names]
        parts.append({"name": part, "rows": rows})
    return {"runs": _heads(section), "parts": parts}


def _heads(section: Section) -> list[dict[str, Any]]:
    """Return how each run of a section is called."""
    return [
        {**_named(run), "of": group.method, "sigma": group.sigma}
        for group in section.groups
        for run in group.runs
    ]


def _compared(name: str, texts: Sequence[str | None], runs: Sequence[Run]) -> dict[str, Any]:
    """Return a row; a published log, which records nothing, makes no difference."""
    distinct = list(dict.fromkeys(texts))
    ours = [text for text, run in zip(texts, runs, strict=True) if not run.is_foreign] or texts
    [(usual, count)] = Counter(ours).most_common(1)
    return {
        "name": name,
        "texts": [None if text is None else _shortened(text) for text in distinct],
        "of": [distinct.index(text) for text in texts],
        "differs": count < len(ours),
        # Without a majority no value is an exception.
        "usual": distinct.index(usual) if count * 2 > len(ours) else None,
    }


def _parts(run: Run) -> dict[str, dict[str, str]]:
    """Return what is known of a run, by where it is recorded."""
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
    """Return a value as text; of a place on this machine, only its last name."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    place = PureWindowsPath(value)
    return f"…/{place.name}" if place.root and place.name else value


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _gallery(
    section: Section, numbers: Sequence[int], pictures: Sequence[Thumbnails | None]
) -> dict[str, Any]:
    """Return which runs there are to choose from, and where their certificates are."""
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
    """Return certificates by column; what a published log does not record is null."""
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
    """Return a number with six decimals, on the safe side where it has more."""
    if not math.isfinite(value):
        return None
    short = round(value, 6)
    return short if short == value else towards(value * 1e6) / 1e6


def _packed(values: list[Any]) -> Any:
    """Return a column, or its only value."""
    return values[0] if len(set(values)) == 1 else values


# Thumbnails.


def _thumbnails(run: Run) -> Thumbnails | None:
    """Return the thumbnails in a run's folder, if there are any that can be read."""
    try:
        content = read_bounded(run.path.parent / THUMBNAILS)
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
    """Return size and texts of a PNG, every pixel of which can be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
            return picture.size, dict(getattr(picture, "text", {}))
