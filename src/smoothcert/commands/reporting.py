"""The command `python -m src.report`, which needs neither torch nor Lightning."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from smoothcert.commands.commandline import checked_radii
from smoothcert.errors import InvalidArgumentError
from smoothcert.records import (
    CERTIFICATES,
    FIELD_COLUMNS,
    RunFolder,
    paths_matching,
    write_atomically,
)
from smoothcert.report.figures import draw_figures
from smoothcert.report.grids import Grid, to_csv, to_latex, to_markdown
from smoothcert.report.grouping import (
    check_experiment,
    experiments_of,
    flat_settings,
    sections_of,
    some,
)
from smoothcert.report.load import Run, read_runs
from smoothcert.report.markdown import marks, replace_part
from smoothcert.report.methods import chosen_method
from smoothcert.report.page import write_page
from smoothcert.report.tables import experiments, tables_of
from smoothcert.report.terminal import print_grid

GENERATOR = '<meta name="generator" content="smoothcert">'
"""Marks the pages of this command."""
RADII = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
"""Radii of the table of `table=…`."""


def report(cfg: DictConfig) -> None:
    """Write a page, tables and figures over runs, or one table; see `commands.report`."""
    if cfg.table is None:
        _report_all(cfg)
    else:
        _report_one_table(cfg)


def _report_all(cfg: DictConfig) -> None:
    for name in ("title", "readme"):
        if cfg[name] is not None:
            raise InvalidArgumentError(
                f"Expected table=<experiments> with {name}=…: it is a setting of one table"
            )
    named = [path for path in map(Path, _listed(cfg.runs)) if path.exists()]
    # A damaged folder among others is skipped; a single one is refused.
    required = named if len(_listed(cfg.runs)) == 1 else [path for path in named if path.is_file()]
    found = read_runs(_paths(cfg.runs), skip_damaged=True, named=required)
    notes = [*_unmatched(cfg.runs), *found.notes]
    if not found.runs:
        raise InvalidArgumentError(
            f"Expected finished runs, or logs of the six columns {' '.join(FIELD_COLUMNS)}, at "
            f"{cfg.runs}, got none. {' '.join(notes)}"
        )
    sections = sections_of(found.runs, _keys(cfg.group_by, found.runs))
    radii = None if cfg.radii is None else checked_radii(cfg.radii)
    methods = list(dict.fromkeys(name for section in sections for name in section.methods))
    baseline = None if cfg.baseline is None else chosen_method(str(cfg.baseline), methods)
    parts = []
    folder = Path(cfg.paths.run)
    _clear(folder)
    for number, section in enumerate(sections, start=1):
        place = folder if len(sections) == 1 else folder / f"part_{number}"
        base = baseline if baseline in section.methods else None
        tables = tables_of(section, radii, base)
        _write_tables(tables, place / "tables")
        draw_figures(section, place / "figures")
        print_grid(tables[0])
        parts.append((section, tables))
    write_page(parts, notes, folder / "index.html", radii)
    for note in notes:
        _say(f"  note   {note}")
    count = "one part" if len(sections) == 1 else f"{len(sections)} parts, each comparable"
    _say(f"  runs   {len(found.runs)}, in {count}")
    _say(f"  page   {folder / 'index.html'}")


def _keys(value: Any, runs: Sequence[Run]) -> list[str]:
    """Return the keys that define a method; empty without `group_by`."""
    if value is None:
        return []
    keys = [key.strip() for name in _listed(value) for key in name.split(",") if key.strip()]
    if not keys:
        raise InvalidArgumentError("Expected `group_by` of at least one key, got none")
    for key in keys:
        if all(run.value(key) is None for run in runs):
            raise InvalidArgumentError(
                f"Expected `group_by` of keys that some run has, got {key!r}. {_known(key, runs)}"
            )
    return keys


def _known(unknown: str, runs: Sequence[Run]) -> str:
    """Return the possible keys of `group_by`, similar ones first; those of logs with values."""
    of_logs: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.log_path.settings.items() if run.is_foreign else ():
            of_logs.setdefault(key, {})[value] = None
    summaries = [run.summary for run in runs if not run.is_foreign]
    of_runs = [
        *(key for each in summaries for key, value in each.items() if isinstance(value, str)),
        *(key for each in summaries for key in flat_settings(each.get("training", {}))),
    ]
    parts = []
    if of_runs:
        similar = get_close_matches(unknown, of_runs)
        parts.append(f"Runs have {some([*dict.fromkeys([*similar, *of_runs])], 12)}")
    if of_logs:
        shown = [f"{key} ({some([*values], 3)})" for key, values in of_logs.items()]
        parts.append(f"Logs have {some(shown, 8)}")
    return "; ".join(parts)


def _clear(folder: Path) -> None:
    """Remove an earlier report: none of its files may stay among the new ones."""
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


def _report_one_table(cfg: DictConfig) -> None:
    folders, name = matching(cfg.runs), str(cfg.table)
    found = read_runs(folders, named=folders)
    for run in found.runs:
        check_experiment(run)
    chosen = [run for run in found.runs if str(run.summary["name"]).startswith(name)]
    if not chosen:
        raise InvalidArgumentError(
            f"Expected runs of experiments {name}… among the {len(folders)} folders that "
            f"{cfg.runs} matches, got none"
        )
    radii = RADII if cfg.radii is None else checked_radii(cfg.radii)
    title = f"Experiments {name}…" if name else "Experiments"
    grid = experiments(experiments_of(chosen), radii, title, str(cfg.title or ""))
    table = to_markdown(replace(grid, title=""))
    path = Path(cfg.paths.run) / f"{name or 'table'}.md"
    write_atomically(path, table)
    if cfg.readme is not None:
        command = f"python -m src.report runs=… table={name}"
        replace_part(Path(str(cfg.readme)), marks(name, command), table)
    print_grid(grid)
    for note in found.notes:
        _say(f"  note   {note}")
    _say(f"  files  {path}")


def _say(line: str) -> None:
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


def matching(patterns: str | Sequence[str]) -> list[Path]:
    """Return the run folders that globs match, in order.

    Args:
        patterns: one glob, or several.

    Raises:
        InvalidArgumentError: if there is none.
    """
    folders = [folder for folder in _paths(patterns) if RunFolder(folder).is_summarized]
    if not folders:
        raise InvalidArgumentError(f"Expected folders with a summary.json at {patterns}, got none")
    return folders


def _paths(patterns: str | Sequence[str]) -> list[Path]:
    """Return the files and folders that globs match; `**` is any depth."""
    return sorted({path for pattern in _listed(patterns) for path in _matches(pattern)})


def _matches(pattern: str) -> list[Path]:
    if Path(pattern).exists():
        return [Path(pattern)]
    # `Path.glob` refuses absolute paths. `folder/**` matches the folder even if it is missing.
    return [path for path in paths_matching(pattern) if path.exists()]


def _unmatched(patterns: str | Sequence[str]) -> list[str]:
    hint = " Several globs are a list: 'runs=[first/**,second/**]'."
    notes = []
    for each in _listed(patterns):
        if not _matches(each):
            notes.append(f"Nothing matches {each}.{hint if ',' in each else ''}")
        elif Path(each).is_dir() and not RunFolder(each).is_certified:
            notes.append(
                f"{each} is a folder without {CERTIFICATES}; {each}/** reads the folders in it."
            )
    return notes


def _listed(values: Any) -> list[str]:
    """Return a value, or the values of a list, as texts: YAML reads some names as numbers."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    return [str(each) for each in (values if is_list else [values])]
