"""Rows that end apart: the laws, what breaks them, and calls at the wrong time."""

from __future__ import annotations

from itertools import pairwise

import gymnasium
import numpy as np
import pytest

from gar_env.envs.checks import check_vector_env
from gar_env.errors import ConfigurationError, ConformanceError, InvalidActionError, ResetNeededError
from walks import WalksVectorEnv


@pytest.mark.parametrize("name", ["Test/Walks-v0", "Test/ContinuousWalks-v0"])
@pytest.mark.parametrize("output", ["numpy", "torch"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_rows_that_end_apart_keep_the_contract(n, output, name):
    report = check_vector_env(gymnasium.make_vec(name, num_envs=n, output=output))
    assert report.skipped.keys() <= {"rows"}
    assert ("rows" in report.skipped) == (n == 1)


@pytest.mark.parametrize("name", ["GAR/DataSplit-v0", "GAR/DataWeight-v0"])
def test_rows_that_share_a_network_end_together(name):
    report = check_vector_env(gymnasium.make_vec(name, num_envs=4, num_steps=3))
    assert "rows" in report.passed


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("rows lean on each other", "went on differently when the other rows acted otherwise"),
        ("one stream for all", "went on differently when"),
        ("a mask touches others", "a reset mask changed rows that it leaves out|went on differently"),
    ],
)
def test_a_broken_law_is_named(breaks, message, monkeypatch):
    monkeypatch.setattr(WalksVectorEnv, "breaks", breaks)
    with pytest.raises(ConformanceError, match=message):
        check_vector_env(gymnasium.make_vec("Test/Walks-v0", num_envs=4))


def test_a_false_promise_to_end_together_is_named(monkeypatch):
    env = gymnasium.make_vec("Test/Walks-v0", num_envs=4)
    monkeypatch.setattr(WalksVectorEnv, "rows_end_together", True)
    monkeypatch.setattr(
        WalksVectorEnv,
        "start",
        lambda self, rows, seeds, start=WalksVectorEnv.start: start(
            self, rows, [seeds[0] + row for row in range(int(rows.sum()))]
        ),
    )
    with pytest.raises(ConformanceError, match="rows_end_together is True, but in step"):
        check_vector_env(env)


def run(env, steps, seed=3):
    env.action_space.seed(0)
    observations, _ = env.reset(seed=seed)
    return [observations, *(env.step(env.action_space.sample()) for _ in range(steps))]


def test_next_step_pays_nothing_to_a_row_that_restarts_and_goes_on_with_the_others():
    env = gymnasium.make_vec("Test/Walks-v0", num_envs=5)
    _, *steps = run(env, 12)
    restarted = 0
    for before, after in pairwise(steps):
        ended = before[2]
        restarted += int(ended.sum())
        assert (after[1][ended] == 0).all()
        assert not after[2][ended].any()
        assert not after[4]["_place"][ended].any()
        assert after[4]["_place"][~ended].all()
        assert (after[1][~ended] != 0).all()
    assert restarted > 5


def test_a_row_starts_anew_with_what_its_seed_and_number_say():
    env = gymnasium.make_vec("Test/Walks-v0", num_envs=3)
    one = [step[0][1] for step in run(env, 12)[1:]]
    other = gymnasium.make_vec("Test/Walks-v0", num_envs=2)
    other.action_space.seed(5)
    found = [step[0][1] for step in run(other, 12)[1:]]
    starts = {tuple(place) for place in one} & {tuple(place) for place in found}
    assert len(starts) >= 1, "the same seed and number give the same start, whatever the number of rows"


def test_wrong_calls_are_named():
    env = gymnasium.make_vec("Test/Walks-v0", num_envs=3, autoreset_mode="Disabled")
    with pytest.raises(ResetNeededError, match="Row 1 has not been reset yet"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(ConfigurationError, match="must be 3 whole numbers"):
        env.reset(seed=[1, 2])
    with pytest.raises(ConfigurationError, match="chooses no row"):
        env.reset(options={"reset_mask": np.zeros(3, bool)})
    env.reset(seed=0)
    while not env.step([0, 1, 2])[2].any():
        pass
    with pytest.raises(ResetNeededError, match=r"The episode of row \d has ended"):
        env.step([0, 1, 2])
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match=r"The action of row 1 is 3; expected 0\.\.2"):
        env.step([0, 3, 1])
    continuous = gymnasium.make_vec("Test/ContinuousWalks-v0", num_envs=3)
    continuous.reset(seed=0)
    with pytest.raises(InvalidActionError, match=r"row 2 is nan; expected -1\.0\.\.1\.0"):
        continuous.step(np.array([[0.0], [1.0], [np.nan]]))
    with pytest.raises(ConfigurationError, match=r"leaves out 1 of 2 rows, but all rows share one network"):
        gymnasium.make_vec("GAR/DataSplit-v0", num_envs=2).reset(options={"reset_mask": np.array([True, False])})
