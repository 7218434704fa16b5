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

OF_RUNS = ("GAR/StepSize-v0",)
OLD = ".*-v0 is out of date.*"
OF_CANDIDATES = ("GAR/OptimizerSearch-v0",)
APART = [name for name in ENVIRONMENTS if name not in OF_CANDIDATES]
"""Without candidates, which have no ``num_steps`` and checks of their own: test_optimizer_search.py."""


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"output": "torch"},
        {"reward_timing": "next_step"},
        {"reward": "nslr"},
        {"autoreset_mode": "Disabled"},
        {"autoreset_mode": "SameStep"},
    ],
    ids=str,
)
def test_every_registered_environment_keeps_the_contract(name, options):
    if "reward_timing" in options and name in OF_RUNS:
        pytest.skip("a run is paid in the step that moved it")
    if name in OF_RUNS and options in ({"output": "torch"}, {"reward": "nslr"}):
        pytest.skip("with Disabled, below: every set of rows takes its time")
    rows = 5
    if name in OF_RUNS:  # every set of rows is reset by itself: 8 of them, not 32, and each run measures its own losses
        rows, options = 3, {**options, "loss_examples": 40, "test_examples": 40}
        if options.get("autoreset_mode") == "Disabled":
            options |= {"output": "torch", "reward": "nslr"}
    report = check_vector_env(gymnasium.make_vec(name, num_envs=rows, num_steps=2, **options))
    assert len(report.passed) == 12
    assert not report.skipped


@pytest.mark.parametrize("name", APART)
def test_independent_runs_of_the_single_agent_view_keep_it_too(name):
    env = gymnasium.make_vec(name, num_envs=2, vectorization_mode="sync", batch_size=4, num_steps=3)
    assert list(check_vector_env(env).skipped) == ["pickling", "rows"]


@pytest.mark.parametrize("mode", ["sync", "async", "vector_entry_point"])
def test_gymnasiums_own_environments_keep_it(mode):
    env = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode=mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # workers report the calls at the wrong time
        report = check_vector_env(env)
    assert "repeatable per seed" in report.passed
    env.close()


def test_a_wrapped_environment_keeps_it():
    check_vector_env(RecordEpisodeStatistics(gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, num_steps=3)))


@pytest.mark.parametrize("name", APART)
def test_the_single_agent_view_passes_gymnasiums_and_sb3s_checkers(name):
    sb3_checker = pytest.importorskip("stable_baselines3.common.env_checker")
    shown = {} if name in OF_RUNS else {"render_mode": "rgb_array"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        warnings.filterwarnings("ignore", message=OLD)
        env = gymnasium.make(name, batch_size=6, num_steps=3, **shown)
        check_env(env.unwrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=OLD)
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


class OutOfBounds(Breaks):
    def observe(self):
        return super().observe() + 7


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


class ReusedRewards(Breaks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        self.rewards = getattr(self, "rewards", rewards)
        self.rewards[...] = rewards
        return observations, self.rewards, *rest


class OverwrittenActions(Breaks):
    def step(self, actions):
        result = super().step(actions)
        actions[...] = 9
        return result


class HalfRewards(Breaks):
    def step(self, actions):
        observations, rewards, *rest = super().step(actions)
        return observations, rewards.astype(np.float16), *rest


class GlobalDraws(Breaks):
    def step(self, actions):
        np.random.rand()  # noqa: NPY002
        return super().step(actions)


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
        (OutOfBounds, "shapes and types: observations are not in observation_space"),
        (IntegerRewards, r"rewards are int64 \[4\]; expected float32 or float64 \[4\]"),
        (ReusedBuffer, r"fresh arrays: step\(\) changed arrays that an earlier call returned"),
        (ReusedRewards, r"fresh arrays: step\(\) changed arrays that an earlier call returned"),
        (OverwrittenActions, r"fresh arrays: step\(\) wrote into the caller's actions"),
        (HalfRewards, r"rewards are float16 \[4\]; expected float32 or float64"),
        (GlobalDraws, "repeatable per seed: torch's or numpy's global generator moved"),
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


class BrokenAutoreset(DataSplitVectorEnv):
    """Breaks the rule that the test asks for."""

    rule = ""

    def __init__(self, num_envs, **options):
        if self.rule == "wrong mode":
            options.pop("autoreset_mode", None)
        super().__init__(num_envs, **options)

    def start(self, rows, seeds):
        super().start(rows, [0] if self.rule == "every episode alike" else seeds)

    def observe(self):
        too_large = self.rule == "out of bounds at the end" and self.steps == 3
        return super().observe() + (7 if too_large else 0)

    def step(self, actions):
        if self.rule == "steps too early" and not self._started.any():
            self.reset()
        if self.rule == "restarts by itself" and self._ended.any():
            self.reset()
        observations, rewards, terminations, truncations, infos = super().step(actions)
        if self.rule == "no final_obs":
            infos.pop("final_obs", None)
        elif self.rule == "final is first" and "final_obs" in infos:
            infos["final_obs"] = observations.copy()
        elif self.rule == "final is scaled" and "final_obs" in infos:
            for i, row in enumerate(infos["final_obs"]):
                infos["final_obs"][i] = row * 0.5
        elif self.rule == "junk as final_info" and "final_info" in infos:
            infos["final_info"] = {"junk": np.ones(4), "_junk": np.ones(4, bool)}
        elif self.rule == "reward after the end":
            rewards = rewards + 1
        return observations, rewards, terminations, truncations, infos


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("no final_obs", "autoreset SameStep: infos lack 'final_obs'"),
        ("final is first", r"autoreset SameStep: final_obs\[0\] is not the observation that the episode ended with"),
        ("final is scaled", r"autoreset SameStep: final_obs\[0\] is not the observation"),
        ("junk as final_info", "autoreset SameStep: final_info lacks _diverged, _loss"),
        ("wrong mode", "autoreset SameStep: made with autoreset_mode='SameStep', metadata says"),
        ("reward after the end", "autoreset NextStep: the step after the end must return"),
        ("out of bounds at the end", "autoreset NextStep: observations are not in observation_space"),
        ("restarts by itself", r"autoreset Disabled: step\(\) after the end raised nothing"),
        ("steps too early", r"calls at the wrong time: step\(\) before reset\(\) raised nothing"),
    ],
)
def test_the_checker_sees_broken_autoreset(rule, message, monkeypatch):
    monkeypatch.setattr(BrokenAutoreset, "rule", rule)
    gymnasium.register("Broken-v0", vector_entry_point=BrokenAutoreset)
    try:
        with pytest.raises(ConformanceError, match=message):
            check_vector_env(gymnasium.make_vec("Broken-v0", num_envs=4, num_steps=3))
    finally:
        del gymnasium.registry["Broken-v0"]


def test_a_seed_that_changes_nothing_is_not_passed_in_silence(monkeypatch):
    monkeypatch.setattr(BrokenAutoreset, "rule", "every episode alike")
    report = check_vector_env(BrokenAutoreset(4, num_steps=3))
    assert "seeds 7 and 8 give the same episode" in report.skipped["repeatable per seed"]


def test_without_a_spec_what_needs_one_is_skipped_not_passed():
    report = check_vector_env(DataSplitVectorEnv(4, num_steps=3))
    assert set(report.skipped) == {
        "spec round trip", "autoreset NextStep", "autoreset SameStep", "autoreset Disabled", "calls at the wrong time",
        "rows",
    }  # fmt: skip
    assert "skipped  spec round trip: the environment has no spec" in str(report)
