"""A user's own class folders, kept in memory or decoded when they are due."""

import re
import warnings
from io import StringIO
from itertools import chain

import pytest
import torch
from joblib.externals.loky.backend import context

from smoothcert.data import ImageFolderDataModule, decoding
from smoothcert.data.photographs import evaluation_transform
from smoothcert.errors import DataError, InvalidArgumentError, SmoothCertWarning

SPLITS = ("train", "val", "test")
# Python 3.12 warns of every fork beside threads; the loader's workers are forks.
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def root(write_classes, tmp_path):
    """Images that are no squares; train, validation and test folders."""
    for split, each in zip(SPLITS, (5, 2, 3), strict=True):
        write_classes(tmp_path / split, each=each, size=(40, 56))
    return tmp_path


def load(root, **options):
    return ImageFolderDataModule(str(root), **{"num_workers": 0, "image_size": 28} | options)


def batches(folder, split):
    loader = getattr(folder, f"{split}_dataloader")()
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("split", SPLITS)
def test_batches_have_the_shape_and_labels_of_the_folders(root, in_memory, split):
    folder = load(root, in_memory=in_memory, batch_size=2)
    images, labels, indices = batches(folder, split)
    assert images.shape[1:] == folder.input_shape == (3, 28, 28)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    each = {"train": 5, "val": 2, "test": 3}[split]
    assert labels.bincount().tolist() == [each, each]
    assert torch.equal(labels, indices // each)


def test_classes_are_named_after_the_folders(root):
    folder = load(root)
    folder.setup()
    assert folder.class_names == ["cat", "dog"]
    assert folder.num_classes == 2


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_images_are_the_files_resized_and_cropped(root, split, pillow_pixels):
    images, _, indices = batches(load(root, in_memory=False), split)
    paths = sorted(root.glob(f"{split}/*/*.png"))
    expected = [evaluation_transform(28)(pillow_pixels(paths[index])) for index in indices]
    assert torch.equal(images, torch.stack(expected))


@pytest.mark.parametrize("split", ["val", "test"])
def test_memory_and_files_agree_to_half_a_level(root, split):
    kept, decoded = (load(root, in_memory=choice) for choice in (True, False))
    difference = batches(kept, split)[0] - batches(decoded, split)[0]
    assert difference.abs().max() <= 0.501 / 255


def test_training_images_in_memory_are_padded_cropped_and_flipped(root):
    plain = load(root, crop_padding=0, flip=False)
    for options in ({"flip": False}, {"crop_padding": 0}):
        assert not torch.equal(
            batches(load(root, **options), "train")[0], batches(plain, "train")[0]
        )
    images, _, indices = batches(plain, "train")
    own = plain.images("train")
    assert torch.equal(images, torch.stack([own.example(int(index))[0] for index in indices]))


@pytest.mark.parametrize(("size", "in_memory"), [(64, True), (65, False)])
def test_small_images_stay_in_memory_by_default(root, size, in_memory):
    folder = load(root, image_size=size, num_workers=3)
    assert folder.in_memory is in_memory
    assert folder.num_workers == (0 if in_memory else 3)
    assert load(root, image_size=size, in_memory=not in_memory).in_memory is not in_memory


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_grey_transparent_and_palette_images_become_rgb(
    root, in_memory, mode, write_image, pillow_pixels
):
    path = write_image(root / "test" / "cat" / "0.png", (32, 32), mode)
    image = batches(load(root, in_memory=in_memory), "test")[0][0]
    expected = evaluation_transform(28)(pillow_pixels(path))
    assert image.shape == (3, 28, 28)
    assert (image - expected).abs().max() <= 0.501 / 255


@pytest.mark.parametrize("in_memory", [True, False])
def test_class_folders_alone_are_divided_without_overlap(tmp_path, write_classes, in_memory):
    write_classes(tmp_path, each=10)
    folder = load(tmp_path, in_memory=in_memory, val_fraction=0.2, test_fraction=0.3)
    parts = [folder.images(split).indices.tolist() for split in SPLITS]
    assert [len(part) for part in parts] == [10, 4, 6]
    assert sorted(chain(*parts)) == list(range(20))


@pytest.mark.parametrize("in_memory", [True, False])
def test_seed_and_epoch_decide_the_training_batches(root, in_memory):
    def images(seed, epoch):
        loader = load(root, in_memory=in_memory, seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return next(iter(loader)).images

    assert torch.equal(images(1, 2), images(1, 2))
    assert not torch.equal(images(1, 2), images(1, 3))
    assert not torch.equal(images(1, 2), images(2, 2))


@FORKS
def test_workers_do_not_change_the_training_batches(root):
    alone, helped = (load(root, in_memory=False, num_workers=count) for count in (0, 2))
    pairs = zip(batches(alone, "train"), batches(helped, "train"), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_normalisation_is_imagenets_unless_given(root):
    """The published constants of torchvision's weights."""
    assert load(root).mean == (0.485, 0.456, 0.406)
    assert load(root).std == (0.229, 0.224, 0.225)
    assert load(root, mean=[0.1, 0.2, 0.3]).mean == (0.1, 0.2, 0.3)


def test_a_corrupt_image_is_named(root):
    path = root / "train" / "cat" / "bad.png"
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cat.bad\.png"):
        load(root, in_memory=True).setup()
    with pytest.raises(DataError, match=r"cat.bad\.png"):
        batches(load(root, in_memory=False), "train")


def test_a_missing_folder_is_named_with_the_override(tmp_path):
    with pytest.raises(DataError, match=r"none: it does not exist.*data\.root="):
        load(tmp_path / "none").setup()


def test_an_image_size_of_nothing_is_an_error(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"`image_size` .* got 0"):
        load(tmp_path, image_size=0)


@pytest.fixture
def damaged(write_classes, write_corrupt, tmp_path):
    """One folder of class folders, 13 cats and 13 dogs; three of either cannot be decoded."""
    write_classes(tmp_path, each=10, size=(40, 56))
    corrupt = write_corrupt(tmp_path / "cat") | write_corrupt(tmp_path / "dog")
    paths = sorted(tmp_path.glob("*/*"))
    return tmp_path, {paths.index(path) for path in corrupt}


def left_out(caught):
    """How many images the warnings say are left out."""
    return sum(int(re.match(r"Left out (\d+) of", str(each.message))[1]) for each in caught)


def facts(folder):
    """Label of each index, in each split."""
    return {
        split: dict(zip(images.indices.tolist(), images.labels.tolist(), strict=True))
        for split in SPLITS
        for images in (folder.images(split),)
    }


@pytest.mark.parametrize("in_memory", [True, False])
def test_skipping_leaves_out_the_corrupt_and_nothing_else_changes(damaged, in_memory, write_image):
    root, corrupt = damaged
    options = {"in_memory": in_memory, "val_fraction": 0.3, "test_fraction": 0.3}
    with pytest.warns(SmoothCertWarning) as caught:
        found = facts(load(root, corrupt="skip", **options))
    assert left_out(caught) == 6
    paths = sorted(root.glob("[!.]*/*"))
    for index in corrupt:
        write_image(paths[index], (40, 56))
    mended = facts(load(root, **options))
    for split in SPLITS:
        expected = {i: label for i, label in mended[split].items() if i not in corrupt}
        assert found[split] == expected
    assert sum(map(len, found.values())) == 20


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("split", SPLITS)
def test_the_other_images_are_the_files_of_their_indices(
    root, in_memory, split, write_corrupt, pillow_pixels
):
    for each in SPLITS:
        write_corrupt(root / each / "cat")
    folder = load(root, in_memory=in_memory, corrupt="skip")
    with pytest.warns(SmoothCertWarning, match="Left out 3 of "):
        images = folder.images(split)
    paths = sorted(root.glob(f"{split}/*/*"))
    for position, index in enumerate(images.indices.tolist()):
        image, label, own = images.example(position)
        assert own == index
        assert ["cat", "dog"][label] == paths[index].parent.name
        expected = evaluation_transform(28)(pillow_pixels(paths[index]))
        assert (image - expected).abs().max() <= 0.501 / 255


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_training_epoch_meets_no_corrupt_image(damaged, in_memory):
    root, corrupt = damaged
    folder = load(root, in_memory=in_memory, corrupt="skip", batch_size=1)
    with pytest.warns(SmoothCertWarning):
        _, _, indices = batches(folder, "train")
    assert set(indices.tolist()) == set(folder.images("train").indices.tolist())
    assert not corrupt & set(indices.tolist())


def test_without_corrupt_images_skipping_changes_nothing(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, plain = (load(root, in_memory=False, corrupt=c) for c in ("skip", "error"))
        assert facts(found) == facts(plain)


def test_the_second_start_warns_too_and_reads_no_image(damaged, monkeypatch):
    root, _ = damaged
    with pytest.warns(SmoothCertWarning) as caught:
        first = facts(load(root, in_memory=False, corrupt="skip"))

    def forbid(*_):
        raise AssertionError("read again")

    monkeypatch.setattr(decoding.Image, "open", forbid)
    with pytest.warns(SmoothCertWarning) as again:
        assert facts(load(root, in_memory=False, corrupt="skip")) == first
    with pytest.warns(SmoothCertWarning) as other:
        assert facts(load(root, in_memory=False, corrupt="skip", split_seed=1)) != first
    assert left_out(caught) == left_out(again) == left_out(other) == 6
    assert len(list((root / ".smoothcert").iterdir())) == 1


def test_images_in_memory_are_read_once(root, write_corrupt, opened):
    corrupt = write_corrupt(root / "train" / "cat")
    with pytest.warns(SmoothCertWarning, match="Left out 3 of 13"):
        load(root, in_memory=True, corrupt="skip").setup()
    # The first readable image of each split is read before the others too, for their size.
    assert len([path for path in opened if path not in corrupt]) == 20 + len(SPLITS)
    assert not (root / ".smoothcert").exists()


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_a_readable_image_is_named(root, in_memory, split):
    for path in root.glob(f"{split}/dog/*"):
        path.write_bytes(b"no image")
    folder = load(root, in_memory=in_memory, corrupt="skip")
    with (
        pytest.warns(SmoothCertWarning),
        pytest.raises(DataError, match=rf"None of the . {split} images of class 'dog' .*dog/"),
    ):
        folder.setup()


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_split_without_a_readable_image_is_named(root, in_memory):
    for path in root.glob("val/*/*"):
        path.write_bytes(b"no image")
    folder = load(root, in_memory=in_memory, corrupt="skip")
    with (
        pytest.warns(SmoothCertWarning),
        pytest.raises(DataError, match="None of the 4 val images can be read"),
    ):
        folder.setup()


def test_another_answer_to_corrupt_images_is_refused(root):
    with pytest.raises(InvalidArgumentError, match="`corrupt` one of error, skip, got 'drop'"):
        load(root, corrupt="drop")


SPLITS_OPENED = pytest.mark.parametrize(
    ("in_memory", "corrupt"), [(True, "error"), (True, "skip"), (False, "skip"), (False, "error")]
)


@SPLITS_OPENED
@pytest.mark.parametrize("split", SPLITS)
def test_a_split_in_a_folder_of_its_own_opens_no_file_of_another(
    root, opened, split, in_memory, corrupt
):
    folder = load(root, in_memory=in_memory, corrupt=corrupt)
    assert (folder.class_names, opened) == (["cat", "dog"], [])
    folder.images(split).example(0)
    assert {path.parents[1].name for path in opened} == {split}


@SPLITS_OPENED
@pytest.mark.parametrize("split", ["val", "test"])
def test_images_held_out_open_no_file_of_another_split(
    tmp_path, write_classes, opened, split, in_memory, corrupt
):
    write_classes(tmp_path, each=10)
    options = {"in_memory": in_memory, "corrupt": corrupt, "test_fraction": 0.3}
    images = load(tmp_path, **options).images(split)
    images.example(0)
    seen = set(opened)
    paths = sorted(tmp_path.glob("[!.]*/*"))
    assert 0 < len(seen) <= len(images) < 10
    assert seen <= {paths[index] for index in images.indices.tolist()}
    # The same images, under the same indices, as where the others are loaded too.
    whole = load(tmp_path, **options)
    whole.setup()
    assert torch.equal(images.indices, whole.images(split).indices)
    places = range(len(images))
    assert images.digest(places) == whole.images(split).digest(places)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("name", ["val", "test"])
def test_test_images_alone_serve_certification(tmp_path, write_classes, in_memory, name):
    write_classes(tmp_path / name, ("ant", "cat"), each=3, size=(40, 56))
    folder = load(tmp_path, in_memory=in_memory)
    assert folder.images("test").labels.tolist() == [0, 0, 0, 1, 1, 1]
    for split in ("train", "val"):
        with pytest.raises(DataError, match=rf"No training images .*data\.root={tmp_path}/{name}$"):
            folder.images(split)
    assert len(load(tmp_path / name, in_memory=in_memory).images("train")) == 4


def test_test_images_alone_keep_the_numbers_of_the_classes_in_training(tmp_path, write_classes):
    write_classes(tmp_path / "test", ("ant", "cat"), each=1)
    folder = load(tmp_path)
    folder.trained_classes = ["ant", "bee", "cat"]
    assert folder.num_classes == 3
    assert folder.images("test").labels.tolist() == [0, 2]


def test_classes_that_training_did_not_have_are_not_renumbered(tmp_path, write_classes, caplog):
    write_classes(tmp_path / "test", ("ant", "elk"), each=1)
    folder = load(tmp_path)
    folder.trained_classes = ["ant", "bee", "cat"]
    assert folder.class_names == ["ant", "elk"]
    assert "other names than ant …, for example elk" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_size": "abc"}, "`image_size` a whole number >= 1, got abc"),
        ({"image_size": -1}, "`image_size` a whole number >= 1, got -1"),
        ({"batch_size": 0}, "`batch_size` a whole number >= 1, got 0"),
        ({"val_fraction": 2}, r"`val_fraction` in \(0, 1\), got 2"),
        ({"val_fraction": "abc"}, r"`val_fraction` in \(0, 1\), got abc"),
        ({"test_fraction": "abc"}, r"test_fraction\) in \[0, 1\), got abc"),
        ({"num_workers": -1}, "`num_workers` a whole number >= 0, got -1"),
        ({"crop_padding": -1}, "`crop_padding` a whole number >= 0, got -1"),
        ({"split_seed": "abc"}, "`split_seed` a whole number >= 0, got abc"),
        ({"mean": [0.5]}, r"`mean` of 3 channels, got \[0\.5\]"),
        ({"std": [0.5, 0, 0.5]}, "`std` > 0 and finite, got 0"),
    ],
)
def test_settings_out_of_range_are_named(root, wrong, message):
    with pytest.raises(InvalidArgumentError, match=f"^Expected .*{message}$"):
        load(root, **{"in_memory": False} | wrong)


def test_workers_are_as_many_as_the_cpus_that_may_be_used(root, monkeypatch):
    """A container's quota, and a scheduler's affinity, of a machine with 64 CPUs."""
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    workers = {"num_workers": None, "in_memory": False}
    assert load(root, **workers).num_workers == 6
    quota = {"/sys/fs/cgroup/cpu.max": "250000 100000"}
    monkeypatch.setattr("os.path.exists", lambda path: path in quota)
    monkeypatch.setattr(context, "open", lambda path: StringIO(quota[path]), raising=False)
    assert load(root, **workers).num_workers == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert load(root, **workers).num_workers == 1
