"""Environments on text: rewards per sequence, losses per source."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gar_env  # noqa: F401 - registers the environments
from gar_env.data import token_dataset
from gar_env.errors import ConfigurationError
from gar_env.networks import build_network

T = 12
STREAMS = {
    "counting": bytes(range(48, 58)) * 60,
    "words": b"the cat sat on the mat and " * 30,
    "noise": bytes(np.random.default_rng(0).integers(32, 127, 700).tolist()),
}


def made(**options: Any) -> Any:
    data = token_dataset(STREAMS, {name: stream[:200] for name, stream in STREAMS.items()}, length=T)
    own = {"dataset": data, "splits": "group", "network": "transformer-32-2", "optimizer": "adamw", "step_size": 3e-3}
    return gymnasium.make_vec("GAR/DataSplit-v0", num_envs=16, num_steps=6, **own | options).unwrapped


def test_a_sequence_is_paid_the_alignment_of_its_mean_loss():
    """Against one backward pass per sequence."""
    env = made(reference="uniform")
    env.reset(seed=3)
    state, drawn = env.learner.state_dict(), env.data_generator.get_state()
    actions = np.arange(16) % 3
    rewards = env.step(actions)[1]
    env.reset(seed=3)
    env.learner.load_state_dict(state)
    env.data_generator.set_state(drawn)
    network, batch = env.learner.network, env.batch(torch.tensor(actions))
    parameters = list(network.parameters())
    each = [
        torch.autograd.grad(F.cross_entropy(network(x[None])[0], y), parameters)
        for x, y in zip(batch.inputs, batch.targets, strict=True)
    ]
    env.learner.run(batch.examples)
    env.learner.update()
    later = env.draw()
    direction = torch.autograd.grad(F.cross_entropy(network(later.inputs).transpose(1, 2), later.targets), parameters)
    expected = [sum(float((a * b).sum()) for a, b in zip(own, direction, strict=True)) for own in each]
    np.testing.assert_allclose(rewards, expected, rtol=2e-3, atol=1e-6)


def test_losses_of_sources_add_up_to_the_loss():
    env = made()
    env.reset(seed=0)
    found, whole = env.evaluate_sources(), env.evaluate()
    counts = env.dataset.group_test.bincount().tolist()
    assert list(found) == list(STREAMS)
    mean = sum(one["test_loss"] * n for one, n in zip(found.values(), counts, strict=True)) / sum(counts)
    assert mean == pytest.approx(whole["test_loss"], rel=1e-5)
    for one in found.values():
        assert one["bits_per_token"] == pytest.approx(one["test_loss"] / math.log(2))


def test_losses_of_sources_that_are_not_known_are_refused():
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=8).unwrapped
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="digits does not say which sources its test examples are of"):
        env.evaluate_sources()


def test_a_target_of_text_pays_what_serves_it():
    """Counting is the target: its sequences are paid more than noise once the network has seen some."""
    env = made(target="counting(0.3)", target_batch_size=8)
    env.reset(seed=0)
    actions = np.arange(16) % 3
    paid = np.stack([env.step(actions)[1] for _ in range(6)])[2:].mean(0)
    assert paid[actions == 0].mean() > paid[actions == 2].mean() + 1e-3


@pytest.mark.parametrize(("name", "heads"), [("transformer-64-1", 2), ("transformer-40-3", 1)])
def test_the_transformer_looks_back_only(name, heads):
    torch.manual_seed(0)
    network = build_network(name, (T,), 50)
    tokens = torch.randint(50, (2, T))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    one, other = network(tokens), network(changed)
    assert one.shape == (2, T, 50)
    torch.testing.assert_close(one[:, :7], other[:, :7])
    assert not torch.allclose(one[:, 7:], other[:, 7:])
    assert network.blocks[0].heads == heads


def test_the_transformer_takes_tokens_alone():
    with pytest.raises(ConfigurationError, match=r"A transformer takes tokens \[n, T\], and inputs are \[1, 8, 8\]"):
        build_network("transformer-32-1", (1, 8, 8), 10)
