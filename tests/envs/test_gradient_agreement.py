"""GAR/GradientAgreement-v0: what is seen, done and paid, against each task by itself."""

import math

import gymnasium
import numpy as np
import pytest
import torch

from agents import Reinforce, train
from agents.controllers import CONTROLLERS
from agents.policies import KeepHighest, LinearSoftmax
from gar_env.agreement import combine, gram, task_weights
from gar_env.data.tasks import SineTasks
from gar_env.envs import GradientAgreementVectorEnv
from gar_env.envs.checks import check_vector_env
from gar_env.errors import ConfigurationError, InvalidActionError, UnsupportedLayerError
from gar_env.rewards import REWARDS

SHORT = {"num_steps": 4, "network": "tanh-8", "test_tasks": 5, "autoreset_mode": "SameStep"}
REPTILE = {"algorithm": "reptile", "shots": 50, "inner_batch": 10, "optimizer": "sgd", "step_size": 0.5}
DIGITS = {"tasks": "digits", "ways": 3, "shots": 2, "queries": 2, "rotations": True, "network": "conv4-4-strided"}


def make(num_envs=6, **options):
    return gymnasium.make_vec("GAR/GradientAgreement-v0", num_envs=num_envs, **{**SHORT, **options}).unwrapped


def flat(each):
    return torch.cat([g.flatten(1) for g in each.values()], 1)


def parameters(env):
    return torch.cat([p.detach().flatten() for p in env.learner.network.parameters()])


@pytest.mark.parametrize(
    "options",
    [
        {},
        REPTILE,
        {"algorithm": "maml"},
        DIGITS,
        {"weight_levels": 0},
        {"weight_levels": 5, "reward_timing": "next_step"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_it_keeps_the_contract(options, mode):
    check_vector_env(
        gymnasium.make_vec("GAR/GradientAgreement-v0", num_envs=4, **{**SHORT, **options, "autoreset_mode": mode})
    )


@pytest.mark.parametrize("options", [{}, REPTILE], ids=["fomaml", "reptile"])
@pytest.mark.parametrize("normalise", ["mean", "length", "l1", "none"])
def test_the_network_moves_along_the_weighed_gradients(options, normalise):
    env = make(**{**options, "optimizer": "sgd", "step_size": 0.5, "schedule": "constant", "normalise": normalise})
    env.reset(seed=3)
    before, g = parameters(env), flat(env.shown.gradients)
    actions = np.array([1, 0, 1, 1, 0, 1])
    *_, infos = env.step(actions)
    kept = torch.as_tensor(actions).bool()
    mean = g[kept].mean(0)
    length = {
        "mean": mean.norm(),
        "l1": mean.norm(),
        "length": g[kept].mean(0).norm(),
        "none": (g[kept].sum(0) / 6).norm(),
    }
    torch.testing.assert_close(
        before - parameters(env), 0.5 * mean / mean.norm() * length[normalise], rtol=1e-4, atol=1e-6
    )
    ratio = float(length[normalise] / g.mean(0).norm())
    assert infos["length_ratio"][0] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("rule", ["agreement", "agreement_others", "damped(0.1)", "pcgrad"])
@pytest.mark.parametrize("algorithm", ["fomaml", "reptile"])
def test_a_rule_reads_the_updates_or_the_gradients_as_it_says(rule, algorithm):
    own = REPTILE if algorithm == "reptile" else {}
    env = make(**{**own, "rule": rule, "normalise": "l1", "optimizer": "sgd", "step_size": 0.1, "schedule": "constant"})
    env.reset(seed=1)
    before, shown = parameters(env), env.shown
    read = shown.updates if rule.startswith("agreement") else shown.gradients
    weights = task_weights(read, rule=rule, normalise="l1")
    *_, infos = env.step(np.ones(6, int))
    expected = torch.cat([g.flatten() for g in combine(shown.gradients, weights).values()])
    torch.testing.assert_close(before - parameters(env), 0.1 * expected, rtol=1e-3, atol=1e-6)
    assert infos["negative_share"][0] == pytest.approx(float((weights < 0).double().mean()))


def test_any_weight_from_minus_one_to_one_is_an_action():
    env = make(weight_levels=0, normalise="none", optimizer="sgd", step_size=0.1, schedule="constant")
    env.reset(seed=1)
    before, g = parameters(env), flat(env.shown.gradients)
    a = np.array([[1.0], [-0.5], [0.0], [0.25], [0.0], [-1.0]], np.float32)
    _, rewards, *_ = env.step(a)
    expected = (torch.as_tensor(a) * g).sum(0) / 6
    torch.testing.assert_close(before - parameters(env), 0.1 * expected, rtol=1e-4, atol=1e-6)
    assert rewards[2] == rewards[4] == 0
    with pytest.raises(InvalidActionError, match="row 1 is nan"):
        env.step(np.array([[0.0], [math.nan], [0.0], [0.0], [0.0], [0.0]], np.float32))


def signals(env, following):
    """By name, each by its definition."""
    shown = env["shown"]
    u, g, nxt = flat(shown.updates), flat(shown.gradients), flat(following.gradients)
    n = len(u)
    return {
        "inner_gar": torch.cosine_similarity(flat(shown.first), flat(shown.fresh)),
        "agreement": u @ u.mean(0),
        "agreement_others": torch.stack([u[i] @ (u.sum(0) - u[i]) / (n - 1) for i in range(n)]),
        "next_update": g @ nxt.mean(0),
        "gar": g @ nxt.mean(0),
        "nslr": -following.after.mean().expand(n),
    }


@pytest.mark.parametrize("reward", ["inner_gar", "agreement", "agreement_others", "next_update", "gar", "nslr"])
@pytest.mark.parametrize("options", [{}, REPTILE, {"algorithm": "maml"}], ids=["fomaml", "reptile", "maml"])
@pytest.mark.parametrize("timing", ["same_step", "next_step"])
def test_tasks_are_paid_their_weight_times_their_signal_over_the_mean(reward, options, timing):
    env = make(**{**options, "reward": reward, "reward_timing": timing, "weight_levels": 3})
    env.reset(seed=2)
    due = None
    for step in range(3):
        actions = np.random.default_rng(step).integers(3, size=6)
        shown = {"shown": env.shown}
        _, rewards, *_, infos = env.step(actions)
        signal = signals(shown, env.shown)[reward]
        if reward != "nslr":
            signal = (signal - signal.mean()) * torch.as_tensor(actions) / 2
        paid, due = (signal, None) if timing == "same_step" else (due, signal)
        assert infos["reward_valid"].all() == (paid is not None)
        expected = np.zeros(6) if paid is None else paid.numpy()
        scale = max(1e-3, float(np.abs(expected).max()))
        np.testing.assert_allclose(rewards, expected, rtol=2e-3, atol=1e-4 * scale)


def test_a_held_out_meta_batch_pays_without_touching_the_others():
    traces = {}
    for reward in ("heldout_update", "random"):
        env = make(reward=reward, corrupt="shuffled_targets(0.5)")
        observations, _ = env.reset(seed=2)
        seen = [observations]
        for _ in range(3):
            observations, rewards, *_ = env.step(np.ones(6, int))
            seen.append(observations[:, :-1])  # the last is the reward itself
        traces[reward] = seen
        assert np.isfinite(rewards).all()
        assert rewards.any()
    for one, other in zip(*traces.values(), strict=True):
        np.testing.assert_array_equal(one[:, :10], other[:, :10])


def test_what_a_task_shows_is_what_it_did():
    env = make()
    observations, _ = env.reset(seed=4)
    names = env.observation_names
    for _ in range(2):
        shown, u = env.shown, flat(env.shown.updates)
        seen = {name: observations[:, i] for i, name in enumerate(names)}
        np.testing.assert_allclose(seen["loss_before"], shown.before / (1 + shown.before), rtol=1e-5)
        np.testing.assert_allclose(seen["loss_after"], shown.after / (1 + shown.after), rtol=1e-5)
        np.testing.assert_allclose(seen["fresh_ratio"], shown.before / (shown.before + shown.after), rtol=1e-5)
        ratio = u.norm(dim=1) / u.norm(dim=1).mean()
        np.testing.assert_allclose(seen["length"], ratio / (1 + ratio), rtol=1e-4)
        others = torch.stack([torch.cosine_similarity(u[i], u.sum(0) - u[i], 0) for i in range(6)])
        np.testing.assert_allclose(seen["agreement_others"], others, rtol=1e-3, atol=1e-4)
        cosine = torch.cosine_similarity(flat(shown.first), flat(shown.fresh))
        np.testing.assert_allclose(seen["inner_gar"], cosine, rtol=1e-3, atol=1e-4)
        lower = [(shown.after < loss).sum() / 5 for loss in shown.after]
        np.testing.assert_allclose(seen["loss_rank"], lower, rtol=1e-5)
        running = torch.cat([g.flatten() for g in env._mean_update.values()])
        along = torch.cosine_similarity(u, running[None]) if running.any() else torch.zeros(6)
        np.testing.assert_allclose(seen["agreement_running"], along, rtol=1e-3, atol=1e-4)
        observations, *_ = env.step(np.array([1, 1, 0, 1, 0, 1]))


def test_tasks_to_test_on_are_the_same_for_all_seeds_and_networks_are_tested_on_them():
    ends = []
    for seed in (0, 1):
        env = make(num_steps=2)
        env.reset(seed=seed)
        x = next(env.test_batches()).inputs
        for _ in range(2):
            *_, infos = env.step(np.ones(6, int))
        ends.append((x, float(infos["final_info"]["test_loss"][0])))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] != ends[1][1]
    losses, _ = env.adapter.test(next(env.test_batches()), torch.Generator(), steps=5)
    assert infos["final_info"]["test_loss"].shape == (6,)
    assert float(losses.mean()) > 0


def test_dropping_all_tasks_leaves_the_network_where_it_is():
    env = make()
    env.reset(seed=0)
    before = parameters(env)
    _, rewards, *_, infos = env.step(np.zeros(6, int))
    assert torch.equal(parameters(env), before)
    assert not rewards.any()
    assert not infos["_length_ratio"].any()


def test_updates_that_say_nothing_are_weighed_evenly_and_that_is_said():
    env = make(rule="agreement", optimizer="sgd", step_size=1e-3)
    env.reset(seed=0)
    env.shown = env.shown._replace(updates={name: torch.zeros_like(u) for name, u in env.shown.updates.items()})
    env.look()
    *_, infos = env.step(np.ones(6, int))
    assert infos["uniform_fallback"].all()
    assert infos["length_ratio"][0] == pytest.approx(1, rel=1e-4)
    *_, infos = env.step(np.ones(6, int))
    assert not infos["uniform_fallback"].any()


@pytest.mark.parametrize("target", [math.nan, 1e20])
@pytest.mark.parametrize("rule", ["uniform", "agreement", "damped(0.1)"])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"reward": "agreement"}, {"reward": "agreement_others"}, {"reward": "next_update"},
        {"reward": "heldout_update"}, {"inner_optimizer": "adam"},
    ],
    ids=str,
)  # fmt: skip
def test_one_task_that_is_not_finite_is_named_and_the_others_go_on(rule, options, target):
    env = make(rule=rule, normalise="length", **options)
    env.reset(seed=0)
    draw = env.draw

    def spoiled():
        tasks = draw()
        tasks.targets[2] = tasks.query_targets[2] = target
        return tasks

    env.draw = spoiled
    env.step(np.ones(6, int))
    before = parameters(env)
    _, rewards, terminations, _, infos = env.step(np.ones(6, int))
    assert infos["update_finite"].tolist() == [True, True, False, True, True, True]
    assert rewards[2] == 0
    assert rewards[[0, 1, 3, 4, 5]].all()
    assert np.isfinite(rewards).all()
    assert not terminations.any()
    assert not torch.equal(parameters(env), before)
    assert parameters(env).isfinite().all()


def test_a_run_without_any_finite_update_has_diverged():
    env = make(divergence_reward=-3.0)
    env.reset(seed=0)
    draw = env.draw

    def spoiled():
        tasks = draw()
        tasks.targets[:] = math.nan
        return tasks

    env.draw = spoiled
    env.step(np.ones(6, int))
    _, rewards, terminations, _, infos = env.step(np.ones(6, int))
    assert terminations.all()
    assert infos["final_info"]["diverged"].all()
    assert rewards.tolist() == [-3.0] * 6


def test_what_is_only_looked_at_does_not_move_what_adam_remembers():
    traces = []
    for reward in ("random", "heldout_update"):
        env = make(reward=reward, inner_optimizer="adam")
        env.reset(seed=2)
        for _ in range(2):
            env.step(np.ones(6, int))
        count = env.adapter.inner_count
        env.evaluate()
        assert env.adapter.inner_count == count == 15
        traces.append(parameters(env))
    assert torch.equal(*traces)


def test_weights_of_any_sign_make_steps_of_a_bounded_length():
    env = make(20, weight_levels=0, num_steps=60)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(59):
        g = flat(env.shown.gradients)
        longest = float(g.norm(dim=1).max() / g.mean(0).norm())
        assert float(env.step(env.action_space.sample())[-1]["length_ratio"][0]) <= longest * 1.001


def test_weight_on_corrupted_tasks_is_that_of_the_rule():
    env = make(
        20, corrupt="shuffled_targets(0.4)", rule="agreement", normalise="l1", algorithm="reptile", reward="random"
    )
    env.reset(seed=0)
    weights = task_weights(env.shown.updates).abs()
    expected = float(weights[env.spoiled].sum() / weights.sum())
    env.step(np.ones(20, int))
    assert env.metrics()["weight_on_corrupted"] == pytest.approx(expected, rel=1e-4)


def test_the_schedule_goes_on_where_all_tasks_are_dropped():
    env = make()
    env.reset(seed=0)
    env.step(np.zeros(6, int))
    env.step(np.ones(6, int))
    assert env.learner.steps == 2
    assert env.learner.optimizer.param_groups[0]["lr"] == pytest.approx(3e-3 * 3 / 4)


def test_what_is_corrupted_is_told_to_those_who_may_know():
    env = make(20, corrupt="shuffled_targets(0.4)")
    env.reset(seed=0)
    env.step(env.spoiled.logical_not().long().numpy())
    assert env.metrics()["weight_on_corrupted"] == 0
    env.step(np.ones(20, int))
    share = env.metrics()
    assert 0 < share["weight_on_corrupted"] < share["corrupted_share"] + 1e-6
    assert not next(env.test_batches()).corrupted.any()


@pytest.mark.parametrize(
    "name", ["keep-all", "random-drop", "small-loss", "keep-highest", "oracle", "reinforce-linear", "reinforce"]
)
def test_controllers_by_name_weigh_tasks(name):
    env = gymnasium.make_vec("GAR/GradientAgreement-v0", num_envs=6, **SHORT, corrupt="shuffled_targets(0.3)")
    final = train(env, CONTROLLERS[name]().build(env, seed=0), seed=0)
    assert np.isfinite(final["test_loss"]).all()


def test_keeping_the_highest_keeps_as_many_as_are_left():
    env = make(10)
    observations, _ = env.reset(seed=0)
    agent = KeepHighest("inner_gar", 0.3)
    agent.begin(env)
    actions = agent.act(observations)
    values = observations[:, env.observation_names.index("inner_gar")]
    assert int(actions.sum()) == 7
    assert values[actions.bool().numpy()].min() > values[~actions.bool().numpy()].max()
    with pytest.raises(ConfigurationError, match="There is no feature 'inner'"):
        KeepHighest("inner", 0.3).begin(env)
    with pytest.raises(ConfigurationError, match="an action here is Box"):
        KeepHighest("inner_gar", 0.3).begin(make(weight_levels=0))


def test_a_policy_that_looks_learns_to_drop_corrupted_tasks():
    env = make(20, num_steps=250, corrupt="shuffled_targets(0.3)", network="tanh-64-64")
    agent = Reinforce(LinearSoftmax(2, [1.0] * 11), normalise="none", step_size=0.2, seed=0)
    agent.begin(env)
    observations, _ = env.reset(seed=0)
    dropped = []
    for step in range(249):
        spoiled, actions = env.spoiled.clone(), agent.act(observations)
        if step >= 180:
            dropped.append(
                (float((actions[spoiled] == 0).double().mean()), float((actions[~spoiled] == 0).double().mean()))
            )
        observations, rewards, terminations, _, infos = env.step(actions)
        agent.learn(rewards, terminations, infos)
    of_corrupted, of_clean = np.nanmean(dropped, 0)
    assert of_corrupted > of_clean + 0.3


def test_one_agent_can_weigh_the_whole_meta_batch():
    for levels in (2, 0):
        env = gymnasium.make(
            "GAR/GradientAgreement-v0", batch_size=5, num_steps=3, network="tanh-4", weight_levels=levels
        )
        observation, _ = env.reset(seed=0)
        assert observation.shape == (55,)
        for _ in range(3):
            _, reward, terminated, _, info = env.step(env.action_space.sample())
            assert math.isfinite(reward)
        assert terminated
        assert info["rewards"].shape == (5,)
        assert math.isfinite(info["test_loss"])


def test_a_state_goes_on_bit_for_bit():
    options = {**REPTILE, "inner_optimizer": "adam", "num_steps": 12, "corrupt": "noise(0.2)", "rule": "agreement"}
    env, other = make(**options), make(**options)
    env.reset(seed=0)
    for _ in range(4):
        env.step(np.ones(6, int))
    other.load_state_dict(env.state_dict())
    for _ in range(6):
        for ours, theirs in zip(env.step(np.ones(6, int))[:2], other.step(np.ones(6, int))[:2], strict=True):
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_is_a_run(seed):
    found = []
    for _ in range(2):
        env = make(corrupt="shuffled_targets(0.3)")
        observations, _ = env.reset(seed=seed)
        found.append(np.concatenate([observations, *(env.step(np.ones(6, int))[0] for _ in range(3))]))
    assert np.array_equal(*found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 1, "rule": "agreement"}, "compares tasks with each other, and num_envs is 1"),
        ({"tasks": "digits", "ways": 9}, "fewer than ways=9"),
        ({"tasks": "sin"}, "Did you mean 'sine'"),
        ({"network": "fc_bn"}, "keeps running statistics"),
        ({"network": "conv4-8"}, "conv4 takes images"),
        ({"tasks": "digits", "network": "conv4-8", "ways": 2}, "halves images four times, and they are 8x8"),
        ({**REPTILE, "inner_steps": 1}, "inner_steps is 1. Use 2 or more"),
        ({**REPTILE, "inner_batch": None}, "has 50 to adapt to. Pass inner_batch"),
        ({"weight_levels": 0, "normalise": "mean"}, "near 0 where some are negative"),
        ({"precision": "bfloat16"}, "tasks are adapted to in float32"),
        ({"way": "forward"}, "Leave way out"),
        ({"rotations": True}, "rotations=True is of images, and tasks='sine' has none"),
        ({"tasks": SineTasks(5), "test_shots": 3}, "tasks is a TaskSource. Leave test_shots out"),
        ({**REPTILE, "shots": 20}, "5 inner steps on 10 fresh examples are 50, and a task has 20"),
        ({"inner_batch": 20}, "inner steps on 20 fresh examples are 20, and a task has 10"),
        ({"rule": "agreemnt"}, "Did you mean 'agreement'"),
        ({"normalise": "sum"}, "normalise='sum' is unknown"),
        ({"baseline": 1.5}, "baseline=1.5 must be in [0, 1]"),
        ({"weight_levels": 1}, "weight_levels=1 must be at least 2"),
        ({"corrupt": "label_noise(0.2)"}, "No corruption of tasks is called 'label_noise'"),
        ({"test_tasks": 0}, "test_tasks=0 must be at least 1"),
        ({"test_steps": 0}, "test_steps=0 must be at least 1"),
        ({"shots": 0}, "shots=0 must be at least 1"),
        ({"algorithm": "maml", "inner_optimizer": "adam"}, "have no derivative"),
        ({"reward": "log_loss_decrease"}, "needs Need.RUN"),
        ({"reward": "leave_one_out"}, "needs"),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused_when_it_is_made(options, message):
    with pytest.raises((ConfigurationError, UnsupportedLayerError, ValueError)) as caught:
        make(**options)
    assert message in str(caught.value)


def test_rewards_of_tasks_are_refused_where_rows_are_no_tasks():
    with pytest.raises(ConfigurationError, match=r"'inner_gar' needs Need.TASKS, which DataSplitVectorEnv"):
        gymnasium.make_vec("GAR/DataSplit-v0", num_envs=4, reward="inner_gar")
    assert {"inner_gar", "agreement", "agreement_others", "next_update", "heldout_update"} <= set(REWARDS)


def test_gradients_are_those_of_the_networks_present_parameters():
    env = make()
    env.reset(seed=0)
    env.step(np.ones(6, int))
    again = env.adapter.adapt(env.tasks, torch.Generator())
    torch.testing.assert_close(gram(again.gradients), gram(env.shown.gradients))
    assert isinstance(env, GradientAgreementVectorEnv)
