"""Step-size controllers: the search, what it learns, and what is done with it."""

import json
import math

import gymnasium
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents import train
from agents.checks import check_agent
from agents.controllers import CONTROLLERS
from agents.step_sizes import (
    FORMS,
    SCHEDULES,
    Controlled,
    Reps,
    RepsAgent,
    Scheduled,
    StepSizeController,
    StepSizeScheduler,
    learn,
)
from agents.step_sizes.evaluation import run_all, run_optimizer
from agents.step_sizes.reps import residuals
from agents.studies.step_size.optimizers import OPTIMIZERS
from gar_env.alignment import Alignment, align, record
from gar_env.errors import CheckpointError, ConfigurationError, StaleTapeError
from gar_env.learner import CrossEntropy

ABSOLUTE = {"action": "absolute", "observed": "all", "instances": "fixed", "num_steps": 8}


def make(num_envs=3, **options):
    return gymnasium.make_vec(
        "GAR/StepSize-v0", num_envs=num_envs, autoreset_mode="SameStep", **{**ABSOLUTE, **options}
    )


# The search


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 2.0])
def test_an_update_goes_as_far_as_its_bound_and_no_further(epsilon):
    search = Reps((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), epsilon=epsilon)
    samples = search.sample(200)
    update = search.update(samples, samples @ torch.tensor([1.0, 0.5, 0.0]))
    assert update.kl == pytest.approx(epsilon, rel=1e-3)
    assert 1 < update.effective < 200


def test_an_update_is_weighted_maximum_likelihood():
    search = Reps((0.0, 1.0), (1.0, 2.0), epsilon=0.7, seed=3)
    samples, before = search.sample(50), search.covariance.clone()
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0))
    update = search.update(samples, scores)
    r = ((scores - scores.mean()) / scores.std(correction=0)).double().numpy()
    w = np.exp((r - r.max()) / update.temperature)
    w /= w.sum()
    x = samples.double().numpy()
    mean = (w[:, None] * x).sum(0)
    fitted = sum(w[i] * np.outer(x[i] - mean, x[i] - mean) for i in range(50))
    trust = update.effective / (update.effective + 3)
    np.testing.assert_allclose(search.mean, mean)
    np.testing.assert_allclose(search.covariance, trust * fitted + (1 - trust) * before.numpy())
    # The temperature is where the dual is smallest: its derivative vanishes.
    slope = 0.7 + np.log(np.mean(np.exp(r / update.temperature))) - (w * r).sum() / update.temperature
    assert abs(slope) < 1e-3


def test_scores_that_are_all_alike_teach_nothing():
    search = Reps((0.0,), (1.0,))
    search.update(search.sample(10), torch.full((10,), 3.0))
    assert search.mean.tolist() == [0.0]
    assert search.covariance.tolist() == [[1.0]]


def test_what_is_known_of_runs_is_taken_off_their_scores():
    rng = np.random.default_rng(0)
    known = rng.normal(size=(40, 2))
    luck = rng.normal(size=40)
    left = residuals(known @ [3.0, -1.0] + 7 + luck, known)
    np.testing.assert_allclose(left, residuals(luck, known), atol=1e-9)
    assert np.corrcoef(left, known[:, 0])[0, 1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Reps((0.0,), (1.0, 1.0)), "must be as many numbers"),
        (lambda: Reps((0.0,), (0.0,)), "deviations above 0"),
        (lambda: Reps((0.0,), (1.0,), epsilon=0.0), "epsilon=0.0 must be above 0"),
        (lambda: Reps((0.0,), (1.0,)).update(torch.zeros(2, 1), torch.zeros(2)), "2 samples for 1 weights; an update"),
        (lambda: Reps((0.0,), (1.0,)).update(torch.zeros(3, 1), torch.tensor([1.0, 2.0, math.nan])), "finite"),
        (lambda: RepsAgent("multiply", rows=6), "There are 6 runs to an update, and 5 weights: it needs 9"),
        (lambda: RepsAgent("multipy"), "Did you mean 'multiply'"),
        (lambda: learn("absolute", updates=0), "updates=0 must be a whole number, at least 1"),
        (lambda: learn("absolute", rows=4), "There are 4 runs to an update, and 5 weights"),
        (lambda: Scheduled("cosin"), "Did you mean 'cosine'"),
        (lambda: Scheduled("cosine").begin(make(action="multiply")), "with action='absolute'; found StepSizeVectorEnv"),
        (lambda: Scheduled("cosine").begin(make(observed="paper")), "Make it with observed='progress'"),
        (lambda: StepSizeController("constant", (1.0, 2.0)), "at most 1e+30 in size: bias"),
        (lambda: StepSizeController("constant", (math.nan,)), "must be 1 numbers for 'constant'"),
        (lambda: StepSizeController("constant", (0.0,), initial_step_size=99.0), "step_size=99.0 must be from"),
        (lambda: StepSizeController("constant", (0.0,), decay=1.0), "decay=1.0 must be at least 0"),
        (lambda: StepSizeController("constant", (0.0,)).step_size(torch.ones(1), torch.ones(1)), "at least 2 examples"),
        (lambda: StepSizeController("constant", (0.0,)).step_size(torch.ones(3), torch.ones(2)), "expected both [n]"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=r".*") as caught:
        call()
    assert message in str(caught.value)


# What it learns


def test_the_search_finds_step_sizes_that_train():
    agent = RepsAgent("constant", seed=0)
    env = make(32, instances="small", num_steps=60, dataset="digits")
    observations, _ = env.reset(seed=0)
    agent.begin(env)
    while len(agent.updates) < 6:
        observations, rewards, terminations, truncations, infos = env.step(agent.act(observations))
        agent.learn(rewards, terminations | truncations, infos)
    assert agent.scores[-1] > agent.scores[0] + 0.2
    assert all(update.kl <= 1.01 for update in agent.updates)
    learned = agent.controller()
    starts = [1e-5, 1e-3, 0.1]
    alone = run_all(Scheduled("constant"), starts, [900] * 3, num_steps=60).log_losses
    controlled = run_all(Controlled(learned), starts, [900] * 3, num_steps=60).log_losses
    assert (controlled < alone - 0.05).all()


def test_each_run_scores_for_the_weights_that_it_was_run_with():
    agent = RepsAgent("constant", rows=50, seed=1)
    env = make(4, num_steps=3)
    observations, _ = env.reset(seed=0)
    agent.begin(env)
    expected, weights = [], agent.weights.clone()
    for step in range(9):
        actions = agent.act(observations)
        observations, rewards, terminations, _, infos = env.step(actions)
        sizes = infos["final_info"]["step_size"] if terminations.any() else infos["step_size"]
        np.testing.assert_allclose(np.log(sizes), weights[:, 0].clamp(math.log(1e-7), math.log(10)), rtol=1e-4)
        if terminations.any():
            decrease = infos["final_info"]["log_loss_decrease"]
            expected += [(float(weights[row]), max(float(decrease[row]), 0.0), 3.0) for row in range(4)]
        agent.learn(rewards, terminations, infos)
        weights = agent.weights.clone()
        assert step % 3 == 2 or not terminations.any()
    assert [(float(w), score, length) for w, score, length, _ in agent._done] == expected


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_runs_are_counted_alike_in_both_autoreset_modes(mode):
    agent = RepsAgent("constant", rows=50, seed=1)
    env = gymnasium.make_vec("GAR/StepSize-v0", num_envs=3, autoreset_mode=mode, **{**ABSOLUTE, "num_steps": 4})
    observations, _ = env.reset(seed=0)
    agent.begin(env)
    for _ in range(15):
        observations, rewards, terminations, truncations, infos = env.step(agent.act(observations))
        agent.learn(rewards, terminations | truncations, infos)
    assert {length for _, _, length, _ in agent._done} == {4.0}
    first = [start for *_, start in agent._done]
    assert first == pytest.approx([math.log(0.1)] * len(first), rel=1e-5)


# What is done with it


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("rule", ["sgd", "rmsprop"])
def test_a_controller_by_itself_says_what_it_says_in_the_environment(form, rule):
    weights = torch.linspace(-0.05, 0.05, len(FORMS[form].names()))
    weights[-1] = 0.1 if form.startswith("multiply") else -4.0 if form != "relative" else -2.0
    controller = StepSizeController(form, tuple(weights.tolist()))
    env = make(2, rule=rule, network="cpcpcrcs-2-3-4", initial_step_sizes=(0.01,), num_steps=12).unwrapped
    agent = Controlled(controller)
    observations, _ = env.reset(seed=4)
    agent.begin(env)
    found = []
    controller.start(0.01)
    for _ in range(11):
        one = env.stack.run(*env.draw(torch.ones(2, dtype=torch.bool)))  # the same pass again, aside
        changes = env.stack.predicted_changes(one, env.stack.direction(one.gradient))
        found.append(controller.step_size(one.losses[1], changes[1]))
        observations, *_, infos = env.step(agent.act(observations))
        assert infos["step_size"][1] == pytest.approx(found[-1], rel=1e-4)
    assert len(set(found)) > 1 or form == "constant"


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1),
    ],
    ids=["sgd", "nesterov", "rmsprop", "adamw"],
)
def test_a_scheduler_looks_where_the_optimizer_is_about_to_go_and_leaves_no_trace(make_optimizer):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    watched, plain = network(), network()
    optimizer, other = make_optimizer(watched.parameters()), make_optimizer(plain.parameters())
    controller = StepSizeController("relative", (0.1, 0.0, -2.0))
    scheduler, alignment = StepSizeScheduler(watched, optimizer, controller), Alignment(watched)
    for step in range(4):
        x, y = torch.randn(6, 4).double(), torch.randint(3, (6,))
        tape = alignment.record(x, lambda logits, y=y: F.cross_entropy(logits, y, reduction="none"))
        F.cross_entropy(plain(x), y).backward()
        rate = scheduler.step(tape)
        assert scheduler.get_last_lr() == [rate]
        direction = scheduler.direction()
        before = {name: p.detach().clone() for name, p in watched.named_parameters()}
        for group in other.param_groups:
            group["lr"] = rate
        for one in (optimizer, other):
            one.step()
            one.zero_grad()
        for (name, p), q in zip(watched.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q)
            torch.testing.assert_close(before[name] + rate * direction[name], p)
        if step == 0:
            again = network()
            expected = align(record(again, x, CrossEntropy(y)), direction)
            controller.start(0.01)
            assert controller.step_size(tape.losses, expected) == pytest.approx(rate, rel=1e-4)
            controller.start(0.01)


def test_groups_of_parameters_keep_the_ratios_of_their_learning_rates():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    groups = [{"params": network[0].parameters(), "lr": 0.1}, {"params": network[1].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups)
    scheduler = StepSizeScheduler(network, optimizer, StepSizeController("constant", (-1.0,)))
    tape = Alignment(network).record(torch.randn(4, 2), lambda out: out.square().sum(1))
    rate = scheduler.step(tape)
    assert scheduler.get_last_lr() == pytest.approx([rate, rate / 10])
    direction = scheduler.direction()
    torch.testing.assert_close(direction["0.weight"], -network[0].weight.grad)
    torch.testing.assert_close(direction["1.weight"], -network[1].weight.grad / 10)


@pytest.mark.parametrize("kind", [torch.optim.LBFGS, torch.optim.Rprop, torch.optim.ASGD])
def test_an_optimizer_whose_step_is_no_multiple_of_its_rate_is_refused(kind):
    network = nn.Linear(2, 2)
    with pytest.raises(ConfigurationError, match="is not its learning rate times a direction"):
        StepSizeScheduler(network, kind(network.parameters()), StepSizeController("constant", (0.0,)))


def test_a_step_without_gradients_is_refused():
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scheduler = StepSizeScheduler(network, optimizer, StepSizeController("constant", (0.0,)))
    tape = Alignment(network).record(torch.randn(4, 2), lambda out: out.square().sum(1))
    optimizer.zero_grad()
    with pytest.raises(ConfigurationError, match="there are no gradients"):
        scheduler.step(tape)
    assert scheduler.get_last_lr() == [0.1]
    with pytest.raises(ConfigurationError, match="expected what Alignment"):
        scheduler.step(None)


def test_an_optimizer_of_something_else_is_refused():
    network, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(ConfigurationError, match="parameters that are not the network's"):
        StepSizeScheduler(network, torch.optim.SGD(other.parameters()), StepSizeController("constant", (0.0,)))


def test_a_controller_is_saved_as_data(tmp_path):
    controller = StepSizeController("multiply", (-0.1, 0.0, 0.1, 0.0, 0.2), decay=0.8, learned={"dataset": "digits"})
    path = controller.save(tmp_path / "controller.json")
    assert json.loads(path.read_text())["weights"]["disagreement"] == 0.1
    loaded = StepSizeController.load(path)
    assert (loaded.form, loaded.weights, loaded.decay, loaded.learned) == (
        "multiply", controller.weights, 0.8, {"dataset": "digits"},
    )  # fmt: skip
    losses, changes = torch.rand(8), torch.randn(8)
    controller.step_size(losses, changes)
    loaded.load_state_dict(controller.state_dict())
    assert loaded.step_size(losses, changes) == controller.step_size(losses, changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no step-size controller"),
        ('{"step_size_controller": 2}', "has format 2; this version reads format 1"),
        (
            '{"step_size_controller": 1, "form": "os:system", "weights": {}}',
            "has the form 'os:system'. Known: absolute, constant",
        ),
        ('{"step_size_controller": 1, "form": "constant", "weights": {"slope": 1}}', "'constant' has bias"),
        ('{"step_size_controller": 1, "form": "constant", "weights": {"bias": 1}}', "is damaged: KeyError"),
    ],
)
def test_a_file_that_is_no_controller_is_refused(tmp_path, content, message):
    path = tmp_path / "controller.json"
    path.write_text(content)
    with pytest.raises(CheckpointError) as caught:
        StepSizeController.load(path)
    assert message in str(caught.value)
    with pytest.raises(CheckpointError, match="No step-size controller at"):
        StepSizeController.load(tmp_path / "nowhere.json")


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_schedule_is_followed_from_each_runs_own_step_size(name):
    found = run_all(Scheduled(name), [1e-3, 0.1], [1, 2], num_steps=20)
    factors = SCHEDULES[name](torch.arange(20) / 20)
    for run, start in enumerate((1e-3, 0.1)):
        expected = (start * factors).clamp(1e-7, 10)
        np.testing.assert_allclose(found.step_sizes[:, run], expected, rtol=1e-4)


def test_schedules_begin_and_end_where_they_say():
    ends = {name: SCHEDULES[name](torch.tensor([0.0, 1.0])).tolist() for name in SCHEDULES}
    assert ends["constant"] == [1, 1]
    assert ends["exponential"] == pytest.approx([1, 0.01])
    assert ends["waterfall"] == pytest.approx([1, 0.01])
    assert ends["power"] == pytest.approx([1, 101**-0.75])
    assert ends["cosine"] == pytest.approx([1, 0], abs=1e-6)
    assert ends["warmup-cosine"] == pytest.approx([0.02, 0], abs=1e-6)
    assert float(SCHEDULES["warmup-cosine"](torch.tensor(0.1))) == pytest.approx(1)


def test_an_optimizer_of_torch_trains_the_very_same_runs():
    ours = run_all(Scheduled("constant"), [0.05] * 3, [3, 4, 5], num_steps=30)
    torchs = run_optimizer(lambda p: torch.optim.SGD(p, lr=0.05), [3, 4, 5], num_steps=30)
    np.testing.assert_allclose(torchs.log_losses, ours.log_losses, atol=1e-3)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_other_peoples_optimizers_train(name):
    pytest.importorskip("schedulefree")
    found = run_optimizer(OPTIMIZERS[name], [3], num_steps=150)
    assert found.log_losses[0] < math.log10(2.3)


def test_runs_that_began_before_an_update_do_not_count_for_the_next():
    agent = RepsAgent("constant", rows=8, seed=1)
    env = make(8, num_steps=3)
    observations, _ = env.reset(seed=0)
    agent.begin(env)
    agent.act(observations)
    agent.learn(np.zeros(8), np.arange(8) < 4, {"log_loss_decrease": np.ones(8)})
    before = agent.weights.clone()
    agent.act(observations)
    agent.learn(np.zeros(8), np.arange(8) < 4, {"log_loss_decrease": np.ones(8)})
    assert len(agent.updates) == 1
    assert torch.equal(agent.weights[4:], before[4:])
    agent.act(observations)
    agent.learn(np.zeros(8), np.ones(8, bool), {"log_loss_decrease": np.ones(8)})
    assert len(agent._done) == 4  # those that began after it


def test_a_controller_keeps_its_own_bounds_and_refuses_another_decay():
    controller = StepSizeController("multiply", (0.0,) * 4 + (0.7,), max_step_size=0.05)
    assert run_all(Controlled(controller), [0.01], [1], num_steps=8).step_sizes.max() == pytest.approx(0.05)
    with pytest.raises(ConfigurationError, match=r"learned with decay=0\.9; the environment has decay=0\.5"):
        run_all(Controlled(controller), [0.01], [1], num_steps=8, decay=0.5)


def test_runs_that_diverge_are_told_apart():
    found = run_all(Scheduled("constant"), [0.01, 1e5], [1, 1], num_steps=20, max_step_size=1e6, network="mlp-32-32")
    assert found.diverged.tolist() == [False, True]
    assert found.log_losses[1] == 2.0
    assert np.isnan(found.step_sizes[-1, 1])
    assert np.isnan(found.accuracies[1])


@pytest.mark.parametrize(
    "build", [lambda: RepsAgent("multiply", rows=9), lambda: Scheduled("cosine")], ids=["reps", "schedule"]
)
def test_the_agents_keep_the_contract_of_agents(build):
    check_agent(build, "GAR/StepSize-v0", **{**ABSOLUTE, "num_steps": 5})


@pytest.mark.parametrize("name", ["reps", "schedule"])
def test_controllers_by_name_run_in_our_loop(name):
    env = make(9)
    final = train(env, CONTROLLERS[name]().build(env, seed=0), seed=0)
    assert np.isfinite(final["final_loss"]).all()


# Their forms, one by one

SHOWN = {
    "predicted_change": 1.0, "predicted_change_uncertainty": 2.0, "disagreement": 3.0, "disagreement_uncertainty": 4.0,
    "direction_change": 5.0, "direction_change_uncertainty": 6.0, "coherence": -7.0, "relative_disagreement": 0.5,
    "log_step_size": -2.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "weights", "expected"),
    [
        ("constant", [0.3], 0.3),
        ("absolute", [1, 10, 100, 1000, 0.5], 1 + 20 + 300 + 4000 + 0.5),
        ("direction", [1, 10, 100, 1000, 0.5], 5 + 60 + 300 + 4000 + 0.5),
        ("multiply", [0.1, 0.1, 0.0, 0.0, 0.05], -2 + 0.35),
        ("multiply", [0, 0, 0, 1, 0], -2 + 0.7),
        ("multiply", [0, 0, 0, -1, 0], -2 - 0.7),
        ("multiply-fast", [0, 0, 0, 1, 0], -2 + 0.7),
        ("multiply-fast", [0, 0, 0, -0.5, 0], -2 - 2.0),
        ("multiply-fast", [0, 0, 0, -1, 0], -2 - 3.0),
        ("relative", [0.1, 10, 0.25], (3 - 5) / 2 - 0.7 + 5 + 0.25),
    ],
)
def test_a_form_is_its_formula(form, weights, expected):
    seen = {name: torch.tensor([value, value]) for name, value in SHOWN.items()}
    found = FORMS[form].log_step_size(torch.tensor([weights, [0.0] * len(weights)], dtype=torch.float32), seen)
    assert float(found[0]) == pytest.approx(expected, rel=1e-6)
    nothing = {"multiply": -2.0, "multiply-fast": -2.0, "relative": -1.0}.get(form, 0.0)
    assert float(found[1]) == pytest.approx(nothing)


# What the search counts


def test_runs_that_got_worse_or_diverged_score_nothing():
    agent = RepsAgent("constant", rows=50)
    env = make(4, num_steps=3)
    observations, _ = env.reset(seed=0)
    agent.begin(env)
    agent.act(observations)
    ended = {"log_loss_decrease": np.array([0.5, -2.0, np.nan, 3.0])}
    agent.learn(np.zeros(4), np.ones(4, bool), ended)
    assert [score for _, score, *_ in agent._done] == [0.5, 0.0, 0.0, 3.0]


@pytest.mark.parametrize("known", ["length", "first"])
def test_long_runs_and_lucky_starts_do_not_move_the_search(known):
    agent = RepsAgent("constant", rows=200, seed=3)
    agent.begin(make(6))
    before = float(agent.search.mean)
    weights = agent.search.sample(200)
    lucky = (weights[:, 0] > weights[:, 0].median()).tolist()  # large weights had the longer runs, or the better starts
    agent._done = [
        (w, 5.0 if lucky[i] else 1.0, math.exp(5.0 if lucky[i] and known == "length" else 1.0),
         5.0 if lucky[i] and known == "first" else 1.0)
        for i, w in enumerate(weights)
    ]  # fmt: skip
    agent._update()
    assert float(agent.search.mean) == pytest.approx(before, abs=1e-6)
    agent._done = [(w, 5.0 if lucky[i] else 1.0, 3.0, 1.0) for i, w in enumerate(weights)]
    agent._update()
    assert float(agent.search.mean) > before + 0.5


def test_a_search_leaves_a_controller_with_the_environments_own_options(tmp_path):
    env = make(9, decay=0.7, min_step_size=1e-5, max_step_size=0.5)
    agent = CONTROLLERS["reps"](form="constant").build(env, seed=0)
    agent.save(tmp_path)
    loaded = StepSizeController.load(tmp_path / "controller.json")
    assert (loaded.form, loaded.decay, loaded.min_step_size, loaded.max_step_size) == ("constant", 0.7, 1e-5, 0.5)
    assert loaded.weights == tuple(agent.search.mean.tolist())


def test_an_optimizer_with_two_sets_of_weights_is_measured_with_those_to_evaluate():
    class Averaging(torch.optim.SGD):
        """As schedule-free ones: it trains at other weights than it is measured at."""

        calls: list[str] = []

        def train(self):
            self.calls.append("train")

        @torch.no_grad()
        def eval(self):
            self.calls.append("eval")
            for group in self.param_groups:
                for p in group["params"]:
                    p.zero_()

    found = run_optimizer(lambda p: Averaging(p, lr=0.05), [3, 4], num_steps=5)
    assert Averaging.calls == ["train", "train", "eval", "eval"]
    np.testing.assert_allclose(found.log_losses, math.log10(math.log(10)), rtol=1e-5)


# Bad input of a controller by itself


def bad_values():
    good = torch.ones(3)
    return {
        "sparse": good.to_sparse(), "meta": good.to("meta"), "complex": good.to(torch.complex64),
        "whole numbers": torch.ones(3, dtype=torch.int64), "a list": [1.0, 2.0, 3.0], "a column": good[:, None],
    }  # fmt: skip


@pytest.mark.parametrize("name", list(bad_values()))
def test_losses_that_are_no_row_of_numbers_are_refused(name):
    controller, bad, good = StepSizeController("constant", (0.0,)), bad_values()[name], torch.ones(3)
    for losses, changes in ((bad, good), (good, bad), (bad, bad)):
        with pytest.raises(ConfigurationError, match="expected both"):
            controller.step_size(losses, changes)
    assert controller.step_size(good, good) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": None}, "weights=None must be 1 numbers"),
        ({"weights": "a"}, "weights='a' must be 1 numbers"),
        ({"weights": (True,)}, "must be 1 numbers"),
        ({"weights": (1e300,)}, "at most 1e+30 in size"),
        ({"weights": (10**400,)}, "at most 1e+30 in size"),
        ({"decay": "0"}, "decay='0' must be a number"),
        ({"initial_step_size": "0.1"}, "initial_step_size='0.1' must be a number"),
        ({"max_step_size": None}, "max_step_size=None must be a number"),
    ],
)
def test_a_controller_of_something_else_than_numbers_is_refused(options, message):
    with pytest.raises(ConfigurationError) as caught:
        StepSizeController(**{"form": "constant", "weights": (0.0,), **options})
    assert message in str(caught.value)


@pytest.mark.parametrize("form", list(FORMS))
def test_the_largest_weights_say_a_step_size(form):
    for sign in (-1, 1):
        weights = [sign * (-1) ** i * 1e30 for i in range(len(FORMS[form].names()))]
        controller = StepSizeController(form, tuple(weights))
        for losses in (torch.tensor([1.0, 2.0, 3.0]), torch.full((3,), math.nan), torch.zeros(3)):
            assert 1e-7 <= controller.step_size(losses, -losses) <= 10


@pytest.mark.parametrize(
    "change",
    [
        {"step_size_controller": True}, {"decay": "0.9"}, {"decay": 10**400}, {"max_step_size": True},
        {"weights": {"bias": "1"}}, {"weights": {"bias": 10**400}}, {"weights": None}, {"learned": None},
        {"form": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_controller_is_refused(tmp_path, change):
    path = StepSizeController("constant", (0.5,)).save(tmp_path / "controller.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError):
        StepSizeController.load(path)


def test_a_path_that_holds_no_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("{}")
    for path in (tmp_path, tmp_path / "file" / "inside", tmp_path / ("long" * 100)):
        with pytest.raises(CheckpointError):
            StepSizeController.load(path)


def test_a_state_of_another_controller_is_refused_and_nothing_is_lost():
    controller, other = (
        StepSizeController("multiply", (0.1,) * 5),
        StepSizeController("multiply", (0.1,) * 5, decay=0.5),
    )
    losses, changes = torch.rand(8), torch.randn(8)
    controller.step_size(losses, changes)
    before = controller.state_dict()
    good = controller.state_dict()
    damaged = {**good, "statistics": {**good["statistics"], "means": torch.zeros(1)}}
    for state in ({}, None, {**good, "last_step_size": 99.0}, {**good, "statistics": {}}, damaged, other.state_dict()):
        with pytest.raises(CheckpointError):
            controller.load_state_dict(state)
    after = controller.state_dict()
    assert before["last_step_size"] == after["last_step_size"]
    assert all(v is after["statistics"][k] or v == after["statistics"][k] for k, v in before["statistics"].items())


def test_a_tape_of_another_network_or_of_the_last_step_is_refused():
    network, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scheduler = StepSizeScheduler(network, optimizer, StepSizeController("relative", (0.0, 0.0, -2.0)))
    x = torch.randn(4, 2)
    foreign = Alignment(twin).record(x, lambda out: out.square().sum(1))
    tape = Alignment(network).record(x, lambda out: out.square().sum(1))
    with pytest.raises(ConfigurationError, match="The tape is of another network, a Linear"):
        scheduler.step(foreign)
    scheduler.step(tape)
    optimizer.step()
    with pytest.raises(StaleTapeError, match="This tape is of the last step"):
        scheduler.step(tape)


def test_directions_of_tiny_gradients_are_not_rounded_away():
    network = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(100.0)
    network.weight.grad = torch.tensor([[1e-9, -3e-8, 2e-7]])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scheduler = StepSizeScheduler(network, optimizer, StepSizeController("constant", (0.0,)))
    torch.testing.assert_close(scheduler.direction()["weight"], -network.weight.grad, rtol=0.1, atol=1e-11)


@pytest.mark.parametrize(
    "build",
    [
        lambda: RepsAgent("multiply"),
        lambda: Scheduled("cosine"),
        lambda: Controlled(StepSizeController("constant", (0.0,))),
    ],
    ids=["reps", "schedule", "controller"],
)
def test_acting_before_the_beginning_is_refused(build):
    agent = build()
    with pytest.raises(ConfigurationError, match=r"Call begin\(env\) first"):
        agent.act(np.zeros((3, 4), np.float32))
    if isinstance(agent, RepsAgent):
        with pytest.raises(ConfigurationError, match=r"Call begin\(env\) first"):
            agent.learn(np.zeros(3), np.zeros(3, bool), {})


def test_controllers_say_what_they_need_where_rows_are_no_runs():
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=8, num_steps=2)
    for name in ("reps", "schedule"):
        with pytest.raises(ConfigurationError, match="with action='absolute'; found DataSplitVectorEnv"):
            CONTROLLERS[name]().build(env, seed=0)


@pytest.mark.parametrize("epsilon", ["1", True, math.nan, 0])
def test_a_bound_that_is_no_number_is_refused(epsilon):
    with pytest.raises(ConfigurationError, match=r"epsilon=.* must be above 0"):
        learn("constant", epsilon=epsilon, updates=1, rows=8)


class Raises(torch.optim.SGD):
    """Moves, and then something goes wrong."""

    def step(self, closure=None):
        super().step()
        raise RuntimeError("lost")


def test_an_optimizer_that_raises_leaves_the_network_as_it_was():
    network = nn.Linear(2, 2)
    optimizer = Raises(network.parameters(), lr=0.1)
    scheduler = StepSizeScheduler(network, optimizer, StepSizeController("constant", (0.0,)))
    tape = Alignment(network).record(torch.randn(4, 2), lambda out: out.square().sum(1))
    before = network.weight.detach().clone()
    with pytest.raises(RuntimeError, match="lost"):
        scheduler.step(tape)
    assert torch.equal(network.weight, before)
    assert scheduler.get_last_lr() == [0.1]


def test_an_optimizer_whose_step_does_not_follow_its_rate_is_refused_at_the_first_step():
    class Bounded(torch.optim.SGD):
        """No entry moves by more than one."""

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p -= (group["lr"] * p.grad).clamp(-1, 1)

    network = nn.Linear(2, 2)
    scheduler = StepSizeScheduler(
        network, Bounded(network.parameters(), lr=0.1), StepSizeController("constant", (0.0,))
    )
    tape = Alignment(network).record(torch.randn(4, 2), lambda out: out.square().sum(1))
    with pytest.raises(ConfigurationError, match="Half the learning rate is not half the step of Bounded"):
        scheduler.step(tape)


def test_each_scheduler_has_a_controller_of_its_own():
    controller, network = StepSizeController("constant", (0.0,)), nn.Linear(2, 2)
    first = StepSizeScheduler(network, torch.optim.SGD(network.parameters(), lr=1e-4), controller)
    StepSizeScheduler(network, torch.optim.SGD(network.parameters(), lr=0.5), controller)
    assert first.controller.last_step_size == 1e-4
    assert controller.last_step_size == 0.01


def test_a_search_goes_on_from_its_own_state_alone():
    agents = {form: RepsAgent(form) for form in ("multiply", "absolute")}
    for agent in agents.values():
        agent.begin(make(12))
    few = RepsAgent("multiply")
    few.begin(make(10))
    state = agents["multiply"].state_dict()
    for other in (agents["absolute"], few):
        with pytest.raises(CheckpointError, match="is of another search: multiply, 12 rows"):
            other.load_state_dict(state)
    for wrong in ({}, None, {"form": "multiply"}):
        with pytest.raises(CheckpointError, match="is no state of a search"):
            few.load_state_dict(wrong)
    with pytest.raises(ConfigurationError, match=r"Call begin\(env\) first"):
        RepsAgent("multiply").state_dict()


def test_an_optimizers_accuracy_is_measured_on_the_same_examples_and_of_no_run_that_diverged():
    ours = run_all(Scheduled("constant"), [0.05, 0.05], [3, 4], num_steps=30, test_examples=37)
    theirs = run_optimizer(lambda p: torch.optim.SGD(p, lr=0.05), [3, 4], num_steps=30, test_examples=37)
    np.testing.assert_allclose(theirs.accuracies, ours.accuracies, atol=1e-6)
    lost = run_optimizer(lambda p: torch.optim.SGD(p, lr=1e5), [3], num_steps=20)
    assert lost.diverged.all()
    assert np.isnan(lost.accuracies).all()


def test_what_was_learned_is_recorded_as_data(tmp_path):
    controller = StepSizeController("constant", (0.0,), learned={"scores": np.array([0.5, 1.0]), "rows": np.int64(3)})
    assert StepSizeController.load(controller.save(tmp_path / "c.json")).learned == {"scores": [0.5, 1.0], "rows": 3}
    with pytest.raises(ConfigurationError, match="learned holds"):
        StepSizeController("constant", (0.0,), learned={"network": nn.Linear(1, 1)}).save(tmp_path / "d.json")
    with pytest.raises(ConfigurationError, match="reward is set by learn itself"):
        learn("constant", reward="gar")
    with pytest.raises(ConfigurationError, match="rows='9' must be a whole number"):
        RepsAgent("constant", rows="9")
    with pytest.raises(ConfigurationError, match="min_step_size=1e-60 must be at least 1e-37"):
        StepSizeController("constant", (0.0,), min_step_size=1e-60)
