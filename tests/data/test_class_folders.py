"""Folders of class folders: which layouts are understood, and what is said of the others."""

import errno
import os
import re
from functools import partial

import pytest
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from smoothcert.data.class_folders import find_splits, read_class_folders, readable
from smoothcert.errors import DataError

# Folders of class folders -> training, validation, test; "." holds the classes itself.
LAYOUTS = {
    "train+test": ("train", None, "test"),
    "train+val": ("train", None, "val"),
    "train+val+test": ("train", "val", "test"),
    "training+validation": ("training", None, "validation"),
    "training+valid+test": ("training", "valid", "test"),
    "train": ("train", None, None),
    "val": (None, None, "val"),
    "test": (None, None, "test"),
    "val+test": (None, "val", "test"),
    ".": (".", None, None),
}


def parts(splits):
    return splits.training, splits.validation, splits.test


@pytest.mark.parametrize("around", ["", "images", "archive/images"])
@pytest.mark.parametrize(("folders", "expected"), LAYOUTS.items(), ids=LAYOUTS)
def test_a_layout_is_understood_there_or_inside_lone_folders(
    folders, expected, around, tmp_path, write_classes
):
    inner = tmp_path / around
    for folder in folders.split("+"):
        write_classes(inner / folder, each=1)
    found = parts(find_splits(tmp_path))
    assert found == tuple(None if name is None else inner / name for name in expected)


def test_hidden_folders_and_loose_files_do_not_count(tmp_path, write_classes):
    write_classes(tmp_path / "images", each=1)
    (tmp_path / ".smoothcert").mkdir()
    (tmp_path / "README.txt").touch()
    assert parts(find_splits(tmp_path)) == (tmp_path / "images", None, None)


@pytest.mark.parametrize(
    "made",
    ["", "data/", "data/empty/", "data/cat/1.png", "data/1.png", "data/cat/1.png data/dog/1.txt"],
    ids=["missing", "empty", "empty folder", "one class", "no classes", "a class without images"],
)
def test_other_layouts_are_an_error_that_says_what_to_do(made, tmp_path):
    for name in made.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    with pytest.raises(DataError) as caught:
        find_splits(tmp_path / "data")
    message = str(caught.value)
    assert str(tmp_path / "data") in message
    assert "train/<class>/<image>" in message
    assert "data.root=" in message


def test_the_message_tells_a_missing_folder_from_another_layout(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        find_splits(tmp_path / "none")
    with pytest.raises(DataError, match="has a different layout"):
        find_splits(tmp_path)


def test_a_relative_folder_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "none"))):
        find_splits(tmp_path.relative_to(tmp_path) / "none")


def test_images_are_listed_class_after_class_by_name(tmp_path, write_classes):
    listed = read_class_folders(write_classes(tmp_path, ("dog", "ant", "cat"), each=2))
    names = [path.relative_to(tmp_path).parts[0] for path in listed.paths]
    assert listed.class_names == ["ant", "cat", "dog"]
    assert [listed.class_names[label] for label in listed.labels] == names
    assert names == ["ant", "ant", "cat", "cat", "dog", "dog"]
    assert listed.paths == sorted(listed.paths)


def test_images_are_found_by_any_case_of_suffix_and_in_inner_folders(tmp_path):
    kept = {"cat/1.PNG", "cat/inner/2.Jpeg", "dog/3.jpg", "dog/4.JPEG", "dog/5.webp", "dog/6.gif"}
    kept |= {f"dog/7{suffix.upper()}" for suffix in IMG_EXTENSIONS}
    for name in (*kept, "cat/notes.txt", "dog/Thumbs.db", "7.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = read_class_folders(tmp_path).paths
    assert {path.relative_to(tmp_path).as_posix() for path in found} == kept


def test_what_is_left_out_is_counted_and_named_in_one_line(tmp_path, caplog, write_classes):
    write_classes(tmp_path, each=2)
    left = ["cat/a.txt", "cat/Thumbs.db", "dog/b.txt", "dog/._1.png", "9.png", "cat/.old/1.png"]
    for name in left:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "dog")
    (tmp_path / "__MACOSX").mkdir()
    assert len(read_class_folders(tmp_path).paths) == 4
    [line] = caplog.messages
    assert line == (
        f"Left out 7 files of {tmp_path} that are no images of a class: 2 hidden, 2 .txt, "
        "1 next to the class folders, 1 .db, 1 folder link; for example 9.png"
    )


def test_where_nothing_is_left_out_nothing_is_logged(tmp_path, caplog, write_classes):
    read_class_folders(write_classes(tmp_path))
    assert not caplog.messages


def test_a_class_may_have_the_name_of_a_split(tmp_path, write_classes):
    write_classes(tmp_path, ("bus", "train"))
    assert parts(find_splits(tmp_path)) == (tmp_path, None, None)


def test_test_images_without_class_folders_make_way_for_validation_images(
    tmp_path, write_classes, write_image, caplog
):
    """As competitions publish them: the labels of their test images are secret."""
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val")
    write_image(tmp_path / "test" / "1.png")
    assert parts(find_splits(tmp_path)) == (tmp_path / "train", None, tmp_path / "val")
    assert caplog.messages == [f"Left out {tmp_path}/test: its images are in no class folders"]


def test_images_without_labels_are_called_that(tmp_path, write_image, write_classes):
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.png")
    expected = "images: it contains 3 images without labels. Expected train/"
    with pytest.raises(DataError, match=expected):
        find_splits(tmp_path / "images")
    with pytest.raises(DataError, match=expected):
        read_class_folders(tmp_path / "images", ["cat", "dog"])


def test_imagenets_validation_images_as_unpacked_are_called_that(tmp_path, write_image):
    write_image(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match=r"data=imagenet reads them with LOC_val_solution\.csv or"):
        read_class_folders(tmp_path / "val")


def test_a_file_for_a_folder_is_called_that(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(DataError, match="data: it is a file"):
        find_splits(tmp_path / "data")


def test_an_empty_class_folder_is_an_error_in_training_alone(tmp_path, write_classes):
    write_classes(tmp_path)
    (tmp_path / "zebra").mkdir()
    with pytest.raises(DataError, match=r"in 1 class folders of .*'zebra': fill or remove them$"):
        read_class_folders(tmp_path)
    assert len(read_class_folders(tmp_path, ["cat", "dog", "zebra"]).paths) == 6


@pytest.mark.parametrize("refused", ["", "train", "train/cat", "train/cat/inner"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_folder_that_the_system_does_not_list_is_named(
    tmp_path, write_classes, monkeypatch, refused, number
):
    """A folder without rights, a lost mount: never fewer images."""
    write_classes(tmp_path / "train")
    (tmp_path / "train/cat/inner").mkdir()
    listed = {name: getattr(os, name) for name in ("listdir", "scandir")}

    def refuse(name, path):
        if str(path) == str(tmp_path / refused):
            raise OSError(number, os.strerror(number), str(path))
        return listed[name](path)

    for name in listed:
        monkeypatch.setattr(os, name, partial(refuse, name))
    expected = f"{tmp_path / refused} cannot be read: {os.strerror(number)}. Expected a folder"
    with pytest.raises(DataError, match=f"^{re.escape(expected)}"):
        read_class_folders(find_splits(tmp_path).training)


def test_test_images_keep_the_training_classes_numbers(tmp_path, write_classes):
    """A test set may lack a class; the others keep their labels."""
    listed = read_class_folders(write_classes(tmp_path, ("dog", "bee"), 1), ["ant", "bee", "dog"])
    assert listed.class_names == ["ant", "bee", "dog"]
    assert listed.labels.tolist() == [1, 2]


def test_a_class_that_training_does_not_have_is_named(tmp_path, write_classes):
    write_classes(tmp_path, ("ant", "eel", "emu"), each=1)
    with pytest.raises(DataError, match=r"has 2 class folders .* for example 'eel'") as caught:
        read_class_folders(tmp_path, ["ant", "bee"])
    assert str(tmp_path) in str(caught.value)


def test_one_class_is_no_classification(tmp_path, write_classes):
    with pytest.raises(DataError, match=r"at least 2 class folders in .*\['cat'\]"):
        read_class_folders(write_classes(tmp_path, ("cat",)))


def test_class_folders_without_images_are_an_error(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=f"No image files .* under {re.escape(str(tmp_path))}"):
        read_class_folders(tmp_path)


@pytest.fixture
def listed(tmp_path, write_classes):
    """Three cats at 0, 1, 2, three dogs at 3, 4, 5."""
    return read_class_folders(write_classes(tmp_path))


def unreadable(listed, *positions):
    return {listed.paths[i]: f"{listed.paths[i]} is no image" for i in positions}


@pytest.mark.parametrize("lost", [(), (0,), (2, 3), (1, 2, 4, 5)])
def test_the_readable_images_of_a_split_keep_their_positions(lost, listed):
    part = torch.tensor([0, 1, 3, 5])
    kept = readable(listed, part, unreadable(listed, *lost), "val", every_class=False)
    assert kept.tolist() == [i for i in part.tolist() if i not in lost]


def test_a_split_without_a_readable_image_is_an_error(listed):
    with pytest.raises(DataError, match=r"None of the 2 val images can be read.*cat/.* is no imag"):
        readable(listed, torch.tensor([1, 4]), unreadable(listed, 1, 4), "val", every_class=False)


def test_a_class_without_a_readable_image_is_an_error_where_it_must_keep_one(listed):
    part, lost = torch.arange(6), unreadable(listed, 0, 3, 4, 5)
    expected = r"None of the 3 train images of class 'dog' can be read, for example: .*dog/"
    with pytest.raises(DataError, match=expected):
        readable(listed, part, lost, "train")
    assert readable(listed, part, lost, "val", every_class=False).tolist() == [1, 2]


def test_a_class_that_the_split_never_had_is_not_missed(listed):
    lost = unreadable(listed, 0, 3, 4, 5)
    assert readable(listed, torch.tensor([0, 1, 2]), lost, "test").tolist() == [1, 2]


def test_a_split_that_was_empty_before_stays_empty(listed):
    nothing = torch.tensor([], dtype=torch.int64)
    assert readable(listed, nothing, unreadable(listed, 0), "val").tolist() == []
