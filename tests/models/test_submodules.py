"""Parts of a model by the names that people use."""

import pytest
from torch import nn

from smoothcert.errors import InvalidArgumentError
from smoothcert.models import Normalize, parts_of, small_cnn
from smoothcert.models.submodules import names_below, network_of


def network():
    return small_cnn(3, (1, 8, 8), [0.3], [0.4], width=2)


def test_the_normalisation_is_left_out_of_names():
    model = network()
    assert network_of(model) == ("1.", model[1])
    assert network_of(model[1]) == ("", model[1])


def test_two_layers_without_normalisation_are_a_network_themselves():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert network_of(model) == ("", model)
    assert names_below(model, ["1"]) == {"1.weight", "1.bias"}


def test_parts_come_in_the_order_of_their_names_at_any_depth():
    model = network()
    assert parts_of(model, ["fc", "features.1", "features"]) == [
        model[1].fc,
        model[1].features[1],
        model[1].features,
    ]


def test_buffers_stand_below_a_part_too():
    assert names_below(network(), ["features.1"]) == {
        "1.features.1.weight",
        "1.features.1.bias",
        "1.features.1.running_mean",
        "1.features.1.running_var",
        "1.features.1.num_batches_tracked",
    }


def test_a_part_without_state_has_no_names():
    assert names_below(network(), ["features.2"]) == set()


@pytest.mark.parametrize("name", ["", "1", "0", "1.fc", "fc.bias", "classifier"])
def test_names_of_no_part_are_refused_with_those_that_exist(name):
    with pytest.raises(InvalidArgumentError, match=r"network, features, fc; got "):
        parts_of(nn.Sequential(Normalize([0.3], [0.4]), network()[1]), [name])
