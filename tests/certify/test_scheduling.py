"""Many images in flight: in whatever batches they are served, their votes are the same."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from smoothcert.certify import Execution, scheduling
from smoothcert.certify.execution import Runner
from smoothcert.certify.scheduling import Plan, run_jobs
from smoothcert.certify.voting import Job, Poll
from smoothcert.noise import GaussianCopies, generator
from smoothcert.types import Example
from tests.helpers.driving import Log

CPU = torch.device("cpu")
IMAGE = torch.rand(1, 6, 6, generator=generator("cpu", 0))
ASKED = [(1, 50), (200,), (3, 3, 3), (500, 1), (7,), (20, 300), (64, 64), (1,), (90, 4), (33,)]


def sampling(requests):
    """Ask for so many votes one after another; return what came."""
    came = []
    for wanted in requests:
        votes = yield wanted
        came.append(votes.tolist())
    return came


def start(asked=ASKED, started=None):
    def job(example):
        if started is not None:
            started.append(example.index)
        requests = asked[example.index % len(asked)]
        return Job(example, GaussianCopies(IMAGE, 0.5, 0, example.index), sampling(requests))

    return job


def examples(count):
    return (Example(IMAGE, None, index) for index in range(count))


def runner_of(network, batch_size):
    return Runner(network, Execution(batch_size=batch_size), (1, 6, 6), CPU)


def results(runner, count=30, **options):
    jobs = run_jobs(runner, examples(count), start(), 3, Plan(**options))
    return {job.example.index: (job.value, job.samples) for job in jobs}


class AsOnAGpu:
    """A runner that says it is on a GPU, whose polls are counted by the one behind it."""

    def __init__(self, runner, monkeypatch):
        self.runner = runner
        self.device = SimpleNamespace(type="cuda")
        self.unread, self.most_unread = 0, 0
        gpu = self

        class Counted(Poll):
            def __init__(self, _, requests, num_classes):
                super().__init__(runner, requests, num_classes)
                gpu.unread += 1
                gpu.most_unread = max(gpu.most_unread, gpu.unread)

            def votes(self):
                gpu.unread -= 1
                return super().votes()

        monkeypatch.setattr(scheduling, "Poll", Counted)

    def __getattr__(self, name):
        return getattr(self.runner, name)


@pytest.fixture
def whole(network):
    """What each image gets in one batch after another of its own."""
    return results(runner_of(network, 1000))


def test_every_image_gets_the_samples_it_requests(whole):
    for index, (came, samples) in whole.items():
        assert [sum(votes) for votes in came] == list(ASKED[index % len(ASKED)])
        assert samples == sum(ASKED[index % len(ASKED)])


@pytest.mark.parametrize("batch_size", [1, 8, 37, 64])
def test_votes_do_not_depend_on_the_batch_size(network, whole, batch_size):
    assert results(runner_of(network, batch_size)) == whole


@pytest.mark.parametrize("batch_size", [8, 37])
def test_votes_do_not_depend_on_a_poll_being_ahead(network, whole, batch_size, monkeypatch):
    """On a GPU votes are being counted while earlier ones are judged: two polls at a time."""
    gpu = AsOnAGpu(runner_of(network, batch_size), monkeypatch)
    assert results(gpu) == whole
    assert (gpu.most_unread, gpu.unread) == (2, 0)


def test_on_a_cpu_one_poll_is_read_before_the_next(network, monkeypatch):
    counted = AsOnAGpu(runner_of(network, 8), monkeypatch)
    counted.device = CPU
    results(counted)
    assert counted.most_unread == 1


def test_votes_do_not_depend_on_the_other_images_of_a_batch(network, whole):
    runner = runner_of(network, 16)
    for index in (0, 3, 5):
        [job] = run_jobs(runner, [Example(IMAGE, None, index)], start(), 3, Plan())
        assert (job.value, job.samples) == whole[index]


def test_images_that_ask_alike_end_in_their_order(network):
    jobs = run_jobs(runner_of(network, 8), examples(40), start([(100,)]), 3, Plan())
    assert [job.example.index for job in jobs] == list(range(40))


def test_the_oldest_image_is_served_first(network):
    """A long image goes first all the same, and later ones fill what it leaves."""
    asked = [(1000,), *[(100,)] * 20]
    jobs = run_jobs(runner_of(network, 8), examples(21), start(asked), 3, Plan())
    assert [job.example.index for job in jobs] == list(range(21))


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_images_are_started_as_there_is_room(network, batch_size):
    """An endless source is no problem, and few more are started than have ended."""
    started = []
    endless = (Example(IMAGE, None, index) for index in itertools.count())
    jobs = run_jobs(runner_of(network, batch_size), endless, start(started=started), 3, Plan())
    assert started == []
    most = max(scheduling.FEWEST_IN_FLIGHT, batch_size // scheduling.PLACES_PER_IMAGE)
    for ended, _ in enumerate(itertools.islice(jobs, 40)):
        assert len(started) <= ended + most + 1
    assert started == list(range(len(started)))


def test_many_samples_an_image_need_few_images_in_flight(network):
    started = []
    jobs = run_jobs(runner_of(network, 64), examples(100), start([(5000,)], started), 3, Plan())
    next(jobs)
    assert len(started) <= 3


def test_nothing_to_do_ends_at_once(network):
    assert results(runner_of(network, 8), 0) == {}


def test_a_deadline_that_has_passed_ends_it_before_the_first_image(network):
    started = []
    jobs = run_jobs(
        runner_of(network, 8), examples(5), start(started=started), 3, Plan(deadline=0.0)
    )
    assert list(jobs) == []
    assert started == []


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_deadline_leaves_finished_images_as_they_are(network, whole, monkeypatch, ahead):
    ticks = itertools.count()
    monkeypatch.setattr(scheduling, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    runner = runner_of(network, 8)
    runner = runner if ahead == 1 else AsOnAGpu(runner, monkeypatch)
    some = results(runner, deadline=30.0)
    assert 0 < len(some) < 30
    assert some.items() <= whole.items()


def test_each_image_gets_its_share_of_the_time_by_votes(network, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(scheduling, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    jobs = list(run_jobs(runner_of(network, 8), examples(30), start(), 3, Plan()))
    assert all(job.seconds > 0 for job in jobs)
    # One tick between two polls: all together took as many as there were polls.
    assert sum(job.seconds for job in jobs) == pytest.approx(next(ticks) - 1)


class Compiling:
    """A runner that notes when it would be compiled."""

    def __init__(self, runner):
        self.runner = runner
        self.asked, self.compiled = Log(), 0

    def repays_compiling(self, seconds):
        self.asked.append(seconds)
        return seconds > 100

    def compile(self):
        self.compiled += 1

    def __getattr__(self, name):
        return getattr(self.runner, name)

    def __call__(self, images):
        return self.runner(images)


@pytest.mark.parametrize(
    ("expected", "times_asked", "compiled"), [(None, 0, 0), (10**9, 1, 1), (1000, 1, 0)]
)
def test_compiling_is_considered_once_where_the_work_is_known(
    network, expected, times_asked, compiled
):
    runner = Compiling(runner_of(network, 8))
    results(runner, expected=expected)
    assert (len(runner.asked), runner.compiled) == (times_asked, compiled)


def test_a_sampling_that_fails_fails_at_once(network):
    def broken(example):
        def refusing():
            raise ValueError("no label")
            yield 1

        return Job(example, GaussianCopies(IMAGE, 0.5, 0, example.index), refusing())

    with pytest.raises(ValueError, match="no label"):
        list(run_jobs(runner_of(network, 8), examples(2), broken, 3, Plan()))
