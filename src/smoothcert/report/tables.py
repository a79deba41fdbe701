"""Tables of runs, methods, their upper envelope over σ, differences, and experiments."""

import re
from collections.abc import Sequence

import numpy as np

from smoothcert.records.summary import tested_abstention_rate
from smoothcert.report.grids import Cell, Column, Grid, Row, marked
from smoothcert.report.grouping import UNRECORDED, Estimate, Group, Section
from smoothcert.report.load import Run
from smoothcert.report.methods import chosen_method
from smoothcert.stats import (
    Difference,
    default_radii,
    difference_of_means,
    difference_of_shares,
)

ACR_DIGITS = 3
MOST_RADII = 20
"""Largest number of radii in a table: a log in other units could have thousands."""
OTHERS = [Column("clean", 1, True), Column("abstained", 1, True), Column("samples per image")]


def radii_of(section: Section) -> list[float]:
    """Return the radii of a section's tables: the default grid, up to the largest radius."""
    largest = max(float(run.radii_that_count.max()) for run in section.runs)
    sigma = max((group.sigma for group in section.groups if group.sigma), default=0.25)
    first, second, *_ = default_radii(sigma)
    step = second - first
    while largest / step > MOST_RADII:
        step *= 2
    count = int(largest / step + 1e-9)
    return [round(number * step, 2) for number in range(count + 1)]


def tables_of(
    section: Section, radii: Sequence[float] | None = None, baseline: str | None = None
) -> list[Grid]:
    """Return a section's tables.

    Args:
        section: runs that can be compared.
        radii: radii of the certified accuracies; None: `radii_of` the section.
        baseline: the method to compare with; None: Gaussian training if there is any, else the
            first method.

    Raises:
        InvalidArgumentError: if there is no such method.
    """
    radii = radii_of(section) if radii is None else radii
    several = any(len(groups) > 1 for groups in section.methods.values())
    tables = [*([envelope(section, radii)] if several else []), methods(section, radii)]
    compared = differences(section, radii, baseline)
    return [*tables, *([compared] if compared.rows else []), runs(section, radii)]


def envelope(section: Section, radii: Sequence[float]) -> Grid:
    """Return each method's best certified accuracy at each radius over its σ, and its best ACR.

    Papers print this table: at every radius a method uses its best σ.
    """
    rows = []
    for method, groups in section.methods.items():
        for bound in _bounds(groups):
            best = [_best(groups, bound, radius) for radius in radii]
            top = max(groups, key=lambda group: group.acr(bound).value)
            cells = [Cell(method), Cell(_sigmas(groups)), _seeds(groups), Cell(bound)]
            rows.append(Row([*cells, Cell.of(top.acr(bound), _at(top, groups)), *best], bound))
    columns = [Column("method"), Column("σ"), Column("seeds"), Column("bound")]
    columns += [_acr(), *_accuracies(radii)]
    title = f"Upper envelope over σ: {section.title}"
    return marked(Grid("envelope", title, columns, rows, [*_legend(section), *section.notes]))


def methods(section: Section, radii: Sequence[float]) -> Grid:
    """Return the figures of each method at each σ: means and standard errors over seeds."""
    rows = []
    for group in section.groups:
        for bound in group.bounds:
            shares = [Cell.of(group.accuracy(bound, radius)) for radius in radii]
            cells = [Cell(group.method), Cell(_sigma(group)), _seeds([group])]
            rows.append(
                Row(
                    [*cells, Cell(bound), Cell.of(group.acr(bound)), *shares, *_over(group, bound)],
                    f"{bound} {group.sigma}",
                )
            )
    columns = [Column("method"), Column("σ"), Column("seeds"), Column("bound")]
    columns += [_acr(), *_accuracies(radii), *OTHERS]
    title = f"Methods by σ: {section.title}"
    return marked(Grid("methods", title, columns, rows, [*_legend(section), *section.notes]))


def runs(section: Section, radii: Sequence[float]) -> Grid:
    """Return the figures of each run."""
    rows = []
    for group in section.groups:
        for run in group.runs:
            cells = [Cell(run.name), Cell(group.method), Cell(_sigma(group)), _seed(run)]
            shares = [Cell(share) for share in run.certified.accuracy(radii)]
            rows.append(Row([*cells, Cell(run.certified.acr), *shares, *_of_run(run)]))
    columns = [Column("run"), Column("method"), Column("σ"), Column("seed")]
    columns += [Column("ACR", ACR_DIGITS), *_accuracies(radii, best=False), *OTHERS]
    return Grid("runs", f"Runs: {section.title}", columns, rows, section.notes)


def experiments(
    groups: Sequence[Group], radii: Sequence[float], title: str, data: str = ""
) -> Grid:
    """Return the figures of each experiment at each σ, under every bound.

    Args:
        groups: what `experiments_of` returns, at least one.
        radii: radii of the certified accuracies; a cell is empty if a run did not report it.
        title: what the table shows.
        data: name of the data; by default their name in the summaries.
    """
    rows = []
    for group in groups:
        summaries = [run.summary for run in group.runs]
        seeds = ", ".join(map(str, sorted(summary["training_seed"] for summary in summaries)))
        minutes = Estimate.over([summary["seconds_training"] / 60 for summary in summaries])
        clean = group.accuracy(group.bounds[0], 0.0)
        cells = [Cell(group.method), Cell(_sigma(group)), Cell(seeds)]
        cells += [Cell(str(summaries[0]["epochs"])), Cell.of(minutes), Cell.of(clean)]
        for bound in group.bounds:
            shares = [
                Cell.of(group.accuracy(bound, radius))
                if all(f"{radius:g}" in summary["certified_accuracy"] for summary in summaries)
                else Cell(None)
                for radius in radii
            ]
            rows.append(Row([*cells, Cell(bound), *shares, Cell.of(group.acr(bound))]))
    columns = [Column("experiment", code=True), Column("σ"), Column("seeds"), Column("epochs")]
    columns += [Column("training, minutes", 1), Column("clean", 1, True), Column("bound")]
    columns += [*_accuracies(radii, best=False), Column("ACR", ACR_DIGITS)]
    return Grid("experiments", title, columns, rows, [_shared(groups, data)])


def _shared(groups: Sequence[Group], data: str) -> str:
    """Return a note on what the runs of a table of experiments share."""
    every = [run for group in groups for run in group.runs]
    shared, first = every[0].conditions, every[0].summary
    models = ", ".join(sorted({str(run.summary["model"]) for run in every}))
    both = ", both bounds on the same votes" if len(groups[0].bounds) > 1 else ""
    parts = [
        data or str(shared["data"]),
        f"{models}, trained on {first['training_images']:,} images",
        f"{len(every[0].rows)} {shared['split']} images certified at n0 = {shared['n0']:,}, "
        f"n = {shared['n']:,}, α = {shared['alpha']:g} in {shared['precision']}{both}",
        "mean ± standard error over seeds of the training",
    ]
    return "; ".join(parts) + "."


def differences(section: Section, radii: Sequence[float], baseline: str | None = None) -> Grid:
    """Return the differences of all methods to one of them on the same images, run by run.

    Runs are paired by σ and seed. The 95 % intervals are over images, for these networks only; the
    variation over seeds is the variation between the rows.
    """
    base = _baseline(section, baseline)
    rows = [
        Row([Cell(f"{group.method} − {base}"), Cell(_sigma(group)), _against(run, other), *cells])
        for group in section.groups
        for run in group.runs
        if group.method != base and (other := _partner(section, base, group, run)) is not None
        for cells in [_differences(other, run, radii)]
    ]
    columns = [Column("difference"), Column("σ"), Column("seed")]
    columns += [Column("ACR", ACR_DIGITS, sign=True)]
    columns += [Column(f"{radius:g}", 1, True, sign=True) for radius in radii]
    notes = [
        "Paired over the same images; 95 % intervals over images, not corrected for their number. "
        "An interval containing 0 is no evidence of a difference; bold intervals are above 0. They "
        "concern these networks only, not other trainings.",
    ]
    title = f"Paired differences: {section.title}"
    return Grid("differences", title, columns, rows, [*notes, *section.notes])


def _baseline(section: Section, chosen: str | None) -> str:
    names = list(section.methods)
    if chosen is not None:
        return chosen_method(chosen, names)
    gaussian = [name for name in names if re.match(r"gaussian\b(?! \+)", name, re.IGNORECASE)]
    return next(iter([*gaussian, *names]))


def _differences(base: Run, run: Run, radii: Sequence[float]) -> list[Cell]:
    (first, first_correct), (second, second_correct) = _by_image(base), _by_image(run)
    cells = [
        _cell(
            difference_of_shares(
                first_correct & (first >= radius), second_correct & (second >= radius)
            )
        )
        for radius in radii
    ]
    acr = [_cell(difference_of_means(first, second))] if len(first) > 1 else [Cell(None)]
    return [*acr, *cells]


def _by_image(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return radii that count, and whether images are correct, in the order of the images."""
    order = np.argsort([row.idx for row in run.rows])
    return run.radii_that_count[order], run.certified.correct[order]


def _partner(section: Section, base: str, group: Group, run: Run) -> Run | None:
    """Return the baseline's run at the same σ, with the same seed if there is one."""
    others = [
        other
        for each in section.groups
        if each.method == base and each.sigma == group.sigma
        for other in each.runs
    ]
    return next((other for other in others if other.seed == run.seed), next(iter(others), None))


def _cell(difference: Difference) -> Cell:
    ends = (difference.lower, difference.upper)
    return Cell(difference.value, interval=ends, best=difference.is_clear and difference.value > 0)


def _best(groups: Sequence[Group], bound: str, radius: float) -> Cell:
    top = max(groups, key=lambda group: group.accuracy(bound, radius).value)
    estimate = top.accuracy(bound, radius)
    return Cell.of(estimate, _at(top, groups) if estimate.value > 0 else "")


def _at(group: Group, groups: Sequence[Group]) -> str:
    return f"({_sigma(group)})" if len(groups) > 1 else ""


def _bounds(groups: Sequence[Group]) -> list[str]:
    first, *others = groups
    return [bound for bound in first.bounds if all(bound in other.bounds for other in others)]


def _sigma(group: Group) -> str:
    return UNRECORDED if group.sigma is None else f"{group.sigma:g}"


def _sigmas(groups: Sequence[Group]) -> str:
    return ", ".join(_sigma(group) for group in groups)


def _seed(run: Run) -> Cell:
    return Cell(None if run.seed is None else str(run.seed))


def _seeds(groups: Sequence[Group]) -> Cell:
    """Return the number of trainings in a row, as a range if it varies."""
    counts = sorted({len(group.runs) for group in groups})
    return Cell("–".join(str(count) for count in (counts[0], counts[-1])[: len(counts)]))


def _against(run: Run, other: Run) -> Cell:
    if other.seed == run.seed:
        return _seed(run)
    own, others = (UNRECORDED if each.seed is None else each.seed for each in (run, other))
    return Cell(f"{own} against seed {others}")


def _over(group: Group, bound: str) -> list[Cell]:
    """Return clean accuracy, abstentions and samples over a group's runs, as it was certified."""
    if bound != group.bounds[0]:
        return [Cell(None)] * len(OTHERS)
    means = []
    for cells in zip(*(_of_run(run) for run in group.runs), strict=True):
        numbers = [float(cell.value) for cell in cells if cell.value is not None]
        complete = len(numbers) == len(cells)
        means.append(Cell.of(Estimate.over(numbers)) if complete else Cell(None))
    return means


def _of_run(run: Run) -> list[Cell]:
    samples = run.summary.get("mean_samples_per_image")
    clean = run.certified.accuracy([0.0])[0]
    return [Cell(clean), Cell(tested_abstention_rate(run.rows)), Cell(samples)]


def _accuracies(radii: Sequence[float], best: bool = True) -> list[Column]:
    return [Column(f"{radius:g}", 1, percent=True, best=best) for radius in radii]


def _acr() -> Column:
    return Column("ACR", ACR_DIGITS, best=True)


def _legend(section: Section) -> list[str]:
    several = any(len(group.runs) > 1 for group in section.groups)
    over = "; mean ± standard error over seeds" if several else ""
    reread = any(len(group.bounds) > 1 for group in section.groups)
    same = " cohen applies Cohen's bound to the same votes." if reread else ""
    compared = len(section.methods) > 1
    chance = " The paired differences show which are larger than chance." if compared else ""
    best = "The best under each bound is bold."
    return [f"Certified accuracy in % by ℓ2 radius{over}. {best}{chance}{same}"]
