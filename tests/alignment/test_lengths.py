"""Lengths of per-example gradients, against one backward pass per example."""

import re

import pytest
import torch
from torch import nn

from cases import WITH_BATCH_NORM, WITHOUT_BATCH_NORM
from gar_env.alignment import align, example_lengths, record
from gar_env.errors import StaleTapeError, UnsupportedLayerError
from oracles import share_by_backward, squares

UNKNOWN = (
    "conv2d same, circular", "parameter on the network itself",
    "unknown leaf", "subclass with its own forward", "parametrized weight", "parametrized weight without bias",
    "outputs that depend on one another", "parameter list", "one number per example", "attention", "transformer layer",
    "recurrent, two layers", "transposed convolution", "two inputs", "instance norm", "recurrent",
)  # fmt: skip


@pytest.mark.parametrize("case", WITHOUT_BATCH_NORM, ids=str)
def test_lengths_equal_one_backward_pass_per_example_or_are_refused(case):
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float64)
    tape = record(network, inputs, loss)
    if str(case) in UNKNOWN:
        with pytest.raises(UnsupportedLayerError, match=r"Use a signal that needs none|way='forward'"):
            example_lengths(tape)
        return
    found = example_lengths(tape)
    parameters = [p for p in network.parameters() if p.requires_grad]
    losses = loss(network(*inputs))
    expected = []
    for own in losses:
        gradients = torch.autograd.grad(own, parameters, retain_graph=True, allow_unused=True)
        expected.append(sum(g.square().sum() for g in gradients if g is not None).sqrt())
    torch.testing.assert_close(found, torch.stack(expected))
    align(tape, direction)  # still there


@pytest.mark.parametrize("case", WITH_BATCH_NORM, ids=str)
def test_under_batch_normalisation_it_is_the_length_of_the_share(case):
    network, inputs, _, loss = case.build(seed=0, dtype=torch.float64)
    found = example_lengths(record(network, inputs, loss, loss_scale=0.25))
    expected = torch.zeros_like(found)
    for name, p in network.named_parameters():  # along each axis of parameter space, one at a time
        for cell in range(p.numel() if p.numel() <= 60 else 0):
            axis = {other: torch.zeros_like(q) for other, q in network.named_parameters()}
            axis[name].view(-1)[cell] = 1
            expected += share_by_backward(network, inputs, loss, axis).square()
        if p.numel() > 60:
            pytest.skip("too many parameters to go along each")
    torch.testing.assert_close(found, expected.sqrt())


def test_tapes_without_layers_and_used_tapes_are_refused():
    network, inputs = nn.Linear(4, 3), torch.randn(5, 4)
    with pytest.raises(UnsupportedLayerError, match=re.escape("was recorded with way='forward'. Use way='hooks'")):
        example_lengths(record(network, inputs, squares, way="forward"))
    tape = record(network, inputs, squares)
    align(tape, {name: torch.ones_like(p) for name, p in network.named_parameters()})
    with pytest.raises(StaleTapeError, match="read already"):
        example_lengths(tape)
