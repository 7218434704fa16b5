"""What each token is paid, and weights of sequences."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gar_env  # noqa: F401 - registers the environments
from agents.sb3 import make_sb3_env
from gar_env.data import token_dataset
from gar_env.envs.slots.data_weight import margins_and_entropies
from gar_env.errors import ConfigurationError
from gar_env.learner import Repeat
from gar_env.rewards.tokens import token_alignment

T, N = 12, 16
STREAMS = {"counting": bytes(range(48, 58)) * 60, "words": b"the cat sat on the mat and " * 30}
SPLIT: tuple[str, dict[str, Any]] = ("GAR/DataSplit-v0", {"splits": "group"})
WEIGHT: tuple[str, dict[str, Any]] = ("GAR/DataWeight-v0", {"corrupt": "label_noise(0.4)"})
HALF = np.arange(N) % 2


def text() -> Any:
    return token_dataset(STREAMS, {name: stream[:200] for name, stream in STREAMS.items()}, length=T)


def made(env: tuple[str, dict[str, Any]] = SPLIT, **options: Any) -> Any:
    own = {"dataset": text(), "network": "transformer-32-1", "optimizer": "adamw", "step_size": 3e-3, "num_steps": 8}
    return gymnasium.make_vec(env[0], num_envs=N, **own | env[1] | {"pay_tokens": True} | options).unwrapped


def test_a_token_is_paid_the_alignment_of_its_part_of_the_loss():
    """Against one backward pass per token."""
    env = made()
    env.reset(seed=0)
    for _ in range(3):
        env.step(HALF)
    learner = env.learner
    start = learner.start(optimizer=False)
    batch = env.batch(torch.tensor(HALF)).examples
    passed = learner.run(batch)
    learner.update()
    direction = learner.run(env.draw().examples, aside=True).gradient
    found = token_alignment(Repeat(learner, start, passed), direction)
    network = learner.network
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(start.parameters[name])
    losses = F.cross_entropy(network(batch.inputs).transpose(1, 2), batch.targets, reduction="none") / T
    names = [name for name, _ in network.named_parameters()]
    exact = torch.zeros_like(losses)
    for i in range(4):
        for j in range(T):
            each = torch.autograd.grad(losses[i, j], list(network.parameters()), retain_graph=True)
            exact[i, j] = sum((g * direction[name]).sum() for name, g in zip(names, each, strict=True))
    assert float((found[:4] - exact[:4]).norm() / exact[:4].norm()) < 0.02


@pytest.mark.parametrize("env", [SPLIT, WEIGHT])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reward_timing": "next_step"},
        {"reference": "heldout"},
        {"reference": "other_half"},
        {"reward": "validation_gar"},
    ],
)
def test_tokens_of_a_slot_sum_to_its_reward(env, options):
    slots = made(env, **options)
    slots.reset(seed=0)
    late = options.get("reward_timing") == "next_step"
    for step in range(4):
        _, rewards, _, _, infos = slots.step(HALF)
        tokens = infos["token_rewards"]
        assert tokens.shape == (N, T)
        assert infos["_token_rewards"].all() != (late and step == 0)
        if not (late and step == 0):
            off = np.linalg.norm(tokens.sum(1) - rewards) / np.linalg.norm(rewards)
            assert off < 0.05
            if env is WEIGHT:
                assert not tokens[HALF == 0].any()


def test_with_pay_for_dropped_examples_their_tokens_are_paid_nothing_too():
    slots = made(WEIGHT, pay_dropped=True, keep_all_steps=1)
    slots.reset(seed=0)
    for _ in range(2):
        _, rewards, _, _, infos = slots.step(HALF)
        np.testing.assert_allclose(infos["token_rewards"].sum(1), rewards, atol=0.05 * np.abs(rewards).max())
        assert not infos["token_rewards"][HALF == 0].any()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_tokens_come_through_the_end_of_an_episode_and_rewards_are_as_without(mode):
    plain, paid = (made(pay_tokens=on, num_steps=3, autoreset_mode=mode) for on in (False, True))
    first, then = plain.reset(seed=0)[0], paid.reset(seed=0)[0]
    np.testing.assert_array_equal(first, then)
    for step in range(5):
        one, two = plain.step(HALF), paid.step(HALF)
        np.testing.assert_array_equal(one[1], two[1])
        if mode == "SameStep" and step == 2:
            assert two[4]["final_info"]["token_rewards"].shape == (N, T)
    assert two[4]["token_rewards"].shape == (N, T)


def test_the_single_view_and_stable_baselines3_have_them_whole():
    options = {"dataset": text(), "splits": "group", "network": "transformer-32-1", "pay_tokens": True, "num_steps": 2}
    single: Any = gymnasium.make("GAR/DataSplit-v0", batch_size=4, **options)
    single.reset(seed=0)
    assert single.step(np.array([0, 1, 0, 1]))[4]["token_rewards"].shape == (4, T)
    sb3 = make_sb3_env("GAR/DataSplit-v0", 4, **options)
    sb3.reset()
    for _ in range(2):
        infos = sb3.step(np.array([0, 1, 0, 1]))[3]
    assert infos[0]["token_rewards"].shape == (T,)


def test_an_environment_that_pays_tokens_goes_on_from_a_state():
    one, other = made(), made()
    one.reset(seed=0)
    other.reset(seed=5)
    one.step(HALF)
    other.load_state_dict(one.state_dict())
    a, b = one.step(HALF), other.step(HALF)
    np.testing.assert_array_equal(a[4]["token_rewards"], b[4]["token_rewards"])


def test_what_is_not_finite_pays_no_token():
    env = made(step_size=1e30)
    env.reset(seed=0)
    for _ in range(3):
        *_, terminated, _, infos = env.step(HALF)
        if terminated.all():
            break
    assert terminated.all()
    assert not infos["_token_rewards"].any() or np.isfinite(infos["token_rewards"]).all()


def test_a_difference_of_passes_in_half_precision_is_refused():
    with pytest.raises(ConfigurationError, match="pay_tokens takes a difference of two passes"):
        made(precision="bfloat16")


def test_tokens_are_paid_only_where_there_are_some():
    with pytest.raises(ConfigurationError, match="pay_tokens pays tokens, and digits has none"):
        gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, pay_tokens=True)


# Weights of sequences


def test_margins_and_entropies_of_a_sequence_are_means_over_its_tokens():
    logits, targets = torch.randn(3, 4, 7), torch.randint(7, (3, 4))
    targets[1, 2:] = -1
    margins, entropies = margins_and_entropies(logits, targets)
    for i, length in enumerate((4, 2, 4)):
        each = margins_and_entropies(logits[i, :length], targets[i, :length])
        torch.testing.assert_close(margins[i], each[0].mean())
        torch.testing.assert_close(entropies[i], each[1].mean())


def test_the_running_loss_of_a_sequence_is_its_sources():
    env = made(WEIGHT, corrupt="", pay_tokens=False)
    observations = env.reset(seed=0)[0]
    for _ in range(4):
        observations = env.step(np.ones(N, int))[0]
    sources = env.dataset.group_train[env._examples].numpy()
    column = observations[:, env.observation_names.index("class_loss")]
    assert len(np.unique(column[sources == 0])) == len(np.unique(column[sources == 1])) == 1
    assert len(np.unique(column)) == 2


def test_the_observed_loss_ranks_sequences_with_wrong_targets_last():
    env = made(WEIGHT, pay_tokens=False, num_steps=120)
    observations, found = env.reset(seed=0)[0], []
    column = env.observation_names.index("loss_rank")
    for step in range(100):
        if step >= 60:
            wrong = env.spoiled.numpy()
            if 0 < wrong.sum() < N:
                found.append(observations[wrong, column].mean() - observations[~wrong, column].mean())
        observations = env.step(1 - env.spoiled.numpy().astype(int))[0]
    assert np.mean(found) > 0.3
