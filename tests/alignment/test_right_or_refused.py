"""Each way is right about each program, or refuses it for a reason; what a refusal advises works."""

from __future__ import annotations

import random
import re
import warnings

import numpy as np
import pytest
import torch

from gar_env.alignment import FiniteDifferenceTape, align, gradient, record, try_ways
from gar_env.errors import AlignmentError, StaleTapeError
from parting import PARTING
from programs import DEVICES, PROGRAMS, Program, build

WAYS = ("auto", "hooks", "forward", "finite_difference")
ALL = PROGRAMS | PARTING
# GPUs multiply float32 in 10 bits by default.
TOLERANCE = {
    ("cpu", torch.float64): 1e-9,
    ("cpu", torch.float32): 1e-4,
    ("cuda", torch.float64): 1e-9,
    ("cuda", torch.float32): 1e-2,
}
# Batch normalisation reads otherwise with hooks: its share is tested against an oracle of its own.
SHARE = ("batch norm", "batch norm without statistics")


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def direction_of(program: Program) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    named = program.network.named_parameters()
    return {name: torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p) for name, p in named}


def one_backward_per_loss(name: str, device: str, dtype: torch.dtype) -> torch.Tensor:
    """The oracle: every loss of one forward pass, differentiated by itself."""
    program = build(ALL[name], 3, device, dtype)
    direction = direction_of(program)
    seed_all(7)
    losses = program.loss(program.network(program.inputs))
    parameters = dict(program.network.named_parameters())
    entries = []
    for loss in losses:
        found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        pairs = zip(parameters, found, strict=True)
        entries.append(sum((direction[key] * g).sum() for key, g in pairs if g is not None))
    return torch.stack(entries)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", list(ALL))
def test_entries_are_right_or_the_way_refuses(name, way, device, dtype):
    derivative = way in ("forward", "finite_difference")
    if name in SHARE and not derivative:
        pytest.skip("another reading")
    program = build(ALL[name], 3, device, dtype)
    direction = direction_of(program)
    seed_all(7)
    refused = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tape = record(
                program.network,
                program.inputs,
                program.loss,
                way=way,
                batch_norm="derivative" if derivative else "share",
            )
            found = align(tape, direction)
    except AlignmentError as error:
        refused = str(error)
    assert bool(refused) == ((name, way) in REFUSED | (REFUSED_ON_GPUS[dtype] if device == "cuda" else set())), refused
    if refused:
        return
    expected = one_backward_per_loss(name, device, dtype)
    off = float((found - expected).norm() / expected.norm())
    if isinstance(tape, FiniteDifferenceTape):
        assert off <= max(2 * tape.error, TOLERANCE[device, dtype])
    else:
        assert off <= TOLERANCE[device, dtype]


REFUSED = {
    # the forward pass is another function than the one that is trained on
    *((name, "finite_difference") for name in ("no_grad inside", "detached", "straight through")),
    *((name, "finite_difference") for name in ("remembers", "stateful loss")),  # what they keep is detached
    ("reversed by a hook", "finite_difference"),
    # a gradient that a hook on the parameter scales belongs to no example
    *(("hooked parameter", way) for way in WAYS),
    *(("scaled by frequency", way) for way in WAYS),
    # rows that are no examples
    *((name, "hooks") for name in ("energy and force", "maml", "weight in the loss", "packed", "graphs")),
    ("closed branch that mixes", "hooks"),
    # written into by the pass itself
    ("writes its input", "forward"),
    ("writes its input", "finite_difference"),
}


RECURRENT = {("recurrent", way) for way in WAYS}  # cuDNN's dropout comes from a state of its own
# Another direction is looked along, and the power iteration that spectral norm detaches has not converged.
UNCONVERGED = {("spectral norm", "finite_difference")}
REFUSED_ON_GPUS = {
    torch.float64: RECURRENT | UNCONVERGED,
    torch.float32: RECURRENT
    | UNCONVERGED
    | {("transformer", way) for way in ("auto", "hooks", "forward")}  # dropout inside a fused kernel of attention
    | {("padding row without forward mode", "finite_difference")},  # TF32 rounds more than its losses change
}


def named_ways(message: str) -> list[dict[str, str]]:
    """The advice in a message, as options."""
    found = re.findall(r"way='(\w+)'(?:, batch_norm='(\w+)')?", message)
    return [{"way": way, **({"batch_norm": reading} if reading else {})} for way, reading in found]


@pytest.mark.parametrize(("name", "way"), sorted(REFUSED))
def test_what_a_refusal_advises_works(name, way):
    """The graph of advice has no circles: each way that is named is right at once; else none is named."""
    options = {"way": way, "batch_norm": "derivative" if way in ("forward", "finite_difference") else "share"}

    def attempt(**options) -> torch.Tensor:
        program = build(ALL[name], 3, dtype=torch.float64)
        seed_all(7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tape = record(program.network, program.inputs, program.loss, **options)
            return align(tape, direction_of(program))

    with pytest.raises(AlignmentError) as refused:
        attempt(**options)
    if refused.type is StaleTapeError:
        return  # it says what to do to the input
    advised = named_ways(str(refused.value))
    for other in advised:
        assert attempt(**other).isfinite().all()
    if not advised:
        assert "No way covers it" in str(refused.value) or "Build it without" in str(refused.value)


@pytest.mark.parametrize("name", list(ALL))
def test_try_ways_says_what_recording_does(name):
    program = build(ALL[name], 3, dtype=torch.float64)
    seed_all(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = try_ways(program.network, program.inputs, program.loss)
    if name == "writes its input":
        return  # a copy of the batch is written into
    if name == "scaled by frequency":
        found["hooks"] = "refused before anything runs"
    assert {way for way, why in found.items() if why is not None} == {way for way in found if (name, way) in REFUSED}


def test_finite_differences_of_a_float64_network_that_computes_in_float32_inside():
    class Norm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))

        def forward(self, x):
            y = x.float()
            return self.weight * (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)).double()

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), Norm(), torch.nn.Linear(4, 2)).double()
    inputs = torch.randn(6, 4, dtype=torch.float64)
    loss = lambda output: output.square().mean(1)  # noqa: E731
    tape = record(network, inputs, loss, way="finite_difference")
    direction = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    exact = align(record(network, inputs, loss, way="forward"), direction)
    found = align(tape, direction)
    assert float((found - exact).norm() / exact.norm()) <= max(2 * tape.error, 1e-3) < 0.1


def test_materialise_false_leaves_gradients_bit_for_bit():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 2)
    )
    inputs, loss = torch.randn(16, 3, 8, 8), lambda output: output.square().mean(1)
    loss(network(inputs)).mean().backward()
    plain = gradient(network)
    network.zero_grad()
    record(network, inputs, loss, materialise=False)
    assert all(torch.equal(plain[name], g) for name, g in gradient(network).items())
    network.zero_grad()
    record(network, inputs, loss)
    assert not all(torch.equal(plain[name], g) for name, g in gradient(network).items()), "what the option is for"
    assert all(torch.allclose(plain[name], g, atol=1e-6) for name, g in gradient(network).items())
