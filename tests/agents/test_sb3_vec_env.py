import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import gar_env  # noqa: F401 - registers the environments
from agents.sb3 import (
    SB3VecEnv,
    check_controller,
    make_sb3_env,
)
from gar_env.envs import DataSplitVectorEnv
from gar_env.errors import ConfigurationError
from sb3_models import SPLIT, N, make, small


def test_steps_are_those_of_the_environment_in_sb3s_form():
    env, plain = make(), gymnasium.make_vec(SPLIT, num_envs=N, num_steps=4, autoreset_mode="SameStep")
    env.seed(7)
    assert np.array_equal(env.reset(), plain.reset(seed=7)[0])
    for step in range(9):
        actions = np.random.default_rng(step).integers(10, size=N)
        observations, rewards, dones, info_dicts = env.step(actions)
        expected = plain.step(actions)
        assert np.array_equal(observations, expected[0])
        assert np.array_equal(rewards, expected[1])
        assert np.array_equal(dones, expected[2])
        assert len(info_dicts) == N
        if (step + 1) % 4:
            assert info_dicts == [{}] * N
        else:
            for row, info in enumerate(info_dicts):
                assert np.array_equal(info["terminal_observation"], expected[4]["final_obs"][row])
                assert info["TimeLimit.truncated"] is False
                assert info["episode"]["l"] == 4
                final = expected[4]["final_info"]
                own = {key: value[row] for key, value in final.items() if not key.startswith("_")}
                assert {key: info[key] for key in own} == pytest.approx(own, nan_ok=True)
                assert "test_accuracy" in own


def test_every_row_has_the_return_of_its_episode():
    env = make()
    env.seed(0)
    env.reset()
    total = np.zeros(N)
    for _ in range(4):
        _, rewards, _, info_dicts = env.step(np.arange(N))
        total += rewards
    assert [info["episode"]["r"] for info in info_dicts] == pytest.approx(list(total), rel=1e-5)


@pytest.mark.parametrize("step_size", [0.05, 1e30])
def test_monitors_find_the_accuracy_in_every_row_of_a_run_that_diverged_too(step_size):
    env = VecMonitor(make_sb3_env(SPLIT, N, num_steps=2, step_size=step_size), info_keywords=("test_accuracy",))
    env.reset()
    for _ in range(2):
        _, _, dones, infos = env.step(np.zeros(N, int))
        if dones.any():
            break
    assert all(info["episode"]["test_accuracy"] == info["episode"]["test_accuracy"] for info in infos) == (
        step_size < 1
    )


def test_action_masks_that_are_put_on_the_adapter_are_those_that_agents_get():
    env = make()
    masks = np.zeros((N, 10), bool)
    masks[:, 3] = True
    env.action_masks = lambda: masks
    assert np.array_equal(np.stack(env.env_method("action_masks")), masks)


def test_arrays_and_dicts_of_a_step_are_new():
    env = make()
    env.reset()
    observations, rewards, _, infos = env.step(np.zeros(N, int))
    kept = observations.copy()
    rewards += 1
    infos[0]["mine"] = 1
    _, again, _, others = env.step(np.zeros(N, int))
    assert np.array_equal(observations, kept)
    assert again is not rewards
    assert others[0] == {}


def test_one_seed_one_run():
    def first_rewards(env):
        env.reset()
        return env.step(np.arange(N))[1].tolist()

    env = make()
    assert env.seed(3) == [3] * N
    first, unseeded = first_rewards(env), first_rewards(env)
    env.seed(3)
    assert first_rewards(env) == first
    env.seed(4)
    assert first_rewards(env) != first
    assert unseeded != first, "a seed is for one reset"


class Scripted(VectorEnv):
    """Row 0 is truncated in every second step, row 1 terminated; notes the options it is reset with."""

    def __init__(self):
        self.num_envs, self.metadata = 2, {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = Box(-1, 1, (1,), np.float32), Discrete(2)
        self.render_mode, self.options, self.steps = None, [], 0

    def reset(self, *, seed=None, options=None):
        self.options.append(options)
        return np.zeros((2, 1), np.float32), {}

    def step(self, actions):
        self.steps += 1
        ended = self.steps % 2 == 0
        final = {"final_obs": np.full((2, 1), 0.5), "final_info": {}} if ended else {}
        truncated, terminated = np.array([ended, False]), np.array([False, ended])
        return np.zeros((2, 1), np.float32), np.ones(2, np.float32), terminated, truncated, final


def test_truncation_is_told_from_termination_and_options_arrive_once():
    env = SB3VecEnv(Scripted())
    env.set_options({"difficulty": 3})
    env.reset()
    env.reset()
    assert env.env.options == [{"difficulty": 3}, None]
    env.step(np.zeros(2))
    info_dicts = env.step(np.zeros(2))[3]
    assert [info["TimeLimit.truncated"] for info in info_dicts] == [True, False]
    assert info_dicts[0]["terminal_observation"] == 0.5
    with pytest.raises(ConfigurationError, match="2 dicts for 2 rows that share one run"):
        env.set_options([{"a": 1}, {"a": 2}])
    with pytest.raises(IndexError, match="There is no row 7"):
        env.get_attr("steps", indices=7)


def test_attributes_of_any_wrapper_are_found():
    class Inner(VectorWrapper):
        note = "mine"

        def action_masks(self):
            return np.zeros((self.num_envs, 10), bool)

    class Outer(VectorWrapper):
        pass

    env = SB3VecEnv(Outer(Inner(gymnasium.make_vec(SPLIT, num_envs=N, autoreset_mode="SameStep"))))
    assert not np.stack(env.env_method("action_masks")).any()
    assert env.get_attr("note", 0) == ["mine"]
    env.set_attr("note", "yours")
    assert env.env.env.note == "yours"
    assert env.env_is_wrapped(Inner) == [True] * N
    assert env.env_is_wrapped(gymnasium.wrappers.vector.RecordEpisodeStatistics) == [False] * N


def test_attributes_are_shared_by_all_rows():
    env = make()
    assert env.get_attr("reward_timing") == ["same_step"] * N
    assert env.get_attr("num_splits", indices=[1, 2]) == [10, 10]
    with pytest.raises(AttributeError, match="DataSplitVectorEnv has no attribute 'no_such'"):
        env.get_attr("no_such")
    assert not env.has_attr("no_such")
    env.set_attr("note", "x")
    assert env.get_attr("note", 0) == ["x"]
    with pytest.raises(ConfigurationError, match="names 1 of 8 rows, but all rows share one environment"):
        env.set_attr("note", "y", indices=3)
    env.reset()
    assert env.env_method("evaluate", indices=[0, 1])[1]["test_accuracy"] > 0
    assert env.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [False] * N


def test_a_picture_is_drawn_once():
    env = make(render_mode="rgb_array")
    env.reset()
    env.step(np.zeros(N, int))
    assert len(env.get_images()) == 1
    assert env.render().shape[2] == 3


class Masked(DataSplitVectorEnv):
    """Slot i may not draw from split i."""

    def action_masks(self):
        masks = super().action_masks()
        masks[np.arange(self.num_envs), np.arange(self.num_envs)] = False
        return masks


def test_maskable_ppo_never_takes_a_masked_action():
    taken = []

    class Watched(Masked):
        def step(self, actions):
            taken.append(np.array(actions))
            return super().step(actions)

    small(MaskablePPO, SB3VecEnv(Watched(N, num_steps=4, autoreset_mode="SameStep"))).learn(N * 40)
    assert len(taken) >= 40
    assert not (np.stack(taken) == np.arange(N)).any()
    assert (np.stack(taken)[:, 0] == 1).any()


@pytest.mark.parametrize("name", [SPLIT, "GAR/DataWeight-v0"])
def test_the_single_view_passes_sb3s_checker(name):
    check_env(gymnasium.make(name, batch_size=4, num_steps=3).unwrapped, warn=False)


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN, MaskablePPO])
@pytest.mark.parametrize("name", [SPLIT, "GAR/DataWeight-v0"])
def test_algorithms_run_over_several_episodes(algorithm, name):
    env = make_sb3_env(name, N, num_steps=3)
    model = small(algorithm, VecNormalize(env, norm_obs=False, gamma=0.0)).learn(N * 8)
    check_controller(model)
    assert [episode["l"] for episode in model.ep_info_buffer] == [3] * 2 * N
