"""A network is walked once; whatever changes is seen."""

import copy

import pytest
import torch
from torch import nn

from gar_env.alignment import Alignment, align, record
from gar_env.functional import structure_of


def network():
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


def renamed(net):
    net._modules = dict(zip(["3", "1", "2", "0"], net._modules.values(), strict=True))


CHANGES = {
    "freezing": lambda net: net[0].requires_grad_(False),
    "evaluation": lambda net: net[1].eval(),
    "another module": lambda net: net.__setitem__(2, nn.ReLU()),
    "one more": lambda net: net.append(nn.Linear(3, 3)),
    "one less": lambda net: net.__delitem__(2),
    "another parameter": lambda net: setattr(net[0], "weight", nn.Parameter(torch.ones(4, 4))),
    "another buffer": lambda net: setattr(net[1], "running_mean", torch.ones(4)),
    "another type": lambda net: net.double(),
    "a forward of its own": lambda net: setattr(net[2], "forward", torch.relu),
    "a parametrization": lambda net: nn.utils.parametrizations.weight_norm(net[0]),
    "another order of names": renamed,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_and_nothing_else_is_walked_again(change):
    net = network()
    before = structure_of(net)
    net(torch.randn(5, 4)).sum().backward()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(p.grad)
    assert structure_of(net) is before, "training is no change"
    CHANGES[change](net)
    after = structure_of(net)
    assert after is not before
    assert after.parameters.keys() == dict(net.named_parameters()).keys()
    assert [*map(id, after.trained.values())] == [id(p) for p in net.parameters() if p.requires_grad]


def test_a_copy_has_a_structure_of_its_own():
    net = network()
    first = structure_of(net)
    other = structure_of(copy.deepcopy(net))
    assert other is not first
    assert other.key == first.key


class Mixes(nn.Module):
    def forward(self, x):
        return torch.tanh(x) + x.roll(1, 0)


def test_a_module_that_mixes_examples_is_seen_when_it_is_put_in_later():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, alignment = torch.randn(6, 4, dtype=torch.float64), Alignment(net)
    direction = {name: torch.randn_like(p) for name, p in net.named_parameters()}

    def loss(outputs):
        return outputs.square().sum(1)

    for _ in range(2):
        align(alignment.record(x, loss), direction)
    net[1] = Mixes()
    found = align(alignment.record(x, loss), direction)
    expected = align(record(net, x, loss, way="forward"), direction)
    torch.testing.assert_close(found, expected)
