"""What alignment refuses, and what the probe finds."""

import re

import pytest
import torch
from torch import nn

from cases import CASES, N, Outside
from gar_env.alignment import WAYS, align, gradient, record
from gar_env.errors import (
    DirectionMismatchError,
    LossShapeError,
    LostGradientError,
    MixedExamplesError,
    NonFiniteGradientError,
    StaleTapeError,
    UnsupportedLayerError,
)
from oracles import assert_close, derivative_by_backward, squares


@pytest.fixture
def two_layer_tape():
    network = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    return record(network, torch.randn(3, 4), squares)


def test_align_names_the_missing_parameters(two_layer_tape):
    direction = {"0.weight": torch.zeros(5, 4), "0.bias": torch.zeros(5)}
    with pytest.raises(DirectionMismatchError, match=re.escape("2 of 4 trainable parameters: 1.weight, 1.bias")):
        align(two_layer_tape, direction)


def test_align_names_what_is_too_much_and_what_has_the_wrong_shape(two_layer_tape):
    direction = gradient(two_layer_tape.network)
    with pytest.raises(DirectionMismatchError, match=r"no trainable parameter is called by: 2\.weight"):
        align(two_layer_tape, {**direction, "2.weight": torch.zeros(1)})
    with pytest.raises(
        DirectionMismatchError, match=re.escape("direction['0.bias'] is [4] on cpu; the parameter is [5]")
    ):
        align(two_layer_tape, {**direction, "0.bias": torch.zeros(4)})


def test_a_weight_used_outside_its_layer_is_refused_and_named():
    network, inputs = Outside(), torch.randn(N, 4)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    with pytest.raises(LostGradientError, match=r"layer\.weight.*outside its layer"):
        align(record(network, inputs, squares, way="hooks", probe=False), direction)
    with pytest.raises(LostGradientError, match="outside its layer"):
        record(network, inputs, squares, way="hooks")
    tape = record(network, inputs, squares)
    assert tape.way == "forward"
    assert_close(align(tape, direction), derivative_by_backward(network, (inputs,), squares, direction))


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda outputs: outputs.square().mean(), r"shape \[6\]; found \[\]"),
        (lambda outputs: outputs.square(), r"shape \[6\]; found \[6, 3\]"),
        (lambda outputs: outputs[:3, 0], r"shape \[6\]; found \[3\]"),
        (lambda outputs: 0.5, "found float"),
        (lambda outputs: outputs[:, 0].detach(), "depend on no trainable parameter"),
    ],
)
@pytest.mark.parametrize("batch_norm", ["share", "derivative"])
def test_losses_that_are_not_one_per_example_are_refused(loss, found, batch_norm):
    with pytest.raises(LossShapeError, match=found):
        record(nn.Linear(4, 3), torch.randn(N, 4), loss, batch_norm=batch_norm)


class Merged(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.flatten(0, 1)).view(len(x), -1)


class Positions(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.positions, self.layer = nn.Embedding(length, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x + self.positions(torch.arange(x.shape[1])))


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("network", [Merged(), Positions(5), TimeFirst()], ids=["merged", "positions", "time first"])
def test_rows_that_are_not_examples_are_refused_by_hooks_and_right_by_default(network):
    inputs = torch.randn(N, 5, 4)
    with pytest.raises(MixedExamplesError, match=r"rows for a batch of 6 examples"):
        record(network, inputs, squares, way="hooks")
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    tape = record(network, inputs, squares, probe=True)
    assert tape.way == "forward"
    assert_close(align(tape, direction), derivative_by_backward(network, (inputs,), squares, direction))


@pytest.mark.parametrize("network", [Positions(N), TimeFirst()], ids=["positions", "time first"])
def test_the_probe_finds_rows_that_only_look_like_examples(network):
    """As many tokens as examples: shapes fit, sums fit, and every single entry would be wrong."""
    with pytest.raises(MixedExamplesError, match="Rows belong to several examples at the parameters"):
        record(network, torch.randn(N, N, 4), squares, way="hooks")
    inputs = torch.randn(N, N, 4)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    tape = record(network, inputs, squares)
    assert_close(align(tape, direction), derivative_by_backward(network, (inputs,), squares, direction))


@pytest.mark.parametrize("batch_norm", ["share", "derivative"])
@pytest.mark.parametrize("network", [nn.Linear(4, 3), nn.PReLU(4)], ids=["rule", "replayed"])
def test_an_overwritten_input_is_refused(network, batch_norm):
    inputs = torch.randn(N, 4)
    tape = record(network, inputs, squares, batch_norm=batch_norm)
    inputs.zero_()
    with pytest.raises(StaleTapeError, match="overwritten in place"):
        align(tape, gradient(network))


def test_batch_norm_inside_a_replayed_module_is_refused_with_share_and_right_with_derivative():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.norm = nn.Parameter(torch.ones(4)), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(x * self.scale).square()

    network, inputs = Block(), torch.randn(N, 4)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    with pytest.raises(UnsupportedLayerError, match="batch_norm='derivative'"):
        record(network, inputs, squares)
    assert_close(
        align(record(network, inputs, squares, batch_norm="derivative"), direction),
        derivative_by_backward(network, (inputs,), squares, direction),
    )


@pytest.mark.parametrize("way", ["hooks", "forward"])
def test_an_operation_without_forward_mode_is_differentiated_twice_instead(way):
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Tanh()).double()
    inputs = torch.randn(N, 4, dtype=torch.float64)
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    expected = derivative_by_backward(network, (inputs,), squares, direction)
    assert_close(align(record(network, inputs, squares, way=way), direction), expected)


class Once(torch.autograd.Function):
    """Has neither a forward-mode derivative nor a second one."""

    generate_vmap_rule = False

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, delta):
        x, weight = ctx.saved_tensors
        return delta * weight, (delta * x).sum(0)


@pytest.mark.parametrize("way", ["hooks", "forward"])
def test_an_operation_that_cannot_be_replayed_is_refused_and_named(way):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return Once.apply(x, self.weight)

    network = nn.Sequential(nn.Linear(4, 4), Odd())
    tape = record(network, torch.randn(N, 4), squares, way=way, probe=False)
    advice = "try_ways" if way == "hooks" else "way='finite_difference'"
    with pytest.raises(UnsupportedLayerError, match=f"once_differentiable.*{advice}"):
        align(tape, gradient(network))


def test_overwritten_targets_are_found_when_the_pass_is_replayed():
    network, targets = nn.Linear(4, 3), torch.zeros(N, dtype=torch.long)

    def loss(outputs):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    tape = record(network, torch.randn(N, 4), loss, way="forward")
    targets.fill_(1)
    with pytest.raises(StaleTapeError, match="input of the loss was overwritten"):
        align(tape, gradient(network))


def test_the_probe_finds_examples_that_are_permuted_inside():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
            self.order = torch.tensor([0, 2, 1, 3, 5, 4])

        def forward(self, x):
            return self.second(torch.tanh(self.first(x[self.order]))[self.order.argsort()])

    with pytest.raises(MixedExamplesError, match="Rows belong to several examples"):
        record(Sorted(), torch.randn(N, 4), squares, way="hooks")


def test_the_probe_finds_terms_that_cancel_over_the_batch():
    network, signs = nn.Linear(4, 3), torch.tensor([1.0, -1, 1, -1, 1, -1])
    with pytest.raises(LostGradientError, match="outside its layer"):
        record(network, torch.randn(N, 4), lambda y: squares(y) + signs * network.weight.square().sum(), way="hooks")


def test_a_weight_used_outside_its_layer_by_one_example_of_many_is_found():
    network = nn.Linear(4, 3)
    once = torch.zeros(256).index_fill(0, torch.tensor([0]), 1.0)
    tape = record(
        network, torch.randn(256, 4), lambda y: squares(y) + once * network.weight.square().sum(), probe=False
    )
    with pytest.raises(LostGradientError, match=r"weight \(entries add up to .*, the batch gradient to .*\)"):
        align(tape, {name: torch.randn_like(p) for name, p in network.named_parameters()})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_probe_changes_nothing(case):
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float32)
    plain = align(record(network, inputs, loss), direction)
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float32)
    state, modes = torch.get_rng_state(), [module.training for module in network.modules()]
    tape = record(network, inputs, loss, probe=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    torch.testing.assert_close(align(tape, direction), plain, rtol=1e-6, atol=1e-6)


def test_a_network_that_overflows_passes_the_probe():
    network = nn.Linear(4, 3)
    with torch.no_grad():
        network.weight.fill_(1e38)
    assert not record(network, torch.randn(N, 4) * 1e3, squares, probe=True).losses.isfinite().all()


def test_examples_that_are_mixed_inside_the_network_are_found_by_the_probe():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.first(x)
            return self.second(y - y.mean(0))

    with pytest.raises(MixedExamplesError, match=r"several examples at the parameters first\.bias, first\.weight"):
        record(Centred(), torch.randn(N, 4), squares, way="hooks")


def test_an_embedding_that_changes_its_weight_is_refused():
    network = nn.Sequential(nn.Embedding(5, 3, scale_grad_by_freq=True))
    with pytest.raises(UnsupportedLayerError, match="scale_grad_by_freq"):
        record(network, torch.zeros(N, 2, dtype=torch.long), squares)


@pytest.mark.parametrize("way", WAYS)
def test_a_network_that_diverged_is_named_and_not_called_lost_gradients(way):
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    with torch.no_grad():
        network[1].weight.fill_(torch.inf)
    tape = record(network, torch.randn(N, 4), squares, way=way)
    with pytest.raises(NonFiniteGradientError, match=r"NaN or infinite at .*1\.weight"):
        align(tape, gradient(network))
