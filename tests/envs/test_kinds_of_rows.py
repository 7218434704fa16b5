"""The bases for tasks and for runs, by a toy of each."""

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import toys  # noqa: F401 - registers the toys
import walks  # noqa: F401 - registers itself
from agents import InvertedSoftmax, Reinforce, train
from agents.training.config import row_environments
from gar_env.envs.checks import check_vector_env
from gar_env.errors import CheckpointError, ConfigurationError, InvalidActionError
from gar_env.learner import CrossEntropy, Learner, TrainingOptions
from gar_env.networks import build_network
from gar_env.seeding import named_generator
from toys import StepsVectorEnv


@pytest.mark.parametrize("id", ["Test/Steps-v0", "Test/Lines-v0"])
@pytest.mark.parametrize(
    ("mode", "output", "reward"),
    [  # every pair of two
        ("NextStep", "numpy", "gar"),
        ("NextStep", "torch", "nslr"),
        ("SameStep", "torch", "gar"),
        ("SameStep", "numpy", "nslr"),
        ("Disabled", "numpy", "gar"),
        ("Disabled", "torch", "nslr"),
    ],
)
def test_a_toy_of_each_kind_keeps_the_contract(id, mode, output, reward):
    more = (
        {"network": "fc_bn"} if id == "Test/Steps-v0" else {"reward_timing": "next_step"} if mode == "SameStep" else {}
    )
    env = gymnasium.make_vec(id, num_envs=3, num_steps=4, autoreset_mode=mode, output=output, reward=reward, **more)
    report = check_vector_env(env)
    assert len(report.passed) == 12, report


def test_a_row_of_runs_is_the_run_alone_bit_for_bit():
    def curve(n, row):
        env = gymnasium.make_vec("Test/Steps-v0", num_envs=n, num_steps=6, autoreset_mode="Disabled").unwrapped
        env.reset(seed=[7] if n == 1 else [*range(row), 7, *range(row + 1, n)])
        found = []
        for step in range(env.lengths[row]):
            actions = np.full(n, step % 3)
            if (ended := env._ended).any():
                env.reset(options={"reset_mask": ended})
            observations, rewards, *_, infos = env.step(actions)
            found.append((observations[row], rewards[row], infos["loss"][row]))
        return found

    for row in (0, 3):
        for alone, beside in zip(curve(1, 0), curve(5, row), strict=True):
            for one, other in zip(alone, beside, strict=True):
                assert np.array_equal(one, other)


def test_a_run_is_what_a_learner_does_by_hand():
    env = gymnasium.make_vec(
        "Test/Steps-v0", num_envs=2, num_steps=9, autoreset_mode="Disabled", reward="gar"
    ).unwrapped
    env.reset(seed=[8, 3])
    length, seed = int(env.lengths[0]), env._running[0]
    data = env.dataset
    learner = Learner(
        lambda: build_network("fc", data.input_shape, data.outputs), TrainingOptions(momentum=0.0, weight_decay=0.0),
        seed=seed, num_steps=1,
    )  # fmt: skip
    own = named_generator(seed, "batches")
    part = torch.randperm(len(data.x_train), generator=own)
    epochs = [torch.Generator().manual_seed(own.initial_seed() + 1 + epoch) for epoch in range(2)]
    order = torch.cat([torch.randperm(len(part), generator=generator) for generator in epochs])
    batches = iter(part[order].split(32))

    def next_gradient():
        rows = next(batches)
        x, y = env.normalise(data.x_train[rows]), data.y_train[rows]
        loss = CrossEntropy(y)(learner.network(x)).mean()
        return float(loss), torch.autograd.grad(loss, list(learner.network.parameters()))

    _, before = next_gradient()
    for step in range(length):
        actions = np.array([2, 1])
        if (ended := env._ended).any():
            env.reset(options={"reset_mask": ended})
        _, rewards, *_, infos = env.step(actions)
        with torch.no_grad():
            for p, g in zip(learner.network.parameters(), before, strict=True):
                p -= 0.05 * 2 ** (step + 1) * g
        loss, after = next_gradient()
        assert infos["loss"][0] == pytest.approx(loss, rel=1e-4)
        assert rewards[0] == pytest.approx(
            float(sum((a * b).sum() for a, b in zip(before, after, strict=True))), rel=1e-3
        )
        before = after


def test_a_run_that_diverges_ends_alone():
    env = gymnasium.make_vec(
        "Test/Steps-v0", num_envs=3, num_steps=200, autoreset_mode="SameStep", first_step_size=0.5, reward="nslr"
    ).unwrapped  # fmt: skip
    env.reset(seed=0)
    seen = []
    for _ in range(60):
        observations, rewards, terminations, _, infos = env.step(np.array([2, 1, 1]))
        assert np.isfinite(observations).all()
        assert np.isfinite(rewards).all()
        if terminations.any():
            final = infos["final_info"]
            seen += [(row, bool(final["diverged"][row])) for row in np.flatnonzero(terminations)]
    assert (0, True) in seen
    assert not any(diverged for row, diverged in seen if row != 0)
    ended = [episode.values for episode in env.finished if episode.values["diverged"]]
    assert all(np.isnan(values["test_accuracy"]) for values in ended)


def test_what_runs_cannot_give_is_refused_when_they_are_made():
    with pytest.raises(ConfigurationError, match=r"reward='leave_one_out' needs .*Need.STEP, which Steps"):
        gymnasium.make_vec("Test/Steps-v0", num_envs=2, reward="leave_one_out")
    with pytest.raises(ConfigurationError, match=r"reward='validation_gar' needs .*Need.HELDOUT_GRADIENT"):
        gymnasium.make_vec("Test/Lines-v0", num_envs=2, reward="validation_gar")


def test_networks_of_different_shapes_make_no_stack():
    widths = iter(range(3, 99))
    with pytest.raises(ConfigurationError, match="The networks have different shapes"):
        StepsVectorEnv(
            2, network=lambda shape, n: nn.Sequential(nn.Flatten(), nn.Linear(64, next(widths)), nn.Linear(3, n))
        )


@pytest.mark.parametrize("id", ["Test/Steps-v0", "Test/Lines-v0"])
def test_our_loop_trains_on_rows_that_end_apart(id):
    env = gymnasium.make_vec(id, num_envs=8, num_steps=5)
    agent = Reinforce(InvertedSoftmax(int(env.single_action_space.n)), normalise="running")
    final = train(env, agent, seed=0)
    assert np.isfinite(final["test_accuracy"]).all()
    assert agent.policy.logits.any()


def test_reinforce_pays_each_row_for_its_own_actions_where_they_end_apart():
    """Rows that restart are paid nothing; the others' updates are those of a batch without them."""

    class Space:
        unwrapped, num_envs, single_action_space = None, 3, gymnasium.spaces.Discrete(3)

    Space.unwrapped = Space
    whole, part = (Reinforce(InvertedSoftmax(3), normalise="none", seed=0) for _ in range(2))
    for agent in (whole, part):
        agent.begin(Space)
    actions = part.act(None)
    assert torch.equal(whole.act(None), actions)
    infos = {"reward_valid": np.array([True, False, True]), "_reward_valid": np.array([True, False, True])}
    part.learn(np.array([1.0, 7.0, -2.0]), np.array([False, False, True]), infos)
    whole.learn(np.array([1.0, 0.0, -2.0]), False, {})
    torch.testing.assert_close(part.policy.logits, whole.policy.logits)


def test_stable_baselines3_learns_on_runs():
    from stable_baselines3 import PPO

    from agents.sb3 import make_sb3_env

    env = make_sb3_env("Test/Steps-v0", num_envs=6, num_steps=4, reward="nslr")
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0).learn(6 * 16)
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    assert len(set(lengths)) > 1, "runs end apart"
    assert all(2 <= length <= 4 for length in lengths)


def test_the_command_line_knows_environments_of_every_kind():
    assert {"Test/Steps-v0", "Test/Lines-v0", "GAR/DataSplit-v0"} <= set(row_environments())


def test_signals_that_draw_draw_for_each_row_by_itself():
    def first_rewards(seeds):
        env = gymnasium.make_vec("Test/Steps-v0", num_envs=len(seeds), num_steps=6, reward="random")
        env.reset(seed=seeds)
        return [env.step(np.ones(len(seeds), int))[1][-1] for _ in range(2)]

    assert first_rewards([0, 1, 2, 7]) == first_rewards([5, 1, 9, 7]) == first_rewards([7])


def test_an_action_that_is_refused_moves_nothing():
    def run(wrongly):
        env = gymnasium.make_vec("Test/Steps-v0", num_envs=4, num_steps=5)
        env.reset(seed=0)
        found = []
        for _ in range(8):
            if wrongly and not env.unwrapped._ended.all():
                with pytest.raises(InvalidActionError):
                    env.step(np.full(4, 9))
            found.append(env.step(np.ones(4, int))[:2])
        return found

    for one, other in zip(run(False), run(True), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("id", ["Test/Steps-v0", "GAR/DataSplit-v0", "Test/Walks-v0"])
def test_a_state_belongs_to_an_environment_that_is_made_alike(id):
    more = {} if id == "Test/Walks-v0" else {"num_steps": 4}
    env = gymnasium.make_vec(id, num_envs=4, **more).unwrapped
    env.reset(seed=0)
    env.step(env.action_space.sample())
    state = env.state_dict()
    same = gymnasium.make_vec(id, num_envs=4, **more).unwrapped
    same.load_state_dict(state)
    actions = env.action_space.sample()
    for one, other in zip(env.step(actions)[:4], same.step(actions)[:4], strict=True):
        assert np.array_equal(one, other)
    with pytest.raises(CheckpointError, match="num_envs was 4, here it is 3"):
        gymnasium.make_vec(id, num_envs=3, **more).unwrapped.load_state_dict(state)
    with pytest.raises(CheckpointError, match="is no state of"):
        same.load_state_dict({})
    for lost in [key for key in state if key not in ("made", "_running")][:6]:
        with pytest.raises(CheckpointError, match=f"The state lacks {lost}"):
            same.load_state_dict({key: value for key, value in state.items() if key != lost})
    if more:
        with pytest.raises(CheckpointError, match="num_steps was 4, here it is 5"):
            gymnasium.make_vec(id, num_envs=4, num_steps=5).unwrapped.load_state_dict(state)
