"""What networks and losses hold in odd places is copied for replays and probes, ties included."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from gar_env.alignment import Alignment, align

WAYS = ("auto", "hooks", "forward", "finite_difference")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", ["nothing", "unset"])
def test_a_loss_that_remembers_the_last_output_is_recorded_as_in_a_plain_pass(way, first):
    network = nn.Linear(3, 1)
    x = torch.randn(5, 3)
    if first == "nothing":
        previous = None

    def loss(output):
        nonlocal previous
        try:
            gap = output if previous is None else output - previous
        except NameError:
            gap = output
        previous = output.detach()
        return gap.square().sum(1)

    tape = Alignment(network, way=way).record(x, loss)
    torch.testing.assert_close(tape.losses, network(x).detach().square().sum(1))
    torch.testing.assert_close(previous, network(x).detach())  # pyright: ignore[reportPossiblyUnboundVariable]


@dataclass(slots=True)
class Held:
    history: list
    total: torch.Tensor


class Holds(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)
        self.held = Held([], torch.zeros(()))

    def forward(self, input):
        self.held.history.append(len(input))
        self.held.total += 1
        return super().forward(input)


@pytest.mark.parametrize("way", WAYS)
def test_objects_with_slots_are_as_after_a_plain_pass(way):
    network = Holds()
    Alignment(network, way=way).record(torch.randn(5, 3), lambda output: output.square().sum(1))
    assert (network.held.history, float(network.held.total)) == ([5], 1.0)


class Scales(nn.Module):
    """Writes into a buffer, and reads it through a view that was kept."""

    def __init__(self, part):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)
        self.register_buffer("steps", torch.ones(3, 2))
        self.view = part(self.steps)

    def forward(self, x):
        self.steps += 1
        return self.last(self.first(x) * self.view.sum())


PARTS = {
    "rows": lambda buffer: buffer[:1],
    "a column": lambda buffer: buffer[1:, 1],
    "transposed": lambda buffer: buffer.T,
    "expanded": lambda buffer: buffer.expand(2, 3, 2)[1],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", PARTS)
def test_a_view_that_a_module_keeps_goes_on_showing_its_buffer(way, part):
    torch.manual_seed(0)
    network, plain = Scales(PARTS[part]), Scales(PARTS[part])
    plain.load_state_dict(network.state_dict())
    x = torch.randn(5, 3)
    expected = plain(x).square().sum(1)
    tape = Alignment(network, way=way).record(x, lambda output: output.square().sum(1))
    torch.testing.assert_close(tape.losses, expected.detach())
    direction = {name: p.grad.clone() for name, p in network.named_parameters()}
    wanted = [
        sum((g * direction[name]).sum() for name, g in zip(direction, torch.autograd.grad(one, [*plain.parameters()],
            retain_graph=True), strict=True))
        for one in expected
    ]  # fmt: skip
    torch.testing.assert_close(align(tape, direction), torch.stack(wanted), rtol=2e-2, atol=1e-3)
    assert torch.equal(network.view, PARTS[part](network.steps))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["forward_pre", "forward", "full_backward", "full_backward_pre"])
def test_global_hooks_hear_of_one_pass(way, kind):
    last = nn.Linear(2, 1) if way == "hooks" else nn.LSTM(2, 1, batch_first=True)
    heard, network, x = [], nn.Sequential(nn.Linear(3, 2), nn.GELU(), last), torch.randn(5, 4, 3, requires_grad=True)

    def listen(module, *_):
        heard.append(type(module).__name__)

    def loss(output):
        return (output if way == "hooks" else output[0]).square().mean((1, 2))

    handle = getattr(nn.modules.module, f"register_module_{kind}_hook")(listen)
    try:
        loss(network(x)).mean().backward()
        expected, heard[:] = list(heard), []
        tape = Alignment(network, way=way).record(x, loss)
        align(tape, {name: torch.ones_like(p) for name, p in network.named_parameters()})
    finally:
        handle.remove()
    assert heard == expected
