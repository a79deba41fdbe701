"""Images shared by processes: each certified once, the rows those of one process."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smoothcert.certify import (
    Execution,
    SequentialCertifier,
    SmoothedClassifier,
    Subset,
    TightCertifier,
    certify_examples,
)
from smoothcert.certify.work_queue import WorkQueue
from smoothcert.data.datasets import InMemoryImages
from smoothcert.distributed.group import Processes, is_group
from smoothcert.errors import ProcessError, RecordsError, SmoothCertError
from smoothcert.noise import generator
from smoothcert.records import CertificateFile, part_path, read_certificates, settings_path
from tests.helpers.together import together

TIGHT = TightCertifier(n0=20, n=200)
SEQUENTIAL = SequentialCertifier(n0=20, n=400)


def classifier(weight=1.0):
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    layers[3].weight.data.mul_(weight)
    return nn.Sequential(*layers)


def certified(path, count=12, certifier=TIGHT, weight=1.0, broken=None, **options):
    """Certify images in whatever process this is; return the rows, without their times."""
    pixels = torch.rand(count, 1, 6, 6, generator=generator("cpu", 3))
    if broken is not None:
        pixels[broken] = torch.nan
    images = InMemoryImages(pixels, torch.arange(count) % 3, torch.arange(count) * 10)
    network = classifier(weight if rank() else 1.0)
    smoothed = SmoothedClassifier(network, 0.5, 3, Execution(batch_size=16))
    found = certify_examples(smoothed, certifier, images, Subset("val"), path, **options)
    return [replace(row, time=0.0) for row in found.rows], found.performance


def rank():
    return dist.get_rank() if is_group() else 0


def without_time(path):
    return [replace(row, time=0.0) for row in read_certificates(path)]


@pytest.mark.parametrize(
    ("size", "count", "certifier"), [(3, 1, TIGHT), (2, 7, SEQUENTIAL), (3, 25, TIGHT)]
)
def test_rows_are_the_same_for_one_and_several_processes(tmp_path, size, count, certifier):
    """For any number of images, fewer than processes too: each once, in index order."""
    alone, _ = certified(tmp_path / "1.tsv", count, certifier)
    assert [row.idx for row in alone] == list(range(0, 10 * count, 10))
    path = tmp_path / "together.tsv"
    answers = together(size, tmp_path, certified, path, count, certifier)
    assert [rows for rows, _ in answers] == [alone] * size
    assert without_time(path) == alone
    assert settings_path(path).read_text() == settings_path(tmp_path / "1.tsv").read_text()
    assert not list(tmp_path.glob("*.part*"))


def test_performance_is_that_of_all_processes(tmp_path):
    _, alone = certified(tmp_path / "1.tsv")
    answers = together(2, tmp_path, certified, tmp_path / "2.tsv")
    shared = answers[0][1]
    assert (alone.processes, shared.processes) == (1, 2)
    each = shared.samples_per_second / shared.images_per_second
    assert each == pytest.approx(alone.samples_per_second / alone.images_per_second)


@pytest.mark.parametrize("size", [1, 3])
def test_what_a_kill_left_in_parts_is_taken_over_whatever_the_number_of_processes(tmp_path, size):
    """Rows of three processes that were killed, one line torn, one row in two files already."""
    whole, _ = certified(tmp_path / "whole.tsv")
    header, *lines = (tmp_path / "whole.tsv").read_bytes().splitlines(keepends=True)
    path = tmp_path / "killed.tsv"
    parts = {path: lines[0:5:2], part_path(path, 1): lines[1:4], part_path(path, 7): lines[4:9]}
    for file, own in parts.items():
        file.write_bytes(b"".join([header, *own])[:-4] + (b"" if file != path else own[-1][-4:]))
        settings_path(file).write_bytes(settings_path(tmp_path / "whole.tsv").read_bytes())
    answers = [certified(path)] if size == 1 else together(size, tmp_path, certified, path)
    assert answers[0][0] == whole == without_time(path)
    # What was there is not certified again.
    before = {row.idx: row for row in read_certificates(tmp_path / "whole.tsv")}
    kept = [row for row in read_certificates(path) if row == before[row.idx]]
    assert len(kept) >= 7
    assert not list(tmp_path.glob("*.part*"))


def test_a_process_with_other_weights_is_refused(tmp_path):
    with pytest.raises(ProcessError, match=r"got different ones in process 1: weights"):
        together(2, tmp_path, certified, tmp_path / "c.tsv", 12, TIGHT, 2.0)


def test_a_bad_image_ends_all_processes_with_its_reason_and_finished_rows_stay(tmp_path):
    whole, _ = certified(tmp_path / "whole.tsv")
    errors = together(2, tmp_path, meeting_a_bad_image, tmp_path / "c.tsv")
    assert sorted(kind for kind, _ in errors) == ["NonFiniteError", "ProcessError"]
    assert all("at image 110" in message for _, message in errors)
    files = [tmp_path / "c.tsv", part_path(tmp_path / "c.tsv", 1)]
    rows = [row for file in files for row in without_time(file)]
    assert rows
    assert all(row in whole for row in rows)


def meeting_a_bad_image(path):
    try:
        certified(path, broken=11)
    except SmoothCertError as error:
        return type(error).__name__, str(error)


def test_the_others_hear_why_the_first_was_refused(tmp_path):
    path = tmp_path / "c.tsv"
    with CertificateFile(path, {}), pytest.raises(RecordsError, match="by another process"):
        together(2, tmp_path, certified, path)


@given(st.lists(st.integers(0, 50), unique=True), st.integers(1, 5))
def test_a_queue_gives_each_position_once_and_fewer_at_a_time_near_the_end(positions, size):
    team = Processes()
    team.size = size
    queues = [WorkQueue(positions, team) for _ in range(size)]
    hands = [iter(queue) for queue in queues]
    taken = []
    while len(taken) < len(positions):
        number = len(taken) % size
        taken.append(next(hands[number]))
        left = len(positions) - len(taken)
        if size > 1:
            assert 1 <= queues[number].room() <= max(1, left)
    assert sorted(taken) == sorted(positions)
    assert all(next(hand, None) is None for hand in hands)
