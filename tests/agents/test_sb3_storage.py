import re

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize
from torch import nn

import gar_env  # noqa: F401 - registers the environments
from agents.sb3 import (
    load_controller,
    make_sb3_env,
    save_controller,
)
from gar_env.errors import CheckpointError
from sb3_models import N, make, small


def test_a_loaded_controller_acts_and_normalises_as_the_saved_one(tmp_path):
    model = small(PPO, VecNormalize(make(), norm_obs=False, gamma=0.0)).learn(N * 8)
    path = save_controller(model, tmp_path / "controller")
    loaded = load_controller(path, make())
    observations = np.random.default_rng(0).random((50, 23), dtype=np.float32)
    expected, found = (m.predict(observations, deterministic=True)[0] for m in (model, loaded))
    assert np.array_equal(expected, found)
    assert loaded.get_vec_normalize_env().ret_rms.var == model.get_vec_normalize_env().ret_rms.var
    loaded.learn(N * 2)
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
    path = save_controller(small(PPO, make()), tmp_path / "controller.gar")
    with pytest.raises(CheckpointError, match=message):
        load_controller(path, env())


def test_broken_files_are_refused_and_the_old_one_survives_a_failed_write(tmp_path, monkeypatch):
    path = save_controller(small(PPO, make()), tmp_path / "controller.gar")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="is cut short or altered"):
        load_controller(path, make())
    path.write_bytes(whole)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_controller(small(PPO, make()), path)
    assert path.read_bytes() == whole
    with pytest.raises(CheckpointError, match=re.escape(f"No controller at {tmp_path / 'none.gar'}")):
        load_controller(tmp_path / "none.gar", make())
    foreign = tmp_path / "foreign.zip"
    small(PPO, make()).save(foreign)
    with pytest.raises(CheckpointError, match="is no controller of gar-env"):
        load_controller(foreign, make())


def test_what_is_no_data_is_named_and_given_again(tmp_path):
    def slower(progress):
        return 1e-3 * progress

    class Mine(PPO):
        pass

    path = save_controller(small(Mine, make(), learning_rate=slower), tmp_path / "mine")
    with pytest.raises(CheckpointError, match=r"holds a Mine, which is no algorithm of Stable-Baselines3"):
        load_controller(path, make())
    with pytest.raises(CheckpointError, match=r"was built with learning_rate \(slower\), which is no data"):
        load_controller(path, make(), algorithm=Mine)
    loaded = load_controller(path, make(), algorithm=Mine, learning_rate=slower)
    assert loaded.lr_schedule(0.5) == 5e-4


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN, MaskablePPO], ids=lambda kind: kind.__name__)
def test_every_algorithm_is_built_as_it_was(tmp_path, algorithm):
    options = {"policy_kwargs": {"net_arch": [8], "activation_fn": nn.ELU}, "gamma": 0.0, "learning_rate": 3e-3}
    if algorithm is not DQN:
        options["n_steps"] = 8
    if algorithm in (PPO, MaskablePPO):
        options["batch_size"] = 4 * N
    model = algorithm("MlpPolicy", make(), seed=0, **options)
    model.learn(N * 8)
    loaded = load_controller(save_controller(model, tmp_path / "c"), make())
    assert type(loaded) is algorithm
    assert (loaded.gamma, loaded.learning_rate, loaded.num_timesteps) == (0.0, 3e-3, model.num_timesteps)
    assert type(loaded.policy.optimizer) is type(model.policy.optimizer)
    assert str(loaded.policy) == str(model.policy)
    assert_equal(loaded.policy.state_dict(), model.policy.state_dict())
    assert_equal(loaded.policy.optimizer.state_dict()["state"], model.policy.optimizer.state_dict()["state"])


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
