"""Images in memory and images in files: batches follow from their key alone."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from smoothcert.data.datasets import FileImages, FixedBatches, InMemoryImages, to_unit
from smoothcert.data.sampling import BatchKey

LEVELS = torch.arange(256, dtype=torch.uint8)


def noisy(image):
    """An augmentation that draws from torch's global generator."""
    return image.float() / 255 * torch.rand(image.shape)


def in_memory(augmentation=None):
    return InMemoryImages(LEVELS.view(16, 1, 4, 4), torch.arange(16) % 3, None, augmentation)


@pytest.fixture
def files(write_image, tmp_path):
    paths = [write_image(tmp_path / f"{number}.png", (8, 8)) for number in range(6)]
    return FileImages(paths, torch.arange(6) % 2, to_unit)


@pytest.fixture
def augmented(files):
    return files.subset(np.arange(6), noisy)


def test_bytes_become_255ths():
    expected = np.arange(256, dtype=np.float32) / np.float32(255)
    assert np.array_equal(to_unit(LEVELS).numpy(), expected)
    assert torch.equal(in_memory().example(3)[0].flatten(), to_unit(LEVELS)[48:64])


def test_floats_stay_as_they_are():
    pixels = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    batch = InMemoryImages(pixels, torch.arange(3))[BatchKey([2, 0], 0)]
    assert torch.equal(batch.images, pixels[[2, 0]])


def test_a_batch_holds_images_labels_and_indices_in_the_keys_order():
    batch = in_memory()[BatchKey([7, 2, 15], seed=0)]
    assert torch.equal(batch.images.flatten(1), to_unit(LEVELS).view(16, 16)[[7, 2, 15]])
    assert batch.labels.tolist() == [7 % 3, 2, 0]
    assert batch.indices.tolist() == [7, 2, 15]


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_a_subset_of_a_subset_keeps_the_first_indices(kind, files):
    whole = in_memory() if kind == "memory" else files
    part = whole.subset(np.array([5, 1, 3])).subset(np.array([2, 0]))
    assert len(part) == 2
    assert part.indices.tolist() == [3, 5]
    for position, origin in enumerate([3, 5]):
        image, *rest = part.example(position)
        assert torch.equal(image, whole.example(origin)[0])
        assert rest == [int(whole.labels[origin]), origin]


def test_augmentation_gets_the_bytes_and_the_keys_seed():
    calls = []

    def record(images, generator):
        calls.append((images.dtype, generator.initial_seed()))
        return images

    in_memory(record)[BatchKey([0], seed=2**63 - 1)]
    assert calls == [(torch.uint8, 2**63 - 1)]


def test_single_examples_and_plain_subsets_are_not_augmented(augmented):
    def blacken(images, generator):
        return images * 0

    held = in_memory(blacken)
    assert held[BatchKey([9], 0)].images.sum() == 0
    assert held.example(9)[0].sum() > 0
    assert held.subset(np.array([9]))[BatchKey([0], 0)].images.sum() > 0
    plain = augmented.subset(np.arange(6))
    assert torch.equal(plain[BatchKey([4], 0)].images[0], augmented.example(4)[0])
    assert not torch.equal(augmented[BatchKey([4], 0)].images[0], augmented.example(4)[0])


def test_file_batches_are_the_files_pixels(files, pillow_pixels):
    batch = files[BatchKey([4, 1], seed=0)]
    expected = torch.stack([pillow_pixels(files.paths[i]) for i in (4, 1)])
    assert torch.equal(batch.images, expected.float() / 255)
    assert batch.labels.tolist() == [0, 1]
    assert batch.indices.tolist() == [4, 1]


def test_file_batches_follow_from_the_keys_seed_alone(augmented):
    torch.manual_seed(1)
    first = augmented[BatchKey([0, 1], seed=7)].images
    torch.manual_seed(2)
    assert torch.equal(augmented[BatchKey([0, 1], seed=7)].images, first)
    assert not torch.equal(augmented[BatchKey([0, 1], seed=8)].images, first)


def test_images_of_one_batch_are_augmented_differently(augmented):
    images = augmented[BatchKey([0, 0], seed=7)].images
    assert not torch.equal(images[0], images[1])


def test_file_batches_leave_the_global_generator_alone(augmented):
    state = torch.get_rng_state()
    augmented[BatchKey([0, 1, 2], seed=7)]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_size", [1, 5, 8, 16, 20])
def test_fixed_batches_hold_every_image_once_in_order(batch_size):
    batches = list(FixedBatches(in_memory(), batch_size))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(16))
    assert all(len(batch.indices) == batch_size for batch in batches[:-1])
    assert len(FixedBatches(in_memory(), batch_size)) == len(batches)


def test_fixed_batches_of_augmented_images_are_the_same_each_time(augmented):
    fixed = FixedBatches(augmented, 4)
    assert all(torch.equal(a.images, b.images) for a, b in zip(fixed, fixed, strict=True))


# Python 3.12 warns of every fork beside threads; the loader's workers are forks.
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@FORKS
def test_full_shared_memory_is_an_error_of_the_main_process(files, monkeypatch):
    """Left to torch, the worker's error would be printed and the batch awaited for ever."""

    def fail(_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)
    loader = DataLoader(files, sampler=[BatchKey([0], 0)], batch_size=None, num_workers=1)
    batches = iter(loader)
    with pytest.raises(RuntimeError, match=r"shared memory\(shm\)"):
        next(batches)
    # Read to its end, its process is gone at once.
    assert list(batches) == []


@FORKS
def test_results_do_not_depend_on_the_number_of_workers(augmented):
    keys = [BatchKey([number, 5 - number], seed=number) for number in range(6)]
    alone, together = (
        list(DataLoader(augmented, sampler=keys, batch_size=None, num_workers=workers))
        for workers in (0, 2)
    )
    assert all(
        torch.equal(a, b)
        for one, other in zip(alone, together, strict=True)
        for a, b in zip(one, other, strict=True)
    )
