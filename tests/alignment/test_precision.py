"""What is only paid, in half precision: inputs kept and tangents computed in bfloat16, training as without."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

import gar_env  # noqa: F401 - registers the environments
from cases import CASES, WITH_BATCH_NORM, N
from gar_env.alignment import Alignment, align, aligning, example_lengths, gradient, pair_products, record
from gar_env.alignment.conservation import ROUNDED
from gar_env.errors import ConfigurationError, LostGradientError
from gar_env.networks import build_network

HALF: Any = {"precision": "bfloat16"}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer_is_paid_what_it_is_in_float32_but_for_rounding(case):
    found, gradients = {}, {}
    for precision in ("float32", "bfloat16"):
        network, inputs, direction, loss = case.build(seed=0, dtype=torch.float32)
        tape = record(network, inputs, loss, way="hooks", precision=precision)
        gradients[precision] = {name: g.clone() for name, g in gradient(network).items()}
        found[precision] = align(tape, direction)
        assert (tape.error is None) == (precision == "float32")
    for name, g in gradients["float32"].items():
        torch.testing.assert_close(gradients["bfloat16"][name], g, rtol=0, atol=0)
    one, other = found.values()
    assert float((one - other).norm() / one.norm()) < 0.03  # six examples, a handful of units


def examples(name: str, n: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    network = build_network(name, (3, 32, 32), 10)
    x, y, after, labels = torch.randn(n, 3, 32, 32), torch.arange(n) % 10, torch.randn(n, 3, 32, 32), torch.arange(n)
    own = copy.deepcopy(network)
    F.cross_entropy(own(after), labels % 10).backward()
    return network, x, y, {name: g.clone() for name, g in gradient(own).items()}


@pytest.mark.parametrize(("name", "n"), [("fc", 256), ("fc_bn", 256), ("cnn", 64), ("wrn-16-1", 32)])
def test_on_the_benchmarks_networks_the_error_is_below_3e_3_and_ranks_stay(name, n):
    network, x, y, direction = examples(name, n)
    found, bytes_ = [], []
    for options in ({}, HALF):
        own = copy.deepcopy(network)
        tape = record(own, x, lambda out: F.cross_entropy(out, y, reduction="none"), **options)
        bytes_.append(tape.nbytes)
        found.append(align(tape, direction))
    error = float((found[0] - found[1]).norm() / found[0].norm())
    assert error < 3e-3
    assert spearmanr(*found).statistic > 0.9995
    assert ROUNDED <= tape.error < 0.02
    assert bytes_[1] < bytes_[0]


def test_inside_the_next_backward_pass_it_is_the_same():
    network, x, y, _ = examples("cnn", 32)

    def losses(out: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(out, y, reduction="none")

    alignment = Alignment(network, **HALF)
    tape, again = alignment.record(x, losses), None
    network.zero_grad()
    with aligning(tape) as paid:
        losses(network(x.flip(0))).mean().backward()
    direction = {name: g.clone() for name, g in gradient(network).items()}
    network.zero_grad()
    again = alignment.record(x, losses)
    torch.testing.assert_close(paid.entries, align(again, direction), rtol=1e-4, atol=1e-5)
    assert tape.error is not None


def test_a_small_direction_is_not_lost():
    """Half precision has the range of float32 here, but differences of it are scaled all the same."""
    network, x, y, direction = examples("fc", 16)
    small = {name: 1e-30 * g for name, g in direction.items()}
    tape = record(network, x, lambda out: F.cross_entropy(out, y, reduction="none"), **HALF)
    one, other = align(tape, direction, retain_tape=True), align(tape, small)
    torch.testing.assert_close(other * 1e30, one, rtol=1e-3, atol=1e-6)


def test_an_input_that_is_overwritten_afterwards_does_not_matter():
    network, x, y, direction = examples("fc", 8)
    tapes = [record(network, x, lambda out: F.cross_entropy(out, y, reduction="none"), **HALF) for _ in range(2)]
    first = align(tapes[0], direction)
    x.zero_()
    torch.testing.assert_close(align(tapes[1], direction), first)


@pytest.mark.parametrize("env_id", ["GAR/DataSplit-v0", "GAR/DataSplit-v1", "GAR/DataWeight-v1", "GAR/Augment-v0"])
def test_an_environment_trains_bit_for_bit_as_without_and_tells_the_error(env_id):
    options: dict[str, Any] = {"num_steps": 6, "network": "fc_bn"}
    if env_id.startswith("GAR/Augment"):
        options = {"num_steps": 3, "network": "cnn", "dataset": "synthetic_invariances"}
    plain, half = (
        gymnasium.make_vec(env_id, num_envs=16, **options, alignment_precision=precision).unwrapped
        for precision in ("float32", "bfloat16")
    )
    plain.reset(seed=0)
    half.reset(seed=0)
    plain.action_space.seed(0)
    for _ in range(options["num_steps"] - 1):
        actions = plain.action_space.sample()
        one, other = plain.step(actions), half.step(actions)
        np.testing.assert_array_equal(one[4]["loss"], other[4]["loss"])
        np.testing.assert_allclose(other[1], one[1], atol=0.05 * np.abs(one[1]).max())
        assert (one[1] != other[1]).any()
        assert 0 < other[4]["alignment_error"][0] < 0.05
        assert "alignment_error" not in one[4]
    for a, b in zip(plain.learner.network.parameters(), half.learner.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("way", ["forward", "finite_difference"])
def test_ways_that_keep_the_pass_are_refused(way):
    with pytest.raises(ConfigurationError, match=f"way='{way}' keeps a pass as it was"):
        Alignment(nn.Linear(2, 1), way=way, **HALF)
    with pytest.raises(ConfigurationError, match=f"way='{way}' keeps a pass as it was"):
        gymnasium.make_vec("GAR/DataSplit-v1", num_envs=4, way=way, alignment_precision="bfloat16")


def test_what_cannot_be_had_is_refused_and_never_replaced():
    with pytest.raises(ConfigurationError, match="precision='float16' is unknown"):
        Alignment(nn.Linear(2, 1), precision="float16")  # pyright: ignore[reportArgumentType]
    network, inputs, _, loss = WITH_BATCH_NORM[0].build(seed=0, dtype=torch.float32)
    with pytest.raises(ConfigurationError, match="way='forward' keeps a pass as it was"):
        record(network, inputs, loss, batch_norm="derivative", **HALF)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) @ self.layer.weight

    x = torch.randn(N, 3)
    record(Tied(), x, lambda out: out.square().mean(1))  # by another way
    with pytest.raises(LostGradientError, match="A weight was used outside its layer"):
        record(Tied(), x, lambda out: out.square().mean(1), **HALF)


@pytest.mark.parametrize("name", ["fc", "cnn"])
def test_products_of_pairs_and_lengths_are_read_from_such_tapes_too(name):
    network, x, y, _ = examples(name, 8)
    tapes = [
        record(copy.deepcopy(network), x, lambda out: F.cross_entropy(out, y, reduction="none"), **options)
        for options in ({}, HALF)
    ]
    rows, others = torch.arange(8), torch.arange(8).flip(0)
    exact, rough = (pair_products(tape, tape, rows, others) for tape in tapes)
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=0.005 * float(exact.abs().max()))
    exact, rough = (example_lengths(tape) for tape in tapes)
    torch.testing.assert_close(rough, exact, rtol=0.01, atol=0)
