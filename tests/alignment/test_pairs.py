"""Products of single examples' gradients, against one backward pass per example."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from test_lengths import UNKNOWN
from torch import Tensor, nn

from cases import WITH_BATCH_NORM, WITHOUT_BATCH_NORM
from gar_env.alignment import align, gradient, pair_products, record
from gar_env.errors import ConfigurationError, StaleTapeError, UnsupportedLayerError
from oracles import squares


def moved(network: nn.Module) -> None:
    """Other parameters, as after a step."""
    torch.manual_seed(7)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))


def each_gradient(network: nn.Module, inputs: Any, loss: Any) -> list[Tensor]:
    """Of every example, flat."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    losses, found = loss(network(*inputs)), []
    for own in losses:
        gradients = torch.autograd.grad(own, parameters, retain_graph=True, allow_unused=True)
        flat = [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, gradients, strict=True)]
        found.append(torch.cat(flat))
    return found


def all_pairs(n: int, m: int) -> tuple[Tensor, Tensor]:
    return torch.arange(n).repeat_interleave(m), torch.arange(m).repeat(n)


@pytest.mark.parametrize("case", WITHOUT_BATCH_NORM, ids=str)
def test_products_equal_those_of_one_backward_pass_per_example_or_are_refused(case):
    network, inputs, _, loss = case.build(seed=0, dtype=torch.float64)
    tape = record(network, inputs, loss, loss_scale=0.5)
    first = each_gradient(network, inputs, loss)
    moved(network)
    other = record(network, inputs, loss, loss_scale=4.0)
    rows, others = all_pairs(tape.n, other.n)
    if str(case) in UNKNOWN:
        with pytest.raises(UnsupportedLayerError, match=r"Use a signal that needs none|way='forward'"):
            pair_products(tape, other, rows, others)
        return
    second = each_gradient(network, inputs, loss)
    expected = torch.stack([first[i] @ second[j] for i, j in zip(rows.tolist(), others.tolist(), strict=True)])
    torch.testing.assert_close(pair_products(tape, other, rows, others), expected)
    some = torch.tensor([1, 0, 1]), torch.tensor([0, 0, 1])
    picked = [i * other.n + j for i, j in zip(*(own.tolist() for own in some), strict=True)]
    torch.testing.assert_close(pair_products(tape, other, *some), expected[picked])


@pytest.mark.parametrize("case", [*WITHOUT_BATCH_NORM, *WITH_BATCH_NORM], ids=str)
def test_their_mean_is_the_alignment(case):
    if str(case) in UNKNOWN:
        pytest.skip("refused")
    network, inputs, _, loss = case.build(seed=0, dtype=torch.float64)
    tape = record(network, inputs, loss)
    moved(network)
    network.zero_grad()
    other = record(network, inputs, loss)
    direction = {name: g.clone() for name, g in gradient(network).items()}
    products = pair_products(tape, other, *all_pairs(tape.n, other.n)).view(tape.n, other.n)
    torch.testing.assert_close(products.mean(1), align(tape, direction))


def test_tapes_that_do_not_belong_together_are_refused():
    network, inputs = nn.Linear(4, 3), torch.randn(5, 4)
    pair = torch.tensor([0]), torch.tensor([1])
    hooks, forward = record(network, inputs, squares), record(network, inputs, squares, way="forward")
    with pytest.raises(UnsupportedLayerError, match=re.escape("way='forward'. Use way='hooks'")):
        pair_products(hooks, forward, *pair)
    deeper = record(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)), inputs, squares)
    with pytest.raises(ConfigurationError, match="found 1 and 2 layers"):
        pair_products(hooks, deeper, *pair)
    with pytest.raises(ConfigurationError, match=re.escape("rows [1] and [2]")):
        pair_products(hooks, hooks, torch.tensor([0]), torch.tensor([0, 1]))
    assert pair_products(
        hooks, hooks, torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64)
    ).shape == (0,)
    align(hooks, {name: torch.ones_like(p) for name, p in network.named_parameters()})
    with pytest.raises(StaleTapeError, match="read already"):
        pair_products(hooks, hooks, *pair)
