import re

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

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
