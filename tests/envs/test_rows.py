"""Rows that end apart, in a toy: walks of their own lengths, each with its own random stream."""

from __future__ import annotations

from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector.utils import batch_space

from gar_env.envs import Outcome, RowVectorEnv
from gar_env.envs.checks import check_vector_env
from gar_env.errors import ConfigurationError, ConformanceError, InvalidActionError, ResetNeededError


class WalksVectorEnv(RowVectorEnv):
    """Every row walks by what its action says and its own noise, for as many steps as it has drawn.

    ``breaks`` names the law that a broken one breaks.
    """

    rows_end_together = False
    breaks = ""
    space = Discrete(3)

    def __init__(self, num_envs=4, **options):
        super().__init__(num_envs, **options)
        self.single_action_space = self.space
        self.action_space = batch_space(self.space, num_envs)
        self.single_observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.generators = [torch.Generator() for _ in range(num_envs)]
        self.place, self.left = torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.int64)

    def start(self, rows, seeds):
        numbers = rows.nonzero().flatten().tolist()
        assert len(numbers) == len(seeds)
        for row, seed in zip(numbers, seeds, strict=True):
            self.generators[row].manual_seed(seed)
            self.left[row] = torch.randint(2, 6, (), generator=self.generators[row])
            self.place[row] = torch.randn((), generator=self.generators[row])
        if self.breaks == "a mask touches others":
            self.place = self.place + 1

    def advance(self, actions, live):
        noise = torch.stack([torch.randn((), generator=g) if on else torch.zeros(()) for g, on in self.drawing(live)])
        step = actions.float().view(self.num_envs, -1).sum(1) - 1 + noise
        if self.breaks == "rows lean on each other":
            step = step + 0.1 * actions.float().mean()
        self.place = torch.where(live, self.place + step, self.place)
        self.left = self.left - live.long()
        return Outcome(-self.place.abs(), self.left <= 0, {"place": (self.place.clone(), True)})

    def drawing(self, live):
        if self.breaks == "one stream for all":
            return [(self.generators[0], on) for on in live]
        return list(zip(self.generators, live, strict=True))

    def observe(self):
        return torch.stack([self.place, self.left.float()], 1)

    def blank_infos(self):
        return {"place": (float("nan"), False)}


class ContinuousWalksVectorEnv(WalksVectorEnv):
    space = Box(-1, 1, (1,), np.float32)


gymnasium.register("Test/Walks-v0", vector_entry_point=f"{__name__}:WalksVectorEnv")
gymnasium.register("Test/ContinuousWalks-v0", vector_entry_point=f"{__name__}:ContinuousWalksVectorEnv")


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
    with pytest.raises(InvalidActionError, match=r"The action of slot 1 is 3; expected 0\.\.2"):
        env.step([0, 3, 1])
    continuous = gymnasium.make_vec("Test/ContinuousWalks-v0", num_envs=3)
    continuous.reset(seed=0)
    with pytest.raises(InvalidActionError, match=r"slot 2 is nan; expected -1\.0\.\.1\.0"):
        continuous.step(np.array([[0.0], [1.0], [np.nan]]))
    with pytest.raises(ConfigurationError, match=r"leaves out 1 of 2 rows, but all rows share one network"):
        gymnasium.make_vec("GAR/DataSplit-v0", num_envs=2).reset(options={"reset_mask": np.array([True, False])})
