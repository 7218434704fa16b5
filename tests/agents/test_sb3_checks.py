import gymnasium
import pytest
from sb3_contrib import ARS
from stable_baselines3 import A2C, DQN, PPO

import gar_env  # noqa: F401 - registers the environments
from agents.sb3 import (
    SB3VecEnv,
    ShiftedRolloutBuffer,
    check_controller,
    make_sb3_env,
)
from gar_env.errors import ConfigurationError
from sb3_models import SPLIT, N, make, small


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
