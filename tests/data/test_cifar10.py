"""CIFAR-10 from torchvision's files, from class folders, and from the real JPEG copy."""

import pickle
import tarfile
from itertools import islice
from pathlib import Path
from shutil import copytree, rmtree
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import cifar

from smoothcert.data import CIFAR10DataModule, decoding
from smoothcert.errors import DataError, InvalidArgumentError, SmoothCertWarning

CLASSES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
PER_FILE = 8


@pytest.fixture(scope="module")
def fabricated():
    """Six batches of eight images as in the published files: five to train, one to test."""
    source = np.random.default_rng(0)
    data = source.integers(0, 256, (6, PER_FILE, 3072), dtype=np.uint8)
    labels = source.permuted(np.arange(5 * PER_FILE) % 10).reshape(5, PER_FILE)
    return data, np.vstack([labels, source.permutation(10)[:PER_FILE]])


@pytest.fixture
def pickled(fabricated, tmp_path, monkeypatch):
    """Write torchvision's layout; its check sums are those of the published files alone."""
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5: Path(path).is_file())
    folder = tmp_path / "pickled"
    contents = {"batches.meta": {"label_names": CLASSES}}
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name, data, labels in zip(names, *fabricated, strict=True):
        contents[name] = {"data": data, "labels": labels.tolist()}
    (folder / "cifar-10-batches-py").mkdir(parents=True)
    for name, content in contents.items():
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(content))
    return folder


@pytest.fixture
def class_folders(fabricated, tmp_path):
    """Write the same images as PNG files."""
    for batch, (data, labels) in enumerate(zip(*fabricated, strict=True)):
        for number, (row, label) in enumerate(zip(data, labels, strict=True)):
            split = "test" if batch == 5 else "train"
            folder = tmp_path / "folders" / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = row.reshape(3, 32, 32).transpose(1, 2, 0)
            Image.fromarray(pixels).save(folder / f"{batch}{number}.png")
    return tmp_path / "folders"


def everything(cifar10):
    """All images and labels in the order of their indices: training images, then test images."""
    train, val, test = (cifar10.images(split) for split in ("train", "val", "test"))
    order = torch.cat([train.indices, val.indices]).argsort()
    return [
        (torch.cat([getattr(train, name), getattr(val, name)])[order], getattr(test, name))
        for name in ("images", "labels")
    ]


def load(root, **options):
    return CIFAR10DataModule(str(root), **options)


def test_torchvisions_files_are_read_pixel_by_pixel(pickled, fabricated):
    data, labels = fabricated
    (train, test), (train_labels, test_labels) = everything(load(pickled))
    assert np.array_equal(train.numpy(), data[:5].reshape(40, 3, 32, 32))
    assert np.array_equal(test.numpy(), data[5].reshape(8, 3, 32, 32))
    assert np.array_equal(train_labels, labels[:5].flatten())
    assert np.array_equal(test_labels, labels[5])


def test_batches_agree_with_torchvisions_own_data_set(pickled):
    reference = cifar.CIFAR10(pickled, train=False)
    (batch,) = load(pickled).test_dataloader()
    for image, label, index in zip(*batch, strict=True):
        pixels, expected = reference[int(index)]
        assert int(label) == expected
        assert np.array_equal((image * 255).round().permute(1, 2, 0).numpy(), np.array(pixels))


def test_class_folders_hold_the_same_images_sorted_by_class(pickled, class_folders):
    (train, test), (train_labels, test_labels) = everything(load(pickled))
    for images, labels, (found, found_labels) in zip(
        (train, test),
        (train_labels, test_labels),
        zip(*everything(load(class_folders)), strict=True),
        strict=True,
    ):
        by_class = labels.argsort(stable=True)
        assert torch.equal(found_labels, labels[by_class])
        assert torch.equal(found, images[by_class])


@pytest.mark.parametrize("layout", ["pickled", "class_folders"])
def test_classes_have_the_published_names_and_order(layout, request):
    cifar10 = load(request.getfixturevalue(layout))
    cifar10.setup()
    assert cifar10.class_names == CLASSES
    assert cifar10.num_classes == 10


@pytest.mark.parametrize("split_seed", [0, 1])
def test_validation_images_are_held_out_of_training_by_the_split_seed(pickled, split_seed):
    parts = [
        load(pickled, seed=seed, split_seed=split_seed, val_fraction=0.2).images(split).indices
        for split in ("train", "val")
        for seed in (0, 1)
    ]
    assert torch.equal(parts[0], parts[1])
    assert torch.equal(parts[2], parts[3])
    assert sorted(torch.cat([parts[0], parts[2]]).tolist()) == list(range(40))
    assert len(parts[2]) == 8


def test_only_training_batches_are_augmented(class_folders):
    cifar10 = load(class_folders, batch_size=8)
    for split, loader in (("val", cifar10.val_dataloader()), ("test", cifar10.test_dataloader())):
        images = torch.cat([batch.images for batch in loader])
        assert torch.equal(images, cifar10.images(split).images.float() / 255)
    (batch, *_) = cifar10.train_dataloader()
    own = cifar10.images("train")
    plain = own.images[torch.searchsorted(own.indices, batch.indices)].float() / 255
    assert batch.images.shape[1:] == cifar10.input_shape
    assert not torch.equal(batch.images, plain)


@pytest.mark.parametrize("around", ["cifar10", "archive"])
def test_class_folders_may_lie_one_folder_down(class_folders, around, tmp_path):
    class_folders.rename(tmp_path / "moved")
    (tmp_path / "root").mkdir()
    (tmp_path / "moved").rename(tmp_path / "root" / around)
    assert len(load(tmp_path / "root").images("test")) == PER_FILE


@pytest.mark.parametrize("cache", [False, True])
def test_decoded_images_are_kept_only_on_request(class_folders, cache):
    load(class_folders, cache=cache).setup()
    assert len(list(class_folders.glob(".smoothcert/*.npy"))) == (2 if cache else 0)


def test_the_cache_gives_the_same_images(class_folders):
    first, second = (everything(load(class_folders)) for _ in range(2))
    assert torch.equal(first[0][0], second[0][0])
    assert torch.equal(first[0][1], second[0][1])


def test_a_missing_folder_is_named_with_layout_and_overrides(tmp_path):
    with pytest.raises(DataError) as caught:
        load(tmp_path / "none").setup()
    message = str(caught.value)
    assert str(tmp_path / "none") in message
    assert "cifar-10-batches-py" in message
    assert "train/<class>/<image>" in message
    assert "data.root=" in message
    assert "data.download=true" in message


def test_training_images_alone_are_not_cifar10(tmp_path, write_classes):
    write_classes(tmp_path / "train")
    with pytest.raises(DataError, match="No CIFAR-10 in"):
        load(tmp_path).setup()


def test_images_of_another_size_are_refused_with_the_way_out(tmp_path, write_classes):
    for split in ("train", "test"):
        write_classes(tmp_path / split, size=(33, 32))
    with pytest.raises(DataError, match=r"got \(3, 33, 32\).*data=image_folder"):
        load(tmp_path).setup()


def test_a_damaged_file_of_torchvision_is_an_error_of_ours(tmp_path):
    """Here the published check sums apply."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="torchvision: Dataset not found or corrupted"):
        load(tmp_path).setup()


def test_a_failed_download_says_why_and_what_to_set(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(cifar, "download_and_extract_archive", fail)
    with pytest.raises(
        DataError, match=r"cannot be downloaded .*Name or service not known"
    ) as caught:
        load(tmp_path, download=True).setup()
    assert "data.download" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "data.root=" in str(caught.value)


def test_the_real_jpeg_copy_is_read_as_pillow_reads_it(shared_file, tmp_path, pillow_pixels):
    """The archive opens with the test images; those of its first classes serve as both splits."""
    with tarfile.open(shared_file("cifar10-jpeg.tar.xz"), "r|xz") as archive:
        for member in islice(archive, 600):
            if member.isfile() and int(Path(member.name).stem) < 50:
                archive.extract(member, tmp_path, filter="data")
    copytree(tmp_path / "cifar10" / "test", tmp_path / "cifar10" / "train")
    (train, test), (labels, _) = everything(load(tmp_path, cache=False))
    expected = torch.stack(
        [pillow_pixels(p) for p in sorted(tmp_path.glob("cifar10/test/*/*.jpg"))]
    )
    assert labels.bincount().tolist() == [50, 50]
    assert (test.int() - expected.int()).abs().max() <= 2
    assert torch.equal(train, test)


def labels_by_index(cifar10):
    return {
        split: dict(zip(images.indices.tolist(), images.labels.tolist(), strict=True))
        for split in ("train", "val", "test")
        for images in (cifar10.images(split),)
    }


@pytest.fixture
def damaged(class_folders):
    """Class folders of which the training images 3 and 20 and the last test image are corrupt."""
    train, test = (sorted(class_folders.glob(f"{split}/*/*.png")) for split in ("train", "test"))
    # The test images have classes of one image: this one gets a second.
    copy = test[-1].with_name("copy.png")
    copy.write_bytes(test[-1].read_bytes())
    return class_folders, [train[3], train[20], copy]


@pytest.mark.parametrize("cache", [False, True])
def test_skipping_leaves_out_corrupt_files_and_nothing_else_changes(damaged, cache):
    root, corrupt = damaged
    whole = load(root, cache=False, val_fraction=0.2)
    before, pixels = labels_by_index(whole), everything(whole)[0][0]
    test_index = sorted(root.glob("test/*/*.png")).index(corrupt[2])
    for path in corrupt:
        path.write_bytes(b"no image")
    for _ in range(2):
        cifar10 = load(root, cache=cache, val_fraction=0.2, corrupt="skip")
        with pytest.warns(SmoothCertWarning, match="Left out") as caught:
            after = labels_by_index(cifar10)
        said = [str(each.message).partition(" images")[0] for each in caught]
        assert said == ["Left out 2 of 40", "Left out 1 of 9"]
        for split, lost in (("train", {3, 20}), ("val", {3, 20}), ("test", {test_index})):
            assert after[split] == {i: y for i, y in before[split].items() if i not in lost}
        kept = [i for i in range(40) if i not in (3, 20)]
        assert torch.equal(everything(cifar10)[0][0], pixels[kept])


def test_skipping_reads_no_file_the_second_time(damaged, monkeypatch):
    root, corrupt = damaged
    corrupt[0].write_bytes(b"no image")
    with pytest.warns(SmoothCertWarning):
        first = labels_by_index(load(root, corrupt="skip"))

    def forbid(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(decoding.Image, "open", forbid)
    with pytest.warns(SmoothCertWarning):
        assert labels_by_index(load(root, corrupt="skip")) == first


def test_a_corrupt_file_is_named_unless_it_is_skipped(damaged):
    root, corrupt = damaged
    corrupt[0].write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"{corrupt[0].name} is not .* data\.corrupt=skip"):
        load(root).setup()


def test_a_class_without_a_readable_file_is_named(class_folders):
    for path in class_folders.glob("train/dog/*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="train images of class 'dog' can be read"):
        load(class_folders, corrupt="skip").setup()


def test_another_answer_to_corrupt_files_is_refused():
    with pytest.raises(InvalidArgumentError, match="`corrupt` one of error, skip, got 'drop'"):
        load("anywhere", corrupt="drop")


@pytest.mark.parametrize("split", ["train", "test"])
def test_torchvisions_other_files_need_not_be_there(pickled, split):
    whole = load(pickled).images(split)
    for path in pickled.glob("*/data_batch_*" if split == "test" else "*/test_batch"):
        path.unlink()
    alone = load(pickled).images(split)
    assert torch.equal(alone.images, whole.images)
    assert torch.equal(alone.labels, whole.labels)
    with pytest.raises(DataError, match="No CIFAR-10 in"):
        load(pickled).images("train" if split == "test" else "test")


@pytest.mark.parametrize("cache", [False, True])
def test_test_images_in_class_folders_need_no_training_images(class_folders, opened, cache):
    options = {"cache": cache, "corrupt": "skip" if cache else "error"}
    whole = load(class_folders, **options).images("test")
    assert {path.parents[1].name for path in opened} == {"test"}
    rmtree(class_folders / "train")
    # They lack classes.
    assert len(list(class_folders.glob("test/*"))) < 10
    cifar10 = load(class_folders, **options)
    assert cifar10.class_names == CLASSES
    alone = cifar10.images("test")
    for name in ("images", "labels", "indices"):
        assert torch.equal(getattr(alone, name), getattr(whole, name))
    with pytest.raises(DataError, match="No training images"):
        cifar10.images("train")


def test_training_opens_no_test_image(class_folders, opened):
    cifar10 = load(class_folders)
    cifar10.setup("fit")
    # The first image is decoded once more, for its size.
    assert len(opened) == 5 * PER_FILE + 1
    assert {path.parents[1].name for path in opened} == {"train"}


@pytest.mark.parametrize("cache", [False, True])
def test_validation_images_alone_are_those_of_training(class_folders, opened, cache):
    alone = load(class_folders, cache=cache).images("val")
    assert len(set(opened)) == len(alone) == 4
    whole = load(class_folders, cache=cache)
    whole.setup("fit")
    for name in ("images", "labels", "indices"):
        assert torch.equal(getattr(alone, name), getattr(whole.images("val"), name))
    opened.clear()
    load(class_folders, cache=cache).images("val")
    assert bool(opened) is not cache


def test_the_folder_of_classes_with_other_names_is_named(tmp_path, write_classes, caplog):
    write_classes(tmp_path / "train", ("car", "plane"))
    write_classes(tmp_path / "test", ("car", "plane"))
    assert load(tmp_path).class_names == ["car", "plane"]
    assert "other names than airplane …, for example car: published weights may" in caplog.text
