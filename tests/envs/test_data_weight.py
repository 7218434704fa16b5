import copy

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import gar_env  # noqa: F401 - registers the environments
from gar_env.envs import DataWeightVectorEnv
from gar_env.envs.checks import check_vector_env
from gar_env.errors import ConfigurationError, UnknownNameError

N = 12


def make(**options):
    return DataWeightVectorEnv(N, **{"num_steps": 4, "network": "fc", **options})


def one_gradient_per_example(network, inputs, targets):
    """Obviously correct, but slow: a list of gradients, one dict per example."""
    found = []
    for x, y in zip(inputs, targets, strict=True):
        network.zero_grad()
        nn.functional.cross_entropy(network(x[None]), y[None]).backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters()})
    network.zero_grad()
    return found


def dot(a, b):
    return float(sum((a[name] * b[name]).sum() for name in a))


def mean_gradient(network, inputs, targets, weights, n):
    network.zero_grad()
    losses = nn.functional.cross_entropy(network(inputs), targets, reduction="none")
    ((losses * weights).sum() / n).backward()
    found = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    return found


ACTIONS = np.array([0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1])


def test_the_reward_is_the_weight_times_the_alignment_with_the_batch_that_is_shown_next():
    env = make(reference="uniform")
    env.reset(seed=0)
    before, batch = copy.deepcopy(env.learner.network), env._batch.examples
    rewards = env.step(ACTIONS)[1]
    after, shown = copy.deepcopy(env.learner.network), env._batch.examples
    direction = mean_gradient(after, *shown, torch.ones(N), N)
    alone = one_gradient_per_example(before, *batch)
    expected = [a * dot(g, direction) for a, g in zip(ACTIONS, alone, strict=True)]
    np.testing.assert_allclose(rewards, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("levels", [2, 3, 5])
def test_the_policy_reference_weighs_each_example_as_the_slot_that_looked_most_alike(levels):
    env = make(reference="policy", weight_levels=levels)
    observed, _ = env.reset(seed=1)
    actions = np.random.default_rng(0).integers(levels, size=N)
    before, batch = copy.deepcopy(env.learner.network), env._batch.examples
    shown, rewards = env.step(actions)[:2]
    after = copy.deepcopy(env.learner.network)
    # Progress moved on by then in the rows that the step compares; distances to all slots move alike.
    nearest = [int(np.argmin(((observed - row) ** 2)[:, 1:].sum(1))) for row in shown]
    weights = torch.tensor(actions[nearest]) / (levels - 1)
    direction = mean_gradient(after, *env._batch.examples, weights, N)
    alone = one_gradient_per_example(before, *batch)
    expected = [a / (levels - 1) * dot(g, direction) for a, g in zip(actions, alone, strict=True)]
    np.testing.assert_allclose(rewards, expected, rtol=1e-3, atol=1e-6)


def test_late_rewards_pay_the_weights_before_with_the_weighed_batch_that_follows():
    env = make(reward_timing="next_step")
    env.reset(seed=2)
    before, batch = copy.deepcopy(env.learner.network), env._batch.examples
    assert (env.step(ACTIONS)[1] == 0).all()
    middle, second, other = copy.deepcopy(env.learner.network), env._batch.examples, 1 - ACTIONS
    rewards = env.step(other)[1]
    direction = mean_gradient(middle, *second, torch.tensor(other), N)
    alone = one_gradient_per_example(before, *batch)
    expected = [a * dot(g, direction) for a, g in zip(ACTIONS, alone, strict=True)]
    np.testing.assert_allclose(rewards, expected, rtol=1e-4, atol=1e-6)


def test_a_dropped_example_does_not_train_not_even_through_batch_statistics():
    env = make(network="fc_bn", momentum=0.0, weight_decay=0.0, step_size=0.1)
    env.reset(seed=0)
    alone, batch = copy.deepcopy(env.learner.network), env._batch.examples
    env.step(ACTIONS)
    kept = torch.tensor(ACTIONS, dtype=torch.bool)
    losses = nn.functional.cross_entropy(alone(batch.inputs[kept]), batch.targets[kept], reduction="none")
    (losses.sum() / N).backward()
    for p in alone.parameters():
        p.data -= 0.1 * p.grad
    for name, value in env.learner.network.state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[name], msg=name)


@pytest.mark.parametrize("options", [{}, {"reward_timing": "next_step"}, {"reference": "uniform"}], ids=str)
@pytest.mark.parametrize("kept", [0, 1])
def test_a_batch_that_is_dropped_trains_nothing_and_pays_nothing(options, kept):
    env = make(network="fc_bn", **options)
    env.reset(seed=0)
    before = copy.deepcopy(env.learner.network.state_dict())
    actions = np.zeros(N, int)
    actions[:kept] = 1  # one example alone cannot be normalised
    for _ in range(2):
        rewards, infos = env.step(actions)[1::3]
        assert (rewards == 0).all()
        assert np.isfinite(infos["loss"]).all()
    for name, value in env.learner.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_nslr_pays_dropped_slots_like_the_others():
    env = make(reward="nslr")
    env.reset(seed=0)
    rewards = env.step(ACTIONS)[1]
    assert len(set(rewards.tolist())) == 1
    assert rewards[0] == pytest.approx(-float(env._losses.mean()), rel=1e-5)


def test_slots_see_the_example_that_their_next_action_is_about():
    env = make(network="fc")
    observations, _ = env.reset(seed=3)
    env.step(np.ones(N, int))
    observations = env.step(np.ones(N, int))[0]
    columns = dict(zip(env.observation_names, observations.T, strict=True))
    inputs, targets = env._batch.examples
    logits = env.learner.network(inputs).detach()
    losses = nn.functional.cross_entropy(logits, targets, reduction="none")
    for i in range(N):
        p = logits[i].softmax(0)
        others = [float(q) for j, q in enumerate(p) if j != targets[i]]
        assert columns["loss"][i] == pytest.approx(float(losses[i] / (1 + losses[i])), abs=1e-5)
        assert columns["margin"][i] == pytest.approx(float(p[targets[i]]) - max(others), abs=1e-5)
        assert columns["entropy"][i] == pytest.approx(float(-(p * p.log()).sum() / np.log(10)), abs=1e-5)
        assert columns["loss_rank"][i] == pytest.approx(float((losses < losses[i]).sum()) / (N - 1), abs=1e-6)
    assert (columns["progress"] == 0.5).all()


def test_a_class_has_a_running_loss_of_the_batches_that_it_was_in():
    env = make(num_steps=7)
    observations, _ = env.reset(seed=5)
    running = [np.log(10.0)] * 10
    for _ in range(6):
        losses, targets = env._losses.tolist(), env._batch.targets.tolist()
        for label in set(targets):
            mine = [loss for loss, target in zip(losses, targets, strict=True) if target == label]
            running[label] = 0.9 * running[label] + 0.1 * float(np.mean(mine))
        column = observations[:, env.observation_names.index("class_loss")]
        np.testing.assert_allclose(column, [running[t] / (1 + running[t]) for t in targets], rtol=1e-5)
        observations = env.step(np.ones(N, int))[0]


def _aside(seen, batch, options):
    if options.get("aside") and options.get("backward", True):
        seen.append(batch)


def test_the_heldout_reference_is_clean_data_that_no_action_can_reach():
    env = make(reference="heldout", heldout_share=0.2)
    env.reset(seed=0)
    seen, inner = [], env.learner.run
    env.learner.run = lambda batch, *args, **options: _aside(seen, batch, options) or inner(batch, *args, **options)
    env.step(np.ones(N, int))
    heldout = env.pool.heldout
    images, labels = env.normalise(env.pool.inputs[heldout]), env.dataset.y_train[heldout]
    for x, y in zip(*seen[0], strict=True):
        assert ((images == x).flatten(1).all(1) & (labels == y)).any()
    assert len(heldout) == 287
    assert not set(heldout.tolist()) & set(env.pool.members.tolist())


@pytest.mark.parametrize("timing", ["same_step", "next_step"])
def test_divergence_ends_the_episode_with_finite_numbers(timing):
    env = make(step_size=1e30, reward_timing=timing, num_steps=9)
    env.reset(seed=0)
    for _ in range(3):
        observations, rewards, terminations, _, infos = env.step(np.ones(N, int))
        if terminations.all():
            break
    assert infos["diverged"].all()
    assert (rewards == -1).all()
    assert np.isfinite(observations).all()
    assert env.observation_space.contains(observations)


def test_one_slot_cannot_be_normalised():
    with pytest.raises(ConfigurationError, match="needs at least 2 examples; num_envs is 1"):
        DataWeightVectorEnv(1, network="cnn_bn")


def test_a_linear_layer_that_is_not_called_has_no_features():
    class Bypassed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return nn.functional.linear(x.flatten(1), self.layer.weight)

    with pytest.raises(ConfigurationError, match="its forward calls none of them"):
        make(network=lambda shape, classes: Bypassed(), penultimate=True)


def test_a_signal_that_is_not_linear_pays_what_it_says_however_many_are_kept():
    from gar_env.alignment import align
    from gar_env.rewards import REWARDS, Need, RewardSignal, register_reward

    if "test_sign" not in REWARDS:

        @register_reward("test_sign")
        class Sign(RewardSignal):
            needs = Need.TAPE | Need.NEXT_GRADIENT

            def __call__(self, evidence):
                return align(evidence.tape, evidence.next_gradient).sign()

    env = make(reward="test_sign")
    env.reset(seed=0)
    actions = np.array([1, 1, 1] + [0] * 9)
    assert set(np.abs(env.step(actions)[1][:3])) == {1.0}


def test_penultimate_features_are_the_last_linear_layers_inputs():
    env = make(network="fc", penultimate=True)
    observations, _ = env.reset(seed=0)
    seen = []
    last = [m for m in env.learner.network.modules() if isinstance(m, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda layer, args: seen.append(args[0].detach()))
    env.learner.network(env._batch.inputs)
    names = [name for name in env.observation_names if name.startswith("penultimate")]
    assert len(names) == last.in_features
    np.testing.assert_allclose(observations[:, -len(names) :], seen[0] / (1 + seen[0].abs()), rtol=1e-4, atol=1e-6)


def test_penultimate_features_need_a_linear_layer():
    def convolution(shape, classes):
        return nn.Sequential(nn.Conv2d(shape[0], classes, shape[1]), nn.Flatten())

    with pytest.raises(ConfigurationError, match="The network has no linear layer"):
        make(network=convolution, penultimate=True)


def test_metrics_count_what_was_dropped_and_what_should_have_been():
    env = make(num_steps=6)
    env.reset(seed=0)
    dropped_bad = dropped = bad = 0
    for step in range(5):
        actions, spoiled = np.random.default_rng(step).integers(2, size=N), env.spoiled.numpy()
        dropped_bad += int((spoiled & (actions == 0)).sum())
        dropped += int((actions == 0).sum())
        bad += int(spoiled.sum())
        env.step(actions)
    assert env.metrics() == pytest.approx(
        {"kept_share": 1 - dropped / 60, "drop_precision": dropped_bad / dropped, "drop_recall": dropped_bad / bad}
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight_levels": 1}, ConfigurationError, "weight_levels=1 must be at least 2: drop and keep"),
        ({"corrupt": "symmetric_noise(0.7), easy(0.4)"}, ConfigurationError, "spoils more than all examples"),
        ({"corrupt": "0:label_noise"}, ConfigurationError, r"has the item '0:label_noise'. Write 'name\(share\)'"),
        ({"corrupt": "symmetric(0.4)"}, UnknownNameError, "Did you mean 'symmetric_noise'"),
        ({"corrupt": "easy(2)"}, ConfigurationError, r"Write 'name\(share\)' with a share above 0 and up to 1"),
        ({"reference": "next"}, ConfigurationError, "reference='next' is unknown"),
        ({"num_splits": 3}, ConfigurationError, "There is no option 'num_splits'"),
    ],
)
def test_bad_options_say_what_to_do(options, error, message):
    with pytest.raises(error, match=message):
        make(**options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reward_timing": "next_step"},
        {"reference": "heldout", "weight_levels": 3, "penultimate": True},
        {"reference": "uniform", "reward": "nslr"},
    ],
    ids=str,
)
def test_the_environment_keeps_the_contract(options):
    check_vector_env(gymnasium.make_vec("GAR/DataWeight-v0", num_envs=6, num_steps=4, **options))
