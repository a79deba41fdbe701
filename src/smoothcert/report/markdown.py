"""Markdown tables, and generated parts of Markdown pages between marks."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from smoothcert.errors import InvalidArgumentError
from smoothcert.records import write_atomically


def escaped(text: str) -> str:
    r"""Return Markdown that shows a text unchanged, in one line and in one cell of a table.

    Args:
        text: any text.

    Example:
        >>> escaped("<b>|*a*")
        '&lt;b&gt;\\|\\*a\\*'
    """
    marked = re.sub(r"([\\`*_\[\]|])", r"\\\1", " ".join(text.splitlines()))
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    Args:
        names: headings, as Markdown.
        rows: one cell per heading, as Markdown in one line; see `escaped`.

    Example:
        >>> print(markdown_table(["name", "ACR"], [["ADRE", "0.5"]]))
        | name | ACR |
        | --- | --- |
        | ADRE | 0.5 |
        <BLANKLINE>
    """
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def marks(name: str, command: str) -> tuple[str, str]:
    """Return the lines that enclose a generated part.

    Args:
        name: name of the part.
        command: the command that makes it, for users who edit the page.

    Example:
        >>> marks("methods", "python -m src.benchmark task=methods")[1]
        '<!-- end of methods -->'
    """
    return f"<!-- {name}: {command} -->", f"<!-- end of {name} -->"


def replace_part(path: Path, between: tuple[str, str], part: str) -> None:
    """Put a part between the marks of a page.

    Args:
        path: the page.
        between: what `marks` returns.
        part: Markdown.

    Raises:
        InvalidArgumentError: if the page does not exist or lacks one of the marks, in order.
    """
    if not path.is_file():
        raise InvalidArgumentError(f"Expected a page, got {str(path)!r}, which does not exist")
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(between[0])
    _, end, after = rest.partition(between[1])
    if not (start and end):
        raise InvalidArgumentError(f"Expected the marks {between[0]} and {between[1]} in {path}")
    write_atomically(path, f"{before}{start}\n\n{part}\n{end}{after}")
