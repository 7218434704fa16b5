import gymnasium
import numpy as np
import pytest

import gar_env  # noqa: F401 - registers the environments
from agents import DropSpoiled, FixedPolicy, SmallLoss, train
from gar_env.errors import ConfigurationError

N = 10


def env(**options):
    return gymnasium.make_vec("GAR/DataWeight-v0", num_envs=N, **{"num_steps": 10, "network": "fc", **options})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.45, 0.9])
def test_small_loss_keeps_the_smallest_losses_and_as_many_as_it_says(share):
    slots, agent = env(), SmallLoss(share, ramp=0.0)
    agent.begin(slots)
    observations, _ = slots.reset(seed=0)
    kept = agent.act(observations).bool().numpy()
    assert kept.sum() == round((1 - share) * N)
    losses = slots.unwrapped._losses.numpy()
    assert share == 0 or losses[kept].max() <= losses[~kept].min()


def test_small_loss_starts_by_keeping_all_and_grows_to_its_share():
    slots, agent = env(), SmallLoss(0.4, ramp=0.5)
    agent.begin(slots)
    observations, _ = slots.reset(seed=0)
    kept = []
    for _ in range(9):
        actions = agent.act(observations)
        kept.append(int(actions.sum()))
        observations = slots.step(actions)[0]
    assert kept == [10, 9, 8, 8, 7, 6, 6, 6, 6]


def test_the_oracle_drops_the_corrupted_and_no_others():
    slots = env()
    train(slots, DropSpoiled(), seed=0)
    found = slots.unwrapped.finished[-1].values
    assert (found["drop_precision"], found["drop_recall"]) == (1.0, 1.0)


def test_keeping_has_the_highest_weight():
    slots = env(weight_levels=4)
    for agent in (SmallLoss(0.5), DropSpoiled()):
        agent.begin(slots)
        observations, _ = slots.reset(seed=0)
        assert set(np.asarray(agent.act(observations)).tolist()) <= {0, 3}


def test_baselines_of_data_weights_are_refused_elsewhere():
    other = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=N)
    with pytest.raises(ConfigurationError, match="needs the observations loss_rank and progress"):
        SmallLoss(0.4).begin(other)
    with pytest.raises(ConfigurationError, match="This oracle weighs examples"):
        DropSpoiled().begin(other)
    with pytest.raises(ConfigurationError, match=r"drop_share=1.5 must be in \[0, 1\)"):
        SmallLoss(1.5)
    assert FixedPolicy.uniform(2)
