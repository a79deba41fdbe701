"""Tables, and their text as Markdown, CSV and LaTeX."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from smoothcert.report.grouping import Estimate
from smoothcert.report.markdown import escaped, markdown_table

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{sign: rf"\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "σ": r"$\sigma$",
        "α": r"$\alpha$",
        "±": r"$\pm$",
        "≥": r"$\ge$",
        "–": "--",
        "−": "$-$",
        "×": r"$\times$",
        "λ": r"$\lambda$",
        "ℓ": r"$\ell$",
        "…": r"\dots{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        '"': "''",
        "`": "'",
    }
)

FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")
"""The beginning of a cell that a spreadsheet would compute."""
PLAIN = re.compile(r"[\w.,=+/-]+")
"""Texts that a code span shows unchanged."""
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        digits: decimals of its numbers.
        percent: whether its numbers are shares, shown in per cent.
        best: whether the largest is marked, among rows of equal `Row.rival`.
        sign: whether numbers carry their sign.
        code: whether Markdown shows its texts as code.
    """

    name: str
    digits: int = 0
    percent: bool = False
    best: bool = False
    sign: bool = False
    code: bool = False


@dataclass(frozen=True)
class Cell:
    """A text, or a number with an error or an interval.

    Attributes:
        value: the text or number; None for an empty cell.
        error: standard error of the number.
        interval: ends of its confidence interval.
        note: a text after the number.
        best: whether it is marked as the best.
    """

    value: float | str | None
    error: float | None = None
    interval: tuple[float, float] | None = None
    note: str = ""
    best: bool = False

    @classmethod
    def of(cls, estimate: Estimate, note: str = "") -> "Cell":
        """Return the cell of a mean."""
        return cls(estimate.value, estimate.error, note=note)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        cells: one per column.
        rival: rows with equal values compete for the marks.
    """

    cells: Sequence[Cell]
    rival: str = ""


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        name: name of its files.
        title: what it shows.
        columns: its columns.
        rows: its rows.
        notes: sentences below it.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()


def marked(grid: Grid) -> Grid:
    """Return a table whose largest numbers are marked, if several rows compete.

    Numbers that are equal after rounding are marked together.
    """
    rows = [list(row.cells) for row in grid.rows]
    for place, column in enumerate(grid.columns):
        if not column.best:
            continue
        for rival in dict.fromkeys(row.rival for row in grid.rows):
            at = [number for number, row in enumerate(grid.rows) if row.rival == rival]
            shown = {number: _rounded(rows[number][place], column) for number in at}
            values = [value for value in shown.values() if value is not None]
            if len(values) < 2 or max(values) <= 0:
                continue
            for number, value in shown.items():
                if value == max(values):
                    rows[number][place] = replace(rows[number][place], best=True)
    cells = zip(rows, grid.rows, strict=True)
    return replace(grid, rows=[replace(row, cells=changed) for changed, row in cells])


def shown(cell: Cell, column: Column) -> str:
    """Return the text of a cell.

    Example:
        >>> shown(Cell(0.4213, 0.0102), Column("0.25", 1, percent=True))
        '42.1 ± 1.0'
        >>> shown(Cell(0.02, interval=(-0.01, 0.05)), Column("0.25", 1, percent=True, sign=True))
        '+2.0 (−1.0 to +5.0)'
    """
    if cell.value is None:
        return "–"
    text = _number(cell.value, column)
    if cell.error is not None:
        text += f" ± {_number(cell.error, replace(column, sign=False))}"
    if cell.interval is not None:
        low, high = (_number(end, column) for end in cell.interval)
        text += f" ({low} to {high})"
    return f"{text} {cell.note}" if cell.note else text


def to_markdown(grid: Grid) -> str:
    """Return a table as Markdown, its best values bold, with its title unless that is empty."""
    title = f"**{escaped(grid.title)}**\n\n" if grid.title else ""
    table = markdown_table(
        [column.name for column in grid.columns],
        [
            [_in_markdown(*pair) for pair in zip(row.cells, grid.columns, strict=True)]
            for row in grid.rows
        ],
    )
    return title + table + "".join(f"\n{escaped(note)}\n" for note in grid.notes)


def _in_markdown(cell: Cell, column: Column) -> str:
    text = shown(cell, column)
    if column.code and PLAIN.fullmatch(text):
        return f"`{text}`"
    return f"**{escaped(text)}**" if cell.best else escaped(text)


def to_csv(grid: Grid) -> str:
    """Return a table as CSV: numbers unrounded, their errors and intervals in further columns.

    A text that a spreadsheet would compute gets an apostrophe at its beginning.
    """
    parts = [_parts(grid, place) for place in range(len(grid.columns))]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        _inert(" ".join(filter(None, (column.name, part))))
        for column, used in zip(grid.columns, parts, strict=True)
        for part in used
    )
    for row in grid.rows:
        pairs = zip(row.cells, parts, strict=True)
        writer.writerow(_inert(_values(cell)[part]) for cell, used in pairs for part in used)
    return text.getvalue()


def to_latex(grid: Grid) -> str:
    """Return a table as LaTeX for the package booktabs, its best values bold."""
    places = range(len(grid.columns))
    left = [all(isinstance(row.cells[k].value, str) for row in grid.rows) for k in places]
    lines = [
        "% \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_in_latex(grid.title)}}}",
        f"\\begin{{tabular}}{{{''.join('l' if each else 'r' for each in left)}}}",
        "\\toprule",
        " & ".join(_in_latex(column.name) for column in grid.columns) + r" \\",
        "\\midrule",
    ]
    for row in grid.rows:
        pairs = [
            (cell, _in_latex(shown(cell, column)))
            for cell, column in zip(row.cells, grid.columns, strict=True)
        ]
        texts = [rf"\textbf{{{text}}}" if cell.best else text for cell, text in pairs]
        line = " & ".join(texts) + r" \\"
        # After a line break LaTeX would read these as its argument.
        lines.append("{}" + line if line.startswith(("[", "*")) else line)
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\n\\smallskip\\footnotesize {_in_latex(note)}" for note in grid.notes]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _in_latex(text: str) -> str:
    # An empty line would end an argument.
    return " ".join(text.splitlines()).translate(LATEX)


def _inert(value: float | str | None) -> float | str | None:
    if not isinstance(value, str):
        return value
    # csv does not quote a carriage return, and other programs read it as a new row.
    text = value.replace("\r", " ")
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def _values(cell: Cell) -> dict[str, float | str | None]:
    """Return the values of a cell, by the suffix of its column's name in CSV."""
    lower, upper = cell.interval or (None, None)
    errors = {"standard error": cell.error, "lower": lower, "upper": upper}
    return {"": cell.value, **errors, "note": cell.note or None}


def _parts(grid: Grid, place: int) -> list[str]:
    """Return the suffixes of a column for which at least one cell has a value."""
    values = [_values(row.cells[place]) for row in grid.rows]
    names = _values(Cell(None))
    return [name for name in names if name == "" or any(v[name] is not None for v in values)]


def _rounded(cell: Cell, column: Column) -> float | None:
    if not isinstance(cell.value, (int, float)):
        return None
    return round(float(cell.value) * (100 if column.percent else 1), column.digits)


def _number(value: float | str, column: Column) -> str:
    if isinstance(value, str):
        return value
    scaled = value * 100 if column.percent else value
    # Rounded first, and + 0.0: a number that is shown as zero must not show a sign.
    rounded = round(scaled, column.digits) + 0.0
    text = f"{rounded:{'+' if column.sign else ''},.{column.digits}f}"
    return text.replace("-", "−")
