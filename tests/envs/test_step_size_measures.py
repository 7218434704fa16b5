"""GAR/StepSize-v0: every number that it shows, pays or reports, against its definition."""

import math
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gar_env.data import load_dataset
from gar_env.envs import STEP_SIZE_FEATURES, Instance, InstanceSet, TableOfInstances
from gar_env.envs.runs.statistics import LOWEST, Discounted, signals
from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.networks import build_network
from gar_env.rewards import RunEvidence
from gar_env.rewards.runs import LogLossDecrease


def make(num_envs=3, **options):
    fixed = {"instances": "fixed", "num_steps": 6, "autoreset_mode": "SameStep"}
    return gymnasium.make_vec("GAR/StepSize-v0", num_envs=num_envs, **{**fixed, **options}).unwrapped


def test_signals_are_what_they_say():
    losses, changes = torch.tensor([[1.0, 2.0, 6.0]]), torch.tensor([[-4.0, -1.0, 2.0]])
    predicted, disagreement, direction, coherence, relative = signals(losses, changes, torch.tensor([0.01]))[0].tolist()
    assert direction == pytest.approx(math.log(9))
    assert disagreement == pytest.approx(math.log(7))
    assert predicted == pytest.approx(math.log(9 * 0.01**2), rel=1e-5)
    assert coherence == pytest.approx(math.log(1 / 9))
    assert relative == pytest.approx(math.log(7 / 9))


def test_examples_that_agree_are_more_coherent_and_nothing_is_infinite():
    agreeing, not_agreeing = torch.tensor([[-3.0, -3.1]]), torch.tensor([[-3.0, 3.1]])
    losses, size = torch.tensor([[1.0, 2.0]]), torch.ones(1)
    assert signals(losses, agreeing, size)[0, 3] > signals(losses, not_agreeing, size)[0, 3] + 5
    odd = [torch.zeros(1, 2), torch.full((1, 2), math.nan), torch.tensor([[math.inf, 0.0]])]
    for one in odd:
        for other in odd:
            assert bool(signals(one, other, torch.zeros(1)).isfinite().all())
    assert float(signals(torch.zeros(1, 2), torch.zeros(1, 2), size)[0, 1]) == LOWEST


def test_progress_step_size_and_loss_are_each_runs_own():
    table = TableOfInstances({"train": [Instance(4), Instance(8)], "test": []}, "mine")
    env = make(
        6, instances=table, num_steps=None, observed="progress,log_step_size,log_loss", initial_step_sizes=(0.1,)
    )
    env.reset(seed=1)
    assert {one.num_steps for one in env.instances} == {4, 8}
    observations, *_, infos = env.step(np.full((6, 1), -1.0, np.float32))
    np.testing.assert_allclose(observations[:, 0], [1 / one.num_steps for one in env.instances])
    np.testing.assert_allclose(observations[:, 1], math.log(0.05), rtol=1e-5)
    np.testing.assert_allclose(observations[:, 2], np.log(infos["loss"]), rtol=1e-5)


def test_a_run_that_ends_says_what_it_was_like():
    table = TableOfInstances({"train": [Instance(2, 0.2, 0.5), Instance(3, 0.03, 1.0)], "test": []}, "mine")
    env = make(8, instances=table, num_steps=None)
    env.reset(seed=1)
    before = list(env.instances)
    for _ in range(2):
        *_, terminations, _, infos = env.step(np.zeros((8, 1), np.float32))
    assert terminations.tolist() == [one.num_steps == 2 for one in before]
    final = infos["final_info"]
    for name, value in (("num_steps", 2), ("initial_step_size", 0.2), ("share", 0.5)):
        assert final[f"_{name}"].tolist() == terminations.tolist()
        np.testing.assert_allclose(final[name][terminations], value, rtol=1e-6)
    assert not infos["_num_steps"].any()  # those that go on


def test_each_row_is_told_its_own_accuracy():
    env = make(
        4, num_steps=12, initial_step_sizes=(1e-7, 0.3, 0.01, 0.1), test_examples=10_000, autoreset_mode="Disabled"
    )
    env.reset(seed=2)
    for _ in range(12):
        *_, infos = env.step(np.zeros((4, 1), np.float32))
    data = env.dataset
    for row in range(4):
        with torch.no_grad():
            outputs = env.stack.network(row).eval()(env.normalise(data.x_test))
        expected = float((outputs.argmax(1) == data.y_test).double().mean())
        assert infos["test_accuracy"][row] == pytest.approx(expected, abs=1e-6)
        assert env.evaluate(row)["test_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert len(set(infos["test_accuracy"].tolist())) == 4


def test_weight_decay_and_clipping_reach_the_rule():
    moved = {}
    for name, options in {"plain": {}, "decayed": {"weight_decay": 0.5}, "clipped": {"gradient_clip": 1e-3}}.items():
        env = make(2, initial_step_sizes=(0.1,), **options)
        env.reset(seed=0)
        before = {key: value.clone() for key, value in env.stack.parameters.items()}
        env.step(np.zeros((2, 1), np.float32))
        moved[name] = {key: value - before[key] for key, value in env.stack.parameters.items()}
        if name == "decayed":
            for key, value in before.items():
                torch.testing.assert_close(moved[name][key] - moved["plain"][key], -0.05 * value, rtol=1e-3, atol=1e-6)
    length = torch.cat([value[0].flatten() for value in moved["clipped"].values()]).norm()
    assert float(length) == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize(("initial", "factor"), [(0.5, 1.0), (50.0, 50.0)])
def test_a_run_has_diverged_above_ten_thousand_times_its_first_loss(initial, factor):
    ended = {}
    for times in (0.9e4, 1.1e4):
        env = make(1, num_steps=9, autoreset_mode="Disabled")
        env.reset(seed=0)
        env.initial_loss = torch.tensor([initial])
        look = env._look

        def looked(rows, env=env, look=look, times=times):
            look(rows)
            env.loss = torch.full((1,), times * factor)

        env._look = looked
        _, _, terminations, _, infos = env.step(np.zeros((1, 1), np.float32))
        ended[times] = bool(terminations[0]), bool(infos["diverged"][0])
    assert ended == {0.9e4: (False, False), 1.1e4: (True, True)}


def test_layers_start_with_biases_of_nothing():
    for name in ("mlp-6-5", "cpcpcrcs-2-3-4"):
        for key, p in build_network(name, (1, 8, 8), 10).named_parameters():
            assert bool(p.any()) == key.endswith("weight"), key


def test_all_features_are_observed_within_their_bounds():
    env = make(4, observed="all", rule="rmsprop")
    observations, _ = env.reset(seed=0)
    assert observations.shape == (4, len(STEP_SIZE_FEATURES))
    for _ in range(5):
        observations, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observations)


def test_rewards_start_at_the_loss_over_all_data_and_end_there():
    nan, one = torch.tensor([math.nan]), torch.tensor([1])
    evidence = type("E", (), {"next_loss": torch.tensor([2.0])})
    evidence.run = RunEvidence(torch.tensor([3.0]), torch.tensor([4.0]), nan, one)
    assert float(LogLossDecrease()(evidence)) == pytest.approx(math.log(4 / 2))
    evidence.run = RunEvidence(torch.tensor([3.0]), torch.tensor([4.0]), nan, one + 1)
    assert float(LogLossDecrease()(evidence)) == pytest.approx(math.log(3 / 2))
    evidence.run = RunEvidence(torch.tensor([3.0]), torch.tensor([4.0]), torch.tensor([1.5]), one + 1)
    assert float(LogLossDecrease()(evidence)) == pytest.approx(math.log(3 / 1.5))


# States


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({"initial_step_sizes": (0.1, 0.2, 0.3)}, {"initial_step_sizes": (0.1, 0.2, 0.4)}),
        ({"instances": "first.csv"}, {"instances": "second.csv"}),
        ({"instances": "first.csv"}, {"instances": "fixed"}),
    ],
    ids=str,
)
def test_a_state_of_other_runs_is_refused(was, now, tmp_path):
    for number, name in enumerate(("first.csv", "second.csv")):
        (tmp_path / name).write_text(f"num_steps\n{5 + number}\n")

    def made(options):
        path = options.get("instances", "")
        return make(**{**options, **({"instances": str(tmp_path / path)} if path.endswith("csv") else {})})

    env, same, other = made(was), made(was), made(now)
    env.reset(seed=0)
    same.load_state_dict(env.state_dict())
    with pytest.raises(CheckpointError, match=r"belongs to another StepSizeVectorEnv: (initial_step_sizes|instances)"):
        other.load_state_dict(env.state_dict())


def test_a_table_that_was_rewritten_makes_another_environment(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("num_steps\n5\n")
    env = make(instances=str(path), num_steps=None)
    env.reset(seed=0)
    path.write_text("num_steps\n7\n")
    with pytest.raises(CheckpointError, match="instances was"):
        make(instances=str(path), num_steps=None).load_state_dict(env.state_dict())


def test_a_state_of_other_data_is_refused_and_holds_no_data():
    data = load_dataset("digits")
    other = replace(data, name="inverted", x_train=255 - data.x_train)
    for make_one in (
        lambda dataset: make(dataset=dataset),
        lambda dataset: gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, dataset=dataset).unwrapped,
    ):
        env = make_one(data)
        env.reset(seed=0)
        state = env.state_dict()
        make_one(data).load_state_dict(state)
        with pytest.raises(CheckpointError, match="data_fingerprint was"):
            make_one(other).load_state_dict(state)
    env = make(dataset=data)
    env.reset(seed=0)
    assert not {"_x", "_y", "dataset", "measures"} & env.state_dict().keys()


@pytest.mark.parametrize("decay", [0.999999, 0.99999999])
def test_a_slow_mean_counts_its_first_steps_fully(decay):
    slow = Discounted(2, decay)
    rows = torch.ones(2, dtype=torch.bool)
    for step in range(1, 4):
        slow.show(torch.full((2, 5), -1.5 * step), rows)
        assert slow.column("disagreement").tolist() == pytest.approx([-1.5 * (step + 1) / 2] * 2, rel=1e-5)


# Sets of one's own


class Own(InstanceSet):
    """Says something of itself, and draws something."""

    def __init__(self, drawn, layers=None, widest=None, longest=10):
        self.drawn, self.layers, self._widest, self._longest = drawn, layers, widest, longest

    def train(self, generator):
        return self.drawn

    def test(self, generator):
        return self.drawn

    def widest(self, part):
        return self._widest

    def longest(self, part):
        return self._longest


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (Own(None), "Own.train returned None; expected an Instance"),
        (Own(Instance(11)), "returned num_steps=11, and longest('train') is 10"),
        (Own(Instance(5, widths=(4,))), "returned widths=(4,); layers=None"),
        (Own(Instance(5, widths=(9,)), 1, (8,)), "returned widths=(9,); layers=1, and widest('train') is (8,)"),
        (Own(Instance(5), 1, (8,)), "returned widths=None; layers=1"),
        (Own(Instance(5, widths=(4, 4)), 1, (8,)), "returned widths=(4, 4); layers=1"),
        (Own(Instance(5, share=1e-6)), "Some runs see 0 examples"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(own, message):
    with pytest.raises(ConfigurationError) as caught:
        make(instances=own, num_steps=None)
    assert message in str(caught.value)


def test_a_state_of_another_set_of_ones_own_is_refused():
    env = make(instances=Own(Instance(5)), num_steps=None)
    env.reset(seed=0)
    make(instances=Own(Instance(5)), num_steps=None).load_state_dict(env.state_dict())
    with pytest.raises(CheckpointError, match="instances was"):
        make(instances=Own(Instance(5), longest=9), num_steps=None).load_state_dict(env.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1}, "num_steps=1 must be a whole number from 2"),
        ({"num_steps": 10**30}, "must be a whole number from 2"),
        ({"num_steps": 2.0}, "num_steps=2.0 must be a whole number"),
        ({"step_size": math.inf}, "step_size=inf must be above 0, and a number below"),
        ({"step_size": "0.1"}, "step_size='0.1' must be above 0"),
        ({"share": True}, "share=True must be a number above 0"),
        ({"widths": (100_000,)}, "widths=(100000,) must be whole numbers from 1 to 99999"),
        ({"widths": ()}, "widths=() must be whole numbers"),
        ({"widths": 8}, "widths=8 must be whole numbers"),
    ],
)
def test_an_instance_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigurationError) as caught:
        Instance(**options)
    assert message in str(caught.value)


def test_a_step_of_a_run_is_a_step_of_plain_torch():
    env = make(2, network="mlp-7", initial_step_sizes=(0.2,), weight_decay=0.01)
    env.reset(seed=4)
    network = env.stack.network(1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, weight_decay=0.01)
    for _ in range(3):
        inputs, targets = env.draw(torch.ones(2, dtype=torch.bool))
        F.cross_entropy(network(inputs[1]), targets[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        env.step(np.zeros((2, 1), np.float32))
    for p, q in zip(network.parameters(), env.stack.network(1).parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
