import pytest
import torch
from torch import nn

from gar_env.errors import ConfigurationError, UnknownNameError
from gar_env.networks import build_network


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("wrn-40-1", 0.6),
        ("wrn-40-2", 2.2),
        ("wrn-40-4", 8.9),
        ("wrn-16-8", 11.0),
        ("wrn-22-8", 17.2),
        ("wrn-28-10", 36.5),
    ],
)
def test_wide_resnets_have_the_published_number_of_parameters(name, millions):
    """Zagoruyko & Komodakis (2016), tables 2 and 3; CIFAR-10."""
    with torch.device("meta"):
        network = build_network(name, (3, 32, 32), 10)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("name", ["fc", "fc_bn", "cnn_bn", "wrn-10-2"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_networks_map_images_to_logits(name, shape):
    network = build_network(name, shape, 7)
    assert network(torch.randn(5, *shape)).shape == (5, 7)


def test_fc_is_one_hidden_layer_of_200():
    sizes = {name: tuple(p.shape) for name, p in build_network("fc", (3, 32, 32), 10).named_parameters()}
    assert sizes == {
        "layers.1.weight": (200, 3072), "layers.1.bias": (200,), "layers.3.weight": (10, 200), "layers.3.bias": (10,),
    }  # fmt: skip


def test_a_builder_of_ones_own_is_called_with_shape_and_classes():
    network = build_network(lambda shape, classes: nn.Linear(shape[0], classes), (4, 1, 1), 3)
    assert (network.in_features, network.out_features) == (4, 3)


@pytest.mark.parametrize("name", ["wrn-17-2", "wrn-4-2", "wrn-16-0"])
def test_impossible_depths_and_widths_are_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name}: the depth must be 6 b"):
        build_network(name, (3, 32, 32), 10)


def test_what_is_no_network_is_refused():
    with pytest.raises(UnknownNameError, match=r"No network is called 'fc_nb'. Did you mean 'fc_bn'\?"):
        build_network("fc_nb", (3, 32, 32), 10)
    with pytest.raises(ConfigurationError, match=r"network is a Linear instance\. Every episode starts a new network"):
        build_network(nn.Linear(2, 2), (3, 32, 32), 10)
    with pytest.raises(ConfigurationError, match="it returned int"):
        build_network(lambda shape, classes: 3, (3, 32, 32), 10)
