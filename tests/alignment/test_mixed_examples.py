"""Examples that a layer mixes are seen: in every mode and precision, behind closed branches, after the first batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gar_env.alignment import Alignment, record
from gar_env.alignment.findings import findings_of
from gar_env.errors import MixedExamplesError
from gar_env.functional import structure_of

N = 6


def squares(outputs: Tensor) -> Tensor:
    return outputs.flatten(1).square().mean(1)


class Mixes(nn.Module):
    """Adds a share of the batch's mean."""

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return x + self.share * x.mean(0, keepdim=True)


class OnlyInTraining(Mixes):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.training else x


class Closed(nn.Module):
    """Mixes in a branch that a weight closes at first: LoRA, or a zero-initialised residual."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        return x + self.outer(h - h.mean(0, keepdim=True))


class Dead(nn.Module):
    """Mixes behind a rectifier that no example of the first batches opens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.threshold = 50.0

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.layer(x) - self.threshold)
        return self.layer(x) + h.mean(0, keepdim=True)


def refused(alignment: Alignment, inputs: Tensor) -> bool:
    try:
        alignment.record(inputs, squares)
    except MixedExamplesError:
        return True
    return False


def hooks(network: nn.Module) -> Alignment:
    return Alignment(network, way="hooks")


@pytest.mark.parametrize("share", [1.0, 0.05, 0.01])
def test_mixing_is_seen_and_auto_takes_another_way(share):
    network = nn.Sequential(nn.Linear(4, 4), Mixes(share), nn.Linear(4, 2))
    with pytest.raises(MixedExamplesError, match=r"0\.bias, 0\.weight.*way='forward'"):
        record(network, torch.randn(N, 4), squares, way="hooks")
    assert record(network, torch.randn(N, 4), squares).way == "forward"


def test_mixing_in_training_mode_is_seen_after_a_pass_in_evaluation_mode():
    network = nn.Sequential(nn.Linear(4, 4), OnlyInTraining(), nn.Linear(4, 2)).eval()
    alignment = hooks(network)
    assert not refused(alignment, torch.randn(N, 4))
    network.train()
    assert refused(alignment, torch.randn(N, 4))


def test_mixing_is_seen_when_the_first_batch_was_a_single_example_beside_a_longer_input():
    class WithPrompts(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 4), Mixes(), nn.Linear(4, 4))

        def forward(self, x: Tensor, prompts: Tensor) -> Tensor:
            return self.body(x) @ prompts.T

    alignment, prompts = hooks(WithPrompts()), torch.randn(10, 4)
    alignment.record((torch.randn(1, 4), prompts), squares)
    alignment.record((torch.randn(1, 4), prompts), squares)
    with pytest.raises(MixedExamplesError):
        alignment.record((torch.randn(N, 4), prompts), squares)


def test_mixing_behind_a_closed_branch_is_seen_before_it_opens():
    assert refused(hooks(nn.Sequential(Closed(), nn.Linear(4, 2))), torch.randn(N, 4))


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm])
@pytest.mark.parametrize("mixes", [False, True])
def test_networks_whose_batch_norm_keeps_no_statistics_are_looked_at(kind, mixes):
    if kind is nn.SyncBatchNorm:
        pytest.skip("needs a GPU and a process group in training mode")
    layers = nn.Linear(4, 4), kind(4, track_running_stats=False), Mixes(1.0 if mixes else 0.0), nn.Linear(4, 2)
    assert refused(hooks(nn.Sequential(*layers)), torch.randn(N, 4)) == mixes


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_mixing_is_seen_under_autocast_and_in_half_precision(share):
    network = nn.Sequential(nn.Linear(4, 4), Mixes(share), nn.Linear(4, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert refused(hooks(network), torch.randn(N, 4))
    assert refused(hooks(network), torch.randn(N, 4)), "what was seen coarsely does not settle it"
    half = nn.Sequential(nn.Linear(4, 4), Mixes(share), nn.Linear(4, 2)).bfloat16()
    assert refused(hooks(half), torch.randn(N, 4, dtype=torch.bfloat16))


def test_a_network_that_runs_in_half_precision_only_is_looked_at_coarsely_and_again_when_it_can_be_precise():
    class HalfOnly(Mixes):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu") is False and not self.relaxed:
                raise RuntimeError("expected autocast")
            return super().forward(x)

    mixing = HalfOnly(0.02)
    mixing.relaxed = False
    network = nn.Sequential(nn.Linear(4, 4), mixing, nn.Linear(4, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not refused(hooks(network), torch.randn(N, 4)), "2 % is below what 8 bits can tell"
    mixing.relaxed = True
    assert refused(hooks(network), torch.randn(N, 4))


def test_mixing_that_starts_later_is_seen_in_the_tenth_pass_at_the_latest():
    network = Dead()
    alignment = hooks(network)
    outcomes = []
    for step in range(12):
        if step == 4:
            network.threshold = 0.0
        outcomes.append(refused(alignment, torch.randn(N, 4)))
    assert outcomes.index(True) == 9
    assert all(outcomes[9:]), "and is refused from then on"


def test_a_network_is_looked_at_in_its_1st_10th_100th_pass_and_no_more_often():
    network = nn.Linear(4, 2)
    alignment, calls = Alignment(network), []
    for step in range(1, 121):
        before = findings_of(network).of_layers[structure_of(network).key].due if step > 1 else 1
        alignment.record(torch.randn(N, 4), squares)
        if findings_of(network).of_layers[structure_of(network).key].due != before:
            calls.append(step)
    assert calls == [1, 10, 100]


def test_parts_whose_gradient_is_rounding_are_not_called_mixed():
    class Keys(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv1d(3, 4, 1), nn.InstanceNorm1d(4)
            self.queries, self.keys, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.first(x)).transpose(1, 2)
            return self.head((self.queries(y) @ self.keys(y).transpose(1, 2)).softmax(-1) @ y)

    assert not refused(hooks(Keys()), torch.randn(N, 3, 5))


class BehindACheckpoint(nn.Module):
    def __init__(self, mixes):
        super().__init__()
        self.first, self.last, self.mixes = nn.Linear(3, 4), nn.Linear(4, 1), mixes

    def inner(self, x):
        h = self.first(x).tanh()
        return h + h.roll(1, 0) if self.mixes else h

    def forward(self, x):
        return self.last(checkpoint(self.inner, x, use_reentrant=True))


@pytest.mark.parametrize("mixes", [False, True])
def test_examples_mixed_behind_a_reentrant_checkpoint_are_seen(mixes):
    network, x = BehindACheckpoint(mixes), torch.randn(5, 3, requires_grad=True)

    def record():
        return Alignment(network, way="hooks").record(x, lambda output: output.square().sum(1))

    if mixes:
        with pytest.raises(MixedExamplesError, match="belong to several examples"):
            record()
    else:
        record()


class OnlyHalf(nn.Linear):
    passes = 0

    def forward(self, input):
        type(self).passes += 1
        if input.dtype is not torch.bfloat16:
            raise TypeError("bfloat16 only")
        return super().forward(input)


def test_a_network_that_runs_in_half_precision_alone_is_looked_at_as_often_as_others():
    network = OnlyHalf(3, 1).bfloat16()
    alignment = Alignment(network, way="hooks")
    counts = []
    for _ in range(6):
        before = OnlyHalf.passes
        alignment.record(torch.randn(5, 3).bfloat16(), lambda output: output.float().square().sum(1))
        counts.append(OnlyHalf.passes - before)
    assert counts[0] > 1
    assert counts[1:] == [1] * 5


def test_a_look_behind_a_reentrant_checkpoint_leaves_gradients_of_others():
    network, temperature = BehindACheckpoint(False), nn.Parameter(torch.ones(()))
    x, plain = torch.randn(5, 3, requires_grad=True), BehindACheckpoint(False)
    plain.load_state_dict(network.state_dict())

    def loss(output):
        return (output * temperature).square().sum(1)

    loss(plain(x)).mean().backward()
    expected, temperature.grad = temperature.grad, None
    Alignment(network, way="hooks").record(x, loss)
    torch.testing.assert_close(temperature.grad, expected)
