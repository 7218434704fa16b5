"""How environments come to the alignment that pays their slots."""

import numpy as np
import pytest

from gar_env.alignment import align
from gar_env.envs import DataSplitVectorEnv
from gar_env.errors import ConfigurationError
from gar_env.rewards import REWARDS, Need, RewardSignal, register_reward
from rollouts import make, rollout


@pytest.fixture
def registered():
    """Registers signals for one test."""
    names = []

    def add(name, signal):
        names.append(name)
        register_reward(name)(signal)
        return name

    yield add
    for name in names:
        del REWARDS._objects[name]


class Late(RewardSignal):
    """GAR as it is defined, from a tape and a gradient."""

    needs = Need.TAPE | Need.NEXT_GRADIENT

    def __call__(self, evidence):
        assert vars(evidence)["alignment"] is None
        return align(evidence.tape, evidence.next_gradient)


class Both(RewardSignal):
    """Asks for the alignment and for the tape it is made of."""

    needs = Need.ALIGNMENT | Need.TAPE | Need.NEXT_GRADIENT

    def __call__(self, evidence):
        again = align(evidence.tape, evidence.next_gradient)
        np.testing.assert_allclose(evidence.alignment, again, rtol=1e-5, atol=1e-6)
        return evidence.alignment


@pytest.mark.parametrize("env_id", ["GAR/DataSplit-v0", "GAR/DataWeight-v0"])
@pytest.mark.parametrize("timing", ["same_step", "next_step"])
@pytest.mark.parametrize("signal", [Late, Both])
def test_alignment_inside_the_backward_pass_is_alignment_afterwards(env_id, timing, signal, registered):
    options = {"env_id": env_id, "reward_timing": timing, "num_steps": 4}
    inside = rollout(make(**options), 4)
    afterwards = rollout(make(**options, reward=registered("afterwards", signal)), 4)
    for (_, a, *_), (_, b, *_) in zip(inside, afterwards, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert any(step[1].any() for step in inside)


@pytest.mark.parametrize("env_id", ["GAR/DataSplit-v0", "GAR/DataWeight-v0"])
@pytest.mark.parametrize("timing", ["same_step", "next_step"])
@pytest.mark.parametrize("network", ["fc", "fc_bn"])
def test_every_way_pays_the_same(env_id, timing, network):
    options = {"env_id": env_id, "reward_timing": timing, "num_steps": 3, "network": network}
    options |= {"batch_norm": "derivative"}
    forward, rough = (rollout(make(**options, way=way), 3) for way in ("forward", "finite_difference"))
    for (_, a, *_), (_, b, *_) in zip(forward, rough, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-2 * max(abs(a).max(), 1e-3))
    if network == "fc":
        for (_, a, *_), (_, b, *_) in zip(forward, rollout(make(**options, way="hooks"), 3), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5)


def test_finite_differences_say_how_far_they_are_off():
    steps = rollout(make(way="finite_difference", batch_norm="derivative", num_steps=3, reward_timing="next_step"), 3)
    assert not steps[0][-1]["_alignment_error"].any()
    assert steps[1][-1]["_alignment_error"].all()
    assert 0 < steps[1][-1]["alignment_error"][0] < 0.1
    assert "alignment_error" not in rollout(make(num_steps=3), 1)[0][-1]


def test_an_environment_that_pays_by_another_gradient_is_refused():
    class Doubled(DataSplitVectorEnv):
        def _reference(self, actions):
            passed, loss, gradient = super()._reference(actions)
            return passed, loss, {name: 2 * g for name, g in gradient.items()}

    with pytest.raises(ConfigurationError, match="another gradient than that of its one backward pass"):
        rollout(Doubled(8, num_steps=2), 1)
    rewards = rollout(Doubled(8, num_steps=2, reward="gar"), 0)
    assert rewards == []


@pytest.mark.parametrize("env_id", ["GAR/DataSplit-v0", "GAR/DataWeight-v0"])
@pytest.mark.parametrize("timing", ["same_step", "next_step"])
@pytest.mark.parametrize(
    ("way", "batch_norm"), [("auto", "share"), ("auto", "derivative"), ("finite_difference", "derivative")]
)
def test_a_run_that_diverges_ends_in_every_way(env_id, timing, way, batch_norm):
    env = make(env_id=env_id, reward_timing=timing, way=way, batch_norm=batch_norm, step_size=1e12, num_steps=30)
    steps = rollout(env, 30)
    ended = [infos["diverged"][0] for *_, infos in steps]
    assert any(ended)
    assert all(np.isfinite(rewards).all() for _, rewards, *_ in steps)
