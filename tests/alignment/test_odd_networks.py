"""Networks that do odd things: right, or refused with a reason."""

import collections

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cases import N
from gar_env.alignment import Alignment, align, gradient, record
from gar_env.errors import (
    DirectionMismatchError,
    LossShapeError,
    LostGradientError,
    MixedExamplesError,
    StaleTapeError,
    UnsupportedLayerError,
)
from oracles import assert_close, derivative_by_backward, squares


class Crossed(nn.Module):
    """Its layer's first dimension is the sequence."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


def test_a_gradient_penalty_in_the_recorded_loss_is_refused_by_hooks_and_named():
    class Penalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x):
            x = x.detach().requires_grad_()
            y = torch.tanh(self.layer(x))
            (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            return y[:, 0] + slope.square().sum(1)

    with pytest.raises(UnsupportedLayerError, match=r"layer \(Linear\) was differentiated twice.*way='forward'"):
        record(Penalised(), torch.randn(N, 4), lambda y: y, way="hooks")


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(75, 2)),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.PReLU(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(27, 2)),
    ],
)
def test_what_follows_a_replayed_module_may_work_in_place(make):
    torch.manual_seed(0)
    network, inputs = make().double(), torch.randn(N, 2, 4, 4).double()
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    assert_close(
        align(record(network, inputs, squares, way="hooks"), direction),
        derivative_by_backward(network, (inputs,), squares, direction),
    )


@pytest.mark.parametrize("way", ["forward", "finite_difference"])
def test_targets_that_are_overwritten_are_refused(way):
    network, targets = nn.Linear(4, 3), torch.zeros(N, dtype=torch.long)
    tapes = [
        record(network, torch.randn(N, 4), lambda y: F.cross_entropy(y, targets, reduction="none"), way=way),
        record(network, torch.randn(N, 4), lambda y, t=targets: F.cross_entropy(y, t, reduction="none"), way=way),
    ]
    direction = gradient(network)
    targets.fill_(1)
    for tape in tapes:
        with pytest.raises(StaleTapeError, match="input of the loss was overwritten"):
            align(tape, direction)


def test_a_network_that_failed_the_probe_fails_it_again_for_hooks():
    network, inputs = Crossed(), torch.randn(N, N, 4)
    assert record(network, inputs, squares).way == "forward"
    for _ in range(2):
        with pytest.raises(MixedExamplesError):
            record(network, inputs, squares, way="hooks")
    assert record(network, inputs, squares).way == "forward"


def test_old_spectral_norm_in_training_mode():
    torch.manual_seed(0)
    network = nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs = torch.randn(N, 6).double()
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    expected = derivative_by_backward(network, (inputs,), squares, direction)
    assert_close(align(record(network, inputs, squares, way="hooks", probe=False), direction), expected)


def test_finite_differences_ignore_what_is_no_number():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            y = self.layer(x)
            return y.masked_fill(torch.tensor([False, True, False]), -torch.inf), y > 0, torch.full((N,), 50000)

    torch.manual_seed(0)
    network, inputs = Several(), torch.randn(N, 4)
    tape = record(network, inputs, lambda y: torch.logsumexp(y[0], 1), way="finite_difference")
    align(tape, {name: torch.randn_like(p) for name, p in network.named_parameters()})
    assert tape.error < 1e-2


class Remembers(nn.Module):
    """A buffer that enters the output, and is assigned anew by every pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))

    def forward(self, x):
        y = self.layer(x) - self.mean
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return y


@pytest.mark.parametrize("options", [{}, {"max_overhead": 9.0}, {"way": "forward"}])
def test_looking_at_a_network_leaves_buffers_as_a_plain_step_would(options):
    torch.manual_seed(0)
    network, inputs = Remembers().double(), torch.randn(N, 4).double()
    Alignment(network, **options).record(inputs, squares)
    found, network.mean = network.mean, torch.zeros(3, dtype=torch.float64)
    network(inputs)
    torch.testing.assert_close(found, network.mean)


def test_a_batch_of_one_does_not_settle_whether_examples_are_mixed():
    network = Crossed().double()
    alignment = Alignment(network)
    assert alignment.record(torch.randn(1, 1, 4).double(), squares).way == "hooks"
    inputs = torch.randn(N, N, 4).double()
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    tape = alignment.record(inputs, squares)
    assert tape.way == "forward"
    assert_close(align(tape, direction), derivative_by_backward(network, (inputs,), squares, direction))


def test_losses_in_double_precision_over_a_network_in_single():
    torch.manual_seed(0)
    network, inputs = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(N, 4)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    expected = derivative_by_backward(network, (inputs,), squares, direction)
    for way in ("hooks", "forward", "finite_difference"):
        found = align(record(network, inputs, lambda y: squares(y.double()), way=way), direction)
        tolerance = 2e-2 if way == "finite_difference" else 1e-5
        assert (found - expected).abs().max() < tolerance * expected.abs().max()


def test_autocast_inside_the_network_alone():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.second(torch.tanh(self.first(x))).float()

    torch.manual_seed(0)
    network, inputs = Inside(), torch.randn(32, 4)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    found = align(record(network, inputs, squares), direction)
    expected = derivative_by_backward(network, (inputs,), squares, direction)
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.999


@pytest.mark.parametrize("way", ["hooks", "forward", "finite_difference"])
def test_inputs_of_any_mapping_and_inputs_that_are_no_examples(way):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, mask, x):
            return self.layer(x * mask)

    network = Masked().double()
    inputs = (torch.ones(5).double(), torch.randn(N, 5).double())
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    expected = derivative_by_backward(network, inputs, squares, direction)
    for given in (inputs, collections.UserDict(mask=inputs[0], x=inputs[1])):
        found = align(record(network, given, squares, way=way), direction)
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("network", "inputs", "error", "message"),
    [
        (nn.ReLU(), torch.randn(3, 4), LossShapeError, "no trainable parameter"),
        (nn.Linear(4, 2), torch.randn(0, 4), LossShapeError, "batch is empty"),
        (nn.Linear(4, 2, dtype=torch.complex64), torch.randn(3, 4), UnsupportedLayerError, "Complex parameters"),
    ],
)
def test_what_cannot_be_aligned_is_refused(network, inputs, error, message):
    with pytest.raises(error, match=message):
        record(network, inputs, squares)


def test_a_missing_direction_is_named():
    network = nn.Linear(4, 2)
    with pytest.raises(DirectionMismatchError, match=r"direction is NoneType.*\n?.*needs name"):
        align(record(network, torch.randn(3, 4), squares), None)


def test_a_hook_of_ones_own_that_replaces_the_output_is_recorded_or_refused_never_counted_twice():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    network[0].register_forward_hook(lambda module, args, output: output.clone())
    inputs = torch.randn(N, 9, 4).double()
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    expected = derivative_by_backward(network, (inputs,), squares, direction)
    assert_close(align(record(network, inputs, squares, way="hooks"), direction), expected)


def test_checkpointed_blocks():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False))

    torch.manual_seed(0)
    network, inputs = Checkpointed().double(), torch.randn(N, 5, 4).double()
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    found = align(record(network, inputs, lambda y: F.softplus(y).sum((1, 2)), way="hooks"), direction)
    expected = derivative_by_backward(network, (inputs,), lambda y: F.softplus(y).sum((1, 2)), direction)
    assert_close(found, expected)


def test_a_weight_used_elsewhere_in_a_batch_that_was_not_probed_is_still_found():
    network = nn.Linear(4, 3)
    alignment = Alignment(network, way="hooks")
    alignment.record(torch.randn(N, 4), squares)
    tape = alignment.record(torch.randn(N, 4), lambda y: squares(y) + network.weight.square().sum())
    with pytest.raises(LostGradientError):
        align(tape, {name: torch.randn_like(p) for name, p in network.named_parameters()})
