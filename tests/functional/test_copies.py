"""What networks and losses hold in odd places is copied for replays and probes, ties included."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from gar_env.alignment import Alignment, align
from gar_env.functional import preserve

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
    direction = {name: p.grad.clone() for name, p in network.named_parameters()}
    found = align(tape, direction)
    torch.testing.assert_close(previous, network(x).detach())  # pyright: ignore[reportPossiblyUnboundVariable]
    own = [torch.autograd.grad(network(x)[i].square().sum(), list(network.parameters())) for i in range(5)]
    expected = [sum((g * d).sum() for g, d in zip(one, direction.values(), strict=True)) for one in own]
    torch.testing.assert_close(found, torch.stack(expected), rtol=2e-2, atol=1e-3)


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


def squares(output):
    return output.square().sum(1)


def with_a_default():
    def loss(output, calls=[]):  # noqa: B006 - what it is about
        calls.append(1)
        return squares(output)

    return loss, lambda: len(loss.__defaults__[0])


def with_an_attribute():
    def loss(output):
        loss.calls += 1
        return squares(output)

    loss.calls = 0
    return loss, lambda: loss.calls


def a_partial():
    def loss(calls, output, also):
        calls.append(1)
        also["calls"] = also.get("calls", 0) + 1
        return squares(output)

    calls, also = [], {}
    return functools.partial(loss, calls, also=also), lambda: (len(calls) + also["calls"]) / 2


def with_a_bound_method_of_a_list():
    calls = []
    append = calls.append

    def loss(output):
        append(1)
        return squares(output)

    return loss, lambda: len(calls)


def with_a_tensor():
    calls = torch.zeros(())

    def loss(output):
        calls.add_(1)
        return squares(output)

    return loss, lambda: float(calls)


class CountsInASlot:
    __slots__ = ("calls",)

    def __init__(self):
        self.calls = 0

    def __call__(self, output):
        self.calls += 1
        return squares(output)


def an_object_of_slots():
    loss = CountsInASlot()
    return loss, lambda: loss.calls


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "make", [with_a_default, with_an_attribute, a_partial, with_a_bound_method_of_a_list, an_object_of_slots]
)
def test_whatever_a_loss_counts_with_counts_one_pass(make, way):
    network, (loss, calls) = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)), make()
    tape = Alignment(network, way=way).record(torch.randn(5, 3), loss)
    align(tape, {name: torch.ones_like(p) for name, p in network.named_parameters()})
    assert calls() == 1


@pytest.mark.parametrize("way", ["auto", "hooks"])
def test_a_probe_does_not_touch_a_tensor_that_a_loss_writes_to(way):
    network, (loss, calls) = nn.Linear(3, 1), with_a_tensor()
    Alignment(network, way=way).record(torch.randn(5, 3), loss)
    assert calls() == 1


class Changes(nn.Module):
    """Its forward changes layers of torch, as schedules, counters and hypernetworks do."""

    def __init__(self, change):
        super().__init__()
        self.drop, self.norm, self.layer = nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 1)
        self.lists, self.named, self.change = nn.ModuleList(), nn.ParameterDict(), change
        self.layer.calls, self.layer.seen = 0, []

    def forward(self, x):
        self.change(self)
        return self.layer(self.norm(self.drop(x)))


def counts(network):
    network.layer.calls += 1
    network.layer.seen.append(1)


CHANGES = {
    "anneals dropout": lambda network: setattr(network.drop, "p", 0.9 * network.drop.p),
    "anneals momentum": lambda network: setattr(network.norm, "momentum", 0.01),
    "counts on a layer": counts,
    "grows": lambda network: network.lists.append(nn.Identity()),
    "adds a parameter": lambda network: network.named.update({"new": nn.Parameter(torch.ones(1))}),
    "hooks": lambda network: network.norm.register_forward_hook(lambda *_: None),
    "adds a buffer": lambda network: network.layer.register_buffer("late", torch.ones(1)),
    "switches modes": lambda network: network.norm.eval(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_preserve_puts_back_what_a_forward_pass_changes_on_plain_layers(change):
    network, x = Changes(CHANGES[change]), torch.randn(5, 3)

    def look():
        layers = [{**vars(module), "hooks": len(module._forward_hooks)} for module in network.modules()]
        return repr([{k: v for k, v in one.items() if k != "change"} for one in layers])

    before = look()
    with preserve(network):
        network(x)
        assert look() != before
    assert look() == before


class Writes(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.ones(4, 2))

    def forward(self, x):
        self.steps += 1
        return x


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x) * self.seen.sum()


def reader_first(writer, reader):
    reader.seen = writer.steps[:1]


def buffer_of_a_buffer(writer, reader):
    reader.register_buffer("seen", writer.steps[1:, 1])


def halves(writer, reader):
    flat = torch.ones(12)
    writer.steps = flat[:8].view(4, 2)
    reader.seen, reader.other = flat[2:10], flat[8:]


def not_dense(writer, reader):
    writer.steps = torch.ones(8, 4)[::2, ::2]
    reader.seen = writer.steps[1:3]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tie", [reader_first, buffer_of_a_buffer, halves, not_dense])
def test_memory_that_modules_share_stays_shared(tie, way):
    def build():
        torch.manual_seed(0)
        writer, reader = Writes(), Reads()
        tie(writer, reader)
        network = nn.Module()
        network.reader, network.writer = reader, writer
        network.forward = lambda x: reader(writer(x))
        return network

    network, plain, x = build(), build(), torch.randn(5, 3)
    with preserve(network):
        within = network(x)
    tape = Alignment(network, way=way).record(x, squares)
    expected = plain(x)
    torch.testing.assert_close(within, expected)
    torch.testing.assert_close(tape.losses, squares(expected).detach())
    direction = {name: p.grad.clone() for name, p in network.named_parameters()}
    own = [torch.autograd.grad(one, list(plain.parameters()), retain_graph=True) for one in squares(expected)]
    wanted = [sum((g * d).sum() for g, d in zip(one, direction.values(), strict=True)) for one in own]
    torch.testing.assert_close(align(tape, direction), torch.stack(wanted), rtol=2e-2, atol=1e-2)
