"""Certification of a data set, and what interrupts it."""

import itertools
import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from smoothcert.certify import (
    AnytimeCertifier,
    Execution,
    PrecisionCertifier,
    SequentialCertifier,
    SmoothedClassifier,
    Subset,
    TightCertifier,
    certify_examples,
    engine,
    peak_memory,
    scheduling,
)
from smoothcert.data.datasets import InMemoryImages
from smoothcert.errors import InvalidArgumentError, NonFiniteError, ProcessError, RecordsError
from smoothcert.noise import generator
from smoothcert.records import read_certificates, settings_path

QUICK = TightCertifier(n0=20, n=200)
SEQUENTIAL = SequentialCertifier(n0=20, n=400)


@pytest.fixture
def images() -> InMemoryImages:
    pixels = torch.rand(12, 1, 6, 6, generator=generator("cpu", 3))
    return InMemoryImages(pixels, torch.arange(12) % 3, torch.arange(12) * 10)


def certify(network, images, path, subset=None, certifier=QUICK, seed=0, batch_size=64, **options):
    smoothed = SmoothedClassifier(network, 0.5, 3, Execution(batch_size=batch_size))
    subset = subset or Subset("val")
    return certify_examples(smoothed, certifier, images, subset, path, seed, **options)


def without_time(rows):
    return [replace(row, time=0.0) for row in rows]


def by_index(rows):
    return sorted(without_time(rows), key=lambda row: row.idx)


def test_rows_carry_the_data_sets_own_indices_and_labels(network, images, tmp_path):
    certified = certify(network, images, tmp_path / "c.tsv", Subset("val", skip=5))
    rows = certified.rows
    assert [(row.idx, row.label) for row in rows] == [(0, 0), (50, 2), (100, 1)]
    assert read_certificates(tmp_path / "c.tsv") == rows
    assert certified.requested == 3


def test_rows_come_back_in_the_order_of_the_images(network, images, tmp_path):
    backwards = images.subset(list(range(11, -1, -1)))
    certified = certify(network, backwards, tmp_path / "c.tsv")
    assert [row.idx for row in certified.rows] == list(range(110, -1, -10))
    forwards = certify(network, images, tmp_path / "forwards.tsv").rows
    assert without_time(certified.rows[::-1]) == without_time(forwards)


@pytest.mark.parametrize("certifier", [QUICK, SEQUENTIAL], ids=["tight", "sequential"])
@pytest.mark.parametrize("killed_after", range(0, 1500, 231))
def test_a_killed_certification_ends_with_the_same_rows(
    network, images, tmp_path, killed_after, certifier
):
    whole = certify(network, images, tmp_path / "whole.tsv", certifier=certifier).rows
    path = tmp_path / "killed.tsv"
    certify(network, images, path, certifier=certifier)
    path.write_bytes(path.read_bytes()[:killed_after])
    resumed = certify(network, images, path, certifier=certifier).rows
    assert without_time(resumed) == without_time(whole)
    assert by_index(read_certificates(path)) == without_time(whole)


MORTAL = """
import os, signal, sys, json, torch
from dataclasses import astuple, replace
from pathlib import Path
from torch import nn
from smoothcert.certify import *
from smoothcert.data.datasets import InMemoryImages
from smoothcert.noise import generator

class Mortal(nn.Module):
    passes_left = None
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        )
    def forward(self, images):
        if Mortal.passes_left is not None:
            Mortal.passes_left -= 1
            if Mortal.passes_left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.network(images)

def certify(path, batch_size):
    pixels = torch.rand(64, 1, 6, 6, generator=generator("cpu", 3))
    images = InMemoryImages(pixels, torch.arange(64) % 3)
    execution = Execution(batch_size=batch_size, freeze=False)
    smoothed = SmoothedClassifier(Mortal(), 0.5, 3, execution)
    return certify_examples(
        smoothed, TightCertifier(n0=20, n=200), images, Subset("val"), path
    ).rows

folder, results = Path(sys.argv[1]), {}
for batch_size, lives in ((37, (150, 120)), (512, (14, 10))):
    results[f"whole {batch_size}"] = certify(folder / f"whole_{batch_size}.tsv", batch_size)
    path, survivors = folder / f"killed_{batch_size}.tsv", []
    for passes in lives:
        child = os.fork()
        if not child:
            Mortal.passes_left = passes
            certify(path, batch_size)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        survivors.append((os.WTERMSIG(status), path.read_bytes().count(b"\\n") - 1))
    results[f"killed {batch_size}"] = certify(path, batch_size)
    results[f"survivors {batch_size}"] = survivors
print(json.dumps({
    name: rows if name.startswith("survivors")
    else [astuple(replace(row, time=0.0)) for row in rows]
    for name, rows in results.items()
}))
"""


def test_images_killed_twice_have_the_counts_of_one_go_whatever_the_batch_size(tmp_path):
    """Kill −9 in the middle of a forward pass, twice, in batches of 37 and of 512."""
    process = subprocess.run(
        [sys.executable, "-c", MORTAL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout)
    for batch_size in (37, 512):
        assert results[f"killed {batch_size}"] == results["whole 37"]
        (first, some), (second, more) = results[f"survivors {batch_size}"]
        assert first == second == signal.SIGKILL
        assert 0 < some < more < 64
    assert results["whole 512"] == results["whole 37"]
    assert len(results["whole 37"]) == 64


def test_finished_images_are_not_certified_again(network, images, tmp_path):
    first = certify(network, images, tmp_path / "c.tsv")
    before = (tmp_path / "c.tsv").read_bytes()
    again = certify(network, images, tmp_path / "c.tsv")
    assert again.performance is None
    assert again.rows == first.rows
    assert (tmp_path / "c.tsv").read_bytes() == before


def test_performance_is_that_of_this_call(network, images, tmp_path, monkeypatch):
    clock = itertools.count(0, 10)
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    performance = certify(network, images, tmp_path / "c.tsv", batch_size=40).performance
    assert performance.images_per_second == 12 / 10
    assert performance.samples_per_second == 12 * 220 / 10
    assert (performance.batch_size, performance.device) == (40, "cpu")
    assert performance.compiled is False
    assert performance.peak_memory_bytes > 50 * 2**20
    json.dumps(asdict(performance))


def test_peak_memory_never_falls_and_counts_what_is_touched():
    device = torch.device("cpu")
    before = peak_memory(device)
    touched = torch.ones(16 * 2**20)
    while_held = peak_memory(device)
    assert while_held >= max(before, touched.numel() * 4)
    del touched
    assert peak_memory(device) >= while_held


def test_bad_pixels_name_their_image_and_keep_finished_rows(network, images, tmp_path):
    whole = certify(network, images, tmp_path / "whole.tsv").rows
    images.images[11, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="at image 110"):
        certify(network, images, tmp_path / "c.tsv", batch_size=8)
    kept = read_certificates(tmp_path / "c.tsv")
    assert 0 < len(kept) < 12
    assert without_time(kept) == without_time(whole)[: len(kept)]


def test_images_that_have_changed_since_are_not_mixed_with_the_others(network, images, tmp_path):
    certify(network, images, tmp_path / "c.tsv", Subset("val", max_images=3))
    before = (tmp_path / "c.tsv").read_bytes()
    images.images[0, 0, 0, 0] = 0.123
    with pytest.raises(RecordsError, match=r"examples was '.*' and is now"):
        certify(network, images, tmp_path / "c.tsv", Subset("val", max_images=3))
    assert (tmp_path / "c.tsv").read_bytes() == before


CHANGES = {
    "weights": {},
    "seed": {"seed": 1},
    "n": {"certifier": TightCertifier(n0=20, n=300)},
    "bound": {"certifier": replace(QUICK, bound="rectangle")},
    "alpha_split": {"certifier": replace(QUICK, bound="rectangle", split=0.5)},
    "certifier": {"certifier": PrecisionCertifier(n0=20, n=200)},
    "target": {"certifier": replace(QUICK, target="label")},
    "stop_when_wrong": {"certifier": replace(QUICK, stop_when_wrong=True)},
    "max_images": {"subset": Subset("val", max_images=3)},
    "skip": {"subset": Subset("val", skip=2)},
    "start": {"subset": Subset("val", start=1)},
    "split": {"subset": Subset("test")},
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_of_another_configuration_are_neither_mixed_nor_overwritten(
    network, images, tmp_path, change
):
    path = tmp_path / "c.tsv"
    certify(network, images, path)
    before = path.read_bytes()
    if change == "weights":
        network[0].weight.data += 1
    with pytest.raises(
        RecordsError, match=rf"c\.tsv contains .*another configuration: .*{change} was"
    ):
        certify(network, images, path, **CHANGES[change])
    assert path.read_bytes() == before


def test_neither_precision_nor_noise_are_mixed(network, tmp_path):
    eighths = torch.randint(0, 256, (3, 1, 6, 6), generator=generator("cpu", 3), dtype=torch.uint8)
    images = InMemoryImages(eighths, torch.arange(3))
    path = tmp_path / "c.tsv"
    certify(network, images, path)
    for change, smoothed in (
        ("precision", SmoothedClassifier(network, 0.5, 3, Execution(precision="bfloat16"))),
        ("noise", SmoothedClassifier(network, 0.5, 3, noise="discrete")),
        ("sigma", SmoothedClassifier(network, 0.25, 3)),
    ):
        with pytest.raises(RecordsError, match=f"{change} was"):
            certify_examples(smoothed, QUICK, images, Subset("val"), path)


@pytest.mark.parametrize("setting", ["batch_size", "freeze", "channels_last"])
def test_how_the_votes_are_computed_does_not_matter_to_a_resume(network, images, tmp_path, setting):
    path = tmp_path / "c.tsv"
    whole = certify(network, images, path).rows
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    execution = Execution(**{setting: 16 if setting == "batch_size" else False})
    smoothed = SmoothedClassifier(network, 0.5, 3, execution)
    rows = certify_examples(smoothed, QUICK, images, Subset("val"), path).rows
    assert without_time(rows) == without_time(whole)


def test_settings_say_what_discrete_noise_leaves_of_alpha(network, tmp_path):
    pixels = torch.randint(0, 256, (3, 1, 6, 6), generator=generator("cpu", 3), dtype=torch.uint8)
    images = InMemoryImages(pixels, torch.arange(3))
    smoothed = SmoothedClassifier(network, 0.5, 3, noise="discrete")
    certified = certify_examples(smoothed, QUICK, images, Subset("val"), tmp_path / "c.tsv")
    left = smoothed.remaining_alpha((1, 6, 6), QUICK.n, QUICK.alpha)
    assert certified.settings["alpha"] == QUICK.alpha > certified.settings["alpha_for_votes"]
    assert certified.settings["alpha_for_votes"] == left
    assert len(certified.rows) == 3


@pytest.mark.parametrize("certifier", [QUICK, SEQUENTIAL, AnytimeCertifier(radii=[0, 0.5], n=200)])
def test_settings_are_those_in_the_file_next_to_the_rows(network, images, tmp_path, certifier):
    path = tmp_path / "c.tsv"
    certified = certify(network, images, path, certifier=certifier, configuration={"data": "d"})
    beside = json.loads(settings_path(path).read_text())
    assert beside == json.loads(json.dumps(certified.settings))
    assert (beside["data"], beside["split"], beside["start"]) == ("d", "val", 0)


def test_without_time_there_are_no_rows_and_the_next_call_has_them_all(network, images, tmp_path):
    whole = certify(network, images, tmp_path / "whole.tsv").rows
    path = tmp_path / "c.tsv"
    certified = certify(network, images, path, max_hours=1e-12)
    assert (certified.rows, certified.performance, certified.requested) == ([], None, 12)
    assert without_time(certify(network, images, path).rows) == without_time(whole)


def test_time_that_runs_out_leaves_finished_images_for_the_next_call(
    network, images, tmp_path, monkeypatch
):
    """A clock that goes on by a second at each look, and twenty seconds of it."""
    whole = certify(network, images, tmp_path / "whole.tsv").rows
    path, lengths = tmp_path / "c.tsv", []
    for _ in range(2):
        with monkeypatch.context() as patched:
            clock = itertools.count()
            counting = SimpleNamespace(perf_counter=lambda clock=clock: next(clock))
            patched.setattr(engine, "time", counting)
            patched.setattr(scheduling, "time", counting)
            certified = certify(network, images, path, batch_size=8, max_hours=20 / 3600)
        assert certified.requested == 12
        assert certified.performance.images_per_second > 0
        # Those that are finished beyond the first unfinished image wait for it.
        leading = certified.rows
        assert leading == [row for row in leading if row in read_certificates(path)]
        assert without_time(leading) == without_time(whole[: len(leading)])
        lengths.append(len(certified.rows))
    assert 0 < lengths[0] < lengths[1] < 12
    assert without_time(certify(network, images, path).rows) == without_time(whole)


@pytest.mark.parametrize("max_hours", [None, 1])
def test_images_that_nobody_certified_are_no_matter_of_time(
    network, images, tmp_path, monkeypatch, max_hours
):
    """As where somebody adds to the number that hands out the images."""
    whole = certify(network, images, tmp_path / "whole.tsv").rows
    path = tmp_path / "c.tsv"
    with monkeypatch.context() as patched:
        patched.setattr(engine.WorkQueue, "__iter__", lambda queue: iter(queue._positions[:5]))
        with pytest.raises(
            ProcessError, match=r"^Expected 12 certificates, got 5: no process certified"
        ):
            certify(network, images, path, max_hours=max_hours)
    assert without_time(read_certificates(path)) == without_time(whole[:5])
    assert without_time(certify(network, images, path).rows) == without_time(whole)


@pytest.mark.parametrize("hours", [0, -1.0, float("nan"), float("inf")])
def test_max_hours_out_of_range_are_refused_before_anything_is_written(
    network, images, tmp_path, hours
):
    with pytest.raises(InvalidArgumentError, match="Expected `max_hours` > 0"):
        certify(network, images, tmp_path / "c.tsv", max_hours=hours)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [{"skip": 0}, {"max_images": 0}, {"start": -1}])
def test_an_empty_subset_is_refused(arguments):
    with pytest.raises(InvalidArgumentError, match="Expected"):
        Subset("val", **arguments)


def test_a_start_beyond_the_last_image_is_refused(network, images, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"`start` below .* val images, 12, got 12"):
        certify(network, images, tmp_path / "c.tsv", Subset("val", start=12))


@pytest.mark.parametrize(("skip", "max_images"), [(1, 20), (3, 7), (1, None), (10, 1000)])
def test_a_subset_of_images_sorted_by_class_has_every_class_alike(skip, max_images):
    positions = Subset("val", skip, max_images).positions(1000)
    assert len(set(positions)) == len(positions) == min(max_images or 1000, -(-1000 // skip))
    assert all(position % skip == 0 for position in positions)
    counts = [sum(position // 100 == label for position in positions) for label in range(10)]
    assert max(counts) - min(counts) <= 2


@pytest.mark.parametrize("skip", [1, 7])
@pytest.mark.parametrize("start", [0, 5, 99])
def test_a_start_leaves_out_the_first_images_and_nothing_else(start, skip):
    positions = Subset("val", skip, start=start).positions(100)
    assert positions == list(range(start, 100, skip))
    some = Subset("val", skip, max_images=3, start=start).positions(100)
    assert some[0] == start
    assert set(some) <= set(positions)


def test_parts_of_a_data_set_together_are_all_of_it(network, images, tmp_path):
    """As machines share a test set: every third image each, from another start."""
    whole = certify(network, images, tmp_path / "whole.tsv").rows
    parts = [
        certify(network, images, tmp_path / f"{start}.tsv", Subset("val", 3, start=start)).rows
        for start in range(3)
    ]
    assert by_index(itertools.chain(*parts)) == without_time(whole)


LARGE = """
import resource, torch
from torch import nn
from smoothcert.certify import SmoothedClassifier, TightCertifier

class Cheap(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :1000] + torch.arange(1000) / 300

image = torch.full((3, 224, 224), 0.5)
[proof] = SmoothedClassifier(Cheap(), 0.25, 1000).certify(image, TightCertifier(n=100_000))
assert proof.n_samples == 100_000, proof
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_thousand_classes_at_224_pixels_take_less_than_4_gigabytes():
    """100,000 noisy copies are 56 GB; no more than a batch of them is ever held."""
    process = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) * 2**10 < 4 * 2**30


def test_a_path_may_be_in_a_folder_that_is_yet_to_be_made(network, images, tmp_path):
    path = Path(tmp_path, "new", "c.tsv")
    assert len(certify(network, images, path).rows) == len(read_certificates(path)) == 12
