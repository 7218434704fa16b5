"""Alignment beside what real training loops do: mixed precision, loss scaling, accumulation, clipping, compilers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cases import CASES, N
from gar_env.alignment import Alignment, align, aligning, choice, gradient, record
from gar_env.errors import ConfigurationError, MemoryCapError, NonFiniteGradientError, UnsupportedLayerError
from gar_env.networks import FC_BN, WideResNet
from oracles import assert_close, derivative_by_backward, share_by_backward, squares


class CausalBlock(nn.Module):
    """Attention by scaled_dot_product_attention."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))


class LanguageModel(nn.Module):
    """Tied embeddings, and positions that all examples share."""

    def __init__(self, positions_per_example=False):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(7, 8), nn.Embedding(5, 8)
        self.block, self.head = CausalBlock(), nn.Linear(8, 7, bias=False)
        self.head.weight = self.tokens.weight
        self.positions_per_example = positions_per_example

    def forward(self, tokens):
        positions = torch.arange(tokens.shape[1])
        positions = positions.expand_as(tokens) if self.positions_per_example else positions
        return self.head(self.block(self.tokens(tokens) + self.positions(positions)))


@pytest.fixture
def language():
    torch.manual_seed(0)
    network, tokens = LanguageModel().double(), torch.randint(7, (N, 6))
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}

    def losses(logits):
        return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")

    return network, tokens[:, :-1], losses, direction


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_sdpa_attention_equals_the_oracle_in_every_exact_way(dropout):
    torch.manual_seed(0)
    network, x = nn.Sequential(CausalBlock(dropout), nn.Linear(8, 3)).double(), torch.randn(N, 5, 8).double()
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    state = torch.get_rng_state()
    expected = derivative_by_backward(network, (x,), squares, direction)
    for way in ("hooks", "forward"):
        torch.set_rng_state(state)
        assert_close(align(record(network, x, squares, way=way), direction), expected)


def test_a_language_model_is_paid_per_sequence_and_per_token(language):
    network, tokens, losses, direction = language
    assert record(network, tokens, lambda y: losses(y).mean(1)).way == "forward", "positions are no examples"
    per_sequence = align(record(network, tokens, lambda y: losses(y).mean(1)), direction)
    assert_close(per_sequence, derivative_by_backward(network, (tokens,), lambda y: losses(y).mean(1), direction))
    per_token = align(record(network, tokens, losses, way="forward"), direction)
    assert per_token.shape == (N, 5)
    expected = derivative_by_backward(network, (tokens,), lambda y: losses(y).flatten(), direction)
    assert_close(per_token.flatten(), expected)
    torch.testing.assert_close(per_token.mean(1), per_sequence)
    rough = align(record(network, tokens, losses, way="finite_difference"), direction)
    assert (rough - per_token).abs().max() < 1e-5 * per_token.abs().max()


def test_a_language_model_with_positions_per_example_is_recorded_with_hooks(language):
    network, tokens, losses, direction = language
    network.positions_per_example = True

    def per_sequence(logits):
        return losses(logits).mean(1)

    tape = record(network, tokens, per_sequence)
    assert tape.way == "hooks"
    assert_close(align(tape, direction), derivative_by_backward(network, (tokens,), per_sequence, direction))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", ["hooks", "forward"])
@pytest.mark.parametrize("scale", [1.0, 2.0**12])
def test_autocast_comes_close_to_float32_with_any_loss_scale(dtype, way, scale):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 16),
        nn.PReLU(),
        nn.Linear(16, 4),
    )
    inputs, targets = torch.randn(32, 3, 8, 8), torch.randint(4, (32,))

    def loss(outputs):
        return F.cross_entropy(outputs.float(), targets, reduction="none")

    exact = align(record(network, inputs, loss), gradient(network))
    network.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        tape = record(network, inputs, loss, way=way, loss_scale=scale)
    direction = {name: g / scale for name, g in gradient(network).items()}
    found = align(tape, direction)
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found, exact]))[0, 1] > 0.999
    assert (found - exact).abs().median() < 0.05 * exact.abs().median()
    network.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        tape = record(network, inputs, loss, way=way, loss_scale=scale)
        network.zero_grad()
        with aligning(tape, loss_scale=scale) as paid:
            (scale * loss(network(inputs)).mean()).backward()
    assert torch.corrcoef(torch.stack([paid.entries, exact]))[0, 1] > 0.999


def test_autocast_with_batch_norm_stays_close_to_the_share():
    torch.manual_seed(0)
    network, inputs = FC_BN((3, 8, 8), 4), torch.randn(32, 3, 8, 8)
    targets = torch.randint(4, (32,))

    def loss(outputs):
        return F.cross_entropy(outputs.float(), targets, reduction="none")

    expected = share_by_backward(network, (inputs,), loss, {n: p.detach() for n, p in network.named_parameters()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tape = record(network, inputs, loss)
    found = align(tape, {n: p.detach() for n, p in network.named_parameters()})
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.995


def test_a_grad_scaler_can_stand_between_two_passes():
    torch.manual_seed(0)
    network, optimizer_of = nn.Linear(4, 3), lambda network: torch.optim.SGD(network.parameters(), lr=0.1)
    inputs = torch.randn(2, N, 4)
    plain = copy.deepcopy(network)
    tape = record(plain, inputs[0], squares)
    optimizer_of(plain).step()
    plain.zero_grad()
    with aligning(tape) as expected:
        record(plain, inputs[1], squares)

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = optimizer_of(network)
    tape = record(network, inputs[0], squares, loss_scale=scaler)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    with aligning(tape, loss_scale=scaler) as paid:
        record(network, inputs[1], squares, loss_scale=scaler)
    torch.testing.assert_close(paid.entries, expected.entries)
    torch.testing.assert_close(network.weight, plain.weight)


def test_an_overflowing_loss_scale_is_named_with_its_parameters():
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    tape = record(network, torch.randn(N, 4), squares, loss_scale=1e38)
    with pytest.raises(NonFiniteGradientError, match=r"NaN or infinite at .*weight.*\n?.*GradScaler") as raised:
        align(tape, {name: torch.full_like(p, 1e38) for name, p in network.named_parameters()})
    assert "2.weight" in raised.value.parameters


@pytest.mark.parametrize("way", ["hooks", "forward"])
def test_accumulated_micro_batches_are_aligned_once_on_the_final_gradient(way):
    torch.manual_seed(0)
    network, inputs = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double(), torch.randn(12, 4).double()
    whole = record(network, inputs, squares, way=way)
    expected_gradient = gradient(network)
    expected = align(whole, expected_gradient)
    network.zero_grad()
    tapes = [record(network, part, squares, way=way, loss_scale=1 / 3) for part in inputs.split(4)]
    torch.testing.assert_close(gradient(network), expected_gradient)
    found = torch.cat([align(tape, gradient(network)) for tape in tapes])
    assert_close(found, expected)


def test_clipping_after_the_pass_does_not_reach_the_rewards():
    torch.manual_seed(0)
    network, inputs = nn.Linear(4, 3).double(), torch.randn(2, N, 4).double()
    tape = record(network, inputs[0], squares)
    again = record(network, inputs[0], squares)
    network.zero_grad()
    with aligning(tape) as paid:
        squares(network(inputs[1])).mean().backward()
    expected = align(again, {name: g.clone() for name, g in gradient(network).items()})
    nn.utils.clip_grad_norm_(network.parameters(), 1e-3)
    assert_close(paid.entries, expected)


@pytest.mark.parametrize("case", [case for case in CASES if "conv2d" in case.name or "wrn" in case.name], ids=str)
def test_channels_last(case):
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float64)
    expected = align(record(network, inputs, loss), direction)
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float64)
    network, inputs = network.to(memory_format=torch.channels_last), inputs[0].to(memory_format=torch.channels_last)
    assert_close(align(record(network, inputs, loss), direction), expected)


# Compilers


def test_a_network_that_was_compiled_first_is_refused():
    network = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(UnsupportedLayerError, match=r"compiled before it was hooked.*\n?.*alignment\.compile"):
        record(torch.compile(network, backend="eager"), torch.randn(N, 4), squares)
    network[0].compile(backend="eager")
    with pytest.raises(UnsupportedLayerError, match=r"^0 was compiled before"):
        record(network, torch.randn(N, 4), squares)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("fc_bn", "unknown leaf", "attention")], ids=str
)
def test_a_network_compiled_with_its_hooks_is_recorded(case, backend):
    torch._dynamo.reset()
    network, inputs, direction, loss = case.build(seed=0, dtype=torch.float64)
    expected = align(record(copy.deepcopy(network), inputs, loss), direction)
    alignment = Alignment(network, probe=False)
    compiled = alignment.compile(backend=backend)
    for _ in range(2):
        loss(compiled(*inputs)).mean().backward()  # the hooks rest
        network.zero_grad()
    if case.batch_norm:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
    assert_close(align(alignment.record(inputs, loss), direction), expected)
    assert_close(align(alignment.record(inputs, loss), direction), expected)


# Memory


def test_a_memory_cap_is_kept_by_smaller_choices_then_by_another_way_and_refused_otherwise(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(choice, "LARGEST", 0)  # nothing is materialised unless it has to be
    network, inputs = WideResNet((3, 16, 16), 10, depth=10, width=2), torch.randn(16, 3, 16, 16)
    free = Alignment(network)
    tape = free.record(inputs, squares)
    roomy = Alignment(network, max_overhead=3.0)
    assert roomy.record(inputs, squares).nbytes == tape.nbytes
    (memory,) = roomy._cap.measured.values()
    assert memory.overhead(tape.nbytes) <= memory.fit(3.0)[1] < 1.1 * memory.overhead(tape.nbytes)
    cap = memory.overhead(tape.nbytes) - 0.05
    tight = Alignment(network, max_overhead=cap).record(inputs, squares)
    assert memory.overhead(tight.nbytes) <= cap
    assert tight.nbytes < tape.nbytes
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    torch.testing.assert_close(align(tight, direction), align(tape, direction), rtol=1e-3, atol=1e-3)
    with pytest.raises(MemoryCapError, match=r"way='hooks' \d.*times the memory.*\n?.*batch_norm='derivative'"):
        Alignment(network, max_overhead=1.01).record(inputs, squares)
    small, many = WideResNet((3, 16, 16), 10, depth=10, width=1).eval(), torch.randn(128, 3, 16, 16)
    assert Alignment(small, max_overhead=1.3).record(many, squares).way == "forward"


def test_measuring_memory_leaves_the_training_run_as_it_was():
    torch.manual_seed(0)
    network, inputs = nn.Sequential(FC_BN((1, 4, 4), 3), nn.Dropout()), torch.randn(N, 1, 4, 4)
    measured, plain = copy.deepcopy(network), network
    state = torch.get_rng_state()
    first = Alignment(plain).record(inputs, squares)
    torch.set_rng_state(state)
    second = Alignment(measured, max_overhead=5.0).record(inputs, squares)
    assert torch.equal(first.losses, second.losses)
    for a, b in zip(plain.buffers(), measured.buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cap", [1.0, 0.5, float("nan")])
def test_a_cap_that_no_step_can_keep_is_refused(cap):
    with pytest.raises(ConfigurationError, match=r"max_overhead=.*must be above 1"):
        Alignment(nn.Linear(2, 2), max_overhead=cap)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_loss_scale_that_is_no_scale_is_refused(scale):
    with pytest.raises(ConfigurationError, match=r"loss_scale=.*must be above 0"):
        record(nn.Linear(4, 3), torch.randn(N, 4), squares, loss_scale=scale)
