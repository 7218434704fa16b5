"""Every way gives the same numbers; the rule says which one is taken."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from cases import CASES, WITH_BATCH_NORM, WITHOUT_BATCH_NORM, N
from gar_env.alignment import align, aligning, choice, gradient, record
from gar_env.alignment.layerwise import record_layers
from gar_env.alignment.materialise import can_materialise
from gar_env.errors import ConfigurationError, StaleTapeError, UnsupportedLayerError
from gar_env.networks import WideResNet
from oracles import assert_close, derivative_by_backward, share_by_backward, squares


def oracle(case, reading):
    return share_by_backward if reading == "share" and case.batch_norm else derivative_by_backward


@pytest.fixture
def materialise_all(monkeypatch):
    """Whatever can be materialised is."""
    monkeypatch.setattr(choice, "LARGEST", 1e9)
    monkeypatch.setattr(choice, "LARGEST_LINEAR", 1e9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_materialised_weight_gradients_equal_the_oracle_and_train_alike(case, dtype, materialise_all):
    network, inputs, direction, loss = case.build(seed=0, dtype=dtype)
    loss(network(*inputs)).mean().backward()
    expected = gradient(network)
    network, inputs, direction, loss = case.build(seed=0, dtype=dtype)
    tape = record(network, inputs, loss, way="hooks")
    torch.testing.assert_close(gradient(network), expected)
    assert_close(align(tape, direction), oracle(case, "share")(network, inputs, loss, direction))


@given(
    channels=st.integers(1, 3),
    groups=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    n=st.integers(1, 9),
    bias=st.booleans(),
    dimensions=st.integers(1, 3),
    channels_last=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_convolution_can_be_materialised(
    channels, groups, kernel, stride, padding, dilation, n, bias, dimensions, channels_last
):
    make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    layer = make(channels * groups, 2 * groups, kernel, stride, padding, dilation, groups, bias, dtype=torch.float64)
    inputs = torch.randn(n, channels * groups, *(6, 7, 5)[:dimensions], dtype=torch.float64)
    if channels_last and dimensions == 2:
        inputs, layer = inputs.to(memory_format=torch.channels_last), layer.to(memory_format=torch.channels_last)
    assert can_materialise(layer, inputs)
    direction = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    expected = derivative_by_backward(layer, (inputs,), squares, direction)
    tape = record_layers(layer, (inputs,), squares, choices={"": "materialised"})
    assert type(tape.units[0].calls[0]).__name__ == "ExampleGradients"
    assert_close(align(tape, direction), expected)


@given(
    n=st.integers(1, 9),
    between=st.lists(st.integers(1, 4), max_size=2),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_linear_layer_equals_the_oracle(n, between, inputs, outputs, bias):
    layer, x = nn.Linear(inputs, outputs, bias).double(), torch.randn(n, *between, inputs, dtype=torch.float64)
    direction = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    expected = derivative_by_backward(layer, (x,), squares, direction)
    assert_close(align(record(layer, x, squares), direction), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("way", ["hooks", "forward"])
def test_aligning_inside_the_next_backward_pass_equals_aligning_afterwards(case, way):
    reading = "derivative" if way == "forward" else "share"
    network, inputs, _, loss = case.build(seed=0, dtype=torch.float64)
    _, next_inputs, _, next_loss = case.build(seed=1, dtype=torch.float64)
    tape = record(network, inputs, loss, way=way, batch_norm=reading)
    network.zero_grad()
    with aligning(tape) as paid:
        next_loss(network(*next_inputs)).mean().backward()
    found, direction = paid.entries, gradient(network)
    network, inputs, _, loss = case.build(seed=0, dtype=torch.float64)
    expected = align(record(network, inputs, loss, way=way, batch_norm=reading), direction)
    assert_close(found, expected)
    assert not any(p._post_accumulate_grad_hooks for p in network.parameters())


@pytest.mark.parametrize("case", [CASES[0], *WITH_BATCH_NORM], ids=str)
def test_a_recorded_pass_can_pay_the_one_before(case):
    network, inputs, _, loss = case.build(seed=0, dtype=torch.float64)
    tapes = record(network, inputs, loss), record(network, inputs, loss)
    network.zero_grad()
    with aligning(tapes[0]) as paid:
        third = record(network, inputs, loss, probe=True)  # the probe's own passes pay nobody
    assert_close(paid.entries, align(tapes[1], gradient(network)))
    assert not third.used


@pytest.mark.parametrize("case", WITHOUT_BATCH_NORM, ids=str)
def test_finite_differences_come_close_and_estimate_their_error(case):
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float64)
    expected = derivative_by_backward(network, inputs, loss, direction)
    tape = record(network, inputs, loss, way="finite_difference")
    found = align(tape, direction)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    gap = abs(float((found - expected).sum() / found.abs().sum()))
    assert gap <= 1.001 * tape.error + 1e-12 < 1e-3


def test_finite_differences_in_float32_on_a_wide_resnet():
    torch.manual_seed(0)
    network, inputs = WideResNet((3, 16, 16), 10, depth=16, width=1), torch.randn(32, 3, 16, 16)
    targets = torch.randint(10, (32,))

    def loss(outputs):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    exact = record(network, inputs, loss, batch_norm="derivative")
    rough = record(network, inputs, loss, way="finite_difference", batch_norm="derivative")
    direction = gradient(network)
    expected, found = align(exact, direction), align(rough, direction)
    assert ((found - expected).abs() / expected.abs()).median() < 1e-2
    assert rough.error < 5e-2


@pytest.mark.parametrize("case", WITH_BATCH_NORM, ids=str)
def test_finite_differences_are_the_derivative_reading(case):
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float64)
    found = align(record(network, inputs, loss, way="finite_difference", batch_norm="derivative"), direction)
    expected = derivative_by_backward(network, inputs, loss, direction)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_finite_difference_that_is_far_off_is_refused():
    network, inputs = nn.Sequential(nn.Linear(4, 3)), torch.randn(N, 4)
    tape = record(network, inputs, lambda y: (1e4 * y).cos().mean(1), way="finite_difference", probe=False)
    with pytest.raises(UnsupportedLayerError, match=r"finite difference is off by about .* its size.*way='forward'"):
        align(tape, gradient(network))
    tape = record(network, inputs, lambda y: (1e4 * y).cos().mean(1), way="finite_difference")
    assert tape.measured > 0.3, "it was looked at"


@pytest.mark.parametrize(
    ("way", "batch_norm", "mode", "expected"),
    [
        ("auto", "share", "train", "hooks"),
        ("auto", "derivative", "train", "forward"),
        ("auto", "derivative", "eval", "hooks"),
        ("hooks", "derivative", "eval", "hooks"),
        ("forward", "share", "eval", "forward"),
        ("finite_difference", "derivative", "train", "finite_difference"),
        ("hooks", "derivative", "train", r"measures batch_norm='share'; found batch_norm='derivative'"),
        ("forward", "share", "train", r"measures batch_norm='derivative'; found batch_norm='share'"),
        ("finite_difference", "share", "train", r"measures batch_norm='derivative'"),
        ("hook", "share", "train", r"way='hook'.*hooks"),
    ],
)
def test_the_rule_never_changes_what_is_measured(way, batch_norm, mode, expected):
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).train(mode == "train")
    inputs = torch.randn(N, 4)
    if expected.isidentifier():
        assert record(network, inputs, squares, way=way, batch_norm=batch_norm).way == expected
    else:
        with pytest.raises(ConfigurationError, match=expected):
            record(network, inputs, squares, way=way, batch_norm=batch_norm)


def test_autotuning_changes_no_number_beyond_rounding_and_is_remembered():
    torch.manual_seed(0)
    network, inputs = WideResNet((3, 8, 8), 10, depth=10, width=1).double(), torch.randn(4, 3, 8, 8).double()
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    state, before = torch.get_rng_state(), len(choice._measured)
    tuned = align(record(network, inputs, squares, autotune=True), direction)
    assert torch.equal(torch.get_rng_state(), state)
    measured = dict(choice._measured)
    assert len(measured) > before
    assert_close(align(record(network, inputs, squares, autotune=True), direction), tuned)
    assert choice._measured == measured
    assert_close(align(record(network, inputs, squares), direction), tuned)


@pytest.mark.parametrize("bias", [True, False])
def test_large_dense_layers_are_aligned_by_inner_products(bias, monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 64, bias), nn.Tanh(), nn.Linear(64, 3)).double()
    inputs, next_inputs = torch.randn(2, 8, 64, dtype=torch.float64)
    expected = align(record(network, inputs, squares), gradient_at(network, next_inputs))
    tape = record(network, inputs, squares)
    network.zero_grad()
    entry = type(tape).entry
    monkeypatch.setattr(type(tape), "entry", lambda tape, unit, d: None if unit.name == "0" else entry(tape, unit, d))
    with aligning(tape, loss_scale=3.0) as paid:
        (3 * squares(network(next_inputs)).mean()).backward()
    assert_close(paid.entries, expected)


def gradient_at(network, inputs):
    other = copy.deepcopy(network)
    other.zero_grad()
    squares(other(inputs)).mean().backward()
    return gradient(other)


def test_inner_products_give_way_to_other_uses_of_the_layer():
    """A weight decay inside the loss is in the gradient, and not in the inner products of inputs."""
    torch.manual_seed(0)
    network, inputs = nn.Sequential(nn.Linear(64, 64)).double(), torch.randn(8, 2, 64, dtype=torch.float64)
    twice = torch.randn(8, 64, dtype=torch.float64)
    expected = align(record(network, twice, squares), gradient_at(network, inputs))
    tape = record(network, twice, squares)
    network.zero_grad()
    with aligning(tape) as paid:
        squares(network(inputs)).mean().backward()  # sequences this time
    assert_close(paid.entries, expected)


@pytest.mark.parametrize("way", ["hooks", "forward", "finite_difference"])
def test_a_tape_is_read_once_unless_it_is_retained(way):
    network, inputs = nn.Linear(4, 3), torch.randn(N, 4)
    tape = record(network, inputs, squares, way=way)
    direction = gradient(network)
    kept = tape.nbytes
    first = align(tape, direction, retain_tape=True)
    assert tape.nbytes == kept > 0
    torch.testing.assert_close(align(tape, direction), first)
    assert tape.nbytes == 0
    with pytest.raises(StaleTapeError, match=r"read already.*\n?.*retain_tape=True"):
        align(tape, direction)
    with pytest.raises(StaleTapeError, match="read already"), aligning(tape):
        raise AssertionError("never begins")


def test_a_block_that_fails_pays_nobody_and_leaves_no_hooks():
    network, inputs = nn.Linear(4, 3), torch.randn(N, 4)
    tape = record(network, inputs, squares)
    network.zero_grad()
    with pytest.raises(ZeroDivisionError), aligning(tape) as paid:
        1 / 0  # noqa: B018
    with pytest.raises(StaleTapeError, match="when the block"):
        paid.entries  # noqa: B018
    assert not any(p._post_accumulate_grad_hooks for p in network.parameters())


def test_two_backward_passes_inside_the_block_are_refused():
    network, inputs = nn.Linear(4, 3), torch.randn(N, 4)
    tape = record(network, inputs, squares)
    network.zero_grad()
    twice = pytest.raises(ConfigurationError, match=r"arrived twice.*\n?.*align\(tape, gradient\(network\)\)")
    with twice, aligning(tape):
        squares(network(inputs)).mean().backward()
        squares(network(inputs)).mean().backward()


@pytest.mark.parametrize("way", ["hooks", "forward", "finite_difference"])
def test_a_tape_survives_pickling(way):
    network, inputs = nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(), nn.Flatten()), torch.randn(N, 2, 5, 5)
    tape = record(network, inputs, squares, way=way)
    direction = gradient(network)
    again = pickle.loads(pickle.dumps(tape))
    assert torch.equal(align(again, direction), align(tape, direction))


def test_named_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, factor=1.0):
            return factor * self.layer(x)

    network, inputs = Two().double(), {"x": torch.randn(N, 4, dtype=torch.float64), "factor": 2.0}
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    expected = 2 * align(record(network, inputs["x"], lambda y: y.sum(1)), direction)
    for way in ("hooks", "forward"):
        assert_close(align(record(network, inputs, lambda y: y.sum(1), way=way), direction), expected)
