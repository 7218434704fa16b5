"""What pays: the next batch, weighed by how the network answers to it, or the other half of the same batch."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

import gar_env  # noqa: F401 - registers the environments
from gar_env.errors import ConfigurationError, UnknownNameError
from gar_env.rewards.reference_weights import REFERENCE_WEIGHTS, register_reference_weight

N = 12


def made(env_id: str = "GAR/DataSplit-v0", n: int = N, **options: Any) -> Any:
    own: dict[str, Any] = {"network": "fc", "num_steps": 8, "step_size": 0.1, "momentum": 0.0}
    return gymnasium.make_vec(env_id, num_envs=n, **own | options).unwrapped


def gradients(network: torch.nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Of every example, ``[n, P]``, at the present parameters."""
    parameters = list(network.parameters())
    each = [
        torch.autograd.grad(F.cross_entropy(network(x[None]), y[None]), parameters)
        for x, y in zip(inputs, targets, strict=True)
    ]
    return torch.stack([torch.cat([g.flatten() for g in one]) for one in each])


@pytest.mark.parametrize("name", ["agree", "mae", "all"])
def test_the_reference_is_weighed_by_the_networks_answers(name):
    env = made(reference="uniform", reference_weights=name)
    env.reset(seed=0)
    for _ in range(3):
        env.step(np.arange(N) % 10)  # answers that are not all alike
    drawn, state, actions = env.data_generator.get_state(), env.learner.state_dict(), torch.arange(N) % 10
    rewards = env.step(actions.numpy())[1]
    env.data_generator.set_state(drawn)
    env.learner.load_state_dict(state)
    network = env.learner.network
    batch = env.batch(actions)
    mine = gradients(network, batch.inputs, batch.targets)
    env.learner.run(batch.examples)
    env.learner.update()
    after = env.draw()
    with torch.no_grad():
        p = network(after.inputs).softmax(1)
    weights = {
        "all": torch.ones(N),
        "agree": (p.argmax(1) == after.targets).float(),
        "mae": p[torch.arange(N), after.targets],
    }[name]
    theirs = gradients(network, after.inputs, after.targets)
    expected = mine @ (weights[:, None] * theirs).mean(0)
    np.testing.assert_allclose(rewards, expected.numpy(), rtol=1e-3, atol=1e-5)
    assert name == "all" or 0 < weights.sum() < N


@pytest.mark.parametrize("name", ["all", "mae"])
def test_each_slot_is_paid_by_the_half_that_it_is_not_in(name):
    env = made(reference="other_half", reference_weights=name)
    env.reset(seed=0)
    env.step(np.zeros(N, int))
    drawn, state, halves = env.data_generator.get_state(), env.learner.state_dict(), env.evaluator.generator.get_state()
    actions = torch.arange(N) % 10
    rewards = env.step(actions.numpy())[1]
    steps = env.learner.steps
    env.data_generator.set_state(drawn)
    env.learner.load_state_dict(state)
    assert steps == env.learner.steps + 1, "one step of training"
    batch, network = env.batch(actions), env.learner.network
    each = gradients(network, batch.inputs, batch.targets)
    with torch.no_grad():
        p = network(batch.inputs).softmax(1)[torch.arange(N), batch.targets]
    weighed = each * (p[:, None] if name == "mae" else 1)
    generator = torch.Generator()
    generator.set_state(halves)
    first = torch.zeros(N, dtype=torch.bool)
    first[torch.randperm(N, generator=generator)[: N // 2]] = True
    expected = torch.where(first, each @ weighed[~first].mean(0), each @ weighed[first].mean(0))
    np.testing.assert_allclose(rewards, expected.numpy(), rtol=1e-3, atol=1e-5)


def test_halves_are_of_what_was_dropped_too():
    env = made("GAR/DataWeight-v0", reference="other_half", corrupt="")
    env.reset(seed=0)
    halves, batch = env.evaluator.generator.get_state(), env._batch
    each = gradients(env.learner.network, batch.inputs, batch.targets)
    actions = np.arange(N) % 2
    rewards = env.step(actions)[1]
    generator = torch.Generator()
    generator.set_state(halves)
    first = torch.zeros(N, dtype=torch.bool)
    first[torch.randperm(N, generator=generator)[: N // 2]] = True
    expected = torch.where(first, each @ each[~first].mean(0), each @ each[first].mean(0)) * torch.tensor(actions)
    np.testing.assert_allclose(rewards, expected.numpy(), rtol=1e-3, atol=1e-5)


def area(values: np.ndarray, good: np.ndarray) -> float:
    ranks = rankdata(values)
    return (ranks[good].sum() - good.sum() * (good.sum() + 1) / 2) / (good.sum() * (~good).sum())


def test_agreement_tells_wrong_labels_apart_where_all_of_the_next_batch_does_not():
    """40 % of labels are wrong and all are trained on; after the first epochs, rewards of right labels are higher."""
    found = {}
    for options in (("uniform", "all"), ("uniform", "agree"), ("other_half", "mae")):
        env = made("GAR/DataWeight-v0", 64, num_steps=150, network="fc_bn", reference=options[0],
                   reference_weights=options[1])  # fmt: skip
        env.reset(seed=0)
        values, good = [], []
        for step in range(150):
            clean = ~env.spoiled.numpy()
            rewards = env.step(np.ones(64, int))[1]
            if step >= 100:
                values.append(rewards)
                good.append(clean)
        found[options] = area(np.concatenate(values), np.concatenate(good))
    assert found["uniform", "agree"] > found["uniform", "all"] + 0.1
    assert found["other_half", "mae"] > found["uniform", "all"] + 0.1
    assert min(found["uniform", "agree"], found["other_half", "mae"]) > 0.7


@pytest.mark.parametrize("env_id", ["GAR/DataSplit-v0", "GAR/DataWeight-v0", "GAR/Augment-v0"])
@pytest.mark.parametrize("reward", ["gar", "cosine_gar", "distinct_gar"])
def test_every_slot_environment_has_them(env_id, reward):
    network = "fc_bn" if env_id != "GAR/Augment-v0" else "cnn"
    for reference in ("other_half", "heldout"):
        env = made(env_id, reward=reward, reference=reference, reference_weights="mae", network=network)
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(3):
            assert np.isfinite(env.step(env.action_space.sample())[1]).all()


def test_weights_of_ones_own_have_a_name():
    @register_reference_weight("half")
    def half(outputs: Tensor, labels: Tensor) -> Tensor:
        return torch.full_like(labels, 0.5, dtype=outputs.dtype)

    try:
        found = {}
        for name in ("half", "all"):
            env = made("GAR/DataWeight-v0", reference="uniform", reference_weights=name)
            env.reset(seed=0)
            found[name] = env.step(np.ones(N, int))[1]
        np.testing.assert_allclose(found["half"], 0.5 * found["all"], rtol=1e-4, atol=1e-6)
    finally:
        del REFERENCE_WEIGHTS._objects["half"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reference_weights": "agreed"}, UnknownNameError, "No reference weight is called 'agreed'. Did you mean"),
        ({"reference_weights": "mae", "reward_timing": "next_step"}, ConfigurationError, "weighs a reference batch"),
        *(
            ({"reference": "other_half", "reward": reward}, ConfigurationError, "pays by a gradient before the step")
            for reward in ("nslr", "leave_one_out", "validation_gar", "same_batch_gar", "random")
        ),
        ({"reference_weights": "mae", "reward": "nslr"}, ConfigurationError, "reward='nslr' reads none"),
        ({"target_batch_size": 4}, ConfigurationError, "is of held-out batches, and there are none"),
        ({"reference": "other_half", "n": 1}, ConfigurationError, "halves the batch, and num_envs is 1"),
    ],
)
def test_references_that_make_no_sense_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        made(**options)


@pytest.mark.parametrize("repeated", [False, True])
def test_distinct_gar_of_the_other_half_leaves_out_only_what_is_in_it(repeated):
    """Against single gradients: the mean over the other half's examples that are not the same."""
    from gar_env.data import load_dataset

    data = load_dataset("digits").taking(torch.arange(7 if repeated else 400).repeat(6 if repeated else 1))
    env = made(reference="other_half", reward="distinct_gar", dataset=data, corrupt="", num_splits=2)
    env.reset(seed=0)
    env.step(np.zeros(N, int))
    drawn, state, halves = env.data_generator.get_state(), env.learner.state_dict(), env.evaluator.generator.get_state()
    actions = torch.arange(N) % 2
    rewards = env.step(actions.numpy())[1]
    env.data_generator.set_state(drawn)
    env.learner.load_state_dict(state)
    batch = env.batch(actions)
    each = gradients(env.learner.network, batch.inputs, batch.targets)
    generator = torch.Generator()
    generator.set_state(halves)
    first = torch.zeros(N, dtype=torch.bool)
    first[torch.randperm(N, generator=generator)[: N // 2]] = True
    flat = batch.inputs.flatten(1)
    same = (flat[:, None] == flat[None]).all(2) & (batch.targets[:, None] == batch.targets[None])
    counts = (first[:, None] != first[None]) & ~same
    products = (each @ each.T).masked_fill(~counts, 0.0).sum(1) / counts.sum(1).clamp_min(1)
    np.testing.assert_allclose(rewards, products.numpy(), rtol=1e-3, atol=1e-5)
    assert not repeated or int(same.sum()) > 2 * N
