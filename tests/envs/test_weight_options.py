"""A warm-up in which all is kept, a price of dropping, and what dropped examples would have been paid."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

import gar_env  # noqa: F401 - registers the environments
from gar_env.errors import ConfigurationError

N = 16
HALF = np.arange(N) % 2


def made(**options: Any) -> Any:
    own: dict[str, Any] = {"network": "fc", "num_steps": 6, "reference": "uniform"}
    return gymnasium.make_vec("GAR/DataWeight-v0", num_envs=N, **own | options).unwrapped


def steps(env: Any, actions: list[np.ndarray]) -> list[np.ndarray]:
    env.reset(seed=0)
    return [env.step(one)[1] for one in actions]


def test_in_the_first_steps_all_is_trained_on_and_paid_by_the_actions():
    everything = steps(made(), [np.ones(N, int)] * 2 + [HALF] * 2)
    found = steps(made(keep_all_steps=2), [HALF] * 4)
    for step in (0, 1):
        np.testing.assert_allclose(found[step], everything[step] * HALF, rtol=1e-6)
    np.testing.assert_allclose(found[2], everything[2], rtol=1e-5)
    np.testing.assert_allclose(found[3], everything[3], rtol=1e-5)


def test_late_rewards_are_paid_by_the_actions_that_they_are_of():
    options: dict[str, Any] = {"reward_timing": "next_step", "reference": None}
    first, then = HALF, 1 - HALF
    everything = steps(made(**options), [np.ones(N, int)] * 3)
    found = steps(made(keep_all_steps=2, **options), [first, then, then])
    np.testing.assert_allclose(found[1], everything[1] * first, rtol=1e-6)
    np.testing.assert_allclose(found[2][then == 0], 0)


@pytest.mark.parametrize("levels", [2, 3])
def test_keeping_is_paid_a_bonus_in_root_mean_squares(levels):
    actions = np.arange(N) % levels
    plain, found = (steps(made(keep_bonus=b, weight_levels=levels), [actions])[0] for b in (0.0, 0.5))
    size = np.sqrt((plain**2).mean())
    np.testing.assert_allclose(found - plain, 0.5 * size * actions / (levels - 1), rtol=1e-4, atol=1e-7)


def test_what_is_dropped_is_told_what_it_would_have_been_paid():
    """At the same parameters, against the same gradient: the step is that of the kept ones."""
    env = made(pay_dropped=True)
    env.reset(seed=0)
    _, rewards, _, _, infos = env.step(HALF)
    plain = made()
    plain.reset(seed=0)
    kept = plain.step(HALF)[1]
    assert infos["_reward_if_kept"].all()
    if_kept = infos["reward_if_kept"]
    np.testing.assert_allclose(rewards, if_kept * HALF, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(rewards, kept, rtol=1e-3, atol=1e-5)
    assert (if_kept[HALF == 0] != 0).all()
    for _ in range(3):
        np.testing.assert_allclose(env.step(HALF)[1], plain.step(HALF)[1], rtol=1e-2, atol=1e-4)


def test_dropping_everything_still_tells():
    env = made(pay_dropped=True)
    env.reset(seed=0)
    before = [p.clone() for p in env.learner.network.parameters()]
    _, rewards, _, _, infos = env.step(np.zeros(N, int))
    assert (rewards == 0).all()
    assert (infos["reward_if_kept"] != 0).any()
    assert all((a == b).all() for a, b in zip(before, env.learner.network.parameters(), strict=True))


@pytest.mark.parametrize("reference", ["policy", "other_half", "heldout"])
def test_the_contract_holds_with_all_of_them(reference):
    from gar_env.envs.checks import check_vector_env

    options: dict[str, Any] = {"keep_all_steps": 2, "keep_bonus": 0.1, "pay_dropped": True, "reference": reference}
    env = gymnasium.make_vec("GAR/DataWeight-v0", num_envs=4, num_steps=3, **options)
    assert check_vector_env(env)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_all_steps": -1}, "keep_all_steps=-1 must be at least 0"),
        ({"keep_bonus": -0.5}, "keep_bonus=-0.5 must be at least 0"),
        ({"pay_dropped": True, "reward_timing": "next_step", "reference": None}, "pay_dropped needs reward_timing"),
        ({"pay_dropped": True, "reward": "leave_one_out"}, "takes the step again, and pay_dropped"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        made(**options)


def test_a_single_agent_is_told_of_every_example():
    env = gymnasium.make("GAR/DataWeight-v0", batch_size=N, num_steps=3, network="fc", pay_dropped=True)
    env.reset(seed=0)
    _, _, _, _, info = env.step(HALF)
    assert info["reward_if_kept"].shape == (N,)
    np.testing.assert_allclose(info["rewards"], info["reward_if_kept"] * HALF, rtol=1e-5, atol=1e-7)


def test_what_keeping_would_have_been_paid_has_its_bonus():
    env = made(pay_dropped=True, keep_bonus=0.5)
    env.reset(seed=0)
    _, rewards, _, _, infos = env.step(HALF)
    np.testing.assert_allclose(rewards, infos["reward_if_kept"] * HALF, rtol=1e-5, atol=1e-7)
