"""Policies over augmentations: chances, log-probabilities, learning, and the published baselines."""

import itertools
import re
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import gar_env  # noqa: F401 - registers the environments
from agents import FixedAugmentation, FixedPolicy, OnlineAugmentation, Reinforce, train
from agents.cli import main
from agents.controllers import CONTROLLERS
from agents.controllers.augmentation import KEPT, OnlineLearner
from gar_env.augment import SPACES, ActionLayout, Choices
from gar_env.errors import ConfigurationError
from trainings import metrics

SMALL = SPACES["wl"].subset(["rotate", "color", "blur"])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def skewed(places=2):
    policy = OnlineAugmentation(SMALL, places)
    with torch.no_grad():
        policy.logits.copy_(torch.randn(len(policy.logits), generator=generator()))
    return policy


def test_log_probabilities_are_those_of_what_was_applied():
    policy = skewed()
    now = policy.distribution()
    actions = policy.sample(500, generator())
    chosen = policy.layout.read(actions)
    expected = []
    for r, operations, keeps, strengths in zip(*(part.tolist() for part in chosen), strict=True):
        chance = now.num_operations[r - 1]
        for op, keep, strength in list(zip(operations, keeps, strengths, strict=True))[:r]:
            chance = chance * (now.keep[op] * now.strengths[op, strength] if keep else 1 - now.keep[op])
        expected.append(chance.log())
    torch.testing.assert_close(policy.log_probability(actions, policy.logits.detach()), torch.stack(expected))


def test_chances_of_all_outcomes_add_up_to_one():
    policy = skewed()
    kept = [(keep, k) for keep in (0, 1) for k in range(31 if keep else 1)]  # dropped ones have no strength
    outcomes = [(1, (a, 0), (keep, 0), (k, 0)) for a in range(3) for keep, k in kept]
    outcomes += [
        (2, pair, (keep, other_keep), (k, other_k))
        for pair in itertools.permutations(range(3), 2)
        for (keep, k), (other_keep, other_k) in itertools.product(kept, repeat=2)
    ]
    r, operations, keeps, strengths = (torch.tensor(column) for column in zip(*outcomes, strict=True))
    actions = policy.layout.write(Choices(r, operations, keeps.bool(), strengths))
    draws = torch.where(r == 1, 1 / 3, 1 / 6)  # of the operations, uniformly without replacement
    total = (policy.log_probability(actions, policy.logits.detach()).exp() * draws).sum()
    assert float(total) == pytest.approx(1, abs=1e-5)


def test_samples_have_the_chances_of_the_distribution():
    policy = skewed()
    now = policy.distribution()
    chosen = policy.layout.read(policy.sample(40_000, generator()))
    assert not chosen.repeated.any()
    shares = torch.bincount(chosen.num_operations - 1, minlength=2) / 40_000
    torch.testing.assert_close(shares, now.num_operations, atol=0.01, rtol=0)
    for op in range(3):
        here = chosen.operations == op
        assert float(here[:, 0].float().mean()) == pytest.approx(1 / 3, abs=0.01)
        assert float(chosen.keep[here].float().mean()) == pytest.approx(float(now.keep[op]), abs=0.01)
        shares = torch.bincount(chosen.strengths[here], minlength=31) / here.sum()
        torch.testing.assert_close(shares, now.strengths[op], atol=0.01, rtol=0)
    applied = torch.bincount(chosen.operations[chosen.applied], minlength=3) / 40_000
    torch.testing.assert_close(applied, policy.probabilities(), atol=0.01, rtol=0)


def test_a_saved_distribution_can_be_taken_up_again():
    policy, other = skewed(), OnlineAugmentation(SMALL, 2)
    other.set_distribution(*policy.distribution())
    for before, after in zip(policy.distribution(), other.distribution(), strict=True):
        torch.testing.assert_close(before, after)


def test_sampling_never_waits_for_the_device(monkeypatch):
    rand = torch.rand
    monkeypatch.setattr(torch, "rand", lambda *shape, generator=None, **options: rand(*shape, **options))
    with FakeTensorMode():  # whatever needs a value raises
        policy = OnlineAugmentation(SPACES["wl"], device="cuda")
        actions = policy.sample(16, SimpleNamespace(device=torch.device("cuda")))
        assert actions.shape == (16, 13)
        assert policy.log_probability(actions, policy.logits).shape == (16,)


def bandit(agent, layout, pay, steps=150, n=128):
    """Pay ``pay(choices)`` at once."""
    space = gymnasium.spaces.MultiDiscrete(np.array(layout.nvec))
    agent.begin(SimpleNamespace(num_envs=n, unwrapped=SimpleNamespace(layout=layout), single_action_space=space))
    for _ in range(steps):
        agent.learn(pay(layout.read(agent.act(None))), False, {})


def test_reinforce_learns_keep_strength_and_number_of_operations():
    policy = OnlineAugmentation(SMALL, 3)

    def pay(choices):
        rotated = (choices.applied & (choices.operations == 0)).any(1).float()
        strong = (choices.applied & (choices.operations == 1) & (choices.strengths >= 20)).any(1).float()
        return strong - rotated - 0.3 * choices.num_operations

    bandit(Reinforce(policy, gradient_clip=5.0), policy.layout, pay)
    now = policy.distribution()
    assert now.keep[0] < 0.05
    assert now.keep[1] > 0.9
    assert now.strengths[1, 20:].sum() > 0.9
    assert now.num_operations.argmax() < 2


def test_the_policy_gradient_is_clipped_by_value():
    policies = [OnlineAugmentation(SMALL, 2) for _ in range(2)]
    for policy, clip in zip(policies, (None, 1e-12), strict=True):
        bandit(Reinforce(policy, gradient_clip=clip, step_size=0.1), policy.layout, lambda c: c.keep[:, 0].float(), 1)
    assert policies[0].logits.abs().max() > 0.09  # Adam's first step is the step size
    assert policies[1].logits.abs().max() < 0.02  # unless the gradient is as small as Adam's epsilon
    with pytest.raises(ConfigurationError, match="gradient_clip=0 must be above 0"):
        Reinforce(policies[0], gradient_clip=0)


@pytest.mark.parametrize(
    ("agent", "numbers", "keep", "strengths"),
    [
        (FixedAugmentation.none(), {1}, 0.0, None),
        (FixedAugmentation.uniform_augment(), {2}, 0.5, None),
        (FixedAugmentation.rand_augment(3, 5), {3}, 1.0, {5}),
        (FixedAugmentation.trivial_augment(), {1}, 1.0, None),
        (FixedAugmentation.random(), {1, 2, 3, 4}, 0.5, None),
    ],
    ids=["none", "uniform-augment", "rand-augment", "trivial-augment", "random"],
)
def test_baselines_are_what_their_papers_say(agent, numbers, keep, strengths):
    layout = ActionLayout(SPACES["wl"], 4)
    agent.begin(SimpleNamespace(num_envs=4000, unwrapped=SimpleNamespace(layout=layout)))
    chosen = layout.read(agent.act(None))
    assert set(chosen.num_operations.tolist()) == numbers
    assert float(chosen.keep.float().mean()) == pytest.approx(keep, abs=0.02)
    assert set(chosen.strengths.flatten().tolist()) == (strengths or set(range(31)))
    assert not chosen.repeated.any()
    assert torch.bincount(chosen.operations[:, 0], minlength=19).min() > 150  # of 210 expected


NAMES = ("ola", "no-augmentation", "uniform-augment", "rand-augment", "trivial-augment", "random-augment")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_every_controller_trains_a_network_by_name(name, output):
    env = gymnasium.make_vec("GAR/Augment-v0", num_envs=16, num_steps=3, network="fc", output=output)
    final = train(env, CONTROLLERS[name]().build(env, 0), seed=0)
    assert 0 <= final["test_accuracy"][0] <= 1


@pytest.mark.parametrize("name", NAMES)
def test_controllers_of_augmentations_refuse_other_actions_and_the_other_way_round(name):
    env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=16, num_steps=3)
    with pytest.raises(ConfigurationError, match="DataSplitVectorEnv has other actions than augmentations"):
        CONTROLLERS[name]().build(env, 0)


def test_controllers_of_splits_refuse_augmentations():
    env = gymnasium.make_vec("GAR/Augment-v0", num_envs=16, num_steps=3, network="fc")
    for name in ("reinforce", "uniform"):
        with pytest.raises(ConfigurationError, match=re.escape(f"{name} chooses among k actions (Discrete)")):
            CONTROLLERS[name]().build(env, 0)
    with pytest.raises(ConfigurationError, match="Build the policy for this environment"):
        train(env, Reinforce(OnlineAugmentation(SPACES["ra"])), seed=0)
    env = gymnasium.make_vec("GAR/Augment-v0", num_envs=16, num_steps=3, network="fc", space="ra-translate")
    with pytest.raises(
        ConfigurationError, match="operations of 'ra', the environment's actions over up to 4 of 'ra-tr"
    ):
        train(env, Reinforce(OnlineAugmentation(SPACES["ra"])), seed=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OnlineAugmentation(SMALL, 4), "places=4 must be in 1..3"),
        (lambda: FixedAugmentation(num_operations=1.5), "num_operations=1.5 must be a whole number"),
        (lambda: FixedAugmentation.rand_augment(2, 31), "strength=31 must be a whole number in 0..30"),
        (lambda: FixedAugmentation(keep_probability=-0.1), "keep_probability=-0.1 must be in [0, 1]"),
        (
            lambda: FixedAugmentation.rand_augment(3).begin(
                SimpleNamespace(num_envs=4, unwrapped=SimpleNamespace(layout=ActionLayout(SMALL, 2)))
            ),
            "num_operations=3, but the environment applies 2 at most. Raise its max_operations",
        ),
        (lambda: FixedPolicy([0.5, 0.6]), "sum 1.1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        call()


def test_history_is_thinned_and_saved(tmp_path):
    policy = OnlineAugmentation(SMALL, 2)
    agent = OnlineLearner(policy)
    bandit(agent, policy.layout, lambda choices: choices.keep[:, 0].float(), steps=KEPT + 40, n=4)
    agent.save(tmp_path)
    with np.load(tmp_path / "policy.npz") as history:
        steps = history["steps"]
        assert steps[0] == 0
        assert steps[-1] == KEPT + 40
        assert set(np.diff(steps[:-1])) == {2}
        assert history["strengths"].shape == (len(steps), 3, 31)
        assert history["names"].tolist() == list(SMALL.names)
        np.testing.assert_allclose(history["keep"][0], 0.5)


OPTIONS = [
    "--env", "GAR/Augment-v0", "--agent", "ola", "--num-envs", "16", "--no-tensorboard", "--log-every", "3",
    "--env-options.network", "fc", "--env-options.num-steps", "12",
]  # fmt: skip


def test_a_run_of_ola_resumes_with_the_same_numbers_and_is_plotted(tmp_path, monkeypatch, capsys):
    from trainings import Killed, kill_at

    space = tmp_path / "space.json"
    space.write_text(SPACES["wl"].subset(["rotate", "color", "flip_lr", "cutout"]).to_json())
    options = [*OPTIONS, "--env-options.space", str(space)]
    main(["train", *options, "--out", str(tmp_path / "whole")])
    with monkeypatch.context() as patch:
        kill_at(7, patch)
        with pytest.raises(Killed):
            main(["train", *options, "--checkpoint-every", "5", "--out", str(tmp_path / "cut")])
    main(["train", "--resume", str(tmp_path / "cut")])
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    with np.load(tmp_path / "whole" / "policy.npz") as one, np.load(tmp_path / "cut" / "policy.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one)
    space.write_text(SPACES["ra"].subset(["color"]).to_json())  # what the file holds now does not matter
    main(["plot", str(tmp_path / "cut")])
    for name in ("policy", "policy_strengths", "policy_samples"):
        assert (tmp_path / "cut" / f"{name}.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        main(["plot", str(tmp_path)])
    assert "is no finished run of the controller ola" in capsys.readouterr().err


def test_ppo_takes_the_environment_as_it_is(tmp_path):
    pytest.importorskip("stable_baselines3")
    options = [*OPTIONS]
    options[options.index("ola")] = "sb3-ppo"
    main(["train", *options, "--out", str(tmp_path / "ppo")])
    assert (tmp_path / "ppo" / "controller.gar").exists()
