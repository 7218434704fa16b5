import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from cases import CASES, WITH_BATCH_NORM, WITHOUT_BATCH_NORM, Attention, N
from gar_env.alignment import align, dot, gradient, record
from oracles import TOLERANCE, assert_close, derivative_by_backward, share_by_backward, squares

KEPT_WHOLE = [case for case in CASES if case.name in ("parameter on the network itself", "unknown leaf", "attention")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", WITHOUT_BATCH_NORM, ids=str)
def test_align_equals_one_backward_pass_per_example(case, dtype):
    network, inputs, direction, loss = case.build(seed=0, dtype=dtype)
    expected = derivative_by_backward(network, inputs, loss, direction)
    assert_close(align(record(network, inputs, loss, probe=True), direction), expected)
    assert_close(align(record(network, inputs, loss, way="forward"), direction), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", WITH_BATCH_NORM, ids=str)
def test_the_two_readings_of_batch_norm_equal_their_oracles(case, dtype):
    network, inputs, direction, loss = case.build(seed=0, dtype=dtype)
    share = align(record(network, inputs, loss, batch_norm="share"), direction)
    derivative = align(record(network, inputs, loss, batch_norm="derivative"), direction)
    assert_close(share, share_by_backward(network, inputs, loss, direction))
    assert_close(derivative, derivative_by_backward(network, inputs, loss, direction))
    torch.testing.assert_close(share.sum(), derivative.sum(), rtol=10 * TOLERANCE[dtype] ** 0.9, atol=0)
    assert (share - derivative).abs().max() > 1e-3 * share.abs().max(), "the case does not tell the readings apart"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_entries_add_up_to_n_times_the_batch_gradient(case):
    network, inputs, direction, loss = case.build(seed=3, dtype=torch.float64)
    entries = align(record(network, inputs, loss), direction)
    torch.testing.assert_close(entries.sum(), N * dot(gradient(network), direction))


@given(
    channels=st.integers(1, 3),
    groups=st.integers(1, 3),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    n=st.integers(1, 4),
    bias=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_convolution_equals_the_oracle(channels, groups, kernel, stride, padding, dilation, n, bias):
    network = nn.Conv2d(
        channels * groups, 2 * groups, kernel, stride, padding, dilation, groups, bias, dtype=torch.float64
    )
    inputs = (torch.randn(n, channels * groups, 6, 7, dtype=torch.float64),)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    expected = derivative_by_backward(network, inputs, squares, direction)
    assert_close(align(record(network, inputs, squares), direction), expected)


@pytest.mark.parametrize("batch_norm", ["share", "derivative"])
def test_dropout_is_replayed_with_the_same_mask(batch_norm):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 3)).double()
    inputs = torch.randn(N, 4, dtype=torch.float64)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    state = torch.get_rng_state()
    expected = derivative_by_backward(network, (inputs,), squares, direction)
    torch.set_rng_state(state)
    tape = record(network, inputs, squares, batch_norm=batch_norm)
    torch.randn(7)  # the global generator moves on between recording and aligning
    assert_close(align(tape, direction), expected)


def test_dropout_inside_a_replayed_module_draws_the_same_mask():
    torch.manual_seed(0)
    network = Attention(dropout=0.5).double()
    inputs = torch.randn(N, 4, 8, dtype=torch.float64)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    state = torch.get_rng_state()
    expected = derivative_by_backward(network, (inputs,), squares, direction)
    torch.set_rng_state(state)
    tape = record(network, inputs, squares)
    torch.randn(7)
    assert_close(align(tape, direction), expected)


@pytest.mark.parametrize("case", [CASES[0], *WITH_BATCH_NORM, *KEPT_WHOLE], ids=str)
@pytest.mark.parametrize("batch_norm", ["share", "derivative"])
def test_the_tape_remembers_the_parameters_and_modes_it_was_recorded_with(case, batch_norm):
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float64)
    expected = align(record(network, inputs, loss, batch_norm=batch_norm), direction)
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float64)
    tape = record(network, inputs, loss, batch_norm=batch_norm)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    optimizer.step()
    network.eval()
    network(*inputs)
    assert_close(align(tape, direction), expected)
    assert not network.training


def test_record_fills_grad_as_backward_of_the_mean_loss_and_adds_to_what_is_there():
    network, inputs, _, loss = CASES[3].build(seed=0, dtype=torch.float64)
    loss(network(*inputs)).mean().backward()
    expected = {name: 2 * g for name, g in gradient(network).items()}
    record(network, inputs, loss)
    torch.testing.assert_close(gradient(network), expected)


def test_record_leaves_no_hooks_behind():
    network, inputs, _, loss = CASES[3].build(seed=0, dtype=torch.float64)
    record(network, inputs, loss)
    with pytest.raises(ZeroDivisionError):
        record(network, inputs, lambda outputs: 1 / 0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
