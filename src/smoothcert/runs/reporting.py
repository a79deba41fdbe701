"""What `python -m src.report` does: no torch, no Lightning, so it answers at once."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown

from smoothcert.errors import InvalidArgumentError
from smoothcert.records import write_atomically
from smoothcert.report.comparison import comparison_markdown, grouped, read_summaries
from smoothcert.report.figures import draw_figures
from smoothcert.report.grids import Grid, to_csv, to_latex, to_markdown
from smoothcert.report.markdown import marks, replace_part
from smoothcert.report.page import write_page
from smoothcert.report.reading import read_runs
from smoothcert.report.results import radii_of, tables_of
from smoothcert.report.sections import Section, sections_of

WIDTH = 200
RADII = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
"""Radii of a table for a page that is edited by hand."""


def report(cfg: DictConfig) -> None:
    """Write a page, tables and figures over runs, or one table; see `smoothcert.runs.report`."""
    if cfg.table is None:
        _report_all(cfg)
    else:
        _report_one_table(cfg)


def _report_all(cfg: DictConfig) -> None:
    found = read_runs(_paths(cfg.runs))
    if not found.runs:
        raise InvalidArgumentError(
            f"Expected runs or published logs by {cfg.runs}, got none. {' '.join(found.notes)}"
        )
    sections = sections_of(found.runs, _names(cfg.group_by))
    folder = Path(cfg.paths.run)
    folders = [folder] if len(sections) == 1 else _numbered(folder, len(sections))
    for section, place in zip(sections, folders, strict=True):
        tables = _tables(section, cfg)
        _write_tables(tables, place / "tables")
        draw_figures(section, place / "figures")
        _print(to_markdown(tables[0]))
    write_page(sections, found.notes, folder / "index.html", cfg.baseline)
    for note in found.notes:
        _say(f"  note   {note}")
    parts = "one part" if len(sections) == 1 else f"{len(sections)} parts, each comparable"
    _say(f"  runs   {len(found.runs)}, in {parts}")
    _say(f"  page   {folder / 'index.html'}")


def _tables(section: Section, cfg: DictConfig) -> list[Grid]:
    radii = radii_of(section) if cfg.radii is None else list(cfg.radii)
    return tables_of(section, radii, cfg.baseline)


def _write_tables(tables: Sequence[Grid], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for grid in tables:
        for ending, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex)):
            write_atomically(folder / f"{grid.name}.{ending}", render(grid))


def _numbered(folder: Path, count: int) -> list[Path]:
    return [folder / f"part_{number}" for number in range(1, count + 1)]


def _report_one_table(cfg: DictConfig) -> None:
    folders = matching(cfg.runs)
    summaries = [s for s in read_summaries(folders) if s["name"].startswith(cfg.table)]
    if not summaries:
        raise InvalidArgumentError(
            f"Expected runs of experiments {cfg.table}… among the {len(folders)} folders that "
            f"{cfg.runs} matches, got none"
        )
    radii = RADII if cfg.radii is None else list(cfg.radii)
    table = comparison_markdown(grouped(summaries), radii, cfg.title or "")
    path = Path(cfg.paths.run) / f"{cfg.table or 'table'}.md"
    write_atomically(path, table)
    if cfg.readme is not None:
        command = f"python -m src.report table={cfg.table}"
        replace_part(Path(cfg.readme), marks(cfg.table, command), table)
    _print(table)
    _say(f"  files  {path}")


def _print(markdown: str) -> None:
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(Markdown(markdown))


def _say(line: str) -> None:
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


def _names(value: str | Sequence[str]) -> list[str]:
    return value.split(",") if isinstance(value, str) else list(value)


def matching(patterns: str | Sequence[str]) -> list[Path]:
    """Return the folders that globs name, in order.

    Args:
        patterns: one glob, or several.

    Raises:
        InvalidArgumentError: if there is none.
    """
    folders = [folder for folder in _paths(patterns) if (folder / "summary.json").is_file()]
    if not folders:
        raise InvalidArgumentError(f"Expected folders with a summary.json, got none by {patterns}")
    return folders


def _paths(patterns: str | Sequence[str]) -> list[Path]:
    """Return the files and folders that globs name, `**` standing for any depth."""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    # Of absolute paths too, which `Path.glob` refuses.
    found = (path for pattern in patterns for path in glob(pattern, recursive=True))  # noqa: PTH207
    # Of a folder that is not there, `folder/**` names the folder.
    return sorted(path for path in map(Path, set(found)) if path.exists())
