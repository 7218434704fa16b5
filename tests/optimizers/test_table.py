import re

import gymnasium
import numpy as np
import pytest

import gar_env  # noqa: F401
from gar_env.errors import ConfigurationError
from gar_env.optimizers import Grammar, Rule
from gar_env.optimizers.child_options import ChildOptions
from gar_env.optimizers.children import Children
from gar_env.optimizers.table import one_group
from random_rules import random_rules

NAME = "GAR/OptimizerSearch-v0"


def test_every_string_of_one_group_is_in_the_table():
    table = one_group()
    assert len(table.keys) > 90_000
    assert (np.diff(table.keys.astype(object)) > 0).all()
    for rule in random_rules(500, Grammar(1), seed=1):
        mean, trained = table.of(rule)
        assert 0 <= mean <= table.best
        assert trained or mean == pytest.approx(0.1)
    with pytest.raises(ConfigurationError, match="is not in the table, which has the functions of one group"):
        table.of(Rule("PowerSign"))


def test_the_table_says_what_training_does():
    table, children = one_group(), Children(ChildOptions())
    rules = [Rule(name) for name in ("Adam", "m", "RMSProp", "drop(m, 0.1) / exp(g2)", "g - clip(g2, 1e-4)")]
    for rule, one in zip(rules, children.train(rules, [0, 1, 2]), strict=True):
        # Another processor may round otherwise, and the table has one formula of each function.
        assert table.of(rule)[0] == pytest.approx(one.validation_accuracy, abs=0.02), str(rule)


def test_the_environment_pays_by_the_table_and_tells_regret():
    env = gymnasium.make_vec(NAME, num_envs=64, encoding="flat", groups=1, reward="table").unwrapped
    env.reset(seed=0)
    env.action_space.seed(0)
    rewards = env.step(env.action_space.sample())[1]
    table = one_group()
    np.testing.assert_allclose(rewards, [table.of(rule)[0] for rule in env.rules], rtol=1e-6)
    assert env.metrics()["regret"] == pytest.approx(table.best - rewards.max(), abs=1e-6)
    assert env.leaderboard(1)[0].reward == pytest.approx(rewards.max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 2}, "knows the functions of one group without decays"),
        ({"groups": 1, "decays": True}, "knows the functions of one group without decays"),
        ({"groups": 1, "epochs": 4}, "was made with epochs=5, and it is 4. Leave epochs out"),
        ({"groups": 1, "network": "fc"}, "was made with network='mlp-32', and it is 'fc'"),
    ],
)
def test_the_table_is_of_one_grammar_and_one_kind_of_children(options, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        gymnasium.make_vec(NAME, num_envs=2, reward="table", **options)
