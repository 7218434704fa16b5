import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from sb3_contrib import ARS, MaskablePPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

import gar_env  # noqa: F401 - registers the environments
from agents.sb3 import (
    SB3VecEnv,
    ShiftedRolloutBuffer,
    check_controller,
    load_controller,
    make_sb3_env,
    save_controller,
)
from gar_env.envs import DataSplitVectorEnv
from gar_env.errors import CheckpointError, ConfigurationError

N = 8
SPLIT = "GAR/DataSplit-v0"


def make(num_steps=4, **options):
    return make_sb3_env(SPLIT, N, num_steps=num_steps, **options)


def small(algorithm, env, **options):
    sizes = {"n_steps": 2} if algorithm is not DQN else {"learning_starts": 8, "train_freq": 1, "buffer_size": 100}
    if algorithm in (PPO, MaskablePPO):
        sizes["batch_size"] = 8
    return algorithm("MlpPolicy", env, seed=0, **{**sizes, "gamma": 0.0, **options})


# The adapter


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
            assert info_dicts[0]["episode"]["l"] == 4
            assert info_dicts[0]["test_accuracy"] == pytest.approx(expected[4]["final_info"]["test_accuracy"][0])
            assert "episode" not in info_dicts[1]


def test_the_episodes_return_is_the_mean_over_slots():
    env = make()
    env.seed(0)
    env.reset()
    total = 0.0
    for _ in range(4):
        _, rewards, _, info_dicts = env.step(np.arange(N))
        total += rewards.mean()
    assert info_dicts[0]["episode"]["r"] == pytest.approx(total, rel=1e-5)


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
    assert [episode["l"] for episode in model.ep_info_buffer] == [3, 3]


# Refusals


def test_a_late_environment_is_refused_unless_asked_for():
    with pytest.raises(ConfigurationError, match=r"pays every action one step late.*ShiftedRolloutBuffer"):
        make(reward_timing="next_step")


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        (PPO, {}, "PPO has gamma=0 and reward_timing='next_step' pays one step late"),
        (A2C, {}, "A2C has gamma=0"),
        (DQN, {}, "DQN learns from single transitions.*with gamma=0"),
    ],
)
def test_late_rewards_without_discount_are_refused(algorithm, options, message):
    with pytest.raises(ConfigurationError, match=message):
        check_controller(small(algorithm, make(reward_timing="next_step", late_rewards=True), **options))


def test_dqn_is_refused_where_the_pending_action_is_not_observed():
    late = {"reward_timing": "next_step", "late_rewards": True}
    with pytest.raises(ConfigurationError, match="does not show the pending action"):
        check_controller(small(DQN, make_sb3_env("GAR/DataWeight-v0", N, **late), gamma=0.9))
    check_controller(small(DQN, make(**late), gamma=0.9))  # data splits show it: last_action_i


def test_single_transitions_are_refused_whatever_the_discount():
    for options in ({"gae_lambda": 0.0}, {"n_steps": 1}):
        late = make_sb3_env("GAR/DataWeight-v0", N, reward_timing="next_step", late_rewards=True)
        with pytest.raises(ConfigurationError, match="A2C learns from single transitions"):
            check_controller(small(A2C, late, gamma=0.9, **options))


def test_the_single_view_is_checked_too_and_controllers_without_a_discount_are_not():
    late = gymnasium.make(SPLIT, batch_size=4, num_steps=3, reward_timing="next_step")
    with pytest.raises(ConfigurationError, match="PPO has gamma=0"):
        check_controller(small(PPO, late))
    check_controller(ARS("LinearPolicy", make(reward_timing="next_step", late_rewards=True), n_delta=2))


def test_late_rewards_with_the_shifted_buffer_are_fine_and_prompt_ones_are_not():
    check_controller(small(PPO, make(reward_timing="next_step", late_rewards=True), gamma=0.5))
    late = make(reward_timing="next_step", late_rewards=True)
    check_controller(small(PPO, late, rollout_buffer_class=ShiftedRolloutBuffer))
    with pytest.raises(ConfigurationError, match="this environment pays the action just taken"):
        check_controller(small(PPO, make(), rollout_buffer_class=ShiftedRolloutBuffer))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: gymnasium.make(SPLIT, batch_size=4), "one agent's view of the whole batch"),
        (lambda: gymnasium.make_vec(SPLIT, num_envs=4), "has autoreset_mode='NextStep'"),
        (
            lambda: gymnasium.make_vec(SPLIT, num_envs=4, autoreset_mode="SameStep", output="torch"),
            "works on numpy arrays",
        ),
        (lambda: "CartPole-v1", "wraps a gymnasium VectorEnv; found str"),
    ],
)
def test_environments_that_do_not_fit_are_refused(env, message):
    with pytest.raises(ConfigurationError, match=message):
        SB3VecEnv(env())


def test_what_the_adapter_sets_itself_cannot_be_passed():
    with pytest.raises(ConfigurationError, match="needs autoreset_mode='SameStep', which is set here"):
        make(autoreset_mode="NextStep")


def test_sb3_itself_refuses_a_raw_vector_environment():
    with pytest.raises(ValueError, match="not a Gymnasium environment"):
        PPO("MlpPolicy", gymnasium.make_vec(SPLIT, num_envs=4))


# Late rewards


def late_rollouts(gamma, gae_lambda, episode_length, n_steps, rollouts, envs=2, seed=0):
    """Fill buffers as SB3 does; rewards name the action they pay. Returns the paid rows of each rollout."""
    generator = np.random.default_rng(seed)
    space = Box(-1, 1, (1,), np.float32)
    buffer = ShiftedRolloutBuffer(n_steps, space, Discrete(1000), gamma=gamma, gae_lambda=gae_lambda, n_envs=envs)
    steps, values, found = [], [], []
    for rollout in range(rollouts):
        buffer.reset()
        for step in range(rollout * n_steps, (rollout + 1) * n_steps):
            start = step % episode_length == 0
            value = torch.tensor(generator.normal(size=envs), dtype=torch.float32)
            values.append(value.numpy())
            steps.append(start)
            reward = np.zeros(envs) if start else np.full(envs, step - 1.0)
            actions = np.full((envs, 1), step)
            observations = np.full((envs, 1), step / 100, np.float32)
            buffer.add(observations, actions, reward, np.full(envs, start), value, torch.zeros(envs))
        done = (step + 1) % episode_length == 0
        buffer.compute_returns_and_advantage(torch.full((envs, 1), 1e6), np.full(envs, done))
        rows = list(buffer.get(None))
        found.append(rows[0] if rows else None)
    return found, np.array(values)


@pytest.mark.parametrize(("episode_length", "n_steps"), [(5, 3), (4, 4), (3, 5), (100, 4)])
def test_every_paid_action_is_handed_out_once_with_its_own_reward(episode_length, n_steps):
    rollouts = 4
    found, values = late_rollouts(0.0, 0.0, episode_length, n_steps, rollouts)
    handed = []
    for rows in found:
        for action, observation, ret, value in zip(
            rows.actions, rows.observations, rows.returns, rows.old_values, strict=True
        ):
            step = int(action)
            assert float(observation) == pytest.approx(step / 100), "an action with another's observation"
            assert float(ret) == pytest.approx(step, abs=1e-4), "rewards name the action that they pay"
            assert float(value) in values[step]
            handed.append(step)
    last = rollouts * n_steps - 1  # its reward has not come
    paid = [step for step in range(last) if (step + 1) % episode_length]
    assert sorted(handed) == sorted(paid * 2), "two environments, each paid action once"


@pytest.mark.parametrize(("episode_length", "n_steps"), [(5, 3), (4, 4), (3, 6)])
def test_advantages_are_those_of_a_buffer_that_was_paid_in_time(episode_length, n_steps):
    """The oracle: SB3's own buffer over all paid actions of one environment, with episodes one action shorter."""
    gamma, gae_lambda = 0.9, 0.8
    found, values = late_rollouts(gamma, gae_lambda, episode_length, n_steps, rollouts=3, envs=1)
    for rollout, rows in enumerate(found):
        order = np.argsort(rows.actions[:, 0].numpy())
        steps = rows.actions[order, 0].long().tolist()
        space = Box(-1, 1, (1,), np.float32)
        oracle = RolloutBuffer(len(steps), space, Discrete(1000), gamma=gamma, gae_lambda=gae_lambda)
        for step in steps:
            start = np.array([step % episode_length == 0])
            action, reward = np.array([[step]]), np.array([float(step)])
            oracle.add(np.zeros((1, 1)), action, reward, start, torch.tensor(values[step]), torch.zeros(1))
        follows = steps[-1] + 1
        # The next action is never paid if it is the last of its episode: then nothing follows.
        over = np.array([follows % episode_length == episode_length - 1])
        oracle.compute_returns_and_advantage(torch.tensor(values[follows]), over)
        np.testing.assert_allclose(
            rows.advantages[order], oracle.advantages[:, 0], rtol=1e-5, atol=1e-5, err_msg=f"rollout {rollout}"
        )


def test_paid_rows_come_in_random_order():
    space = Box(-1, 1, (1,), np.float32)
    buffer = ShiftedRolloutBuffer(50, space, Discrete(1000), n_envs=1)
    for step in range(50):
        buffer.add(
            np.zeros((1, 1)), np.array([[step]]), np.zeros(1), np.array([step == 0]), torch.zeros(1), torch.zeros(1)
        )
    buffer.compute_returns_and_advantage(torch.zeros(1), np.array([False]))
    order = torch.cat([rows.actions[:, 0] for rows in buffer.get(10)]).tolist()
    assert order != sorted(order)
    assert sorted(order) == list(range(49))


def test_a_shifted_rollout_needs_two_steps_and_episodes_too():
    with pytest.raises(ConfigurationError, match="A rollout of 1 step holds no paid action"):
        small(
            A2C,
            make(reward_timing="next_step", late_rewards=True),
            n_steps=1,
            rollout_buffer_class=ShiftedRolloutBuffer,
        )
    env = make(num_steps=1, reward_timing="next_step", late_rewards=True)
    with pytest.raises(ConfigurationError, match="No action of this rollout was paid"):
        small(PPO, env, rollout_buffer_class=ShiftedRolloutBuffer).learn(N * 2)


# Saving


def test_a_loaded_controller_acts_and_normalises_as_the_saved_one(tmp_path):
    model = small(PPO, VecNormalize(make(), norm_obs=False, gamma=0.0)).learn(N * 8)
    path = save_controller(model, tmp_path / "controller")
    loaded = load_controller(path, make())
    observations = np.random.default_rng(0).random((50, 23), dtype=np.float32)
    expected, found = (m.predict(observations, deterministic=True)[0] for m in (model, loaded))
    assert np.array_equal(expected, found)
    assert loaded.get_vec_normalize_env().ret_rms.var == model.get_vec_normalize_env().ret_rms.var
    loaded.learn(N * 2)
    assert not hasattr(model, "gar_env"), "a later model.save would carry old statistics"
    with pytest.raises(CheckpointError, match=r"load_controller takes an SB3VecEnv.*found VecNormalize"):
        load_controller(path, VecNormalize(make()))
    with pytest.raises(CheckpointError, match="or on VecNormalize around it"):
        save_controller(small(PPO, VecMonitor(make())), tmp_path / "other")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: make_sb3_env("GAR/DataWeight-v0", N), "belongs to environment='GAR/DataSplit-v0'; here it is"),
        (lambda: make(num_splits=5), "belongs to observations="),
        (lambda: make(reward_timing="next_step", late_rewards=True), "belongs to reward_timing='same_step'"),
    ],
)
def test_a_controller_of_another_environment_is_refused(tmp_path, env, message):
    path = save_controller(small(PPO, make()), tmp_path / "controller.zip")
    with pytest.raises(CheckpointError, match=message):
        load_controller(path, env())


def test_broken_files_are_refused_and_the_old_one_survives_a_failed_write(tmp_path, monkeypatch):
    path = save_controller(small(PPO, make()), tmp_path / "controller.zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is no saved controller, or is cut short"):
        load_controller(path, make())
    path.write_bytes(whole)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_controller(small(PPO, make()), path)
    assert path.read_bytes() == whole
    with pytest.raises(CheckpointError, match=re.escape(f"No controller at {tmp_path / 'none.zip'}")):
        load_controller(tmp_path / "none.zip", make())
    foreign = tmp_path / "foreign.zip"
    small(PPO, make()).save(foreign)
    with pytest.raises(CheckpointError, match="was not written by save_controller"):
        load_controller(foreign, make())


def test_a_controller_of_another_version_is_refused(tmp_path, monkeypatch):
    path = save_controller(small(PPO, make()), tmp_path / "controller.zip")
    monkeypatch.setattr("gar_env.__version__", "9.0")
    with pytest.raises(CheckpointError, match=r"belongs to version='0.1.0'; here it is '9.0'"):
        load_controller(path, make())
