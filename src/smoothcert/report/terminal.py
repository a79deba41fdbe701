"""Terminal output at the end of a command."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from textwrap import fill, indent
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smoothcert.report.grids import Grid, shown
from smoothcert.report.markdown import escaped, markdown_table
from smoothcert.report.methods import method_name
from smoothcert.stats import is_near_chance

Rows = Sequence[Mapping[str, Any]]

FILE_WIDTH = 120
GAP = 2


def terminal() -> Console:
    """Return the terminal, or if there is none, a console with lines of `FILE_WIDTH`."""
    console = Console()
    if "COLUMNS" not in os.environ and not any(map(os.isatty, range(3))):
        console.width = FILE_WIDTH
    return console


def print_table(
    title: str,
    names: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    notes: Sequence[str] = (),
    texts: Sequence[int] = (0,),
    console: Console | None = None,
) -> None:
    """Print a table as wide as the terminal; columns that do not fit follow in further tables.

    Each of these repeats the first column and the columns that distinguish the rows. No text is cut
    off: a long text continues in the next line of its cell.

    Args:
        title: what it shows.
        names: headings of its columns.
        rows: at least one row, each with one cell per heading.
        notes: sentences below it.
        texts: indices of the columns that may distinguish rows; other columns are aligned right.
        console: where to print; the terminal unless given.
    """
    console = console or terminal()
    cells = [[_in_one_line(cell) for cell in row] for row in rows]
    needed = [max(cell_len(row[place].plain) for row in cells) for place in range(len(names))]
    widths = [max(cell_len(name), width) for name, width in zip(names, needed, strict=True)]
    keys = _key_columns(cells, texts)
    blocks = [range(len(names))]
    room = console.width - 1  # rich pads the last column, too.
    if sum(widths) + GAP * (len(widths) - 1) > room:
        # Headings of several words may take several lines.
        words = [max(map(cell_len, name.split()), default=0) for name in names]
        widths = [max(pair) for pair in zip(words, needed, strict=True)]
        blocks = _blocks(widths, keys, room) or [keys]
    console.print(Text(title, style="bold"))
    for block in blocks:
        folded = any(cell_len(row[place].plain) > widths[place] for row in cells for place in block)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), show_lines=folded)
        for place in block:
            justify = "left" if place in texts else "right"
            name = Text(names[place])
            table.add_column(name, width=widths[place], justify=justify, overflow="fold")
        for row in cells:
            table.add_row(*(row[place] for place in block))
        console.print()
        console.print(table)
    for note in notes:
        console.print()
        console.print(note, highlight=False, markup=False)
    console.print()


def print_grid(grid: Grid, console: Console | None = None) -> None:
    """Print a table of a report, its best values bold; see `print_table`.

    Args:
        grid: the table.
        console: where to print; the terminal unless given.
    """
    rows = [
        [
            Text(shown(cell, column), style="bold" if cell.best else "")
            for cell, column in zip(row.cells, grid.columns, strict=True)
        ]
        for row in grid.rows
    ]
    names = [column.name for column in grid.columns]
    places = range(len(names))
    texts = [k for k in places if any(isinstance(row.cells[k].value, str) for row in grid.rows)]
    print_table(grid.title, names, rows, grid.notes, texts, console)


def _in_one_line(cell: str | Text) -> Text:
    cell = Text(cell) if isinstance(cell, str) else cell
    return Text(" ".join(cell.plain.splitlines()).replace("\t", " "), style=cell.style)


def _key_columns(rows: Sequence[Sequence[Text]], texts: Sequence[int]) -> list[int]:
    """Return the first column, and further columns without which two rows would be equal."""
    keys: list[int] = []
    for place in texts:
        distinct = {tuple(row[key].plain for key in keys) for row in rows}
        more = {tuple(row[key].plain for key in [*keys, place]) for row in rows}
        if not keys or len(more) > len(distinct):
            keys.append(place)
    return keys


def _blocks(widths: list[int], keys: Sequence[int], room: int) -> list[list[int]]:
    """Divide columns into tables that fit into the width, and narrow columns that are too wide."""
    while sum(widths[key] + GAP for key in keys) > max(room // 2, (GAP + 1) * len(keys)):
        widest = max(keys, key=lambda key: widths[key])
        widths[widest] -= 1
    left = room - sum(widths[key] + GAP for key in keys)
    blocks: list[list[int]] = []
    for place in range(len(widths)):
        if place in keys:
            continue
        widths[place] = min(widths[place], left)
        others = [other for other in blocks[-1] if other not in keys] if blocks else []
        if not others or sum(widths[k] + GAP for k in others) + widths[place] > left:
            blocks.append([*keys])
        blocks[-1].append(place)
    return blocks


def print_summary(summary: Mapping[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print the certified accuracies of a run, its ACR, and where its files are.

    Args:
        summary: the contents of `summary.json`.
        folder: the run folder.
        console: where to print; the terminal unless given.
    """
    console = console or Console()
    console.print(_accuracies(summary, console.width))
    say = partial(console.print, highlight=False, markup=False)
    say(
        f"  certified          {summary['images']} {summary['split']} images at n0 = "
        f"{summary['n0']:,}, n = {summary['n']:,}, α = {summary['alpha']:g}"
    )
    bounds = summary["bounds"]
    acr = "   ".join(f"{name} {figures['acr']:.4f}" for name, figures in bounds.items())
    least = "  (at least)" if summary.get("radius_is_lower_bound") else ""
    say(f"  ACR                {acr}{least}")
    say(f"  clean (smoothed)   {summary['clean_smoothed_accuracy']:.1%}")
    wrong = summary.get("stops", {}).get("wrong", 0)
    given_up = f" of the tested images; {wrong} were given up as wrong" if wrong else ""
    say(f"  abstained          {summary['abstention_rate']:.1%}{given_up}")
    say(f"  samples            {_samples(summary)}")
    for line in _near_chance(summary) if "near_chance" in summary else ():
        text = fill(line, 78, subsequent_indent=" " * 19)
        say(indent(text, "  "), soft_wrap=True)
    if "normalization" in summary:
        say(
            f"  normalization      {summary['normalization']}: a wrong one affects only the "
            "accuracy"
        )
    left = summary.get("certifier_settings", {}).get("alpha_for_votes")
    if left is not None:
        spent = summary["alpha"] - left
        say(f"  noise              discrete: {spent:.1e} of α covers its error")
    if summary.get("target") == "label":
        say("  target             the label itself: certified accuracy, no prediction")
    say(f"  files              {folder}", soft_wrap=True)


def _near_chance(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Return lines on a classifier that guesses: its base classifier, and the usual causes."""
    found, images = summary["near_chance"], summary["images"]
    chance, plain, noisy = (
        found[name] for name in ("chance", "base_accuracy", "base_accuracy_noisy")
    )
    if is_near_chance(round(plain * images), images, chance):
        causes = "wrong without noise, too: wrong weights, normalization, order of the classes"
    elif is_near_chance(round(noisy * images), images, chance):
        causes = (
            "wrong only under noise: not trained with this noise; sigma in units of 0-255, which "
            "must be divided by 255; normalization"
        )
    else:
        causes = "right under one draw: too few samples (n) for a certificate"
    return (
        f"near chance        guessing gets {chance:.1%}: the smoothed classifier is no better",
        f"base classifier    {plain:.1%} without noise, {noisy:.1%} under one noise draw",
        f"usual causes       {causes}",
    )


def _samples(summary: Mapping[str, Any]) -> str:
    mean = f"{summary['mean_samples_per_image']:,.0f} per image"
    rate = summary.get("samples_per_second")
    precision = summary.get("precision", "float32")
    several = summary.get("processes") or 1
    by = f", by {several} processes" if several > 1 else ""
    return f"{mean}, {rate:,.0f} per second in {precision}{by}" if rate else mean


def _subject(summary: Mapping[str, Any]) -> str:
    if "ckpt" in summary:
        return f"{summary['model']} of {Path(summary['ckpt']).name}"
    return method_name(summary["objective"], summary["attack"])


def _accuracies(summary: Mapping[str, Any], width: int) -> Table:
    bounds = summary["bounds"]
    title = f"{_subject(summary)} on {summary['data']}, σ = {summary['sigma']:g}"
    table = Table(
        # As Text, since a name of a file or a class may look like markup.
        title=Text(title),
        title_style="bold",
        min_width=min(60, width),
    )
    table.add_column("ℓ2 radius", justify="right")
    for number, name in enumerate(bounds):
        heading = name if number == 0 else f"{name}, same votes"
        table.add_column(Text(heading), justify="right")
    for radius in summary["certified_accuracy"]:
        shares = [f"{bounds[name]['certified_accuracy'][radius]:.1%}" for name in bounds]
        table.add_row(radius, *shares)
    return table


def print_measurements(
    task: str,
    results: Rows | Mapping[str, Rows],
    machine: Mapping[str, Any],
    folder: Path,
    console: Console | None = None,
) -> None:
    """Print what `python -m src.benchmark` measured.

    Args:
        task: what was measured.
        results: one entry per row, with numbers, texts, or lists and mappings of these; or several
            tables by name.
        machine: the machine of the measurement, with its `name` and `threads`.
        folder: the folder of `benchmark.json`.
        console: where to print; the terminal unless given.
    """
    console = console or terminal()
    # Tables of several measurements contain the number of threads.
    threads = "" if isinstance(results, Mapping) else f", {machine['threads']} threads"
    for name, cells in _tables(task, results).items():
        print_table(
            f"{name}, {machine['name']}{threads}",
            list(cells[0]),
            [[_cell(value) for value in row.values()] for row in cells],
            [NOTES[name]] if name in NOTES else [],
            [place for place, value in enumerate(cells[0].values()) if isinstance(value, str)],
            console,
        )
    console.print(f"  files  {folder}", highlight=False, markup=False, soft_wrap=True)


def measurements_as_markdown(task: str, results: Rows | Mapping[str, Rows]) -> str:
    r"""Return the tables that `print_measurements` prints as Markdown, without notes.

    Args:
        task: what was measured.
        results: one entry per row, or several tables by name.

    Example:
        >>> print(measurements_as_markdown("task", [{"name": "a|b", "rate": 1234.5}]))
        | name | rate |
        | --- | --- |
        | a\|b | 1,234 |
        <BLANKLINE>
    """
    return "\n".join(
        markdown_table(
            [escaped(name) for name in cells[0]],
            [[escaped(_cell(value)) for value in row.values()] for row in cells],
        )
        for cells in _tables(task, results).values()
    )


def _tables(task: str, results: Rows | Mapping[str, Rows]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table, by its name, with the values to show."""
    tables = results if isinstance(results, Mapping) else {task: results}
    return {name: [ROWS.get(name, dict)(entry) for entry in rows] for name, rows in tables.items()}


def _throughput_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "": entry["name"],
        "samples/s": median(entry["samples_per_second"]),
        "× samples": _spread(entry["samples_ratio"]),
        "samples/image": entry["samples_per_image"],
        "images/h": median(entry["images_per_hour"]),
        "× images": _spread(entry["images_ratio"]),
        "peak MB": entry["peak_memory_bytes"] / 1e6,
    }


def _designs_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "design": entry["design"],
        "mean": entry["samples_mean"],
        "median": entry["samples_median"],
        "95 %": entry["samples_p95"],
        "certified %": " ".join(f"{100 * share:.1f}" for share in entry["certified_accuracy"]),
        "change": " ".join(f"{change:+.1f}" for change in entry["change_in_points"]),
        "ACR": f"{entry['acr']:.4f}",
    }


def _methods_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": entry["method"],
        "override": entry["override"],
        "extra forward": entry["extra_forward"],
        "extra backward": entry["extra_backward"],
    }


def _train_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": entry["method"],
        "form": entry["form"],
        "images/s": median(entry["images_per_second"]),
        "× plain": _spread(entry["ratio"]),
        "peak MB": entry["peak_memory_bytes"] / 1e6,
    }


def _scaling_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "network": f"{entry['model']} on {entry['data']}",
        "processes": entry["processes"],
        "samples/s": median(entry["samples_per_second"]),
        "images/s": median(entry["images_per_second"]),
        "efficiency": _spread(entry["efficiency"], 2),
        "samples/image": entry["samples_per_image"]["mean"],
        "median": entry["samples_per_image"]["median"],
        "95 %": entry["samples_per_image"]["p95"],
    }


def _sizing_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "test set": entry["test_set"],
        "images": entry["images"],
        "samples/image": _figure(entry["samples_per_image"]),
        "samples/s of a device": _figure(entry["samples_per_second"]),
        "devices": entry["devices"],
        "efficiency": _figure(entry["efficiency"]),
        "hours": entry["hours"],
        "device-hours": entry["device_hours"],
    }


ROWS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "throughput": _throughput_row,
    "designs": _designs_row,
    "methods": _methods_row,
    "train": _train_row,
    "scaling": _scaling_row,
    "sizing": _sizing_row,
}


NOTES = {
    "train": "×: ratio to the plain form, median (smallest–largest) over turns; memory in addition "
    "to the memory in use before the first step.",
    "methods": "Passes per image and step at sigma .25, .5 and 1, in addition to the one pass of "
    "Gaussian training.",
    "throughput": "×: ratio to the reference, median (smallest–largest) over repeats; the rates do "
    "not include the time for compiling.",
    "scaling": "Efficiency: rate divided by the number of processes and the rate of one process, "
    "median (smallest–largest) over turns. On a CPU a process has one thread.",
    "sizing": "Measured: on the network and images of the table above. Hours: images × "
    "samples/image / (devices × samples/s × efficiency), plus the longest possible image, for "
    "which all devices may wait at the end. With an assumed efficiency, hours are an estimate.",
}


def _spread(ratio: Mapping[str, float], digits: int = 1) -> str:
    middle, least, most = (f"{ratio[name]:.{digits}f}" for name in ("median", "min", "max"))
    return f"{middle} ({least}–{most})"


def _figure(figure: Mapping[str, Any]) -> str:
    return f"{_cell(figure['value'])} ({figure['source']})"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_cell(each) for each in value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
