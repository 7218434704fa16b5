import json
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gar_env.errors import ConfigurationError, UnknownNameError
from gar_env.networks import build_network
from gar_env.optimizers import Grammar, Rule
from gar_env.optimizers.child_options import STEP_SIZES, ChildOptions
from gar_env.optimizers.child_rewards import CHILD_REWARDS, register_child_reward
from gar_env.optimizers.children import AT_ONCE, Children, _best
from gar_env.optimizers.judge import Judge
from gar_env.optimizers.screen import THRESHOLD, SharedTrajectory
from gar_env.seeding import lend_to_global, named_generator
from random_rules import random_rules

QUICK = ChildOptions(
    epochs=2, train_examples=300, validation_examples=100, test_examples=100, step_sizes=(1e-3, 1e-2, 1e-1)
)


@pytest.fixture(scope="module")
def children():
    return Children(QUICK)


def test_a_rule_is_judged_alike_whoever_trains_beside_it(children):
    rules = random_rules(AT_ONCE + 3, Grammar(2, decays=True), seed=2)
    together = children.train(rules, [0, 7])
    for rule, beside in zip(rules, together, strict=True):  # one row alone is laid out otherwise in memory
        assert children.train([rule], [0, 7]) == [beside], str(rule)
    assert children.train(rules[::-1], [0, 7]) == together[::-1]


def test_training_is_what_a_plain_loop_with_torchs_adam_does(children):
    """The oracle: one network after another."""
    options, seed = children.options, 3
    x, t = children.train_data
    ends = {}
    for lr in options.step_sizes:
        with lend_to_global(named_generator(seed, "initialisation")):
            network = build_network(options.network, children.data.input_shape, 10)
        optimizer, generator = torch.optim.Adam(network.parameters(), lr), named_generator(seed, "batches")
        history = []
        for epoch in range(options.epochs):
            for chosen in torch.randperm(len(x), generator=generator).split(options.batch_size):
                loss = F.cross_entropy(network(x[chosen]), t[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            outputs = network(children.validation_data[0]).detach()
            history.append((outputs.argmax(1) == children.validation_data[1]).float().mean().item())
            if epoch + 1 == options.epochs:
                loss = F.cross_entropy(outputs, children.validation_data[1]).item()
        ends[lr] = *history, loss
    best = max(ends, key=lambda lr: ends[lr][0])
    (found,) = children.train([Rule("Adam")], [seed])
    assert found.step_size == best
    assert (found.one_epoch, found.validation_accuracy) == pytest.approx(ends[best][:2])
    assert found.validation_loss == pytest.approx(ends[best][2], rel=1e-4)
    assert found.accuracies == (found.validation_accuracy,)
    assert not found.diverged


def test_gar_and_nslr_are_of_the_first_steps():
    """By hand: one step size, two steps."""
    options = ChildOptions(epochs=1, train_examples=200, validation_examples=50, step_sizes=(0.1,), batch_size=100)
    children = Children(options)
    (found,) = children.train([Rule("g")], [0])
    x, t = children.train_data
    with lend_to_global(named_generator(0, "initialisation")):
        network = build_network(options.network, children.data.input_shape, 10)
    order = torch.randperm(200, generator=named_generator(0, "batches"))
    gradients = []
    for chosen in order.split(100):
        loss = F.cross_entropy(network(x[chosen]), t[chosen])
        gradients.append(torch.autograd.grad(loss, list(network.parameters())))
        with torch.no_grad():
            for p, g in zip(network.parameters(), gradients[-1], strict=True):
                p -= 0.1 * g
    assert found.nslr == pytest.approx(-loss.item(), rel=1e-5)
    product = sum(float((a * b).sum()) for a, b in zip(*gradients, strict=True))
    assert found.gar == pytest.approx(0.1 * product, rel=1e-4)


def test_a_rule_that_does_not_train_is_flagged_and_paid_nothing(children):
    good, still, wild = children.train([Rule("Adam"), Rule("0 * g"), Rule("exp(exp(exp(3))) * g")], [0])
    assert good.validation_accuracy > 0.5
    assert still.validation_accuracy < 0.25
    assert not still.diverged
    assert wild.diverged
    assert (wild.validation_accuracy, wild.validation_loss, wild.test_accuracy) == (0, math.inf, 0)


def test_short_training_ends_when_the_step_size_is_chosen(children):
    (short,), (whole,) = children.train([Rule("m")], [0], whole=False), children.train([Rule("m")], [0])
    assert short.validation_accuracy == short.one_epoch == whole.one_epoch
    assert whole.validation_accuracy > short.validation_accuracy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 must be a whole number"),
        ({"step_size_epochs": 6}, "step_size_epochs=6 must be at most epochs=5"),
        ({"batch_size": 2000}, "batch_size=2000 is more than train_examples=1000"),
        ({"step_sizes": ()}, "step_sizes=() must be at least one number"),
        ({"step_sizes": (0.1, 0.1)}, "must be at least one number, each once"),
        ({"step_sizes": (0.1, -1.0)}, "A step size=-1.0 must be above 0"),
        ({"betas": (0.9, 0.9)}, "must be three numbers"),
        ({"train_examples": 1.5}, "train_examples=1.5 must be a whole number"),
    ],
)
def test_options_that_are_none_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        ChildOptions(**options)


def test_more_examples_than_there_are_are_refused(children):
    with pytest.raises(ConfigurationError, match="digits has 1437 training examples, fewer than train_examples=1400"):
        Children(ChildOptions(train_examples=1400))
    with pytest.raises(ConfigurationError, match="seeds is empty"):
        children.train([Rule("g")], [])


# Screening


def test_scores_are_cosines_with_the_next_batchs_gradient(children):
    trajectory = SharedTrajectory(children, 0, steps=3)
    rules = [Rule("g"), Rule("-g"), Rule("0 * g"), Rule("m"), Rule("exp(exp(exp(3))) * g")]
    scores = trajectory.scores(rules)
    expected = [float(F.cosine_similarity(g, after)) for g, _, after in trajectory.points]
    assert float(scores[0]) == pytest.approx(sum(expected) / 3, rel=1e-5)
    assert float(scores[1]) == pytest.approx(-float(scores[0]))
    assert float(scores[2]) == 0
    assert float(scores[3]) > float(scores[0])
    assert float(scores[4]) == -1  # not finite
    assert torch.equal(trajectory.scores(rules[:1]), scores[:1])
    assert torch.equal(trajectory.scores([]), torch.empty(0))


def test_the_screen_keeps_what_trains_and_drops_most_of_the_rest(children):
    rules = {rule.key: rule for rule in random_rules(250, Grammar(2), seed=11)}
    scores = SharedTrajectory(children, 0).scores(list(rules.values()))
    trained = children.train(list(rules.values()), [0])
    trains = torch.tensor([one.validation_accuracy > 0.5 for one in trained])
    kept = scores >= THRESHOLD
    assert int(trains.sum()) >= 10
    assert kept[trains].float().mean() > 0.85
    assert kept[~trains].float().mean() < 0.4


# Judging


def test_no_reward_sees_test_data(children):
    seen = []

    @register_child_reward("test_looks", chance=lambda share, loss: share)
    def looks(one, loss):
        seen.append(one.test_accuracy)
        return one.validation_accuracy

    try:
        (verdict,) = Judge(children, reward="test_looks", seeds=[0]).judge([Rule("Adam")])
        assert math.isnan(seen[0])
        assert verdict.trained.test_accuracy > 0.5
    finally:
        CHILD_REWARDS._objects.pop("test_looks")


@pytest.mark.parametrize("reward", sorted({*CHILD_REWARDS} - {"table"}))
def test_a_rule_that_trains_is_paid_more_than_one_that_does_not(children, reward):
    judge = Judge(children, reward=reward, seeds=[0])
    adam, still, wild = (one.reward for one in judge.judge([Rule("Adam"), Rule("-Adam"), Rule("exp(exp(exp(3))) * g")]))
    assert adam > judge.chance
    assert adam > max(still, wild)
    assert all(map(math.isfinite, (adam, still, wild)))


def test_what_is_rejected_is_paid_what_guessing_is(children):
    judge = Judge(children, seeds=[0], screen=THRESHOLD)
    adam, ones = judge.judge([Rule("Adam"), Rule("-g")])
    assert adam.trained is not None
    assert (ones.trained, ones.reward) == (None, 0.1)
    assert ones.alignment < THRESHOLD < adam.alignment
    assert [one.rule for one in judge.leaderboard()] == ["Adam"]


def test_each_rule_is_trained_once_however_it_is_written(children, monkeypatch):
    counts = []
    train = Children.train
    monkeypatch.setattr(
        Children, "train", lambda self, rules, *args, **kw: counts.append(len(rules)) or train(self, rules, *args, **kw)
    )
    judge = Judge(children, seeds=[0])
    first = judge.judge([Rule("g + m"), Rule("m + g"), Rule("2 * g")])
    again = judge.judge([Rule("g * 2"), Rule("m - -g"), Rule("g + g")])
    assert counts == [2, 1]
    assert [one.cached for one in first + again] == [False, True, False, True, True, False]
    assert first[0].reward == first[1].reward == again[1].reward
    anew = Judge(children, seeds=[0], cache=None)
    assert [one.cached for one in anew.judge([Rule("g")]) + anew.judge([Rule("g")])] == [False, False]


def test_verdicts_stay_in_a_file_and_equal_new_ones(children, tmp_path):
    path = str(tmp_path / "verdicts" / "cache.jsonl")
    rules = random_rules(12, Grammar(2), seed=4)
    first = Judge(children, seeds=[0], screen=THRESHOLD, cache=path).judge(rules)
    again = Judge(children, seeds=[0], screen=THRESHOLD, cache=path).judge(rules)
    new = Judge(children, seeds=[0], screen=THRESHOLD).judge(rules)
    assert all(one.cached for one in again)
    for one, other, third in zip(first, again, new, strict=True):
        assert one._replace(cached=False) == other._replace(cached=False) == third._replace(cached=False)
    with (tmp_path / "verdicts" / "cache.jsonl").open("a") as file:
        file.write('{"key": "cut o')  # a process that was killed
    after_cut = Judge(children, seeds=[0], screen=THRESHOLD, cache=path)
    assert after_cut.judge(rules[:1])[0].cached
    after_cut.judge([Rule("gamma * g2 * m")])
    assert Judge(children, seeds=[0], screen=THRESHOLD, cache=path).judge([Rule("gamma * g2 * m")])[0].cached


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "of other options: seeds was [0], here it is [1]"),
        ({"reward": "gar"}, "reward was 'validation_accuracy', here it is 'gar'"),
        ({"screen": 0.1}, "screen was None, here it is 0.1"),
    ],
)
def test_a_cache_of_other_options_is_refused(children, tmp_path, options, message):
    path = str(tmp_path / "cache.jsonl")
    Judge(children, seeds=[0], cache=path).judge([Rule("g")])
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        Judge(children, **{"seeds": [0], **options}, cache=path)
    other = Children(ChildOptions(**{**vars(QUICK), "epochs": 1}))
    with pytest.raises(ConfigurationError, match="epochs was 2, here it is 1"):
        Judge(other, seeds=[0], cache=path)


def test_a_file_that_is_no_cache_is_refused_and_stays(children, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine\n")
    with pytest.raises(ConfigurationError, match="is no file of verdicts"):
        Judge(children, cache=str(path))
    assert path.read_text() == "mine\n"
    path.write_text(json.dumps({"rows": 3}) + "\n")
    with pytest.raises(ConfigurationError, match="is no file of verdicts"):
        Judge(children, cache=str(path))


def test_fresh_seeds_are_fresh(children):
    judge = Judge(children, seeds=[0, 1])
    (found,) = judge.on_fresh_seeds([Rule("Adam")], [10, 11])
    assert len(found.accuracies) == 2
    with pytest.raises(ConfigurationError, match="Seed 1 is among those that rules were chosen on"):
        judge.on_fresh_seeds([Rule("Adam")], [1, 2])


def test_rewards_and_screens_that_are_none_are_refused(children):
    with pytest.raises(UnknownNameError, match="No child reward is called 'accuracy'"):
        Judge(children, reward="accuracy")
    for screen in (1.0, -1.5, math.nan):
        with pytest.raises(ConfigurationError, match=r"screen=.* must be at least -1 and below 1"):
            Judge(children, screen=screen)


def test_a_cache_file_of_a_network_without_a_name_is_refused(tmp_path):
    options = {**vars(QUICK), "network": lambda shape, outputs: build_network("mlp-8", shape, outputs)}
    unnamed = Children(ChildOptions(**options))
    Judge(unnamed, seeds=[0]).judge([Rule("g")])
    with pytest.raises(ConfigurationError, match="network is a function without a name of its own"):
        Judge(unnamed, seeds=[0], cache=str(tmp_path / "cache.jsonl"))


def test_alignment_pays_the_mean_over_children(children):
    both = Judge(children, reward="alignment", seeds=[0, 1]).judge([Rule("Adam")])[0].reward
    each = [Judge(children, reward="alignment", seeds=[seed]).judge([Rule("Adam")])[0].reward for seed in (0, 1)]
    assert both == pytest.approx(sum(each) / 2)
    assert each[0] != each[1]


def test_a_leaderboard_needs_no_cache(children):
    judge = Judge(children, seeds=[0], cache=None)
    judge.judge([Rule("Adam"), Rule("-g")])
    assert [one.rule for one in judge.leaderboard(1)] == ["Adam"]


def test_bad_calls_of_a_judge_are_refused(children):
    for seeds in ([], [0, 0]):
        with pytest.raises(ConfigurationError, match="must be at least one, each once"):
            Judge(children, seeds=seeds)
    with pytest.raises(ConfigurationError, match="must be at least one, each once"):
        Judge(children, seeds=[0]).on_fresh_seeds([Rule("g")], [5, 5])
    with pytest.raises(ConfigurationError, match=re.escape("rules has 'Adam'; expected Rules")):
        Judge(children, seeds=[0]).judge(["Adam"])  # pyright: ignore
    with pytest.raises(ConfigurationError, match=r"step_sizes=0.1 must be at least one number"):
        ChildOptions(step_sizes=0.1)  # pyright: ignore


def test_the_best_step_size_is_that_of_the_lowest_loss_among_equals():
    assert _best(torch.tensor([0.5, 0.9, 0.9, 0.9]), torch.tensor([1.0, 3.0, 2.0, 2.0])) == 2
    assert _best(torch.tensor([0.0, 0.0]), torch.tensor([math.inf, math.inf])) == 0


def test_few_large_networks_train_at_once(children, monkeypatch):
    """By what a step keeps: parameters, and the outputs of all layers, which of convolutions are far more."""
    assert children.at_once == AT_ONCE
    few = Children(ChildOptions(**{**vars(QUICK), "network": "cnn", "step_sizes": STEP_SIZES})).at_once
    assert 20 < few < AT_ONCE
    large = {**vars(QUICK), "network": "cnn", "step_sizes": STEP_SIZES, "batch_size": 300}
    assert 5 < Children(ChildOptions(**large)).at_once < few / 2
    assert Children(ChildOptions(**{**vars(QUICK), "network": "wrn-28-10"})).at_once == 1


@pytest.mark.parametrize("rows", [1, 9])
def test_losses_are_those_of_torchs_cross_entropy(children, rows):
    """They are computed class by class, and of each row alone."""
    n = children.options.batch_size
    outputs, targets = torch.randn(rows * n, 10, requires_grad=True), torch.randint(10, (rows * n,))
    found, expected = children.losses(outputs, targets), F.cross_entropy(outputs, targets, reduction="none")
    torch.testing.assert_close(found, expected)
    weights = torch.rand(rows * n)
    ours, theirs = (
        torch.autograd.grad((one * weights).sum(), outputs, retain_graph=True)[0] for one in (found, expected)
    )
    torch.testing.assert_close(ours, theirs)
    assert ours.is_contiguous(), "or sums over examples depend on how many rows there are"
    alone = torch.cat([children.losses(outputs[at : at + n], targets[at : at + n]) for at in range(0, rows * n, n)])
    assert torch.equal(found, alone)


class Widths:
    """Builds networks by a bound method, which has one name for all widths."""

    def __init__(self, width: int) -> None:
        self.width = width

    def build(self, shape: tuple[int, ...], outputs: int) -> torch.nn.Module:
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, self.width), torch.nn.Linear(self.width, outputs)
        )


def test_networks_that_no_name_tells_apart_have_no_cache_in_a_file():
    options: Any = {name: getattr(QUICK, name) for name in QUICK.__dataclass_fields__}
    assert Children(ChildOptions(**options | {"network": Widths(3).build})).fingerprint["unnamed"]
    assert not Children(QUICK).fingerprint["unnamed"]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            lambda shape, outputs: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)),
            r"expected float32 \[1, 10\]",
        ),
        (
            lambda shape, outputs: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10).double()),
            "does not take torch",
        ),
        (
            lambda shape, outputs: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 10)),
            "does not take torch",
        ),
    ],
    ids=["outputs", "float64", "inputs"],
)
def test_networks_that_do_not_fit_are_refused_when_they_are_made(network, message):
    options: Any = {name: getattr(QUICK, name) for name in QUICK.__dataclass_fields__}
    with pytest.raises(ConfigurationError, match=message):
        Children(ChildOptions(**options | {"network": network}))
    with pytest.raises(UnknownNameError, match="No network is called 'foo'"):
        Children(ChildOptions(**options | {"network": "foo"}))


class Functional(torch.nn.Module):
    """Calls no layer of its own."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(outputs, 64) / 8)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.flatten(1), self.weights[0])


def test_a_network_without_layers_is_evaluated(children):
    options: Any = {name: getattr(QUICK, name) for name in QUICK.__dataclass_fields__}
    own = Children(ChildOptions(**options | {"network": lambda shape, outputs: Functional(outputs)}))
    (found,) = own.train([Rule("Adam")], [0])
    assert found.validation_accuracy > 0.3
    with pytest.raises(ConfigurationError, match=r"seeds=\[0, 0\] names a child twice"):
        own.train([Rule("Adam")], [0, 0])
