"""Sampling designs and precisions, as the scripts of `benchmarks/` compare them."""

import numpy as np
import pytest
import torch

from designs import compare_designs, usual_designs
from precision import compare_precisions
from smoothcert.certify import Example, Execution, SmoothedClassifier, TightCertifier
from studies import VoteLog, draw_votes

RADII = [0.0, 0.25, 0.5, 0.75]


@pytest.fixture
def examples():
    source = torch.Generator().manual_seed(0)
    images = torch.rand((3, 1, 6, 6), generator=source)
    return [Example(image, index % 3, index) for index, image in enumerate(images)]


def simulated(images=6, draws=4100, seed=0):
    source = np.random.default_rng(seed)
    votes = [source.choice(4, size=draws, p=source.dirichlet([20, 2, 1, 1])) for _ in range(images)]
    return VoteLog(np.array(votes, dtype=np.uint8), np.zeros(images, dtype=np.int64), 4, 0.25)


def test_logged_votes_are_those_that_a_certification_sees(network, examples):
    log = draw_votes(network, examples, 0.25, 3, 150, Execution(batch_size=16), seed=5)
    assert log.votes.shape == (3, 150)
    smoothed = SmoothedClassifier(network, 0.25, 3)
    certifier = TightCertifier(n0=50, n=100, alpha=0.05)
    images = torch.stack([example.image for example in examples])
    for row, certificate in zip(log.votes, smoothed.certify(images, certifier, 5), strict=True):
        selected = np.bincount(row[:50], minlength=3).argmax()
        counts = np.bincount(row[50:], minlength=3)
        assert certificate.n_a == counts[selected]
        assert certificate.n_b == np.delete(counts, selected).max()


def test_a_log_comes_back_from_its_file(tmp_path):
    log = simulated(3, 50)
    log.save(tmp_path / "votes.npz")
    again = VoteLog.load(tmp_path / "votes.npz")
    assert np.array_equal(again.votes, log.votes)
    assert (again.num_classes, again.sigma) == (4, 0.25)


def test_fixed_designs_take_all_samples_and_sequential_ones_fewer():
    table = compare_designs(simulated(), usual_designs(100, 4000, 0.001, RADII), RADII)
    entries = {entry["design"]: entry for entry in table}
    assert entries["fixed, joint"]["samples_mean"] == 4100
    assert entries["fixed, joint"]["change_in_points"] == [0, 0, 0, 0]
    for name in ("sequential", "anytime", "precision, 10 %"):
        assert entries[name]["samples_mean"] < 4100
    for entry in table:
        accuracy = entry["certified_accuracy"]
        assert accuracy == sorted(accuracy, reverse=True)
        assert sum(entry["stops"].values()) == 6


def test_no_design_certifies_more_than_cohens_radius_of_unanimous_votes():
    log = VoteLog(np.zeros((1, 4100), dtype=np.uint8), np.zeros(1, dtype=np.int64), 2, 0.25)
    # The pilots choose sizes up to 3,100.
    largest = 0.25 * 2.9317  # σ Φ⁻¹(.001^(1/4000))
    for entry in compare_designs(log, usual_designs(100, 4000, 0.001, RADII), RADII):
        assert 0 < entry["acr"] <= largest


def test_bfloat16_votes_almost_as_float32(network, examples):
    entry = compare_precisions(network, examples, 0.25, 3, n=400)
    assert 0 <= entry["share_of_votes_that_differ"] < 0.1
    assert entry["radius_mean_absolute_difference"] <= entry["radius_largest_difference"]
    same = compare_precisions(network, examples, 0.25, 3, n=400, precision="float32")
    assert same["share_of_votes_that_differ"] == same["radius_largest_difference"] == 0
