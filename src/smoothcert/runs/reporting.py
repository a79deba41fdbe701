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
from smoothcert.report.markdown import marks, replace_part

WIDTH = 200


def report(cfg: DictConfig) -> None:
    """Print a table over runs and write it; see `smoothcert.runs.report`."""
    folders = matching(cfg.runs)
    summaries = [s for s in read_summaries(folders) if s["name"].startswith(cfg.table)]
    if not summaries:
        raise InvalidArgumentError(
            f"Expected runs of experiments {cfg.table}… among the {len(folders)} folders that "
            f"{cfg.runs} matches, got none"
        )
    table = comparison_markdown(grouped(summaries), list(cfg.radii), cfg.title or "")
    path = Path(cfg.paths.run) / f"{cfg.table or 'table'}.md"
    write_atomically(path, table)
    if cfg.readme is not None:
        command = f"python -m src.report runs=… table={cfg.table}"
        replace_part(Path(cfg.readme), marks(cfg.table, command), table)
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(Markdown(table))
    console.print(f"  files  {path}", highlight=False, markup=False, soft_wrap=True)


def matching(patterns: str | Sequence[str]) -> list[Path]:
    """Return the folders that globs name, in order.

    Args:
        patterns: one glob, or several.

    Raises:
        InvalidArgumentError: if there is none.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    # Of absolute paths too, which `Path.glob` refuses.
    found = sorted({Path(path) for pattern in patterns for path in glob(pattern)})  # noqa: PTH207
    folders = [folder for folder in found if (folder / "summary.json").is_file()]
    if not folders:
        raise InvalidArgumentError(f"Expected folders with a summary.json, got none by {patterns}")
    return folders
