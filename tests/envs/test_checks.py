import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import ClipReward, DictInfoToList, RecordEpisodeStatistics

from gar_env.envs import DataSplitVectorEnv
from gar_env.envs.checks import check_vector_env
from gar_env.errors import ConfigurationError, ConformanceError
from gar_env.registration import ENVIRONMENTS


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize(
    "options", [{}, {"output": "torch"}, {"reward_timing": "next_step"}, {"reward": "nslr"}], ids=str
)
def test_every_registered_environment_keeps_the_contract(name, options):
    report = check_vector_env(gymnasium.make_vec(name, num_envs=5, num_steps=3, **options))
    assert len(report.passed) == 11
    assert not report.skipped


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_independent_runs_of_the_single_agent_view_keep_it_too(name):
    env = gymnasium.make_vec(name, num_envs=2, vectorization_mode="sync", batch_size=4, num_steps=3)
    assert list(check_vector_env(env).skipped) == ["pickling"]


def test_gymnasiums_own_environments_keep_it():
    check_vector_env(gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync"))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_the_single_agent_view_passes_gymnasiums_and_sb3s_checkers(name):
    sb3_checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        env = gymnasium.make(name, batch_size=6, num_steps=3, render_mode="rgb_array")
        check_env(env.unwrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_checker.check_env(gymnasium.make(name, batch_size=6, num_steps=3))


def test_the_single_agent_view_pays_the_mean_and_tells_each_slot():
    env = gymnasium.make("GAR/DataSplit-v0", batch_size=6, num_steps=2)
    observation, info = env.reset(seed=0)
    assert observation.shape == (6 * 23,)
    _, reward, terminated, truncated, info = env.step(np.arange(6))
    assert type(reward) is float
    assert type(terminated) is bool
    assert type(truncated) is bool
    assert reward == pytest.approx(info["rewards"].mean())
    assert info["reward_valid"] is True
    *_, terminated, truncated, info = env.step(np.arange(6))
    assert terminated
    assert 0 <= info["test_accuracy"] <= 1
    env.close()


def test_the_single_agent_view_refuses_what_belongs_to_make_vec():
    with pytest.raises(ConfigurationError, match="autoreset_mode goes with make_vec"):
        gymnasium.make("GAR/DataSplit-v0", autoreset_mode="SameStep")


def test_gymnasiums_wrappers_work():
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, num_steps=3)
    env = DictInfoToList(RecordEpisodeStatistics(ClipReward(env, -1, 1)))
    env.reset(seed=0)
    for _ in range(3):
        *_, terminations, _, infos = env.step([0, 1, 2, 3])
    assert terminations.all()
    assert len(infos) == 4
    assert infos[0]["episode"]["l"] == 3
    assert 0 <= infos[0]["test_accuracy"] <= 1


class Breaks(DataSplitVectorEnv):
    """A contract breaker; each subclass breaks one rule."""

    def __init__(self):
        super().__init__(4, num_steps=3)


class Float64Observations(Breaks):
    def _observe(self):
        return super()._observe() + 7


class IntegerRewards(Breaks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, rewards.astype(int), *rest


class ReusedBuffer(Breaks):
    def step(self, actions):
        observations, *rest = super().step(actions)
        if not hasattr(self, "buffer"):
            self.buffer = observations
        self.buffer[...] = observations
        return self.buffer, *rest


class UnseededNoise(Breaks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, rewards + np.random.default_rng().normal(size=4).astype(np.float32), *rest


class MissingMask(Breaks):
    def step(self, actions):
        *rest, infos = super().step(actions)
        return *rest, {**infos, "extra": np.zeros(4)}


class ScalarInfo(Breaks):
    def step(self, actions):
        *rest, infos = super().step(actions)
        return *rest, {**infos, "extra": np.float64(3), "_extra": np.ones(4, bool)}


class EpisodeKey(Breaks):
    def step(self, actions):
        *rest, infos = super().step(actions)
        return *rest, {**infos, "episode": np.zeros(4), "_episode": np.ones(4, bool)}


class Unpicklable(Breaks):
    def __init__(self):
        super().__init__()
        self.closure = lambda: None


class StringMode(Breaks):
    def __init__(self):
        super().__init__()
        self.metadata["autoreset_mode"] = "NextStep"


@pytest.mark.parametrize(
    ("breaker", "message"),
    [
        (Float64Observations, "shapes and types: observations are not in observation_space"),
        (IntegerRewards, r"rewards are int64 \[4\]; expected floating point \[4\]"),
        (ReusedBuffer, r"fresh arrays: step\(\) changed observations that an earlier call returned"),
        (UnseededNoise, "repeatable per seed: two resets with seed=7"),
        (MissingMask, r"infos\['extra'\] needs a mask infos\['_extra'\], bool \[4\]"),
        (ScalarInfo, r"infos\['extra'\] has the shape \[\]; expected one entry per row"),
        (EpisodeKey, "infos have a key 'episode'"),
        (Unpicklable, "pickling: the environment cannot be pickled"),
        (StringMode, r"metadata\['autoreset_mode'\] is 'NextStep'; expected a member of AutoresetMode"),
    ],
)
def test_the_checker_names_what_is_broken(breaker, message):
    with pytest.raises(ConformanceError, match=message):
        check_vector_env(breaker())


@pytest.mark.parametrize(
    "rule", ["no final_obs", "final is first", "wrong mode", "reward after the end", "steps too early"]
)
def test_the_checker_sees_broken_autoreset(rule):
    class Broken(DataSplitVectorEnv):
        def __init__(self, num_envs, **options):
            if rule == "wrong mode":
                options.pop("autoreset_mode", None)
            super().__init__(num_envs, **options)

        def step(self, actions):
            if rule == "steps too early" and not (self._running or self._ended):
                self.reset()
            observations, rewards, terminations, truncations, infos = super().step(actions)
            if rule == "no final_obs":
                infos.pop("final_obs", None)
            elif rule == "final is first" and "final_obs" in infos:
                infos["final_obs"] = observations.copy()
            elif rule == "reward after the end":
                rewards = rewards + 1
            return observations, rewards, terminations, truncations, infos

    gymnasium.register("Broken-v0", vector_entry_point=Broken)
    try:
        expected = {
            "no final_obs": "autoreset SameStep: infos lack 'final_obs'",
            "final is first": "autoreset SameStep: final_obs is the new episode's observation",
            "wrong mode": "autoreset SameStep: made with autoreset_mode='SameStep', metadata says",
            "reward after the end": "autoreset NextStep: the step after the end must return",
            "steps too early": r"calls at the wrong time: step\(\) before reset\(\) raised nothing",
        }[rule]
        with pytest.raises(ConformanceError, match=expected):
            check_vector_env(gymnasium.make_vec("Broken-v0", num_envs=4, num_steps=3))
    finally:
        del gymnasium.registry["Broken-v0"]


def test_without_a_spec_what_needs_one_is_skipped_not_passed():
    report = check_vector_env(DataSplitVectorEnv(4, num_steps=3))
    assert set(report.skipped) == {
        "spec round trip", "autoreset NextStep", "autoreset SameStep", "autoreset Disabled", "calls at the wrong time",
    }  # fmt: skip
    assert "skipped  spec round trip: the environment has no spec" in str(report)
