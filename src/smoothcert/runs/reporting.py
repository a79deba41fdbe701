"""What `python -m src.report` does: no torch, no Lightning, so it answers at once."""

import re
import shutil
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markdown import Markdown

from smoothcert.errors import InvalidArgumentError
from smoothcert.records import FIELD_COLUMNS, write_atomically
from smoothcert.report.comparison import comparison_markdown, grouped, read_summaries
from smoothcert.report.figures import draw_figures
from smoothcert.report.grids import Grid, to_csv, to_latex, to_markdown
from smoothcert.report.markdown import marks, replace_part
from smoothcert.report.page import write_page
from smoothcert.report.reading import Run, read_runs
from smoothcert.report.results import radii_of, tables_of
from smoothcert.report.sections import Section, sections_of
from smoothcert.runs.commandline import checked_radii

WIDTH = 200
GENERATOR = '<meta name="generator" content="smoothcert">'
"""What tells a page of ours."""
RADII = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
"""Radii of a table for a page that is edited by hand."""


def report(cfg: DictConfig) -> None:
    """Write a page, tables and figures over runs, or one table; see `smoothcert.runs.report`."""
    if cfg.table is None:
        _report_all(cfg)
    else:
        _report_one_table(cfg)


def _report_all(cfg: DictConfig) -> None:
    _refuse_settings_of_a_table(cfg)
    found = read_runs(_paths(cfg.runs), skip_damaged=True)
    notes = [*_unmatched(cfg.runs), *found.notes]
    if not found.runs:
        raise InvalidArgumentError(
            f"Expected finished runs, or logs of the six columns {' '.join(FIELD_COLUMNS)}, by "
            f"{cfg.runs}, got none. {' '.join(notes)}"
        )
    sections = sections_of(found.runs, _keys(cfg.group_by, found.runs))
    radii = None if cfg.radii is None else checked_radii(cfg.radii)
    _check_baseline(cfg.baseline, sections)
    folder = Path(cfg.paths.run)
    _clear(folder)
    folders = [folder] if len(sections) == 1 else _numbered(folder, len(sections))
    for section, place in zip(sections, folders, strict=True):
        base = cfg.baseline if cfg.baseline in section.methods else None
        tables = tables_of(section, radii or radii_of(section), base)
        _write_tables(tables, place / "tables")
        draw_figures(section, place / "figures")
        _print(to_markdown(tables[0]))
    write_page(sections, notes, folder / "index.html", cfg.baseline, radii)
    for note in notes:
        _say(f"  note   {note}")
    parts = "one part" if len(sections) == 1 else f"{len(sections)} parts, each comparable"
    _say(f"  runs   {len(found.runs)}, in {parts}")
    _say(f"  page   {folder / 'index.html'}")


def _refuse_settings_of_a_table(cfg: DictConfig) -> None:
    for name in ("title", "readme"):
        if cfg[name] is not None:
            raise InvalidArgumentError(
                f"Expected table=<experiments> with {name}=…: it is a setting of one table"
            )


def _keys(value: str | Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Return the keys that make a method, each known to some run."""
    names = value.split(",") if isinstance(value, str) else value
    keys = [name.strip() for name in names if name.strip()]
    ours = [run for run in runs if not run.is_foreign]
    for key in keys:
        if ours and all(run.value(key) is None for run in ours):
            raise InvalidArgumentError(
                f"Expected `group_by` of keys of summary.json or of the training's settings in it, "
                f"such as objective or objective.weight; no run has {key!r}"
            )
    if not keys:
        raise InvalidArgumentError("Expected `group_by` of at least one key, got none")
    return keys


def _check_baseline(asked: str | None, sections: Sequence[Section]) -> None:
    names = list(dict.fromkeys(name for section in sections for name in section.methods))
    if asked is not None and asked not in names:
        raise InvalidArgumentError(f"Expected `baseline` one of {', '.join(names)}; got {asked!r}")


def _clear(folder: Path) -> None:
    """Remove an earlier report: what this one does not have would stand beside it."""
    page = folder / "index.html"
    if not page.is_file() or GENERATOR not in page.read_text(encoding="utf-8", errors="replace"):
        return
    for path in folder.iterdir():
        if path.is_dir() and re.fullmatch(r"tables|figures|part_\d+", path.name):
            shutil.rmtree(path)


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
    radii = RADII if cfg.radii is None else checked_radii(cfg.radii)
    table = comparison_markdown(grouped(summaries), radii, cfg.title or "")
    path = Path(cfg.paths.run) / f"{cfg.table or 'table'}.md"
    write_atomically(path, table)
    if cfg.readme is not None:
        command = f"python -m src.report runs=… table={cfg.table}"
        replace_part(Path(cfg.readme), marks(cfg.table, command), table)
    _print(table)
    _say(f"  files  {path}")


def _print(markdown: str) -> None:
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(Markdown(markdown))


def _say(line: str) -> None:
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


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
    return sorted({path for pattern in _listed(patterns) for path in _matches(pattern)})


def _matches(pattern: str) -> list[Path]:
    if Path(pattern).exists():
        return [Path(pattern)]
    # Of absolute paths too, which `Path.glob` refuses. Of a folder that is not there, `folder/**`
    # names the folder.
    return [path for path in map(Path, glob(pattern, recursive=True)) if path.exists()]  # noqa: PTH207


def _unmatched(patterns: str | Sequence[str]) -> list[str]:
    hint = " Several globs are a list: 'runs=[first/**,second/**]'."
    return [
        f"Nothing is at {each}.{hint if ',' in each else ''}"
        for each in _listed(patterns)
        if not _matches(each)
    ]


def _listed(patterns: str | Sequence[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)
