"""Throughput beside the reference algorithm: what is counted, not how fast it is."""

import statistics

import pytest
import torch

from smoothcert.benchmarks import measure_throughput, summarize_throughput
from smoothcert.benchmarks.reference import has_art, reference_seconds
from smoothcert.certify import Example, Execution, SequentialCertifier


@pytest.fixture
def measured(network, monkeypatch):
    monkeypatch.setattr("smoothcert.benchmarks.throughput.has_art", lambda: False)
    source = torch.Generator().manual_seed(0)
    images = torch.rand((2, 1, 6, 6), generator=source)
    return measure_throughput(
        network,
        [Example(image, None, index) for index, image in enumerate(images)],
        SequentialCertifier(n0=50, n=2000, radii=(0.0, 0.25)),
        sigma=0.25,
        num_classes=3,
        executions={"ours": Execution(batch_size=64), "ours bfloat16": Execution("bfloat16")},
        repeats=2,
        reference_batches=1,
    )


def test_the_reference_takes_all_samples_and_ours_what_its_certifier_asks_for(measured):
    reference, ours, other = measured
    assert (reference.name, reference.samples_per_image) == ("reference", 2050)
    assert 50 < ours.samples_per_image < 2050
    assert 50 < other.samples_per_image < 2050


def test_every_repeat_is_measured_and_compared_with_its_own_reference(measured):
    for each, summary in zip(measured, summarize_throughput(measured), strict=True):
        assert len(each.samples_per_second) == 2
        assert min(each.samples_per_second) > 0
        assert each.peak_memory_bytes > 0
        ratios = [
            a / b for a, b in zip(each.images_per_hour, measured[0].images_per_hour, strict=True)
        ]
        assert summary["images_ratio"]["median"] == pytest.approx(statistics.median(ratios))
        assert summary["images_ratio"]["min"] == pytest.approx(min(ratios))


def test_the_reference_votes_in_batches_of_a_thousand_and_one_before_the_clock():
    sizes = []

    class Counting(torch.nn.Module):
        def forward(self, images):
            sizes.append(len(images))
            return torch.zeros(len(images), 3)

    assert reference_seconds(Counting(), torch.zeros(1, 6, 6), 0.25, 3, batches=4) > 0
    assert sizes == [1000] * 5


@pytest.mark.slow
@pytest.mark.skipif(not has_art(), reason="ART is not installed")
def test_art_certifies_in_the_table(network):
    from smoothcert.benchmarks.reference import art_seconds

    assert art_seconds(network, torch.rand(1, 6, 6), 0.25, 3, samples=200) > 0
