"""How long whole test sets take on one device and on many, from what a few images took."""

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
    """A number, and where it is from.

    Attributes:
        value: the number.
        source: `measured`; `given`; of an efficiency also `assumed`, that of another number of
            devices, or `one device`, which shares with nobody.

    Example:
        >>> Estimate(12.3, "given")
        Estimate(value=12.3, source='given')
    """

    value: float
    source: str = MEASURED


@dataclass(frozen=True)
class Workload:
    """A test set, and what its images take.

    Attributes:
        name: what it is called in tables.
        images: number of images.
        samples: samples an image takes on average, selection included.
        rate: samples a second of one device.

    Raises:
        InvalidArgumentError: if there is no image, or a figure is not positive.
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
    """What one certification said of its speed.

    Attributes:
        samples_per_second: votes of all processes.
        images_per_second: finished images of all processes.
    """

    samples_per_second: float
    images_per_second: float


def certification_hours(
    images: int, samples: float, rate: float, efficiency: float, devices: int, most: int
) -> float:
    """Return the hours that D devices need for N images: N·s / (D·r·e) + m / r, in seconds.

    The first term is the work, shared. The second is the end, where devices wait for the one that
    began with its last image late: at most as long as one device needs for the longest image there
    can be. For more devices than e was measured with this is an estimate: it takes e as it is.

    Args:
        images: N.
        samples: s, an image's on average, selection included.
        rate: r, samples a second of one device alone.
        efficiency: e, the rate of several devices together divided by as many times r; in (0, 1].
        devices: D.
        most: m, the most samples that an image can take, n0 + n; 0 leaves the end out.

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
        processes: with how many the efficiency was measured.

    Returns:
        JSON values, one entry a test set and number of devices; each figure with its source.

    Raises:
        InvalidArgumentError: if a number is out of range.

    Example:
        >>> one = Workload("mine", 3600, Estimate(500.0), Estimate(250.0, "given"))
        >>> [row["hours"] for row in sizing_table([one], Estimate(0.5), [1, 8], most=0)]
        [2.0, 0.5]
    """
    return [
        _entry(workload, _efficiency_at(count, efficiency, processes), count, most)
        for workload in workloads
        for count in devices
    ]


def _entry(workload: Workload, efficiency: Estimate, devices: int, most: int) -> dict[str, Any]:
    samples, rate = workload.samples, workload.rate
    hours = certification_hours(
        workload.images, samples.value, rate.value, efficiency.value, devices, most
    )
    return {
        "test_set": workload.name,
        "images": workload.images,
        "samples_per_image": asdict(samples),
        "samples_per_second": asdict(rate),
        "devices": devices,
        "efficiency": asdict(efficiency),
        "hours": hours,
        "device_hours": devices * hours,
        "last_image_hours": most / rate.value / 3600,
    }


def _efficiency_at(devices: int, measured: Estimate, processes: int) -> Estimate:
    if devices == 1:
        return Estimate(1.0, ONE)
    is_other = measured.source == MEASURED and devices != processes
    return replace(measured, source=ASSUMED) if is_other else measured


def scaling_table(
    turns: Sequence[Mapping[int, Pace]], samples: Sequence[int]
) -> list[dict[str, Any]]:
    """Return how fast each number of processes was, beside one process in the same turn.

    Args:
        turns: in each turn the pace of each number of processes, 1 among them.
        samples: samples of each image, selection included.

    Returns:
        JSON values, one entry a number of processes: rates turn by turn; the efficiency, the rate
        divided by as many times that of one process, as median, smallest and largest over turns;
        samples an image, as mean, median and 95th percentile.

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
    return [
        {
            "processes": count,
            "samples_per_second": [turn[count].samples_per_second for turn in turns],
            "images_per_second": [turn[count].images_per_second for turn in turns],
            "efficiency": _efficiencies(turns, count),
            "samples_per_image": taken,
        }
        for count in turns[0]
    ]


def _efficiencies(turns: Sequence[Mapping[int, Pace]], count: int) -> dict[str, float]:
    each = [turn[count].samples_per_second / (count * turn[1].samples_per_second) for turn in turns]
    return {"median": median(each), "min": min(each), "max": max(each)}


def measured_figures(scaling: Sequence[Mapping[str, Any]]) -> tuple[Estimate, Estimate, Estimate]:
    """Return samples an image, samples a second of one device, and the efficiency of the most.

    Args:
        scaling: what `scaling_table` returns, one process first, the most last.

    Returns:
        Medians over turns. An efficiency above 1 is chance, and counts as 1.

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
    """Return the images whose rows are not the same in all certifications, times aside.

    Args:
        first: rows of one certification.
        others: rows of each other one, in any order.

    Returns:
        Indices, in order; an image that one of them lacks is among them.

    Example:
        >>> row = CertificateRow(7, 3, 3, 0.4217, 1, 0.5, 0.94, 0.04, 9500, 300, 10_000, "fixed")
        >>> unlike([row], [[replace(row, time=0.7)], [replace(row, n_a=9501)]])
        [7]
    """
    reference = {replace(row, time=0.0) for row in first}
    different = (reference ^ {replace(row, time=0.0) for row in rows} for rows in others)
    return sorted({row.idx for rows in different for row in rows})
