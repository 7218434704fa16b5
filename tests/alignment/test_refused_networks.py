"""Networks and directions that no way can take: one clear error, before anything runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gar_env.alignment import align, record
from gar_env.errors import DirectionMismatchError, UnsupportedLayerError

WAYS = ("auto", "hooks", "forward", "finite_difference")


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def squares(outputs):
    return outputs.flatten(1).square().mean(1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.DataParallel(mlp()), r"DataParallel.*Pass its \.module"),
        (
            lambda: torch.jit.trace(mlp(), torch.randn(3, 4)),
            "traced or scripted.*Pass the module that it was made from",
        ),
        (lambda: nn.Sequential(torch.jit.script(mlp()), nn.Linear(2, 2)), "0 .*traced or scripted"),
        (lambda: mlp().to("meta"), r"0 \(Linear\): weight is on the meta device"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "no parameters yet. Run one forward pass"),
        (lambda: nn.Sequential(nn.Embedding(5, 3, sparse=True)), "sparse.*Build it without"),
        (lambda: nn.Sequential(nn.EmbeddingBag(5, 3, sparse=True)), "sparse.*Build it without"),
        (lambda: nn.Sequential(nn.Embedding(5, 3, max_norm=1.0)), "max_norm.*Build it without"),
        (lambda: nn.Linear(4, 2, dtype=torch.complex64), "Complex parameters.*weight"),
    ],
)
def test_networks_that_cannot_be_recorded_are_named(make, message, way):
    with pytest.raises(UnsupportedLayerError, match=message):
        record(make(), torch.randn(6, 4), squares, way=way)


def test_a_sparse_gradient_from_a_function_is_named():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 3))

        def forward(self, x):
            return nn.functional.embedding(x, self.table, sparse=True)

    with pytest.raises(UnsupportedLayerError, match="gradient of table is sparse"):
        record(Looks(), torch.randint(5, (6, 2)), squares, way="forward", probe=False)


@pytest.mark.parametrize("way", ["hooks", "forward", "finite_difference"])
@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (np.zeros((2, 4), np.float32), "ndarray"),
        (None, "NoneType"),
        (0.5, "float"),
        (torch.zeros(2, 4).to_sparse(), "torch.float32, torch.sparse_coo"),
        (torch.zeros(2, 4, dtype=torch.complex64), "torch.complex64"),
        (torch.zeros(2, 4, dtype=torch.int64), "torch.int64"),
        (torch.zeros(4, 2), r"\[4, 2\]"),
    ],
)
def test_a_direction_that_is_no_dense_real_tensor_is_refused_and_the_tape_stays(way, wrong, found):
    network = nn.Linear(4, 2)
    tape = record(network, torch.randn(6, 4), squares, way=way)
    right = {"weight": torch.ones(2, 4), "bias": torch.ones(2)}
    with pytest.raises(DirectionMismatchError, match=rf"direction\['weight'\] is {found}"):
        align(tape, {**right, "weight": wrong})
    assert align(tape, right).isfinite().all()


def test_no_message_prints_hundreds_of_digits():
    network = nn.Linear(4, 3)
    with torch.no_grad():
        network.weight.copy_(torch.linspace(0.1, 0.4, 12).view(3, 4))

    def straight_through(y):
        return (y + (y.round() - y).detach()).sum(1)  # its differences are 0, its gradient is not

    tape = record(network, torch.ones(6, 4), straight_through, way="finite_difference", probe=False)
    with pytest.raises(UnsupportedLayerError, match="off by about") as refused:
        align(tape, {name: torch.ones_like(p) for name, p in network.named_parameters()})
    assert len(str(refused.value)) < 600
