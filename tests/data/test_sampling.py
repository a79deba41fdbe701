"""Batches of an epoch and the division into parts: what every image is owed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smoothcert.data.sampling import EpochBatches, held_out

SIZES = st.integers(1, 200)
BATCH_SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**32)
FRACTIONS = st.lists(st.floats(0, 0.99), min_size=1, max_size=3)


def positions(batches):
    return [position for key in batches for position in key.positions]


def at_epoch(epoch, size=20, batch_size=4, seed=0):
    batches = EpochBatches(size, batch_size, seed)
    batches.set_epoch(epoch)
    return list(batches)


@given(SIZES, BATCH_SIZES, SEEDS)
def test_batches_are_full_and_hold_no_image_twice(size, batch_size, seed):
    batches = EpochBatches(size, batch_size, seed)
    seen = positions(batches)
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(range(size))
    assert {len(key.positions) for key in batches} == {min(batch_size, size)}
    assert size - len(seen) < batch_size


@given(SIZES, BATCH_SIZES, SEEDS)
def test_length_is_the_number_of_batches(size, batch_size, seed):
    batches = EpochBatches(size, batch_size, seed)
    assert len(batches) == len(list(batches))


def test_an_epoch_is_the_same_whichever_came_before():
    batches = EpochBatches(20, 4, seed=0)
    for epoch in (0, 1, 2):
        batches.set_epoch(epoch)
        assert list(batches) == list(batches) == at_epoch(epoch)


def test_epochs_and_seeds_differ_in_order_and_augmentation():
    epochs = [at_epoch(epoch, seed=seed) for epoch in range(3) for seed in range(3)]
    assert len({tuple(positions(keys)) for keys in epochs}) == 9
    assert len({key.seed for keys in epochs for key in keys}) == 9 * 5


def test_the_images_that_an_epoch_drops_are_not_always_the_same():
    dropped = [frozenset(range(9)) - {*positions(at_epoch(e, size=9))} for e in range(200)]
    assert frozenset.union(*dropped) == frozenset(range(9))


@given(st.integers(0, 300), FRACTIONS, SEEDS)
def test_held_out_parts_are_disjoint_and_exhaustive(size, fractions, seed):
    parts = held_out(size, fractions, seed)
    assert len(parts) == 1 + len(fractions)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(size))


@given(st.integers(10, 300), st.lists(st.floats(0, 0.3), min_size=1, max_size=3), SEEDS)
def test_held_out_parts_have_their_share_and_at_least_one(size, fractions, seed):
    for part, fraction in zip(held_out(size, fractions, seed)[1:], fractions, strict=True):
        assert len(part) == 0 if fraction == 0 else len(part) >= 1
        assert abs(len(part) - size * fraction) <= (0.5 if size * fraction >= 0.5 else 1)


@given(SIZES, FRACTIONS, SEEDS)
def test_held_out_parts_are_sorted_and_follow_from_the_seed(size, fractions, seed):
    parts, again = held_out(size, fractions, seed), held_out(size, fractions, seed)
    assert all(np.all(np.diff(part) > 0) for part in parts)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_every_image_is_held_out_equally_often():
    """200 of 2,000 seeds are expected, with a standard deviation of 13.4."""
    times = np.bincount(np.concatenate([held_out(10, [0.1], seed)[1] for seed in range(2000)]))
    assert times.sum() == 2000
    assert np.all(np.abs(times - 200) < 5 * 13.4)
