import re

import gymnasium
import pytest
import torch

import gar_env  # noqa: F401
from agents import train
from agents.controllers import CONTROLLERS
from agents.optimizer_search import PAPER, Evolution, LSTMAgent, LSTMOptions, RandomStrings
from agents.optimizer_search.lstm import TokenLSTM
from gar_env.errors import ConfigurationError
from gar_env.optimizers import Grammar
from gar_env.seeding import named_generator

NAMES = ("random-rules", "evolution", "lstm-reinforce", "lstm-ppo")
QUICK = {
    "epochs": 1, "train_examples": 200, "validation_examples": 60, "step_sizes": (1e-2,), "child_seeds": 1, "groups": 1,
}  # fmt: skip
SEARCHES = {
    "evolution": lambda: Evolution(32, 8),
    "reinforce": lambda: LSTMAgent(LSTMOptions("reinforce")),
    "ppo": lambda: LSTMAgent(LSTMOptions("ppo")),
}


def make(n=16, **options):
    return gymnasium.make_vec("GAR/OptimizerSearch-v0", num_envs=n, autoreset_mode="SameStep", **{**QUICK, **options})


def paid(env, agent, episodes):
    """The mean reward of each episode."""
    found = []
    for episode in range(episodes):
        train(env, agent, seed=episode, on_step=lambda rewards, infos: found.append(float(rewards.mean())))
    return torch.tensor(found).view(episodes, -1)[:, -1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoding", ["tokens", "flat"])
def test_what_a_controller_writes_is_valid_and_repeats(name, encoding):
    found = []
    for seed in (0, 0, 1):
        env = make(encoding=encoding, reward="alignment")
        found.append(paid(env, CONTROLLERS[name]().build(env, seed), 4).tolist())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("name", NAMES)
def test_the_encoding_changes_nothing(name):
    found = []
    for encoding in ("tokens", "flat"):
        env = make(encoding=encoding, reward="alignment")
        found.append(paid(env, CONTROLLERS[name]().build(env, 0), 4).tolist())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_paid_more_and_more(name):
    env = make(32, reward="alignment", encoding="flat")
    rewards = paid(env, SEARCHES[name](), 60)
    random = paid(env, RandomStrings(), 10).mean()
    assert rewards[-5:].mean() > random + 0.25


@pytest.mark.parametrize("name", NAMES)
def test_a_controller_goes_on_from_its_state(name):
    env, other = make(reward="alignment", encoding="flat"), make(reward="alignment", encoding="flat")
    one = CONTROLLERS[name]().build(env, 0)
    paid(env, one, 5)
    state = one.state_dict()
    two = CONTROLLERS[name]().build(other, 9)
    two.load_state_dict(state)
    assert paid(env, one, 4).tolist() == paid(other, two, 4).tolist()


def test_evolution_changes_one_token_and_lets_the_oldest_die():
    agent, grammar = Evolution(4, 4, seed=0), Grammar(2)
    agent.grammar = grammar
    first = agent.propose(4)
    agent.tell(first, torch.tensor([0.0, 1.0, 0.5, 0.2]))
    children = agent.propose(50)
    changed = (children[:, None] != first[None]).sum(2)
    assert (changed.min(1).values == 1).all()
    parents = changed.argmin(1).bincount(minlength=4)
    assert parents.argmax() == 1  # the best of four drawn
    assert parents[0] < 5
    agent.tell(children[:1], torch.tensor([2.0]))
    assert [string for string, _ in agent.living] == [*first[1:].tolist(), children[0].tolist()]


def test_log_probabilities_are_those_of_what_is_drawn():
    """On a grammar of one group the frequencies of the first token; and they add up to one."""
    grammar = Grammar(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TokenLSTM(grammar, 8, 1.0)
    strings = network.sample(4000, named_generator(0, "actions"))
    logs, entropies = network(strings)
    assert entropies.min() > 0
    first = torch.bincount(strings[:, 0], minlength=17) / len(strings)
    expected = next(network._steps(1))[0, :17].exp().detach()
    torch.testing.assert_close(first, expected, atol=0.03, rtol=0.1)
    others = strings.clone()
    total = torch.zeros(len(strings))
    for token in grammar.choices(4):
        others[:, 4] = token
        total += network(others)[0].exp().detach()
    torch.testing.assert_close(total, (logs - _last(network, strings)).exp().detach(), rtol=1e-4, atol=1e-7)


def _last(network, strings):
    steps = network._steps(len(strings))
    found = next(steps)
    for place in range(4):
        found = steps.send(strings[:, place])
    return found.gather(1, strings[:, 4:5]).flatten()


def test_the_papers_recipe():
    assert (PAPER.hidden, PAPER.learning_rate, PAPER.entropy, PAPER.minibatch, PAPER.baseline_decay, PAPER.initial) == (
        *(150, 1e-5, 0.0015, 5, 0.8, 0.08),
    )
    env = make(reward="alignment")
    agent = CONTROLLERS["lstm-ppo"](recipe="paper").build(env, 0)
    assert agent.options is PAPER
    assert abs(next(agent.network.parameters())).max() <= 0.08
    paid(env, agent, 1)


@pytest.mark.parametrize(
    ("make_agent", "message"),
    [
        (lambda: Evolution(0), "population=0 must be a whole number"),
        (lambda: Evolution(4, 5), "sample=5 must be at most population=4"),
        (lambda: LSTMOptions("a2c"), "algorithm='a2c' is unknown"),
        (lambda: LSTMOptions(hidden=0), "hidden=0 must be a whole number"),
        (lambda: LSTMOptions(baseline_decay=1.0), "baseline_decay=1.0 must be in [0, 1)"),
        (lambda: LSTMOptions(minibatch=0), "minibatch=0 must be a whole number"),
        (lambda: CONTROLLERS["lstm-ppo"](recipe="mine").build(make(), 0), "recipe='mine' is unknown"),
    ],
)
def test_options_that_are_none_are_refused(make_agent, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        make_agent()


@pytest.mark.parametrize("name", NAMES)
def test_other_environments_are_refused(name):
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4)
    with pytest.raises(ConfigurationError, match="writes update rules, and DataSplitVectorEnv asks for none"):
        CONTROLLERS[name]().build(env, 0)
    agent = CONTROLLERS[name]().build(make(), 0)
    with pytest.raises(ConfigurationError, match="The controller writes strings of"):
        agent.begin(make(groups=2))


def test_training_on_the_command_line_keeps_the_rules_and_goes_on(tmp_path, capsys):
    from agents.cli.main import main

    options = {"epochs": 1, "train-examples": 200, "validation-examples": 60, "child-seeds": 1, "encoding": "flat"}
    own = [text for name, value in options.items() for text in (f"--env-options.{name}", str(value))]
    command = [
        "train",
        "--env",
        "GAR/OptimizerSearch-v0",
        "--agent",
        "evolution",
        "--num-envs",
        "8",
        "--no-tensorboard",
    ]
    main([*command, *own, "--episodes", "4", "--out", str(tmp_path / "whole")])
    printed = capsys.readouterr().out
    lines = (tmp_path / "whole" / "found.csv").read_text().splitlines()
    assert lines[0] == "reward,step_size,rule"
    assert f"rule {lines[1].split(',', 2)[2]}".replace('"', "") in printed
    rewards = [float(line.split(",")[0]) for line in lines[1:]]
    assert rewards == sorted(rewards, reverse=True)
    main([*command, *own, "--episodes", "4", "--out", str(tmp_path / "cut"), "--checkpoint-every", "2"])
    for name in ("found.csv",):
        (tmp_path / "cut" / name).unlink()
    main(["train", "--resume", str(tmp_path / "cut")])
    assert (tmp_path / "cut" / "found.csv").read_text().splitlines() == lines
