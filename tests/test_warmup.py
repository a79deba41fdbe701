"""Warm-ups against exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothcert.errors import InvalidArgumentError
from smoothcert.warmup import Deferred, Immediate, Linear

epochs = st.integers(0, 1000)


@given(epochs)
def test_immediate_is_full_from_the_first_epoch_on(epoch):
    assert Immediate()(epoch) == 1


@given(st.integers(1, 1000), epochs)
def test_linear_is_the_share_of_its_epochs_that_have_begun(length, epoch):
    assert Linear(length)(epoch) == float(min(Fraction(1), Fraction(epoch + 1, length)))


@given(epochs, epochs)
def test_deferred_is_nothing_and_then_everything(wait, epoch):
    assert Deferred(wait)(epoch) == (0 if epoch < wait else 1)


@pytest.mark.parametrize(
    ("kind", "count"), [(Linear, 0), (Linear, -1), (Linear, 2.5), (Deferred, -1), (Deferred, 0.5)]
)
def test_numbers_of_epochs_out_of_range_are_refused(kind, count):
    with pytest.raises(InvalidArgumentError, match="Expected `epochs` a whole number"):
        kind(count)


@pytest.mark.parametrize("warmup", [Immediate(), Linear(3), Deferred(3)])
def test_a_warmup_shows_how_to_make_it_again(warmup):
    assert eval(repr(warmup)) == warmup
