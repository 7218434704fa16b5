"""GAR/StepSize-v0: what is seen, done and paid, against one plain run at a time."""

import math
import re

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from gar_env.data import Dataset
from gar_env.envs import INSTANCES, Instance, StepSizeVectorEnv, TableOfInstances
from gar_env.envs.runs.batches import RunBatches
from gar_env.errors import ConfigurationError, InvalidActionError
from gar_env.learner import LearnerStack
from gar_env.learner.update_rules import build_rule
from gar_env.networks import build_network
from gar_env.networks.layered import padded
from gar_env.seeding import lend_to_global, named_generator

SHORT = {"instances": "fixed", "num_steps": 6, "autoreset_mode": "SameStep"}


def make(num_envs=3, **options):
    return gymnasium.make_vec("GAR/StepSize-v0", num_envs=num_envs, **{**SHORT, **options}).unwrapped


def per_example(network, inputs, labels):
    """Losses ``[n]`` and gradients, one backward pass for each example."""
    losses = nn.functional.cross_entropy(network(inputs), labels, reduction="none")
    gradients = [torch.autograd.grad(loss, list(network.parameters()), retain_graph=True) for loss in losses]
    return losses.detach(), [torch.cat([g.flatten() for g in one]) for one in gradients]


class PlainRun:
    """One run of an environment by hand: its own network, batches and rule, in float64."""

    def __init__(self, env, row):
        seed, data = env._running[row], env.dataset
        with lend_to_global(named_generator(seed, "initialisation")):
            self.network = build_network(env.config.network, data.input_shape, data.outputs).double()
        self.rule, self.env = build_rule(env.config.rule), env
        own = named_generator(seed, "batches")
        part = torch.randperm(len(data.x_train), generator=own)
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(own.initial_seed() + 1))
        self.batches = part[order].split(env.config.batch_size)
        names = [name for name, _ in self.network.named_parameters()]
        self.memory = self.rule.start({name: p.detach()[None] for name, p in self.network.named_parameters()})
        self.names, self.steps, self.shown = names, 0, []

    def loss_of(self, rows, part="train"):
        x, y = getattr(self.env.dataset, f"x_{part}")[rows], getattr(self.env.dataset, f"y_{part}")[rows]
        return per_example(self.network, self.env.normalise(x).double(), y)

    def look(self, last_step_size):
        losses, gradients = self.loss_of(self.batches[self.steps])
        mean = torch.stack(gradients).mean(0)
        sizes = [p.numel() for p in self.network.parameters()]
        shapes = [p.shape for p in self.network.parameters()]
        parts = [part.view(1, *shape) for part, shape in zip(mean.split(sizes), shapes, strict=True)]
        step = torch.tensor([self.steps])
        gradient = dict(zip(self.names, parts, strict=True))
        found, self.next_memory = self.rule.direction(gradient, self.memory, step, gradient)
        self.direction = torch.cat([found[name].flatten() for name in self.names])
        changes = torch.stack([g @ self.direction for g in gradients])
        v, disagreement = float(changes.var().log()), float(losses.var().log())
        self.shown.append((v + 2 * math.log(last_step_size), disagreement, v, mean))
        self.loss = float(losses.mean())
        return self.loss

    def move(self, step_size):
        at = torch.cat([p.detach().flatten() for p in self.network.parameters()])
        nn.utils.vector_to_parameters(at + step_size * self.direction, self.network.parameters())
        self.memory, self.steps = self.next_memory, self.steps + 1

    def discounted(self, column, decay):
        """Mean and variance by their definition as weighted sums over all steps."""
        values = [one[column] for one in self.shown]
        means = []
        for t in range(1, len(values) + 1):
            weights = [decay ** (t - 1 - s) for s in range(t)]
            means.append(np.dot(weights, values[:t]) / sum(weights))
        weights = [decay ** (len(values) - 1 - s) for s in range(len(values))]
        gaps = [(value - mean) ** 2 for value, mean in zip(values, means, strict=True)]
        return means[-1], np.dot(weights, gaps) / sum(weights)


@pytest.mark.parametrize("rule", ["sgd", "momentum", "rmsprop", "adam"])
@pytest.mark.parametrize("network", ["mlp-6", "cpcpcrcs-2-3-4"])
def test_what_a_run_sees_and_does_is_what_one_plain_run_does(rule, network):
    names = "predicted_change,predicted_change_uncertainty,disagreement,disagreement_uncertainty,direction_change"
    size = 0.01 if rule in ("sgd", "momentum") else 0.001
    env = make(3, rule=rule, network=network, observed=names, batch_size=8, initial_step_sizes=(size,), reward="gar")
    observations, _ = env.reset(seed=5)
    run = PlainRun(env, 1)
    run.look(size)
    for step in range(5):
        paper = (*run.discounted(0, 0.9), *run.discounted(1, 0.9), run.discounted(2, 0.9)[0])
        np.testing.assert_allclose(observations[1], paper, rtol=2e-3, atol=2e-3)
        actions = np.array([[0.3], [0.5 - 0.2 * step], [-1.0]], np.float32)
        size = size * 2 ** float(actions[1, 0])
        observations, rewards, _, _, infos = env.step(actions)
        run.move(size)
        loss = run.look(size)
        assert infos["step_size"][1] == pytest.approx(size, rel=1e-5)
        assert infos["loss"][1] == pytest.approx(loss, rel=1e-4)
        assert rewards[1] == pytest.approx(float(run.shown[-2][3] @ run.shown[-1][3]), rel=2e-3)


def test_rewards_add_up_to_the_decrease_of_the_log_loss_over_all_that_a_run_may_see():
    env = make(4, reward="log_loss_decrease", num_steps=5, initial_step_sizes=(0.05,))
    env.reset(seed=2)
    plain = PlainRun(env, 2)
    part = env.batches.part(2)[:1000]
    start = float(plain.loss_of(part)[0].mean())
    total = np.zeros(4)
    for _ in range(5):
        plain.look(1.0)
        plain.move(0.05)
        _, rewards, terminations, _, infos = env.step(np.zeros((4, 1), np.float32))
        total += rewards
    assert terminations.all()
    final = infos["final_info"]
    end = float(plain.loss_of(part)[0].mean())
    assert final["final_loss"][2] == pytest.approx(end, rel=1e-4)
    np.testing.assert_allclose(total, final["log_loss_decrease"], rtol=1e-4, atol=1e-5)
    assert final["log_loss_decrease"][2] == pytest.approx(math.log(start / end), rel=1e-3)


def test_the_last_reward_can_be_the_mean_decrease_instead():
    totals = []
    for reward in ("log_loss_decrease", "final_log_loss_decrease"):
        env = make(3, reward=reward, num_steps=4)
        env.reset(seed=1)
        rewards = np.stack([env.step(np.zeros((3, 1), np.float32))[1] for _ in range(4)])
        totals.append(rewards)
    np.testing.assert_allclose(totals[0].sum(0) / 4, totals[1][-1], rtol=1e-4)
    assert not totals[1][:-1].any()


@pytest.mark.parametrize("rule", ["sgd", "rmsprop"])
@pytest.mark.parametrize("options", [{"instances": "small"}, {"network": "cpcpcrcs-2-3-4"}], ids=str)
def test_a_row_is_its_run_alone_bit_for_bit(rule, options):
    def trace(num_envs, row):
        env = make(num_envs, rule=rule, observed="all", num_steps=20, **options)
        seeds = [9] if num_envs == 1 else [*range(row), 9, *range(row + 1, num_envs)]
        found = [env.reset(seed=seeds)[0][row]]
        for step in range(19):
            actions = np.full((num_envs, 1), 0.4 * math.sin(step), np.float32)
            observations, rewards, *_ = env.step(actions)
            found += [observations[row], rewards[row]]
        return np.concatenate([np.atleast_1d(one) for one in found])

    alone = trace(1, 0)
    for row in (0, 40, 63):
        assert np.array_equal(trace(64, row), alone)


def test_runs_that_blow_up_leave_the_others_alone_and_end_with_what_they_are_worth():
    def trace(first):
        env = make(3, num_steps=30, action="absolute", max_step_size=1e6, reward="log_loss_decrease")
        env.reset(seed=0)
        rewards, over = [], []
        for _ in range(12):
            observations, paid, terminations, _, infos = env.step(np.array([[first], [0.0], [0.0]], np.float32))
            assert np.isfinite(observations).all()
            assert np.isfinite(paid).all()
            rewards.append(paid)
            if terminations.any():
                over.append((np.flatnonzero(terminations).tolist(), infos["final_info"]["diverged"].tolist()))
        return np.stack(rewards), over

    wild, over = trace(1.0)
    tame, _ = trace(0.0)
    assert np.array_equal(wild[:, 1:], tame[:, 1:])
    assert over[0] == ([0], [True, False, False])


def test_a_run_that_diverges_gives_back_what_it_was_paid():
    env = make(4, divergence_reward=0.25)
    returns = torch.tensor([3.0, 0.25, -2.0, 0.0])
    assert (returns + env.diverged_rewards(returns)).tolist() == [0.25, 0.25, -2.0, 0.0]


def test_actions_multiply_set_or_choose():
    def after(action, value, **options):
        env = make(1, action=action, initial_step_sizes=(0.01,), **options)
        env.reset(seed=0)
        return float(env.step(np.array(value))[-1]["step_size"][0])

    assert after("multiply", [[1.0]]) == pytest.approx(0.02)
    assert after("multiply", [[-0.5]], max_factor=4.0) == pytest.approx(0.005)
    assert after("multiply", [[1.0]], max_step_size=0.015) == pytest.approx(0.015)
    assert after("absolute", [[-1.0]]) == pytest.approx(1e-7)
    assert after("absolute", [[0.0]]) == pytest.approx(1e-3)
    assert [after("discrete", [k]) for k in (0, 4, 8)] == pytest.approx([0.005, 0.01, 0.02])


def test_each_run_sees_its_own_part_of_the_data_once_an_epoch():
    batches = RunBatches(3, 100, 8, torch.device("cpu"))
    for row in range(3):
        batches.start(row, row, 0.5)
    rows = torch.ones(3, dtype=torch.bool)
    seen = torch.cat([batches.of(torch.full((3,), step), rows) for step in range(150)], 1)
    for row in range(3):
        part = sorted(batches.part(row).tolist())
        assert len(part) == 50
        for epoch in seen[row][:1200].split(50):
            assert sorted(epoch.tolist()) == part
    assert sorted(seen[0][:50].tolist()) != sorted(seen[1][:50].tolist())
    assert seen[0][:50].tolist() != seen[0][50:100].tolist()
    # In any order of asking, and from any step on.
    again = RunBatches(1, 100, 8, torch.device("cpu"))
    again.start(0, 2, 0.5)
    for step in (149, 3, 77):
        assert torch.equal(again.of(torch.tensor([step]), rows[:1])[0], seen[2][8 * step : 8 * step + 8])


@pytest.mark.parametrize("rule", ["sgd", "momentum", "rmsprop", "adam"])
@pytest.mark.parametrize(("small", "wide"), [("mlp-5-3", "mlp-9-8"), ("cpcpcrcs-2-3-4", "cpcpcrcs-5-4-9")])
def test_a_padded_network_trains_as_the_narrow_one(rule, small, wide):
    def narrow():
        return build_network(small, (1, 8, 8), 10)

    stacks = [LearnerStack(narrow, [3], rule=rule), LearnerStack(narrow, [3], rule=rule)]
    shape = build_network(wide, (1, 8, 8), 10)
    stacks[1] = LearnerStack(lambda: padded(narrow(), shape), [3], rule=rule)
    for step in range(20):
        x = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        y = torch.randint(10, (1, 16), generator=torch.Generator().manual_seed(step))
        losses = []
        for stack in stacks:
            one = stack.run(x, y)
            direction = stack.direction(one.gradient)
            losses += [one.losses, stack.predicted_changes(one, direction)]
            stack.move(direction, torch.tensor([0.003]))
        torch.testing.assert_close(losses[0], losses[2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses[1], losses[3], rtol=1e-3, atol=1e-4)
    for (name, own), padded_ in zip(stacks[0].parameters.items(), stacks[1].parameters.values(), strict=True):
        inside = tuple(slice(0, side) for side in own.shape)
        torch.testing.assert_close(padded_[inside], own, rtol=1e-4, atol=1e-5)
        outside = padded_.clone()
        outside[inside] = 0
        assert not outside.any(), name


@pytest.mark.parametrize("name", list(INSTANCES))
def test_instances_to_learn_on_and_to_test_on_have_nothing_in_common(name):
    found = INSTANCES[name]()
    for part in ("train", "test"):
        drawn = [getattr(found, part)(np.random.default_rng(seed)) for seed in range(300)]
        assert max(one.num_steps for one in drawn) <= found.longest(part)
        assert min(one.share for one in drawn) >= found.smallest_share(part)
        for one in drawn:
            widest = found.widest(part)
            assert (one.widths is None) == (widest is None)
            assert widest is None or all(own <= most for own, most in zip(one.widths, widest, strict=True))
    if name != "fixed":
        train = {found.train(np.random.default_rng(seed)).widths for seed in range(300)}
        assert not train & {found.test(np.random.default_rng(seed)).widths for seed in range(300)}


def test_a_table_of_instances_is_read_from_a_file(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("widths,num_steps,step_size,share,part\n8,4,0.1,0.5,train\n\n16,5,0.2,1,test\n12,3,0.3,0.7,\n")
    env = make(8, instances=str(path), num_steps=None, network="mlp-8")
    env.reset(seed=0)
    assert {one.widths for one in env.instances} <= {(8,), (12,)}
    assert env.stack.parameters["1.weight"].shape == (8, 12, 64)
    test = make(2, instances=str(path), num_steps=None, part="test")
    assert test.instances == [Instance(5, 0.2, 1.0, (16,))] * 2
    assert test.config.longest == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has a column twice, or none. Known: part, num_steps"),
        ("width\n8\n", "has a column 'width'. Did you mean 'widths'?"),
        ("num_steps\n", "holds no instances"),
        ("num_steps,share\n8\n", "line 2: there are 1 cells, and 2 columns"),
        ("num_steps\nlong\n", "line 2: num_steps='long' is no whole number"),
        ("widths\n8-x\n", "line 2: widths='8-x' is no list of widths, as in 20-50-500"),
        ("share\n0.5\n1.5\n", "line 3: share=1.5 must be a number above 0, and at most 1"),
        ("step_size\nnan\n", "line 2: step_size=nan must be above 0"),
        ("part\nvalidation\n", "line 2: part='validation' is unknown"),
        ("widths\n8\n8-9\n", "has instances with 1 and 2 widths"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        TableOfInstances.read(path)


FEW = Dataset("few", torch.randn(40, 4), torch.randint(2, (40,)), torch.randn(4, 4), torch.randint(2, (4,)), ("a", "b"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1}, "num_steps=1 must be at least 2"),
        ({"batch_size": 1}, "batch_size=1 must be at least 2: what is observed are variances"),
        ({"max_factor": 1.0}, "max_factor=1.0 must be above 1"),
        ({"min_step_size": 0.0}, "min_step_size=0.0 must be at least 1e-37"),
        ({"min_step_size": 1.0, "max_step_size": 0.1}, "max_step_size=0.1 above it"),
        ({"decay": 1.0}, "decay=1.0 must be at least 0 and below 1"),
        ({"initial_step_sizes": (20.0,)}, "initial_step_sizes=20.0 must be from min_step_size=1e-07 to"),
        ({"initial_step_sizes": (0.1, 0.2)}, "There are 2 initial_step_sizes for 3 rows"),
        ({"action": "divide"}, "action='divide' is unknown"),
        ({"part": "tests"}, "part='tests' is unknown. Did you mean 'test'?"),
        ({"observed": "papers"}, "observed='papers' is unknown. Did you mean 'paper'?"),
        ({"observed": "log_loss,agreement"}, "has 'agreement'"),
        ({"observed": "log_loss,log_loss"}, "names a feature twice"),
        ({"instances": "smal"}, "instances='smal' is unknown. Did you mean 'small'?"),
        ({"instances": "nowhere.csv"}, "The instances 'nowhere.csv' cannot be read: No such file"),
        ({"instances": "paper"}, "give each network 3 widths, and network='mlp-32' has 1"),
        ({"instances": "small", "network": "fc"}, "give each network 1 width, and network='fc' has none"),
        (
            {"instances": "small", "dataset": FEW},
            "Some runs see 8 examples, 0.2 of 40 in few, which make no batch of 32",
        ),
        ({"network": "cpcpcrcs-2-3"}, "has 3 convolutions before its last layer, and 2 widths"),
        ({"network": "cpcpcpcpcs-2-3-4-5"}, "pools more often than images"),
        ({"network": "mlp-0"}, "has a layer without units"),
        ({"network": "mlp-2000", "num_envs": 300_000}, r"300000 networks of 0.6 MB each need 540.* GB in training"),
        ({"reward": "cosine_gar"}, "reward='cosine_gar' needs Need.TAPE"),
        ({"render_mode": "ansi"}, "draws nothing"),
        ({"instances": "small", "max_step_size": 0.95}, "An instance's step_size=1.0 must be from min_step_size"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused_when_it_is_made(options, message):
    with pytest.raises(ConfigurationError, match=message):
        make(**options)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.5])
def test_an_action_that_is_no_number_names_its_row(bad):
    env = make(3)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="2"):
        env.step(np.array([[0.0], [0.0], [bad]], np.float32))
    env.step(np.zeros((3, 1), np.float32))


def test_rewards_of_runs_are_refused_where_rows_are_no_runs():
    with pytest.raises(ConfigurationError, match=r"'log_loss_decrease' needs Need.RUN, which DataSplitVectorEnv"):
        gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, reward="log_loss_decrease")


def test_a_single_run_is_a_row_of_many():
    one = gymnasium.make("GAR/StepSize-v0", num_steps=5)
    many = StepSizeVectorEnv(4, num_steps=5, autoreset_mode="Disabled")
    single, rows = one.reset(seed=3)[0], many.reset(seed=3)[0]
    for _ in range(5):
        assert np.array_equal(single, rows[0])
        single, reward, terminated, _, info = one.step(np.array([0.7], np.float32))
        rows, rewards, *_ = many.step(np.full((4, 1), 0.7, np.float32))
        assert reward == rewards[0]
    assert terminated
    assert info["final_loss"] > 0
    with pytest.raises(ConfigurationError, match="make gives one training run"):
        gymnasium.make("GAR/StepSize-v0", num_envs=2)


def test_some_runs_train_on_corrupted_data_and_the_others_on_the_data_as_they_are():
    env = make(40, corrupt="symmetric_noise(0.3), pixel_noise(0.1)", corrupt_share=0.5)
    plain = make(40)
    env.reset(seed=3)
    plain.reset(seed=3)
    wrong, n = [], len(plain.dataset.x_train)
    for row in range(40):
        part = env.batches.part(row)
        assert torch.equal(part % n, plain.batches.part(row))
        labels = plain.dataset.y_train[part % n]
        wrong.append(float((env._y[part] != labels).double().mean()))
        changed = (env._x[part] != plain.dataset.x_train[part % n]).flatten(1).any(1).double().mean()
        assert float(changed) == pytest.approx(0.1 if wrong[-1] else 0.0, abs=0.01)
    assert set(np.round(wrong, 1)) == {0.0, 0.3}
    assert 10 < sum(share > 0 for share in wrong) < 30
    with pytest.raises(ConfigurationError, match=r"corrupt_share=0\.0 must be above 0"):
        make(3, corrupt_share=0.0)
    with pytest.raises(ConfigurationError, match="corrupt has the item 'noise"):
        make(3, corrupt="noise()")
