"""Grouping of runs: into sections that can be compared, and by method and σ."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np

from smoothcert.errors import RecordsError
from smoothcert.records import RunFolder
from smoothcert.records.summary import Reading, certifier_name
from smoothcert.report.load import Run, check_values
from smoothcert.report.methods import method_name

IGNORED = ("sigma", "seed", "data.seed", "class_names")
"""Settings of a training that do not define a method."""
FACTS = ("model", "epochs", "training_images")
"""Facts of a training in every summary, even without the training's settings."""
FOLLOW_SIGMA = ("objective.", "attack.", "data.batch_size")
"""Settings that papers give for each σ; the last follows the number of noise draws."""
FOLLOW_EPOCHS = ("scheduler.max_epochs", "scheduler.T_max", "scheduler.total_steps")
"""Settings that follow from the number of epochs."""
UNRECORDED = "not recorded"
USUAL = ("objective", "attack")
"""Keys that define the method of a run folder, unless `group_by` is given."""
OF_AN_EXPERIMENT = ("name", "model", "training_seed", "epochs", "training_images")
"""What a table of experiments needs from a summary, besides numbers."""
NUMBERS_OF_AN_EXPERIMENT = ("training_images", "seconds_training")


@dataclass(frozen=True)
class Estimate:
    """A mean over trainings.

    Attributes:
        value: the mean.
        error: its standard error; None for one training.
    """

    value: float
    error: float | None

    @classmethod
    def over(cls, values: Sequence[float]) -> "Estimate":
        """Return the mean of values and its standard error.

        Example:
            >>> Estimate.over([0.4, 0.6])
            Estimate(value=0.5, error=0.1)
        """
        if len(values) < 2:
            return cls(values[0], None)
        return cls(mean(values), round(stdev(values) / math.sqrt(len(values)), 12))


@dataclass(frozen=True)
class Group:
    """Trainings of one method at one σ.

    Attributes:
        method: name of the method.
        sigma: standard deviation of the noise; None for a published log without it.
        runs: they differ by their seeds.
    """

    method: str
    sigma: float | None
    runs: Sequence[Run]

    @property
    def bounds(self) -> list[str]:
        """Bounds that all of the runs have."""
        first, *others = ([reading.name for reading in run.bounds] for run in self.runs)
        return [name for name in first if all(name in names for names in others)]

    def readings(self, bound: str) -> list[Reading]:
        """Return each run's radii under a bound."""
        return [reading for run in self.runs for reading in run.bounds if reading.name == bound]

    def accuracy(self, bound: str, radius: float) -> Estimate:
        """Return the certified accuracy at a radius."""
        return Estimate.over([each.accuracy([radius])[0] for each in self.readings(bound)])

    def acr(self, bound: str) -> Estimate:
        """Return the average certified radius."""
        return Estimate.over([each.acr for each in self.readings(bound)])

    @property
    def is_foreign(self) -> bool:
        """Whether these are published logs."""
        return self.runs[0].is_foreign


@dataclass(frozen=True)
class Section:
    """Runs on the same images under the same conditions.

    Attributes:
        title: the conditions.
        groups: by method and σ.
        notes: sentences about how far the runs can be compared.
    """

    title: str
    groups: Sequence[Group]
    notes: Sequence[str]

    @property
    def runs(self) -> list[Run]:
        """Every run of the section."""
        return [run for group in self.groups for run in group.runs]

    @property
    def methods(self) -> dict[str, list[Group]]:
        """The groups of each method, by σ."""
        methods: dict[str, list[Group]] = {}
        for group in self.groups:
            methods.setdefault(group.method, []).append(group)
        return methods


def sections_of(runs: Sequence[Run], group_by: Sequence[str] = ()) -> list[Section]:
    """Return the runs in sections that can be compared, the largest section first.

    Runs are comparable if data, images, samples, α, certifier and precision are equal. A published
    log does not record these: it joins every section with the same images, with a note, and gets
    its own section if there is none.

    Args:
        runs: what `read_runs` returns.
        group_by: keys of `Run.value` that define a method; see `method_of`.
    """
    by_conditions: dict[str, list[Run]] = {}
    for run in runs:
        if not run.is_foreign:
            by_conditions.setdefault(repr((run.images, run.conditions)), []).append(run)
    parts = list(by_conditions.values())
    logs = [run for run in runs if run.is_foreign]
    for part in parts:
        part.extend(run for run in logs if run.images == part[0].images)
    by_images: dict[str, list[Run]] = {}
    for log in logs:
        if not any(log in part for part in parts):
            by_images.setdefault(log.images, []).append(log)
    parts += by_images.values()
    parts.sort(key=lambda part: -len(part))
    return [
        Section(title, groups := _groups(part, group_by), _notes(groups))
        for title, part in zip(_titles(parts), parts, strict=True)
    ]


def experiments_of(runs: Sequence[Run]) -> list[Group]:
    """Return the runs grouped by σ and name of the experiment, for one table.

    Args:
        runs: certifications of experiments.

    Raises:
        RecordsError: if a summary lacks a value, if they were certified under different
            conditions, or if two trainings of an experiment differ by more than their seed.
    """
    _check_certified_alike(runs)
    by_key: dict[tuple[float, str], list[Run]] = {}
    for run in runs:
        by_key.setdefault((run.sigma or 0.0, str(run.summary["name"])), []).append(run)
    groups = [Group(name, sigma, own) for (sigma, name), own in sorted(by_key.items())]
    for group in groups:
        which = f"{group.method} at sigma={group.sigma}"
        if apart := _differing(group.runs):
            values = (f"{name} {' and '.join(map(str, each))}" for name, each in apart.items())
            raise RecordsError(
                f"Expected trainings of {which} that differ only in their seeds, got "
                f"{', '.join(values)}"
            )
        seeds = [run.seed for run in group.runs]
        if len(set(seeds)) < len(seeds):
            raise RecordsError(
                f"Expected one run per seed of {which}, got seeds {', '.join(map(str, seeds))} in "
                f"{', '.join(str(run.path.parent) for run in group.runs)}"
            )
    return groups


def check_experiment(run: Run) -> None:
    """Refuse a run whose summary lacks a value that a table of experiments shows.

    Raises:
        RecordsError: with the file and the missing names.
    """
    path, summary = RunFolder(run.path.parent).summary_file, run.summary
    needed = *OF_AN_EXPERIMENT, *NUMBERS_OF_AN_EXPERIMENT, "certified_accuracy"
    if lacking := [name for name in dict.fromkeys(needed) if name not in summary]:
        raise RecordsError(f"{path} lacks {', '.join(lacking)}; was it made by a newer version?")
    check_values(summary, path, NUMBERS_OF_AN_EXPERIMENT)
    if not isinstance(summary["certified_accuracy"], Mapping):
        raise RecordsError(f"{path} is damaged: expected certified accuracies by radius")


def _check_certified_alike(runs: Sequence[Run]) -> None:
    """Refuse different images or certifier settings; the grid of radii may depend on σ."""
    every = [
        (run.sigma, {"images": f"{len(run.rows)} ({run.images})", **run.conditions}) for run in runs
    ]
    for name in dict.fromkeys(name for _, conditions in every for name in conditions):
        found: dict[float | None, set[str]] = {}
        for sigma, conditions in every:
            key = sigma if name == "radii" else None
            found.setdefault(key, set()).add(str(conditions.get(name)))
        for values in found.values():
            if len(values) > 1:
                raise RecordsError(
                    f"Expected runs under equal certification settings, got {name} "
                    f"{', '.join(sorted(values))}"
                )


def method_of(run: Run, group_by: Sequence[str] = ()) -> str:
    """Return the name of a run's method.

    Args:
        run: the run.
        group_by: keys of `Run.value`; `none` and missing values are left out. Without keys, a run
            is named by objective and attack, and a published log by its path without σ.
    """
    keys = tuple(group_by) or (() if run.is_foreign else USUAL)
    if keys == USUAL and not run.is_foreign:
        return method_name(*(run.value(key) for key in keys)) or run.name
    values = [run.value(key) for key in keys]
    name = " + ".join(_text(value) for value in values if value not in (None, "none"))
    if not run.is_foreign:
        return name or run.name
    return run.log_path.with_training(name) if name else run.log_path.method


def settings_apart(summaries: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the settings in which the trainings of runs differ, one value per run.

    Args:
        summaries: of at least one run.

    Returns:
        Values by dotted name, in the order of the runs; None for a run without the setting.
    """
    flat = [
        {
            **{name: summary[name] for name in FACTS if name in summary},
            **flat_settings(summary.get("training", {})),
        }
        for summary in summaries
    ]
    names = dict.fromkeys(name for each in flat for name in each)
    values = {name: [each.get(name) for each in flat] for name in names}
    return {name: each for name, each in values.items() if any(v != each[0] for v in each)}


def _groups(runs: Sequence[Run], group_by: Sequence[str]) -> list[Group]:
    methods = _methods(runs, group_by)
    by_key: dict[tuple[bool, str, float | None], list[Run]] = {}
    for method, run in zip(methods, runs, strict=True):
        by_key.setdefault((run.is_foreign, method, run.sigma), []).append(run)
    groups = [Group(method, sigma, own) for (_, method, sigma), own in by_key.items()]
    return sorted(
        groups, key=lambda each: (each.is_foreign, each.method.casefold(), each.sigma or 0.0)
    )


def _methods(runs: Sequence[Run], group_by: Sequence[str]) -> list[str]:
    """Return the runs' methods; methods that differ in more than the seed get their settings."""
    logs = iter(_log_methods([run for run in runs if run.is_foreign], group_by))
    names = [next(logs) if run.is_foreign else method_of(run, group_by) for run in runs]
    by_name: dict[str, list[Run]] = {}
    for name, run in zip(names, runs, strict=True):
        if not run.is_foreign:
            by_name.setdefault(name, []).append(run)
    taken = {name.casefold() for name in by_name}
    return [
        _with_settings(run, name, by_name[name])
        if not run.is_foreign
        else name + (" (log)" if name.casefold() in taken else "")
        for name, run in zip(names, runs, strict=True)
    ]


def _log_methods(logs: Sequence[Run], group_by: Sequence[str]) -> list[str]:
    """Return the methods of logs; ambiguous ones are named by their paths, then by their files."""
    methods = [method_of(log, group_by) for log in logs]
    several = {method for method, _ in _shared(methods, logs)}
    methods = [
        method_of(log) if method in several else method
        for method, log in zip(methods, logs, strict=True)
    ]
    shared = _shared(methods, logs)
    return [
        log.name if (method, log.sigma) in shared else method
        for method, log in zip(methods, logs, strict=True)
    ]


def _shared(methods: Sequence[str], logs: Sequence[Run]) -> set[tuple[str, float | None]]:
    """Return each method and σ that more than one log has."""
    counts = Counter((method, log.sigma) for method, log in zip(methods, logs, strict=True))
    return {key for key, count in counts.items() if count > 1}


def _with_settings(run: Run, name: str, namesakes: Sequence[Run]) -> str:
    values = [(key, run.value(key)) for key in _distinguishing(namesakes)]
    parts = [f"{key}={_text(value)}" for key, value in values if value is not None]
    same = [other for other in namesakes if all(other.value(k) == value for k, value in values)]
    # Two runs of one seed are not averaged, even if their recorded settings are equal.
    alike = [other for other in same if (other.sigma, other.seed) == (run.sigma, run.seed)]
    return ", ".join([name, *parts, *([run.name] if len(alike) > 1 else [])])


def _distinguishing(runs: Sequence[Run]) -> list[str]:
    """Return recorded settings in which trainings differ, except those that papers set by σ."""
    recorded = [run for run in runs if run.summary.get("training")]
    every = _differing(recorded) if recorded else {}
    names = {name: None for name in every if not name.startswith(FOLLOW_SIGMA)}
    for sigma in dict.fromkeys(run.sigma for run in recorded):
        names.update(dict.fromkeys(_differing([r for r in recorded if r.sigma == sigma])))
    unrecorded = [run for run in runs if not run.summary.get("training")]
    facts = _differing(runs) if unrecorded else {}
    named = [*names, *(name for name in FACTS if name in facts and name not in names)]
    return [name for name in named if name not in FOLLOW_EPOCHS or "epochs" not in named]


def _differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    return settings_apart([run.summary for run in runs])


def _titles(parts: Sequence[Sequence[Run]]) -> list[str]:
    """Return the parts' titles; equal titles get the conditions in which they differ."""
    titles = [_title(part) for part in parts]
    named = []
    for title, part in zip(titles, parts, strict=True):
        alike = [other for name, other in zip(titles, parts, strict=True) if name == title]
        named.append(", ".join([title, *_differences(part[0], [other[0] for other in alike])]))
    return named


def _differences(run: Run, others: Sequence[Run]) -> list[str]:
    """Return the conditions in which a run differs from any of the others."""
    conditions = {"images": run.images, **run.conditions}
    elsewhere = any(other.images != run.images for other in others)
    names = [
        name
        for name in dict.fromkeys(name for other in others for name in other.conditions)
        if any(other.conditions.get(name) != conditions.get(name) for other in others)
        # The digest of the pixels differs whenever the images differ.
        and not (elsewhere and name == "examples")
    ]
    named = ["images", *names] if elsewhere else names
    return [f"{name} {_text(conditions.get(name))}" for name in named]


def _title(runs: Sequence[Run]) -> str:
    first = runs[0]
    images = f"{len(first.rows):,}"
    noun = "image" if len(first.rows) == 1 else "images"
    if first.is_foreign:
        return f"{images} {noun} of published logs; data, n and α are not recorded"
    shared = first.conditions
    parts = [
        f"{shared['data']}",
        f"{images} {shared['split']} {noun}",
        certifier_name(first.settings),
        f"n0 = {shared['n0']:,}",
        f"n = {shared['n']:,}",
        f"α = {shared['alpha']:g}",
        f"{shared['precision']}",
    ]
    parts += ["discrete noise"] if shared["noise"] not in (None, "gaussian") else []
    parts += ["tests the label"] if shared["target"] == "label" else []
    return ", ".join(parts)


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = []
    runs = [run for group in groups for run in group.runs]
    logs = [run.name for run in runs if run.is_foreign]
    if logs and len(logs) < len(runs):
        notes.append(
            f"{some(logs)}: logged by other code on images with the same indices and labels. "
            "Data, samples, α and bound are not recorded there; check that they are the same "
            "before you compare."
        )
    if any(run.is_foreign and run.log_path.training_sigmas for run in runs):
        notes.append(
            "Logs whose path states different σ for training and certification are separate "
            "methods, so that an envelope contains each method only at its own σ."
        )
    if any(run.summary.get("radius_is_lower_bound") for run in runs):
        notes.append(
            "Radii, and therefore ACR, are lower bounds on a grid: more samples would prove more."
        )
    bare = [run.name for run in runs if not run.is_foreign and not run.summary.get("training")]
    if 0 < len(bare) < len(runs) - len(logs):
        notes.append(
            f"The training settings of {some(bare)} are not recorded: they may differ from those "
            "of the other runs."
        )
    return notes


def upper_envelope(
    groups: Sequence[Sequence[Reading]], radii: Sequence[float] | np.ndarray = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest of the groups' mean certified accuracies, at every radius of a step.

    Args:
        groups: for each group the readings to average, each on the same number of images.
        radii: further radii besides 0 and the radii of images.

    Returns:
        Increasing radii, shape (K,), and the certified accuracy at each, shape (K,). It holds
        from the previous radius (excluded) to its own radius (included).
    """
    reached = [each.radius[each.correct] for readings in groups for each in readings]
    steps = np.unique(np.concatenate([[0.0], radii, *reached]))
    means = [np.mean([each.accuracy(steps) for each in readings], axis=0) for readings in groups]
    return steps, np.max(means, axis=0)


def some(names: Sequence[str], most: int = 4) -> str:
    """Return the first names as a list, and the number of the others."""
    rest = [f"{len(names) - most} others"] if len(names) > most else []
    return ", ".join([*names[:most], *rest])


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a training by dotted name, without those that define no method."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return {name: value for name, value in flat.items() if name not in IGNORED}


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
