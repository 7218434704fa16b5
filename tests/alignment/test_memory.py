"""Memory that is claimed is memory that is used, and what is read is let go."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gar_env.alignment import Alignment, aligning, record
from gar_env.errors import MemoryCapError
from gar_env.networks import WideResNet
from oracles import squares

NETWORKS = {
    "wrn-10-2": (lambda: WideResNet((3, 16, 16), 10, depth=10, width=2), (32, 3, 16, 16)),
    "mlp": (lambda: nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)), (64, 512)),
    "dense": (lambda: nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)), (8, 256)),
}


def peak(step, times=3):
    """Most bytes of tensors alive at once, of those that are made inside."""
    gc.collect()
    gc.disable()  # nothing may need the collector to be freed
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            state = step(None)
            for _ in range(times):
                state = step(state)
    finally:
        gc.enable()
    alive = most = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        alive += event.nbytes() if event.name() == "[memory]" else 0
        most = max(most, alive)
    return most


def training(name, **options):
    build, shape = NETWORKS[name]

    def step(state):
        torch.manual_seed(0)
        network, alignment, tape = state or (build(), None, None)
        if options and alignment is None:
            alignment = Alignment(network, **options)
        inputs = torch.randn(*shape)
        if not options:
            squares(network(inputs)).mean().backward()
        elif tape is None:
            tape = alignment.record(inputs, squares)
        else:
            with aligning(tape):
                tape = alignment.record(inputs, squares)
        with torch.no_grad():
            for p in network.parameters():
                p -= 0.01 * p.grad
                p.grad = None
        return network, alignment, tape

    return step


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", ["hooks", "forward", "finite_difference"])
def test_the_claimed_overhead_is_no_less_than_the_allocators(name, way):
    options = {"way": way, "batch_norm": "share" if way == "hooks" else "derivative", "probe": False}
    found = peak(training(name, **options)) / peak(training(name))
    alignment = Alignment(NETWORKS[name][0](), max_overhead=100, **options)
    tape = alignment.record(torch.randn(*NETWORKS[name][1]), squares)
    (memory,) = alignment._cap.measured.values()
    claimed = memory.overhead(tape.nbytes, replays=way != "hooks")
    assert found < 1.1 * claimed, (found, claimed)
    assert claimed < 2 * found, (found, claimed)


def test_a_tape_above_the_cap_is_refused_and_released():
    alignment = Alignment(nn.Linear(64, 64), max_overhead=5.0)
    inputs = torch.randn(64, 64)
    alignment.record(inputs, squares)
    alignment._cap.largest = 1.0001  # what was decided is no longer true
    with pytest.raises(MemoryCapError, match=r"was broken: the tape came to \d"):
        alignment.record(inputs, squares)


@pytest.mark.parametrize("max_overhead", [None, 50.0])
def test_nothing_of_a_pass_outlives_its_tape(max_overhead):
    network, alive = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.PReLU(), nn.Linear(64, 64)), []
    network[1].register_forward_hook(lambda module, args, output: alive.append(weakref.ref(output)))
    alignment = Alignment(network, max_overhead=max_overhead)
    gc.collect()
    gc.disable()
    try:
        tape = alignment.record(torch.randn(4, 64), squares)
        for _ in range(3):
            network.zero_grad()
            with aligning(tape):
                tape = alignment.record(torch.randn(4, 64), squares)
        tape.release()
        assert len(alive) >= 4
        assert not any(reference() is not None for reference in alive)
    finally:
        gc.enable()


def test_a_replayed_module_that_is_called_often_keeps_its_parameters_once():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.GRUCell(4, 64), nn.Linear(64, 2)

        def forward(self, x):
            state = x.new_zeros(len(x), 64)
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
            return self.head(state)

    network = Steps()
    size = sum(p.numel() * 4 for p in network.parameters())
    short, long = (record(network, torch.randn(2, steps, 4), squares).nbytes for steps in (2, 12))
    assert long - short < size
