"""What a person reads in the terminal at the end of a run."""

import os
from collections.abc import Callable, Mapping, Sequence
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
    """Return the terminal, or where there is none, what writes lines of `FILE_WIDTH`."""
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
    """Print a table as wide as the terminal: what does not fit follows in further tables below.

    Each of them repeats the first column, and those that tell its rows apart. No text is cut: a
    long one goes on in the next line of its cell.

    Args:
        title: what it shows.
        names: headings of its columns.
        rows: cells of each row, as many as headings; at least one row.
        notes: sentences below it.
        texts: places of the columns that may tell rows apart; the others are aligned right.
        console: where to print; the terminal unless given.
    """
    console = console or terminal()
    cells = [[_in_one_line(cell) for cell in row] for row in rows]
    needed = [max(cell_len(row[place].plain) for row in cells) for place in range(len(names))]
    widths = [max(cell_len(name), width) for name, width in zip(names, needed, strict=True)]
    keys = _telling_apart(cells, texts)
    blocks = [range(len(names))]
    room = console.width - 1  # rich pads the last column, too.
    if sum(widths) + GAP * (len(widths) - 1) > room:
        # Headings of several words take several lines.
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


def _telling_apart(rows: Sequence[Sequence[Text]], texts: Sequence[int]) -> list[int]:
    """Return the first column, and the further ones without which rows would look alike."""
    keys: list[int] = []
    for place in texts:
        distinct = {tuple(row[key].plain for key in keys) for row in rows}
        more = {tuple(row[key].plain for key in [*keys, place]) for row in rows}
        if not keys or len(more) > len(distinct):
            keys.append(place)
    return keys


def _blocks(widths: list[int], keys: Sequence[int], room: int) -> list[list[int]]:
    """Divide columns into tables that fit a width, and make wide ones narrower for it."""
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
    console.print(
        f"  certified          {summary['images']} {summary['split']} images at n0 = "
        f"{summary['n0']:,}, n = {summary['n']:,}, α = {summary['alpha']:g}",
        highlight=False,
        markup=False,
    )
    bounds = summary["bounds"]
    acr = "   ".join(f"{name} {figures['acr']:.4f}" for name, figures in bounds.items())
    least = "  (at least)"
    console.print(
        f"  ACR                {acr}{least if summary.get('radius_is_lower_bound') else ''}",
        highlight=False,
        markup=False,
    )
    console.print(f"  clean (smoothed)   {summary['clean_smoothed_accuracy']:.1%}", highlight=False)
    wrong = summary.get("stops", {}).get("wrong", 0)
    given_up = f" of those tested; {wrong} were given up as wrong" if wrong else ""
    console.print(
        f"  abstained          {summary['abstention_rate']:.1%}{given_up}", highlight=False
    )
    console.print(f"  samples            {_samples(summary)}", highlight=False)
    if "near_chance" in summary:
        _print_near_chance(summary, console)
    if "normalization" in summary:
        console.print(
            f"  normalization      {summary['normalization']}: a wrong one shows in the accuracy "
            "alone",
            markup=False,
        )
    left = summary.get("certifier_settings", {}).get("alpha_for_votes")
    if left is not None:
        spent = summary["alpha"] - left
        console.print(f"  noise              discrete: {spent:.1e} of α pays for its own error")
    if summary.get("target") == "label":
        console.print("  target             the label itself: certified accuracy, no prediction")
    console.print(f"  files              {folder}", highlight=False, markup=False, soft_wrap=True)


def _print_near_chance(summary: Mapping[str, Any], console: Console) -> None:
    """Say that the classifier guesses, what its base classifier does, and the usual causes."""
    found, images = summary["near_chance"], summary["images"]
    chance, plain, noisy = (
        found[name] for name in ("chance", "base_accuracy", "base_accuracy_noisy")
    )
    if is_near_chance(round(plain * images), images, chance):
        causes = "wrong without noise, too: other weights, normalization, order of the classes"
    elif is_near_chance(round(noisy * images), images, chance):
        causes = (
            "wrong under noise alone: not trained with this noise; sigma in units of 0-255, to "
            "be divided by 255; normalization"
        )
    else:
        causes = "right under one draw: too few samples (n) to settle the votes"
    lines = (
        f"near chance        guessing gets {chance:.1%}: the smoothed classifier is no better",
        f"base classifier    {plain:.1%} without noise, {noisy:.1%} under one noise draw",
        f"usual causes       {causes}",
    )
    for line in lines:
        text = fill(line, 78, subsequent_indent=" " * 19)
        console.print(indent(text, "  "), highlight=False, markup=False, soft_wrap=True)


def _samples(summary: Mapping[str, Any]) -> str:
    mean = f"{summary['mean_samples_per_image']:,.0f} an image"
    rate = summary.get("samples_per_second")
    precision = summary.get("precision", "float32")
    several = summary.get("processes") or 1
    by = f", by {several} processes" if several > 1 else ""
    return f"{mean}, {rate:,.0f} a second in {precision}{by}" if rate else mean


def _subject(summary: Mapping[str, Any]) -> str:
    if "ckpt" in summary:
        return f"{summary['model']} of {Path(summary['ckpt']).name}"
    return method_name(summary["objective"], summary["attack"])


def _accuracies(summary: Mapping[str, Any], width: int) -> Table:
    bounds = summary["bounds"]
    title = f"{_subject(summary)} on {summary['data']}, σ = {summary['sigma']:g}"
    table = Table(
        # Names of files and of classes are no markup.
        title=Text(title),
        title_style="bold",
        min_width=min(60, width),
    )
    table.add_column("ℓ2 radius", justify="right")
    for number, name in enumerate(bounds):
        said = name if number == 0 else f"{name}, same votes"
        table.add_column(Text(said), justify="right")
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
        results: one entry a row; numbers, texts, or lists and mappings of them. Or several tables
            by their names.
        machine: where it was measured.
        folder: where `benchmark.json` is.
        console: where to print; the terminal unless given.
    """
    console = console or terminal()
    # Tables of several measurements say themselves how many threads there were.
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
        results: one entry a row, or several tables by their names.

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
    """Return the cells of each table, by its name: what a person reads of each entry."""
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
    "train": "×: ratio to the plain form, median (smallest–largest) over turns; memory beyond what "
    "was in use before the first step.",
    "methods": "Passes of each image in a step at sigma .25, .5 and 1, beyond the one of Gaussian "
    "training.",
    "throughput": "×: ratio to the reference, median (smallest–largest) over repeats; the time "
    "that compiling takes is not part of the rates.",
    "scaling": "Efficiency: rate divided by as many times that of one process, median "
    "(smallest–largest) over turns. On a CPU a process has one thread.",
    "sizing": "Measured: on the network and images of the table above. Hours: images × "
    "samples/image / (devices × samples/s × efficiency), and the longest image there can be, which "
    "others may wait for at the end. Where the efficiency is assumed, they are an estimate.",
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
