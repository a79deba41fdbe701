"""ImageNet's layout in small, and forty real photographs where they are."""

import tarfile

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import imagenet as reference
from torchvision.models import ResNet50_Weights

from smoothcert.data import ImageNetDataModule
from smoothcert.data.imagenet import CLASSES
from smoothcert.errors import DataError, SmoothCertWarning

SPLITS = ("train", "val", "test")


def load(root, **options):
    return ImageNetDataModule(str(root), num_workers=0, **options)


@pytest.fixture
def small(write_classes, tmp_path):
    for split, each in (("train", 50), ("val", 2)):
        write_classes(tmp_path / split, ("n01", "n02"), each, size=(20, 30))
    return tmp_path


@pytest.fixture
def photographs(shared_file, tmp_path):
    with tarfile.open(shared_file("imagenet-sample.tar")) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "imagenet-sample"


def test_the_official_validation_images_are_the_test_images(small):
    imagenet = load(small, val_fraction=0.05)
    sizes = [len(imagenet.images(split)) for split in SPLITS]
    assert sizes == [95, 5, 4]
    assert {path.parents[1].name for path in imagenet.images("test").paths} == {"val"}


def test_validation_images_are_held_out_of_the_training_images(small):
    imagenet = load(small, val_fraction=0.05)
    train, val = (imagenet.images(split).indices for split in ("train", "val"))
    assert sorted(torch.cat([train, val]).tolist()) == list(range(100))
    assert {path.parents[1].name for path in imagenet.images("val").paths} == {"train"}


def test_training_batches_are_224_pixels_wide(small):
    batch = next(iter(load(small, batch_size=3).train_dataloader()))
    assert batch.images.shape == (3, 3, 224, 224)


def test_normalisation_is_that_of_torchvisions_weights(small):
    published = ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert list(load(small).mean) == published.mean
    assert list(load(small).std) == published.std


def test_real_photographs_are_prepared_as_torchvisions_weights_ask(photographs, pillow_pixels):
    """The published preprocessing, up to the rounding of bytes after the resize."""
    imagenet = load(photographs)
    prepare = ResNet50_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (imagenet.mean, imagenet.std))
    (batch,) = imagenet.test_dataloader()
    assert batch.images.shape == (40, 3, 224, 224)
    for image, path in zip(batch.images, imagenet.images("test").paths, strict=True):
        expected = prepare(pillow_pixels(path)) * std + mean
        assert (image - expected).abs().max() <= 2.01 / 255


def test_test_images_alone_are_numbered_as_the_published_weights_number_them(photographs):
    """The sample's files are named after their classes, in torchvision's words."""
    imagenet = load(photographs)
    assert imagenet.num_classes == 1000
    images = imagenet.images("test")
    words = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    for path, label in zip(images.paths, images.labels.tolist(), strict=True):
        assert path.stem.partition("_")[2].replace("_", " ") == words[label]
    assert len(images) == 40


def test_the_published_classes_are_those_of_timm():
    info = pytest.importorskip("timm.data").ImageNetInfo("imagenet-1k")
    assert list(CLASSES) == info.label_names() == sorted(CLASSES)


def test_forty_real_photographs_in_class_folders_alone_are_divided(photographs):
    imagenet = load(photographs / "val", batch_size=8)
    parts = [imagenet.images(split) for split in SPLITS]
    assert imagenet.num_classes == 40
    assert sorted(torch.cat([part.labels for part in parts]).tolist()) == list(range(40))
    for part in parts:
        folders = [path.parent.name for path in part.paths]
        assert [imagenet.class_names[label] for label in part.labels] == folders


def test_real_photographs_make_training_batches(photographs):
    batch = next(iter(load(photographs / "val", batch_size=8).train_dataloader()))
    assert batch.images.shape == (8, 3, 224, 224)
    assert torch.all((batch.images >= 0) & (batch.images <= 1))
    assert batch.images.std() > 0.1


def test_corrupt_photographs_are_left_out_on_request(small, write_corrupt):
    write_corrupt(small / "train" / "n01")
    imagenet = load(small, val_fraction=0.05, corrupt="skip")
    with pytest.warns(SmoothCertWarning, match="Left out 3 of 98 images"):
        sizes = [len(imagenet.images(split)) for split in SPLITS]
    assert sum(sizes[:2]) == 100
    assert sizes[2] == 4


WNIDS = ["n01443537", "n01440764", "n15075141", "n01440764"]
NAMES = [f"ILSVRC2012_val_{number:08d}" for number in range(1, 5)]


@pytest.fixture
def flat(write_image, tmp_path):
    """Four validation images as they are unpacked, some folders down, and the same ones sorted."""
    folder = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    for number, (wnid, name) in enumerate(zip(WNIDS, NAMES, strict=True)):
        path = write_image(folder / "val" / f"{name}.JPEG", (20 + number, 30))
        copy = tmp_path / "sorted" / "val" / wnid / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


def write_solution(folder):
    rows = [f"{name},{wnid} 1 2 30 40 " for name, wnid in zip(NAMES, WNIDS, strict=True)]
    text = "\n".join(["ImageId,PredictionString", *rows[::-1]])
    (folder / "LOC_val_solution.csv").write_text(f"{text}\n")


def write_kit(folder):
    """The development kit, whose numbers are not those of the sorted identifiers."""
    folder.mkdir(exist_ok=True, parents=True)
    numbers = {"n15075141": 1, "n01440764": 2, "n01443537": 3, "n00000001": 1001}
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children"]
    synsets = np.empty((len(numbers), 1), dtype=[(name, object) for name in fields])
    for row, (wnid, number) in zip(synsets, numbers.items(), strict=True):
        row[0] = (float(number), wnid, "word, other", "gloss", float(number > 1000), 0.0)
    savemat(folder / "meta.mat", {"synsets": synsets})
    truth = "\n".join(str(numbers[wnid]) for wnid in WNIDS)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(f"{truth}\n")


PLACES = [
    ("solution", "val"), ("solution", "."), ("solution", "../../.."),
    ("kit", "."), ("kit", "../../.."), ("kit's files", "val"), ("kit's files", ".."),
]  # fmt: skip


@pytest.mark.parametrize("below", ["", "val"])
@pytest.mark.parametrize(("source", "place"), PLACES)
def test_validation_images_as_unpacked_are_those_in_class_folders(
    flat, tmp_path, source, place, below
):
    if source == "solution":
        write_solution(flat / place)
    else:
        inner = "ILSVRC2012_devkit_t12/data" if source == "kit" else ""
        write_kit(flat / place / inner)
    # Secret labels: not what is certified.
    (flat / "test").mkdir()
    (flat / "test" / "ILSVRC2012_test_00000001.JPEG").touch()
    imagenet, ordered = load(flat / below), load(tmp_path / "sorted")
    assert imagenet.class_names == ordered.class_names == list(CLASSES)
    ours, theirs = imagenet.images("test"), ordered.images("test")
    assert ours.labels.tolist() == theirs.labels.tolist() == [0, 0, 1, 999]
    assert [path.name for path in ours.paths] == [path.name for path in theirs.paths]
    assert ours.digest(range(4)) == theirs.digest(range(4))


def test_the_development_kit_is_read_as_torchvision_reads_it(tmp_path, monkeypatch):
    kit = tmp_path / "ILSVRC2012_devkit_t12"
    write_kit(kit / "data")
    with tarfile.open(tmp_path / "kit.tar.gz", "w:gz") as archive:
        archive.add(kit, kit.name)
    monkeypatch.setattr(reference, "_verify_archive", lambda *_: None)
    reference.parse_devkit_archive(tmp_path, "kit.tar.gz")
    found = load(tmp_path).labels_of(tmp_path)
    assert list(found) == NAMES
    assert list(found.values()) == reference.load_meta_file(tmp_path)[1] == WNIDS


def test_an_image_without_a_label_is_named(flat, write_image):
    write_solution(flat)
    write_image(flat / "val" / "other.JPEG")
    with pytest.raises(DataError, match=r"val/other\.JPEG has no label among the 1000 classes"):
        load(flat).images("test")


@pytest.mark.parametrize("text", ["ImageId\na\n", "ImageId,PredictionString\na,\n", "\udcff"])
def test_a_damaged_list_of_labels_is_named(flat, text):
    path = flat / "LOC_val_solution.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=rf"{path} "):
        load(flat).images("test")


def test_a_damaged_development_kit_is_named(flat):
    write_kit(flat)
    (flat / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" + b" " * 200)
    with pytest.raises(DataError, match=r"ground_truth\.txt is not a list of labels"):
        load(flat).images("test")
