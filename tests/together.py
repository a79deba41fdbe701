"""Several processes in tests: started within moments, from a server that has torch already."""

import multiprocessing
import os
import signal
import traceback
from contextlib import ExitStack, contextmanager

import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["smoothcert.runs.training", "smoothcert.runs.certification"])
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
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0, "it waits for another one, or has died"
    found = dict(sorted((answers.get() for _ in processes), key=lambda answer: answer[0]))
    for answer in found.values():
        if isinstance(answer, BaseException):
            raise answer
    return list(found.values())


def _member(rank, size, meeting, answers, function, arguments):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        answer = function(*arguments)
    except Exception as error:
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
            os.kill(process.pid, signal.SIGKILL)
        process.join(PATIENCE)
