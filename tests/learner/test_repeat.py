"""A step taken again is the step that was taken."""

import copy
import re

import pytest
import torch
from torch import nn

from gar_env.data import Batch
from gar_env.errors import ConfigurationError
from gar_env.learner import Learner, Repeat, TrainingOptions

OPTIMIZERS = [
    {"optimizer": "sgd", "step_size": 0.1},
    {"optimizer": "sgd", "step_size": 0.1, "momentum": 0.0, "gradient_clip": 0.1},
    {"optimizer": "sgd", "step_size": 0.2, "schedule": "cosine", "warmup_steps": 4},
    {"optimizer": "adamw", "step_size": 0.01},
    {"optimizer": "rmsprop", "step_size": 0.01, "momentum": 0.5},
]
NETWORKS = {
    "plain": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)),
    "dropout, batch norm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3)
    ),
}


def batch(step, n=6, dtype=torch.float32):
    generator = torch.Generator().manual_seed(step)
    return Batch(torch.randn(n, 1, 4, 4, generator=generator).to(dtype), torch.randint(3, (n,), generator=generator))


def replayed(build, options, *, loss_scale=1.0, dtype=torch.float32, before=3):
    """A learner after some steps and one more that can be taken again, paid for by another batch."""
    learner = Learner(lambda: build().to(dtype), TrainingOptions(**options), seed=0, num_steps=20)
    for step in range(before):
        learner.run(batch(step, dtype=dtype))
        learner.update()
    start = learner.start(optimizer=True)
    paid = learner.run(batch(3, dtype=dtype), loss_scale=loss_scale)
    learner.update()
    return Repeat(learner, start, paid, learner.run(batch(4, dtype=dtype)))


@pytest.mark.parametrize("options", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_step_with_every_weight_1_leads_where_the_step_led(build, options):
    repeat = replayed(build, options, loss_scale=0.5)
    before = copy.deepcopy(repeat.learner.network.state_dict())
    for requires_grad in (False, True):
        again = repeat.step(torch.ones(6, requires_grad=requires_grad))
        for name, p in repeat.after.items():
            torch.testing.assert_close(again[name].detach(), p, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(repeat.losses(repeat.before), repeat.paid.losses)
    torch.testing.assert_close(repeat.next_loss(repeat.after), repeat.following.losses.mean())
    for name, value in repeat.learner.network.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was changed by a repeat"


@pytest.mark.parametrize("options", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("before", [0, 3])
def test_the_derivative_through_a_step_is_its_finite_difference(build, options, before):
    if options["optimizer"] == "adamw" and not before:
        pytest.skip("Adam's first step has no derivative where a gradient is 0")
    repeat = replayed(build, options, dtype=torch.float64, before=before)
    weights = torch.ones(6, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(repeat.next_loss(repeat.step(weights)), weights)[0]
    for i in range(6):
        ends = []
        for sign in (-1, 1):
            moved = torch.ones(6, dtype=torch.float64)
            moved[i] += sign * 1e-5
            ends.append(float(repeat.next_loss(repeat.step(moved))))
        assert float(found[i]) == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=1e-4, abs=1e-8)


def test_a_step_without_an_example_is_a_step_on_the_others():
    repeat = replayed(NETWORKS["plain"], {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "step_size": 0.1})
    weights = torch.ones(6)
    weights[2] = 0
    expected, found = repeat.step(weights), repeat.step_without(2)
    for name, p in expected.items():
        torch.testing.assert_close(found[name], p)


def test_under_batch_normalisation_an_example_that_is_left_out_is_in_no_statistic():
    repeat = replayed(NETWORKS["dropout, batch norm"], {"optimizer": "sgd", "step_size": 0.1})
    weights = torch.ones(6)
    weights[2] = 0
    assert any(not torch.allclose(repeat.step(weights)[name], p) for name, p in repeat.step_without(2).items())


def test_where_too_few_are_left_there_is_no_step():
    build = NETWORKS["dropout, batch norm"]
    learner = Learner(build, seed=0, num_steps=20)
    start = learner.start(optimizer=True)
    passed = learner.run(batch(0, n=2))
    repeat = Repeat(learner, start, passed, passed)
    assert all(torch.equal(repeat.step_without(0)[name], p) for name, p in start.parameters.items())


def test_what_cannot_be_repeated_or_differentiated_is_refused():
    repeat = replayed(NETWORKS["plain"], {"optimizer": "sgd"})
    without = Repeat(repeat.learner, repeat.learner.start(optimizer=False), repeat.paid, repeat.following)
    with pytest.raises(ConfigurationError, match=re.escape("A signal that repeats steps needs Need.STEP")):
        without.step(torch.ones(6))
    repeat = replayed(NETWORKS["plain"], {"optimizer": "adafactor", "step_size": 0.01})
    repeat.step(torch.ones(6))
    with pytest.raises(ConfigurationError, match="'adafactor' cannot be differentiated through"):
        repeat.step(torch.ones(6, requires_grad=True))
