"""Sums over millions of entries, of which float32 would round away what a check looks for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gar_env.alignment import Alignment, align
from gar_env.alignment.conservation import product
from gar_env.alignment.direction import norm


@pytest.mark.parametrize("n", [2**16, 2**16 + 1, 10**7])
def test_long_sums_do_not_lose_what_float32_rounds(n):
    a = torch.randn(n)
    exact = a.double().square().sum()
    assert abs(float(product(a, a) / exact) - 1) < 1e-6
    assert abs(float(norm({"a": a.view(-1, 1)}) / exact.sqrt()) - 1) < 1e-6


def test_a_large_dense_layer_is_not_taken_for_a_lost_one():
    torch.manual_seed(1)
    network, x = nn.Sequential(nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 5)), torch.randn(3, 4096)
    tape = Alignment(network).record(x, lambda output: output.square().sum(1))
    direction = {name: p.grad.clone() for name, p in network.named_parameters()}
    total = sum(g.double().square().sum() for g in direction.values())
    assert abs(float(align(tape, direction).double().mean() / total) - 1) < 1e-5
