"""Certification of a data set, and what interrupts it."""

from dataclasses import replace

import pytest
import torch

from smoothcert.certify import (
    SmoothedClassifier,
    Subset,
    TightCertifier,
    certify_examples,
    weights_digest,
)
from smoothcert.data.datasets import InMemoryImages
from smoothcert.errors import InvalidArgumentError, NonFiniteError, RecordsError
from smoothcert.noise import generator
from smoothcert.records import read_certificates

QUICK = TightCertifier(n0=20, n=200)


@pytest.fixture
def images() -> InMemoryImages:
    pixels = torch.rand(12, 1, 6, 6, generator=generator("cpu", 3))
    return InMemoryImages(pixels, torch.arange(12) % 3, torch.arange(12) * 10)


def certify(network, images, path, subset=None, certifier=QUICK, seed=0):
    smoothed = SmoothedClassifier(network, 0.5, 3)
    return certify_examples(smoothed, certifier, images, subset or Subset("val"), path, seed)


def without_time(rows):
    return [replace(row, time=0.0) for row in rows]


def test_rows_carry_the_data_sets_own_indices_and_labels(network, images, tmp_path):
    rows = certify(network, images, tmp_path / "c.tsv", Subset("val", skip=5)).rows
    assert [(row.idx, row.label) for row in rows] == [(0, 0), (50, 2), (100, 1)]
    assert read_certificates(tmp_path / "c.tsv") == rows


@pytest.mark.parametrize("killed_after", range(0, 1500, 113))
def test_a_killed_certification_ends_with_the_same_rows(network, images, tmp_path, killed_after):
    whole = certify(network, images, tmp_path / "whole.tsv").rows
    path = tmp_path / "killed.tsv"
    certify(network, images, path)
    path.write_bytes(path.read_bytes()[:killed_after])
    assert without_time(certify(network, images, path).rows) == without_time(whole)
    assert without_time(read_certificates(path)) == without_time(whole)


def test_finished_images_are_not_certified_again(network, images, tmp_path):
    certify(network, images, tmp_path / "c.tsv")
    again = certify(network, images, tmp_path / "c.tsv")
    assert again.images_per_second is None
    assert len(again.rows) == 12


def test_bad_pixels_stop_at_their_image_and_keep_finished_rows(network, images, tmp_path):
    images.images[7, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="at image 70"):
        certify(network, images, tmp_path / "c.tsv")
    assert [row.idx for row in read_certificates(tmp_path / "c.tsv")] == list(range(0, 70, 10))


@pytest.mark.parametrize("change", ["weights", "seed", "n", "alpha_split", "max_images"])
def test_rows_of_another_configuration_are_neither_mixed_nor_overwritten(
    network, images, tmp_path, change
):
    path = tmp_path / "c.tsv"
    certify(network, images, path)
    before = path.read_bytes()
    arguments = {
        "weights": {},
        "seed": {"seed": 1},
        "n": {"certifier": TightCertifier(n0=20, n=300)},
        "alpha_split": {"certifier": replace(QUICK, split=0.5)},
        "max_images": {"subset": Subset("val", max_images=3)},
    }[change]
    if change == "weights":
        network[0].weight.data += 1
    with pytest.raises(
        RecordsError, match=rf"c\.tsv holds .*another configuration: .*{change} was"
    ):
        certify(network, images, path, **arguments)
    assert path.read_bytes() == before


def test_digest_changes_with_buffers_too(network):
    before = weights_digest(network)
    network[1].running_mean += 1
    assert weights_digest(network) != before


@pytest.mark.parametrize("arguments", [{"skip": 0}, {"max_images": 0}])
def test_an_empty_subset_is_refused(arguments):
    with pytest.raises(InvalidArgumentError, match="Expected"):
        Subset("val", **arguments)


@pytest.mark.parametrize(("skip", "max_images"), [(1, 20), (3, 7), (1, None), (10, 1000)])
def test_a_subset_of_images_sorted_by_class_has_every_class_alike(skip, max_images):
    positions = Subset("val", skip, max_images).positions(1000)
    assert len(set(positions)) == len(positions) == min(max_images or 1000, -(-1000 // skip))
    assert all(position % skip == 0 for position in positions)
    counts = [sum(position // 100 == label for position in positions) for label in range(10)]
    assert max(counts) - min(counts) <= 2
