"""What processes tell each other, and what becomes of one whose partner dies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothcert.distributed.group import Processes, processes
from smoothcert.errors import DataError, ProcessError, Stopped
from tests.helpers.together import together


@given(st.lists(st.integers(-100, 100)))
def test_a_process_alone_counts_what_it_adds(amounts):
    alone = Processes()
    totals = [alone.add("n", amount) for amount in amounts]
    assert totals == [sum(amounts[: i + 1]) for i in range(len(amounts))]
    assert alone.add("n", 0) == sum(amounts)


def test_a_process_alone_enters_a_barrier_and_gathers_alone():
    alone = Processes()
    alone.barrier("here")
    assert alone.all_gather_object("name", {"a": [1, None]}) == [{"a": [1, None]}]
    assert (alone.rank, alone.size, alone.first) == (0, 1, True)
    with pytest.raises(ProcessError, match="Process 0 of 1 has ended: no more"):
        alone.abort(ValueError("no more")) or alone.check_aborted()


def conversations():
    """Take 200 numbers, then meet, then gather, in two conversations at once."""
    first, second = processes(), processes()
    taken = [first.add("number") for _ in range(200)]
    second.barrier("here")
    return taken, first.all_gather_object("rank", first.rank), second.add("number", 0)


def test_numbers_are_handed_out_once_and_conversations_are_apart(tmp_path):
    answers = together(3, tmp_path, conversations)
    numbers = [number for taken, _, _ in answers for number in taken]
    assert sorted(numbers) == list(range(1, 601))
    assert [ranks for _, ranks, _ in answers] == [[0, 1, 2]] * 3
    assert [others for _, _, others in answers] == [0] * 3


def waiting_for_one_that_aborts(how):
    team = processes()
    if team.rank == 1:
        team.abort(DataError("its images are gone") if how == "error" else Stopped(15))
        return None
    try:
        team.get("never set")
    except (ProcessError, Stopped) as error:
        return str(error)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("error", "Process 1 of 2 has ended: its images are gone. Finished work is kept"),
        ("signal", "143"),
    ],
)
def test_one_that_aborts_is_not_waited_for(tmp_path, how, told):
    said, _ = together(2, tmp_path, waiting_for_one_that_aborts, how)
    assert said == told
