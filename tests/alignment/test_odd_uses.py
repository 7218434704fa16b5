"""What people do to gradients between two passes: right, or refused with a reason."""

import pytest
import torch
from torch import nn

from cases import N
from gar_env.alignment import NoGradientError, align, aligning, gradient, record
from gar_env.errors import (
    ConfigurationError,
    DirectionMismatchError,
)
from oracles import assert_close, squares

WAYS = ("hooks", "forward")


@pytest.fixture
def two():
    """A network with layers for every part of the engine, and two batches."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(40, 40), nn.PReLU(), nn.LayerNorm(40), nn.Linear(40, 3)).double()
    return network, torch.randn(N, 40).double(), torch.randn(N, 40).double()


def expected_after(network, first, second):
    tape = record(network, first, squares)
    network.zero_grad()
    squares(network(second)).mean().backward()
    found = align(tape, gradient(network))
    network.zero_grad()
    return found


def clip(network):
    nn.utils.clip_grad_norm_(network.parameters(), 1e-3)


def zero(network):
    network.zero_grad(set_to_none=False)


def step(network):
    torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True).step()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", [clip, zero, step])
def test_what_happens_to_gradients_inside_the_block_does_not_reach_the_entries(way, what, two):
    network, first, second = two
    expected = expected_after(network, first, second)
    tape = record(network, first, squares, way=way)
    network.zero_grad()
    with aligning(tape) as paid:
        squares(network(second)).mean().backward()
        what(network)
    assert_close(paid.entries, expected)


@pytest.mark.parametrize("way", WAYS)
def test_a_block_without_a_backward_pass_is_refused_and_leaves_the_tape(way, two):
    network, first, second = two
    tape = record(network, first, squares, way=way)
    direction = gradient(network)
    network.zero_grad()
    with pytest.raises(NoGradientError, match=r"No gradient .* arrived.*\n?.*backward\(\)"), aligning(tape):
        torch.autograd.grad(squares(network(second)).mean(), list(network.parameters()))
    align(tape, direction)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_that_are_left_over_are_refused(way, two):
    network, first, _ = two
    tape = record(network, first, squares, way=way)
    with pytest.raises(ConfigurationError, match=r"have gradients already.*zero_grad"), aligning(tape):
        raise AssertionError("never begins")
    zero(network)
    with aligning(tape) as paid:
        squares(network(first)).mean().backward()
    assert paid.entries.isfinite().all()


@pytest.mark.parametrize("way", WAYS)
def test_layers_frozen_or_unfrozen_since_are_refused(way, two):
    network, first, _ = two
    network[0].bias.requires_grad_(False)
    tape = record(network, first, squares, way=way)
    network.zero_grad()
    network[0].bias.requires_grad_(True)
    with pytest.raises(DirectionMismatchError, match=r"0\.bias"), aligning(tape):
        raise AssertionError("never begins")
    network[0].bias.requires_grad_(False)
    network[3].weight.requires_grad_(False)
    with pytest.raises(DirectionMismatchError, match=r"3\.weight"), aligning(tape):
        raise AssertionError("never begins")


def large(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)).double()
    return network, torch.randn(4, 64).double(), torch.randn(4, 64).double()


def weight_decay(network, x):
    (squares(network(x)).mean() + network[0].weight.square().sum()).backward()


def adversarial(network, x):
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(squares(network(x)).sum(), x)
    squares(network(x.detach() + 0.1 * slope.sign())).mean().backward()


def penalty(network, x):
    x = x.clone().requires_grad_()
    loss = squares(network(x)).mean()
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + slope.square().sum()).backward()


def two_batches(network, x):
    (squares(network(x)).mean() + squares(network(2 * x)).mean()).backward()


def unused_output(network, x):
    network(x)
    squares(network(x)).mean().backward()


def sequences(network, x):
    squares(network(x[:, None])).mean().backward()


@pytest.mark.parametrize("body", [weight_decay, adversarial, penalty, two_batches, unused_output, sequences])
def test_large_dense_layers_are_right_whatever_the_next_pass_does(body):
    network, first, second = large()
    tape, again = record(network, first, squares), record(network, first, squares)
    network.zero_grad()
    with aligning(tape) as paid:
        body(network, second)
    assert_close(paid.entries, align(again, gradient(network)))


def test_an_optimizer_inside_the_backward_pass_is_refused_with_a_reason(two):
    network, first, second = two
    tape = record(network, first, squares)
    network.zero_grad()
    for p in network.parameters():
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with pytest.raises(ConfigurationError, match="taken away before"), aligning(tape):
        squares(network(second)).mean().backward()


def test_a_pass_adds_to_gradients_that_live_in_buckets(two):
    """As DistributedDataParallel keeps them: the gradient is a view that must stay the same tensor."""
    network, first, second = two
    zero_of = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for name, p in network.named_parameters():
        p.grad = zero_of[name]
    record(network, first, squares, probe=False)
    record(network, second, squares, probe=False)
    assert all(p.grad is zero_of[name] for name, p in network.named_parameters())
    network.zero_grad()
    (squares(network(first)).mean() + squares(network(second)).mean()).backward()
    torch.testing.assert_close(gradient(network), zero_of)


def test_a_float32_tape_is_paid_by_a_pass_in_mixed_precision():
    torch.manual_seed(0)
    network, first, second = nn.Linear(64, 64), torch.randn(8, 64), torch.randn(8, 64)
    for inside in (True, False):
        tape, again = record(network, first, squares), record(network, first, squares)
        network.zero_grad()
        with aligning(tape) as paid:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = squares(network(second).float()).mean()
                if inside:
                    loss.backward()
            if not inside:
                loss.backward()
        torch.testing.assert_close(paid.entries, align(again, gradient(network)), rtol=1e-4, atol=1e-4)
        network.zero_grad()
