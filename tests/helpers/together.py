"""Several processes in tests: started within moments, from a server that has torch already."""

import multiprocessing
import os
import time
import traceback
from contextlib import ExitStack, contextmanager

import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["smoothcert.commands.training", "smoothcert.commands.certification"]
)
PATIENCE = 60


def started(function, *arguments):
    """Start a function of a test module in a process of its own."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def together(size, folder, function, *arguments):
    """Run a function in several processes that torch.distributed joins; return what each returned.

    An error of any is raised here, of several that of the lowest rank.
    """
    answers = CONTEXT.SimpleQueue()
    meeting = folder / f"meeting_{len(list(folder.glob('meeting_*')))}"
    processes = [
        started(_member, rank, size, str(meeting), answers, function, arguments)
        for rank in range(size)
    ]
    with ExitStack() as stack:
        for process in processes:
            stack.enter_context(ending(process))
        return _answers(processes, answers)


def _answers(processes, answers):
    """Take answers as they come: a process cannot end before its own is taken."""
    found, deadline = {}, time.monotonic() + PATIENCE
    while len(found) < len(processes):
        assert time.monotonic() < deadline, "one waits for another"
        if answers.empty():
            time.sleep(0.01)
            assert all(process.exitcode in (None, 0) for process in processes), "one has died"
        else:
            rank, answer = answers.get()
            found[rank] = answer
    for rank in sorted(found):
        if isinstance(found[rank], BaseException):
            raise found[rank]
    return [found[rank] for rank in sorted(found)]


def _member(rank, size, meeting, answers, function, arguments):
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size), "NODE_RANK": "0"}
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        answer = function(*arguments)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        answer = error
    answers.put((rank, answer))


@contextmanager
def ending(process):
    """Leave no process behind, whatever a test finds."""
    try:
        yield process
    finally:
        if process.is_alive():
            process.kill()
        process.join(PATIENCE)
