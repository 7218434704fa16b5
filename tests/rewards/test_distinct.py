"""GAR without what agrees with itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from agents import InvertedSoftmax, Reinforce, train
from gar_env.alignment import pair_products
from gar_env.data import Batch, load_dataset
from gar_env.errors import UnsupportedLayerError
from gar_env.rewards.distinct import identical_pairs

N = 14


def few(images: int = 9) -> Any:
    """Digits of which a batch has some twice."""
    return load_dataset("digits").taking(torch.arange(images).repeat(6)[: 6 * images])


def made(env_id: str = "GAR/DataSplit-v0", **options: Any) -> Any:
    own: dict[str, Any] = {"network": "fc", "corrupt": "", "reward": "distinct_gar", "dataset": few()}
    if env_id == "GAR/DataSplit-v0":
        own["num_splits"] = 3
    return gymnasium.make_vec(env_id, num_envs=N, num_steps=6, **own | options).unwrapped


def watched(env: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Batch, dict[str, Tensor]]]:
    """Every batch that a pass is made of, with the parameters that it is made at."""
    env.reset(seed=1)
    seen, run = [], env.learner.run

    def noting(batch: Batch, *args: Any, **more: Any) -> Any:
        seen.append((batch, {name: p.detach().clone() for name, p in env.learner.network.named_parameters()}))
        return run(batch, *args, **more)

    monkeypatch.setattr(env.learner, "run", noting)
    return seen


def gradients(env: Any, batch: Batch, parameters: dict[str, Tensor]) -> Tensor:
    """Of every example, ``[n, P]``."""
    found = []
    for x, y in zip(batch.inputs, batch.targets, strict=True):
        own = {name: p.requires_grad_() for name, p in parameters.items()}
        logits = torch.func.functional_call(env.learner.network, own, (x[None],))
        found.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(F.cross_entropy(logits, y[None]), own.values())])
        )
    return torch.stack(found)


def by_hand(env: Any, paid: Any, following: Any, n: int) -> Tensor:
    """``<g_i, mean of g_j>`` over the others of n that are not the same."""
    products = gradients(env, *paid) @ gradients(env, *following).T
    same = torch.tensor(
        [
            [bool((a == b).all() and s == t) for b, t in zip(*following[0], strict=True)]
            for a, s in zip(*paid[0], strict=True)
        ]
    )
    left = n - same.sum(1)
    return torch.where(left > 0, products.masked_fill(same, 0.0).sum(1) / left.clamp_min(1), 0.0)


@pytest.mark.parametrize("reference", ["policy", "uniform"])
def test_it_is_the_mean_over_others(reference, monkeypatch):
    env = made(reference=reference)
    seen = watched(env, monkeypatch)
    for _ in range(2):
        seen.clear()
        rewards = env.step(np.arange(N) % 3)[1]
        expected = by_hand(env, seen[0], seen[1], N)
        np.testing.assert_allclose(rewards, expected.numpy(), rtol=1e-3, atol=1e-5)


def test_late_rewards_are_the_same_mean(monkeypatch):
    env = made(reward_timing="next_step")
    seen = watched(env, monkeypatch)
    for _ in range(3):
        rewards = env.step(np.arange(N) % 3)[1]
    np.testing.assert_allclose(rewards, by_hand(env, seen[1], seen[2], N).numpy(), rtol=1e-3, atol=1e-5)


def test_of_weighted_examples_those_that_are_left_count(monkeypatch):
    """The reference is the next batch with what was dropped left out: a sum over n all the same."""
    env = made("GAR/DataWeight-v0", reference="uniform")
    env.reset(seed=1)
    noted, look_at, run = [], env.look_at, env.learner.run

    def parameters() -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in env.learner.network.named_parameters()}

    def looking(batch: Any, **more: Any) -> Any:
        if more.get("record"):
            noted.append((batch.examples, parameters()))
        return look_at(batch, **more)

    def running(batch: Batch, *args: Any, **more: Any) -> Any:
        if more.get("record") and not more.get("aside"):
            noted.append((batch, parameters()))
        return run(batch, *args, **more)

    monkeypatch.setattr(env, "look_at", looking)
    monkeypatch.setattr(env.learner, "run", running)
    actions = np.arange(N) % 2
    rewards = env.step(actions)[1]
    expected = by_hand(env, noted[0], noted[1], N)
    assert (rewards[actions == 0] == 0).all()
    np.testing.assert_allclose(rewards[actions == 1], expected.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("network", ["fc", "fc_bn", "cnn_bn"])
@pytest.mark.parametrize("env_id", ["GAR/DataSplit-v0", "GAR/DataWeight-v0"])
def test_where_nothing_repeats_itself_it_is_gar(network, env_id):
    """The data are so many that seed 0 draws none twice into batches that meet."""
    found = {}
    for reward in ("gar", "distinct_gar"):
        env = made(env_id, reward=reward, network=network, dataset="digits", reference="uniform")
        env.reset(seed=0)
        env.action_space.seed(0)
        found[reward] = env.step(env.action_space.sample())[1]
    np.testing.assert_allclose(found["distinct_gar"], found["gar"], rtol=1e-4, atol=1e-6)


def test_under_batch_normalisation_shares_are_left_out():
    env = made(network="fc_bn")
    env.reset(seed=0)
    batches = [env.batch(torch.arange(N) % 3) for _ in range(2)]
    tapes = [env.learner.run(batch.examples, record=True).tape for batch in batches]
    rows, others = torch.arange(N).repeat_interleave(N), torch.arange(N).repeat(N)
    products = pair_products(*tapes, rows, others).view(N, N)
    same = torch.zeros(N, N, dtype=torch.bool)
    same[identical_pairs(batches[0].examples, batches[1].examples)] = True
    assert 0 < int(same.sum()) < N * N
    env.learner.update()
    env.reset(seed=0)
    rewards = env.step(np.arange(N) % 3)[1]
    assert np.isfinite(rewards).all()
    assert bool(products.isfinite().all())


def test_a_batch_of_one_image_is_paid_nothing():
    data = few(9)
    data = replace(data, x_train=data.x_train[:1].repeat(20, 1, 1, 1), y_train=data.y_train[:1].repeat(20))
    env = made(dataset=data, num_splits=2)
    env.reset(seed=0)
    assert env.step(np.zeros(N, int))[1].tolist() == [0.0] * N


def test_pairs_are_of_inputs_and_targets_and_of_any_kind():
    tokens = torch.randint(3, (40, 4))
    labels = torch.randint(2, (40, 4))
    one, two = Batch(tokens[:25], labels[:25]), Batch(tokens[15:], labels[15:])
    rows, others = identical_pairs(one, two)
    found = set(zip(rows.tolist(), others.tolist(), strict=True))
    expected = {
        (i, j)
        for i in range(25)
        for j in range(25)
        if bool((one.inputs[i] == two.inputs[j]).all() and (one.targets[i] == two.targets[j]).all())
    }
    assert found == expected
    assert len(expected) >= 10


def test_tapes_without_layers_are_refused():
    env = made(way="forward")
    env.reset(seed=0)
    with pytest.raises(UnsupportedLayerError, match="Use way='hooks' with batch_norm='share'"):
        env.step(np.zeros(N, int))


@pytest.mark.parametrize(("reward", "found"), [("gar", False), ("distinct_gar", True)])
def test_a_few_images_again_and_again_do_not_take_over(reward, found):
    """Split 0 has a trivial image for each class. GAR is drawn to it; the control must fail."""
    options = {"corrupt": "0:easy", "network": "fc_bn", "step_size": 0.05, "momentum": 0.0, "output": "torch"}
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=64, num_steps=200, reward=reward, **options)
    agent = Reinforce(InvertedSoftmax(10), seed=3)
    train(env, agent, seed=3)
    assert (float(agent.policy.probabilities()[0]) < 0.02) == found
