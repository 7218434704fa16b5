import pickle
import re

import gymnasium
import numpy as np
import pytest
import torch

import gar_env  # noqa: F401
from gar_env.envs import OptimizerSearchConfig, OptimizerSearchVectorEnv
from gar_env.envs.checks import check_vector_env
from gar_env.envs.checks.compare import sampled_actions
from gar_env.errors import ConfigurationError, InvalidActionError, UnknownNameError
from gar_env.optimizers import Rule

NAME = "GAR/OptimizerSearch-v0"
QUICK = {
    "epochs": 1, "train_examples": 200, "validation_examples": 60, "test_examples": 60, "step_sizes": (1e-2, 1e-1),
    "child_seeds": 1,
}  # fmt: skip


def make(n=4, **options) -> OptimizerSearchVectorEnv:
    return gymnasium.make_vec(NAME, num_envs=n, **{**QUICK, **options}).unwrapped


def write(env, rules):
    """Play an episode that says these rules."""
    tokens = np.array([Rule(rule).encode(env.grammar) for rule in rules])
    if env.config.encoding == "flat":
        firsts = [env.grammar.choices(i).start for i in range(env.grammar.length)]
        return env.step(tokens - firsts)
    for place in range(env.grammar.length - 1):
        _, rewards, ended, _, _ = env.step(tokens[:, place])
        assert not rewards.any()
        assert not ended.any()
    return env.step(tokens[:, -1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoding": "flat"},
        {"output": "torch"},
        {"reward": "nslr"},
        {"autoreset_mode": "Disabled"},
        {"autoreset_mode": "SameStep", "encoding": "flat"},
        {"resample": True, "encoding": "flat"},
        {"decays": True, "groups": 1, "reward": "alignment"},
    ],
    ids=str,
)
def test_it_keeps_the_contract(options):
    report = check_vector_env(gymnasium.make_vec(NAME, num_envs=3, **{**QUICK, "groups": 1, **options}))
    assert set(report.skipped) <= {"repeatable per seed"}, report
    assert len(report.passed) >= 11


RULES = ["Adam", "-g", "PowerSign", "g / -1e-4w"]


@pytest.mark.parametrize("encoding", ["tokens", "flat"])
def test_rows_are_paid_for_what_they_wrote(encoding):
    env = make(encoding=encoding)
    env.reset(seed=0)
    _, rewards, terminated, truncated, infos = write(env, RULES)
    assert terminated.all()
    assert not truncated.any()
    verdicts = env.judge.judge([Rule(rule) for rule in RULES])
    np.testing.assert_allclose(rewards, [one.reward for one in verdicts], rtol=1e-6)
    assert infos["trained"].tolist() == [one.trained is not None for one in verdicts]
    assert infos["_validation_accuracy"].tolist() == infos["trained"].tolist()
    assert infos["test_accuracy"][0] != infos["validation_accuracy"][0]
    assert [str(rule) for rule in env.rules] == [verdict.rule for verdict in env.verdicts]
    assert env.leaderboard(1)[0].rule == env.verdicts[int(rewards.argmax())].rule


def test_both_encodings_pay_the_same():
    found = []
    for encoding in ("tokens", "flat"):
        env = make(encoding=encoding)
        env.reset(seed=0)
        found.append(write(env, RULES)[1])
    np.testing.assert_array_equal(*found)


def test_observations_say_what_is_written():
    env = make(2)
    observations, _ = env.reset(seed=0)
    assert observations.shape == (2, 140)
    assert observations.sum() == 2  # the place alone
    names = env.observation_names
    tokens = Rule("PowerSign").encode(env.grammar)
    for place, token in enumerate(tokens):
        assert names[int(observations[0].argmax())] == f"place_{place}"
        observations = env.step([token, token])[0]
        assert observations[0, names.index(f"token_{place}_{env.grammar.vocabulary[token]}")] == 1
        assert observations[0].sum() == place + 1 + (place + 1 < len(tokens))


def test_masks_allow_what_the_grammar_does_and_no_more():
    env = make(3, groups=2)
    env.reset(seed=0)
    for place in range(env.grammar.length):
        masks = env.action_masks()
        allowed = np.flatnonzero(masks[0])
        assert allowed.tolist() == list(env.grammar.choices(place))
        for token in np.flatnonzero(~masks[0])[[0, -1]]:
            with pytest.raises(
                InvalidActionError, match=f"The action of row 1 is {token}, .* at place {place} of the string"
            ):
                env.step([allowed[0], token, allowed[0]])
        env.step([allowed[0]] * 3)  # what was refused changed nothing
    assert make(2, encoding="flat").action_masks().shape == (2, 130)


def test_a_token_of_the_wrong_kind_names_row_position_and_kinds():
    env = make(2)
    env.reset(seed=0)
    minus = env.grammar.vocabulary.index("sub")
    message = (
        f"The action of row 1 is {minus}, 'sub', at place 0 of the string; expected an operand, 0 to 16: Adam, RMSProp"
    )
    with pytest.raises(InvalidActionError, match=re.escape(message)):
        env.step([0, minus])
    with pytest.raises(InvalidActionError, match=r"expected 0..35"):
        env.step([0, 36])


def test_new_children_every_episode():
    env = make(1, encoding="flat", resample=True, autoreset_mode="SameStep")
    env.reset(seed=0)
    found = [float(write(env, ["Adam"])[1][0]) for _ in range(4)]
    env.reset(seed=0)
    assert [float(write(env, ["Adam"])[1][0]) for _ in range(4)] == found
    assert len(set(found)) > 1
    env.reset(seed=1)
    assert [float(write(env, ["Adam"])[1][0]) for _ in range(4)] != found


def test_a_state_goes_on_in_another_environment():
    env, other = make(), make()
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(13):
        env.step(sampled_actions(env))
    other.load_state_dict(pickle.loads(pickle.dumps(env.state_dict())))
    for _ in range(9):
        actions = sampled_actions(env)
        one, two = env.step(actions), other.step(actions)
        for a, b in zip(one[:4], two[:4], strict=True):
            np.testing.assert_array_equal(a, b)


def test_scores_on_fresh_seeds_are_others():
    env = make(1)
    env.reset(seed=0)
    write(env, ["Adam"])
    (fresh,) = env.on_fresh_seeds([Rule("Adam")], [100, 101, 102])
    assert len(set(fresh.accuracies)) > 1
    with pytest.raises(ConfigurationError, match="Seed 0 is among those"):
        env.on_fresh_seeds([Rule("Adam")], [0])


def test_it_shows_its_formulas():
    env = make(2, render_mode="ansi", autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step([0, 2])
    assert env.render() == ("Adam", "g")
    env.reset(seed=0)
    write(env, ["Adam", "-g"])
    assert re.fullmatch(r"left\(Adam, 1\)  0\.\d{4}", env.render()[0])
    assert env.render()[1] == "left(-g, 1)  0.1000"
    assert make(2).render() is None


def test_the_single_view_passes_the_checkers_and_has_masks():
    from gymnasium.utils.env_checker import check_env

    flat = gymnasium.make(NAME, encoding="flat", groups=1, **QUICK)
    check_env(flat.unwrapped)
    single = gymnasium.make(NAME, **QUICK)
    single.reset(seed=0)
    assert single.unwrapped.action_masks().shape == (36,)
    rng = np.random.default_rng(0)
    ended = False
    while not ended:
        _, reward, ended, _, infos = single.step(int(rng.choice(np.flatnonzero(single.unwrapped.action_masks()))))
    assert 0 <= reward <= 1
    assert {"trained", "diverged"} <= infos.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "text"}, "encoding='text' is unknown"),
        ({"groups": 0}, "groups=0 must be a whole number from 1 to 10"),
        ({"child_seeds": 0}, "child_seeds=0 must be at least 1"),
        ({"screen": 1.0}, "screen=1.0 must be at least -1 and below 1"),
        ({"resample": True, "cache": "verdicts.jsonl"}, "would keep verdicts of children that are new in each episode"),
        ({"step_size_epochs": 9}, "step_size_epochs=9 must be at most epochs=1"),
        ({"num_steps": 5}, "There is no option 'num_steps'"),
        ({"step_sizes": 0.1}, "step_sizes=0.1 must be a tuple of float"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        make(2, **options)


def test_unknown_rewards_and_partial_resets_are_refused():
    with pytest.raises(UnknownNameError, match="No child reward is called 'accuracy'"):
        make(2, reward="accuracy")
    env = make(2)
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="leaves out 1 of 2 rows"):
        env.reset(options={"reset_mask": np.array([True, False])})


def test_its_defaults_are_the_papers_where_the_paper_says():
    config = OptimizerSearchConfig()
    assert (config.epochs, config.step_size_epochs, config.batch_size) == (5, 1, 100)
    assert config.step_sizes == (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    assert config.longest == 10


def test_maskable_ppo_learns_through_it():
    contrib = pytest.importorskip("sb3_contrib")
    from agents.sb3 import make_sb3_env

    env = make_sb3_env(NAME, num_envs=16, **{**QUICK, "groups": 1, "reward": "alignment"})
    model = contrib.MaskablePPO("MlpPolicy", env, n_steps=5, batch_size=80, learning_rate=3e-3, ent_coef=0.0, seed=0)
    rewards = []
    model.learn(16 * 5 * 30, callback=lambda found, _: rewards.append(float(found["rewards"].mean())) or True)
    paid = torch.tensor(rewards).view(-1, 5)[:, -1]
    assert paid[-5:].mean() > paid[:5].mean() + 0.15


def test_plain_ppo_learns_through_whole_strings():
    sb3 = pytest.importorskip("stable_baselines3")
    from agents.sb3 import make_sb3_env

    env = make_sb3_env(NAME, num_envs=32, encoding="flat", **{**QUICK, "groups": 1, "reward": "alignment"})
    model = sb3.PPO("MlpPolicy", env, n_steps=4, batch_size=128, learning_rate=3e-3, gamma=0.0, ent_coef=0.0, seed=0)
    rewards = []
    model.learn(32 * 4 * 25, callback=lambda found, _: rewards.append(float(found["rewards"].mean())) or True)
    assert sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.1
