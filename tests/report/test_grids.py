"""Tables as Markdown, CSV and LaTeX, read back by others' parsers."""

import csv
import html
import io
import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from smoothcert.report.grids import (
    Cell,
    Column,
    Grid,
    Row,
    marked,
    shown,
    to_csv,
    to_latex,
    to_markdown,
)
from smoothcert.report.grouping import Estimate

NASTY = [
    "<script>alert(1)</script>", "a|b", "a & b", "under_score", "50%", "$x$", "#1", "{brace}", "}{",
    "a~b^c", 'say "hi"', "σ = 0.5 ± 1", "x, y; z", "a=1,b=2",
]  # fmt: skip
COLUMNS = [
    Column("method"),
    Column("0.25", 1, percent=True, best=True),
    Column("ACR", 3, best=True),
]
UNESCAPED = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^",
    r"\textless{}": "<", r"\textgreater{}": ">", "''": '"', r"$\sigma$": "σ",
    r"$\alpha$": "α", r"$\pm$": "±", r"$\ge$": "≥", "$-$": "−", r"$\times$": "×", r"$\ell$": "ℓ",
    r"$\lambda$": "λ", r"\dots{}": "…", "--": "–", **{rf"\{sign}": sign for sign in "&%$#_{}"},
}  # fmt: skip


def grid(*names, notes=(), title="Title"):
    rows = [Row([Cell(name), Cell(0.5 + k / 10), Cell(0.25)]) for k, name in enumerate(names)]
    return Grid("table", title, COLUMNS, rows, notes)


def cells_of_markdown(text):
    """Return a table's cells as a reader sees them, and which are bold, by another's parser."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    rows, bold = [], []
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
            bold.append([])
        if token.type in ("th_open", "td_open"):
            parts = tokens[place + 1].children
            rows[-1].append("".join(part.content for part in parts))
            bold[-1].append(any(part.type == "strong_open" for part in parts))
            assert not any(part.type in ("html_inline", "em_open") for part in parts)
    return rows, bold


def latex_rows(text):
    """Return a table's cells; `&` and line ends that are escaped belong to them."""
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    lines = [line for line in body.splitlines() if line.endswith("\\\\")]
    return [re.split(r"(?<!\\) ?& ?", line.removesuffix(" \\\\")) for line in lines]


def unescaped(text):
    keys = "|".join(re.escape(key) for key in sorted(UNESCAPED, key=len, reverse=True))
    return re.sub(keys, lambda found: UNESCAPED[found[0]], text)


def balance(text):
    """Return the depth of braces at the end, comments left out, none below 0 on the way."""
    depth = 0
    for sign in re.sub(r"\\.|(?<!\\)%.*", "", text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    return depth


def test_markdown_is_a_table_of_what_is_shown():
    table = marked(grid("adre", "gaussian"))
    rows, bold = cells_of_markdown(to_markdown(table))
    assert rows == [
        ["method", "0.25", "ACR"],
        ["adre", "50.0", "0.250"],
        ["gaussian", "60.0", "0.250"],
    ]
    assert bold[1:] == [[False, False, True], [False, True, True]]


@pytest.mark.parametrize("name", NASTY)
def test_any_name_is_one_cell_of_markdown(name):
    [_, row, after], _ = cells_of_markdown(to_markdown(grid(name, "after")))
    assert row == [name, "50.0", "0.250"]
    assert after[0] == "after"


def test_markdown_has_the_title_above_and_a_paragraph_for_each_note():
    text = (
        MarkdownIt("commonmark")
        .enable("table")
        .render(to_markdown(grid("a", notes=["One.", "Two."], title="What it shows")))
    )
    above, rest = text.split("<table>")
    below = rest.split("</table>")[1]
    assert "<strong>What it shows</strong>" in above
    assert re.findall("<p>(.*)</p>", below) == ["One.", "Two."]


NUMBERS = st.floats(-10, 10, allow_subnormal=False)


@given(st.lists(st.tuples(st.text("a|,\"'\n&=é ", max_size=8), NUMBERS), min_size=1, max_size=6))
@settings(max_examples=40)
def test_csv_holds_every_number_unrounded_and_every_text(pairs):
    rows = [Row([Cell(name), Cell(value), Cell(None)]) for name, value in pairs]
    read = list(csv.reader(io.StringIO(to_csv(Grid("g", "G", COLUMNS, rows)), newline="")))
    assert read[0] == ["method", "0.25", "ACR"]
    assert [(row[0], float(row[1]), row[2]) for row in read[1:]] == [
        (f"'{name}" if name.lstrip().startswith("=") else name, value, "") for name, value in pairs
    ]


def test_csv_holds_errors_intervals_and_notes_next_to_their_number():
    cells = [
        Cell("m"),
        Cell(1 / 3, error=0.01, note="(0.5)"),
        Cell(-0.2, interval=(-0.30000000000000004, 0.1)),
    ]
    text = to_csv(Grid("g", "G", COLUMNS, [Row(cells)]))
    assert text.splitlines()[0] == (
        "method,0.25,0.25 standard error,0.25 note,ACR,ACR lower,ACR upper"
    )
    [row] = csv.DictReader(io.StringIO(text))
    assert [float(row[k]) for k in ("0.25", "0.25 standard error", "ACR lower", "ACR upper")] == [
        1 / 3, 0.01, -0.30000000000000004, 0.1
    ]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_any_name_is_one_cell_of_latex(name):
    text = to_latex(grid(name, "after", notes=[name], title=name))
    assert balance(text) == 0
    head, row, after = latex_rows(text)
    assert {len(head), len(row), len(after)} == {3}
    assert unescaped(row[0]) == name
    assert unescaped(re.search(r"\\caption\{(.*)\}", text)[1]) == name
    assert unescaped(re.search(r"\\footnotesize (.*)", text)[1]) == name


@given(st.lists(st.text('ab&%$#_{}~^\\<>"|', min_size=1, max_size=10), min_size=1, max_size=3))
@settings(max_examples=60)
def test_latex_of_any_signs_has_balanced_braces_and_equal_rows(names):
    text = to_latex(marked(grid(*names)))
    assert balance(text) == 0
    dollars = re.sub(r"\\.", "", text[text.index("\\begin") :])
    assert dollars.count("$") % 2 == 0
    assert "%" not in dollars
    assert "#" not in dollars
    bars = re.sub(r"\\\\$|\\[&%$#_{}]", "", text, flags=re.MULTILINE)
    counts = [line.count("&") for line in bars.splitlines() if "&" in line]
    assert counts == [2] * (len(names) + 1)


def test_latex_is_a_table_of_booktabs_with_the_best_bold():
    text = to_latex(marked(grid("a_b", "c")))
    for part in ("\\toprule", "\\midrule", "\\bottomrule", "\\caption{Title}"):
        assert text.count(part) == 1
    opened, closed = (re.findall(rf"\\{word}\{{(\w+)\}}", text) for word in ("begin", "end"))
    assert opened == closed[::-1] == ["table", "tabular"]
    assert "\\begin{tabular}{lrr}" in text
    assert latex_rows(text) == [
        ["method", "0.25", "ACR"],
        [r"a\_b", "50.0", r"\textbf{0.250}"],
        ["c", r"\textbf{60.0}", r"\textbf{0.250}"],
    ]


def test_latex_needs_no_letters_beyond_ascii_for_what_tables_say():
    words = "σ = 0.5, α = 0.001, ℓ2, −1.0 – +2.0, 3 ± 1, ≥ 4, 2 × 3, λ…"
    cells = [Cell("m"), Cell(-0.2, interval=(-0.3, 0.1)), Cell(0.5, error=0.01)]
    text = to_latex(Grid("g", words, COLUMNS, [Row(cells)], [words]))
    assert text.isascii()
    assert unescaped(text).count("σ = 0.5, α") == 2


@pytest.mark.parametrize(
    ("cell", "column", "text"),
    [
        (Cell(None), Column("x"), "–"),
        (Cell("a"), Column("x", 3, percent=True), "a"),
        (Cell(0.4213), Column("x", 1, percent=True), "42.1"),
        (Cell(1.0), Column("x", 1, percent=True), "100.0"),
        (Cell(10_100.0), Column("x"), "10,100"),
        (Cell(0.4213, 0.0102), Column("x", 3), "0.421 ± 0.010"),
        (Cell(0.4213, 0.0102, note="(0.5)"), Column("x", 2), "0.42 ± 0.01 (0.5)"),
        (Cell(-0.02), Column("x", 1, percent=True), "−2.0"),
        (
            Cell(0.02, interval=(-0.01, 0.05)),
            Column("x", 1, percent=True, sign=True),
            "+2.0 (−1.0 to +5.0)",
        ),
        (Cell(0.0, interval=(-0.5, 0.5)), Column("x", 2, sign=True), "+0.00 (−0.50 to +0.50)"),
    ],
)
def test_what_a_cell_shows(cell, column, text):
    assert shown(cell, column) == text


@given(st.floats(-1, 1), st.floats(0, 1), st.integers(0, 4), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_what_is_shown_is_the_number_to_its_last_digit(value, error, digits, percent, sign):
    column = Column("x", digits, percent, sign=sign)
    scale = 100 if percent else 1
    text = shown(Cell(value, error), column).replace("−", "-").replace(",", "")
    for each, told in zip((value, error), text.split(" ± "), strict=True):
        assert float(told) == pytest.approx(each * scale, abs=0.5001 * 10**-digits)
        assert len(told.partition(".")[2]) == digits


def test_the_cell_of_a_mean_has_its_error():
    cell = Cell.of(Estimate(0.5, 0.1), "(1)")
    assert (cell.value, cell.error, cell.note, cell.best) == (0.5, 0.1, "(1)", False)
    assert Cell.of(Estimate(0.5, None)).error is None


def best(values, rivals=None, column=COLUMNS[1]):
    rivals = rivals or [""] * len(values)
    rows = [Row([Cell(value)], rival) for value, rival in zip(values, rivals, strict=True)]
    return [row.cells[0].best for row in marked(Grid("g", "G", [column], rows)).rows]


def test_the_largest_of_each_rivalry_is_marked():
    assert best([0.3, 0.2, 0.5]) == [False, False, True]
    assert best([0.3, 0.2, 0.5, 0.4], "aabb") == [True, False, True, False]
    assert best([0.3, 0.2, 0.5], "aab") == [True, False, False]
    assert best([0.3, None, 0.5]) == [False, False, True]
    assert best([0.3, None]) == [False, False]
    assert best(["z", 0.1, 0.2]) == [False, False, True]
    assert best([0.0, 0.0]) == [False, False]
    assert best([0.3, 0.2], column=Column("x", 1)) == [False, False]
    assert best([]) == []


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
@settings(max_examples=60)
def test_what_is_marked_looks_alike_and_no_other_looks_larger(values):
    column = COLUMNS[1]
    texts = [float(shown(Cell(value), column)) for value in values]
    expected = [max(texts) > 0 and text == max(texts) for text in texts]
    assert best(values) == expected


def test_marking_changes_nothing_else():
    table = grid("a", "b", notes=["Note."])
    changed = marked(table)
    assert [[cell.value for cell in row.cells] for row in changed.rows] == [
        [cell.value for cell in row.cells] for row in table.rows
    ]
    assert (changed.name, changed.title, changed.columns, changed.notes) == (
        table.name, table.title, table.columns, table.notes
    )  # fmt: skip
    assert marked(changed) == changed
    assert not any(cell.best for row in table.rows for cell in row.cells)


# What does not hold yet.


@pytest.mark.parametrize("name", ["a *b* c", "**x**", "a `b` c", "&lt;", "a\\|b", "[a](b)", "_x_"])
def test_any_name_is_one_cell_of_markdown_without_its_own_marks(name):
    [_, row], _ = cells_of_markdown(to_markdown(grid(name)))
    assert row == [name, "50.0", "0.250"]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "<b>x</b>"])
def test_titles_and_notes_of_markdown_hold_no_html(name):
    """Names of data and of run folders stand in them."""
    text = MarkdownIt("commonmark").render(to_markdown(Grid("g", name, COLUMNS, [], [name])))
    assert name not in text
    assert html.unescape(text).count(name) == 2


def test_errors_are_next_to_their_number_though_the_first_row_has_none():
    rows = [
        Row([Cell("one seed"), Cell(0.5), Cell(0.25)]),
        Row([Cell("two seeds"), Cell(0.5, 0.1), Cell(0.25, 0.1)]),
    ]
    assert to_csv(Grid("g", "G", COLUMNS, rows)).splitlines()[0] == (
        "method,0.25,0.25 standard error,ACR,ACR standard error"
    )


def test_csv_without_rows_has_its_header():
    assert to_csv(Grid("g", "G", COLUMNS, [])) == "method,0.25,ACR\n"


@pytest.mark.parametrize("name", ["[a] b", "* b", "[1]"])
def test_no_name_is_taken_for_an_argument_of_the_line_above(name):
    r"""`\\` and `\midrule` take what follows in brackets for a length."""
    lines = to_latex(grid(name, name)).splitlines()
    for line, following in itertools.pairwise(lines):
        if line.endswith(("\\\\", "\\midrule")):
            assert not following.lstrip().startswith(("[", "*"))


def test_latex_needs_no_other_font_encoding():
    r"""`\textquotedbl` is an error in OT1, what documents have unless they ask for T1."""
    assert "\\textquotedbl" not in to_latex(grid('say "hi"'))


def test_code_in_notes_has_no_two_opening_quotes_in_latex():
    assert "`cohen`" not in to_latex(grid("a", notes=["`cohen` reads the same votes."]))


@pytest.mark.parametrize("value", [-1e-9, -0.0])
def test_nothing_is_less_than_0_by_nothing(value):
    assert shown(Cell(value), Column("x", 1, percent=True)) == "0.0"


FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    " =1",
    "\t=1",
    "\n=1",
    "＝1",
    "=cmd|'/c calc'!A0",
    "-",
    "+",
]


@pytest.mark.parametrize("name", FORMULAS)
def test_no_text_of_a_csv_is_a_formula(name):
    read = rows_of_csv(grid(name, "after", notes=[name]))
    assert (read[1][0], read[2][0]) == (f"'{name}", "after")
    assert rows_of_csv(Grid("g", "G", [Column(name)], []))[0] == [f"'{name}"]


def test_a_line_break_of_old_does_not_begin_a_row_of_a_csv():
    assert rows_of_csv(grid("a\r=1+1", "after"))[1][0] == "a =1+1"


@pytest.mark.parametrize("text", ["-1", "+0.5", "-2.5e-3", "a=1", "0.5", "–", "−x"])
def test_numbers_and_other_texts_of_a_csv_stay_as_they_are(text):
    assert rows_of_csv(grid(text, "after"))[1][0] == text


def rows_of_csv(table):
    return list(csv.reader(io.StringIO(to_csv(table), newline="")))


@pytest.mark.parametrize("text", ["a\n\nb", "a\r\n\r\nb", "a\x0b\x0cb"])
def test_no_text_ends_a_line_of_latex_or_markdown(text):
    harmless = grid("a", "after", notes=["a"], title="a")
    table = grid(text, "after", notes=[text], title=text)
    for render in (to_latex, to_markdown):
        assert len(render(table).splitlines()) == len(render(harmless).splitlines())
