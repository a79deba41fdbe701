"""How long test sets take on one device and on many, estimated from a few images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from smoothcert.errors import InvalidArgumentError, require_count, require_positive
from smoothcert.records import CertificateRow

MEASURED, GIVEN = "measured", "given"
ASSUMED, ONE = "assumed", "one device"


@dataclass(frozen=True)
class Estimate:
    """A number and its source.

    Attributes:
        value: the number.
        source: `measured` or `given`; for an efficiency also `assumed` (measured with a different
            number of devices) or `one device` (it is 1 by definition).

    Example:
        >>> Estimate(12.3, "given")
        Estimate(value=12.3, source='given')
    """

    value: float
    source: str = MEASURED


@dataclass(frozen=True)
class Workload:
    """A test set, and what its images cost.

    Attributes:
        name: its name in tables.
        images: number of images.
        samples: mean samples per image, selection included.
        rate: samples per second of one device.

    Raises:
        InvalidArgumentError: if there are no images, or a figure is not positive.
    """

    name: str
    images: int
    samples: Estimate
    rate: Estimate

    def __post_init__(self) -> None:
        require_count("images", self.images)
        require_positive("samples", self.samples.value)
        require_positive("rate", self.rate.value)


@dataclass(frozen=True)
class Pace:
    """The speed of one certification.

    Attributes:
        samples_per_second: samples per second of all processes.
        images_per_second: finished images per second of all processes.
    """

    samples_per_second: float
    images_per_second: float


def certification_hours(
    images: int, samples: float, rate: float, efficiency: float, devices: int, most: int
) -> float:
    """Return the hours that D devices need for N images: (N·s / (D·r·e) + m / r) / 3600.

    The first term is the work, which the devices share. The second bounds the end, where devices
    wait for the one that started its last image late: at most the time of one device for the most
    samples that an image can take. For more devices than e was measured with, the result is an
    estimate, which assumes the same e.

    Args:
        images: N.
        samples: s, mean samples per image, selection included.
        rate: r, samples per second of one device alone.
        efficiency: e, the rate of k devices together divided by k·r; in (0, 1].
        devices: D.
        most: m, the most samples that an image can take, n0 + n; 0: without the end.

    Raises:
        InvalidArgumentError: if the efficiency is out of range or there is no device.

    Example:
        >>> certification_hours(3600, 1000, rate=1000.0, efficiency=0.5, devices=8, most=18_000)
        0.255
    """
    require_count("devices", devices)
    if not 0 < efficiency <= 1:
        raise InvalidArgumentError(f"Expected `efficiency` in (0, 1], got {efficiency}")
    return (images * samples / (devices * efficiency) + most) / rate / 3600


def sizing_table(
    workloads: Sequence[Workload],
    efficiency: Estimate,
    devices: Sequence[int],
    most: int,
    processes: int = 2,
) -> list[dict[str, Any]]:
    """Return the hours of each test set on each number of devices; see `certification_hours`.

    Args:
        workloads: the test sets.
        efficiency: of several devices, in (0, 1].
        devices: numbers of devices.
        most: the most samples that an image can take.
        processes: number of processes with which the efficiency was measured.

    Returns:
        JSON values, one entry per test set and number of devices; each figure with its source.

    Raises:
        InvalidArgumentError: if a number is out of range.

    Example:
        >>> one = Workload("mine", 3600, Estimate(500.0), Estimate(250.0, "given"))
        >>> [row["hours"] for row in sizing_table([one], Estimate(0.5), [1, 8], most=0)]
        [2.0, 0.5]
    """
    table = []
    for workload in workloads:
        samples, rate = workload.samples, workload.rate
        for count in devices:
            is_other = efficiency.source == MEASURED and count != processes
            of_count = replace(efficiency, source=ASSUMED) if is_other else efficiency
            if count == 1:
                of_count = Estimate(1.0, ONE)
            hours = certification_hours(
                workload.images, samples.value, rate.value, of_count.value, count, most
            )
            table.append(
                {
                    "test_set": workload.name,
                    "images": workload.images,
                    "samples_per_image": asdict(samples),
                    "samples_per_second": asdict(rate),
                    "devices": count,
                    "efficiency": asdict(of_count),
                    "hours": hours,
                    "device_hours": count * hours,
                    "last_image_hours": most / rate.value / 3600,
                }
            )
    return table


def scaling_table(
    turns: Sequence[Mapping[int, Pace]], samples: Sequence[int]
) -> list[dict[str, Any]]:
    """Compare the speed of each number of processes with that of one process in the same turn.

    Args:
        turns: for each turn, the pace by number of processes, 1 among them.
        samples: samples of each image, selection included.

    Returns:
        JSON values, one entry per number of processes: rates of each turn; the efficiency (the rate
        of k processes divided by k times the rate of one), as median, smallest and largest over
        turns; samples per image, as mean, median and 95th percentile.

    Example:
        >>> turns = [{1: Pace(100.0, 1.0), 2: Pace(180.0, 1.8)}]
        >>> scaling_table(turns, [90, 110])[1]["efficiency"]["median"]
        0.9
    """
    taken = {
        "mean": float(np.mean(samples)),
        "median": float(np.median(samples)),
        "p95": float(np.percentile(samples, 95)),
    }
    table = []
    for count in turns[0]:
        paces = [turn[count] for turn in turns]
        efficiencies = [
            pace.samples_per_second / (count * turn[1].samples_per_second)
            for pace, turn in zip(paces, turns, strict=True)
        ]
        table.append(
            {
                "processes": count,
                "samples_per_second": [pace.samples_per_second for pace in paces],
                "images_per_second": [pace.images_per_second for pace in paces],
                "efficiency": {
                    "median": median(efficiencies),
                    "min": min(efficiencies),
                    "max": max(efficiencies),
                },
                "samples_per_image": taken,
            }
        )
    return table


def measured_figures(scaling: Sequence[Mapping[str, Any]]) -> tuple[Estimate, Estimate, Estimate]:
    """Return samples per image, samples per second of one device, and the efficiency.

    Args:
        scaling: what `scaling_table` returns, one process first, the most last.

    Returns:
        Medians over turns; the efficiency is that of the most processes. One above 1 is noise, and
        counts as 1.

    Example:
        >>> scaling = scaling_table([{1: Pace(100.0, 1.0), 2: Pace(210.0, 2.1)}], [100])
        >>> [figure.value for figure in measured_figures(scaling)]
        [100.0, 100.0, 1.0]
    """
    alone, together = scaling[0], scaling[-1]
    return (
        Estimate(alone["samples_per_image"]["mean"]),
        Estimate(median(alone["samples_per_second"])),
        Estimate(min(1.0, together["efficiency"]["median"])),
    )


def unlike(
    first: Iterable[CertificateRow], others: Iterable[Iterable[CertificateRow]]
) -> list[int]:
    """Return the images whose rows differ between certifications, except for their times.

    Args:
        first: rows of one certification.
        others: rows of each other certification, in any order.

    Returns:
        Sorted indices; they include images that are missing from a certification.

    Example:
        >>> row = CertificateRow(7, 3, 3, 0.4217, 1, 0.5, 0.94, 0.04, 9500, 300, 10_000, "fixed")
        >>> unlike([row], [[replace(row, time=0.7)], [replace(row, n_a=9501)]])
        [7]
    """
    reference = {replace(row, time=0.0) for row in first}
    different = (reference ^ {replace(row, time=0.0) for row in rows} for rows in others)
    return sorted({row.idx for rows in different for row in rows})
