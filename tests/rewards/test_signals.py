"""Every signal against what it is defined to be, in every environment."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gar_env.envs import DataSplitVectorEnv
from gar_env.errors import ConfigurationError, RewardError, UnsupportedLayerError
from gar_env.rewards import REWARDS, Evidence, Need, RewardSignal
from rollouts import make

ENVS = ["GAR/DataSplit-v0", "GAR/DataWeight-v0", "GAR/Augment-v0"]
SMALL = {"num_steps": 3, "num_envs": 8, "network": "fc", "momentum": 0.9, "weight_decay": 0.0, "step_size": 0.1}


def smooth(image_shape, num_classes):
    """A network without rectifiers, whose losses are curved but nowhere broken."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(image_shape)), 12), nn.Tanh(), nn.Linear(12, num_classes))


def rewards_of(signal, env_id="GAR/DataSplit-v0", steps=3, **options):
    """Rewards of the last of some steps with actions that depend on the seed alone, and the environment."""
    env = make(env_id=env_id, **{**SMALL, "heldout_share": 0.1, **options, "reward": signal})
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(steps):
        rewards = env.step(env.action_space.sample())[1]
    return rewards, env


OF_OTHER_ROWS = Need.RUN | Need.TASKS


@pytest.mark.parametrize("env_id", ENVS)
@pytest.mark.parametrize("timing", ["same_step", "next_step"])
@pytest.mark.parametrize("signal", sorted(name for name in REWARDS if not REWARDS[name].needs & OF_OTHER_ROWS))
def test_every_signal_pays_finite_rewards_without_changing_the_training_run(env_id, timing, signal):
    network = "fc" if env_id == "GAR/Augment-v0" else "fc_bn"
    paid, env = rewards_of(signal, env_id, network=network, reward_timing=timing)
    _, plain = rewards_of("nslr", env_id, network=network, reward_timing=timing)
    assert np.isfinite(paid).all()
    assert paid.any()
    # validation_gar draws held-out batches in between, from the same generator.
    if Need.HELDOUT_GRADIENT not in REWARDS[signal].needs:
        for name, value in plain.unwrapped.learner.network.state_dict().items():
            np.testing.assert_allclose(env.unwrapped.learner.network.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("env_id", ENVS)
@pytest.mark.parametrize("timing", ["same_step", "next_step"])
def test_without_batch_normalisation_the_meta_gradient_is_gar_times_the_step(env_id, timing):
    exact, env = rewards_of("meta_gradient", env_id, reward_timing=timing, network=smooth)
    gar, _ = rewards_of("gar", env_id, reward_timing=timing, network=smooth)
    factor = 0.1 * (1 + 0.9) / env.unwrapped.num_envs
    np.testing.assert_allclose(exact, factor * gar, rtol=1e-3, atol=1e-6 * np.abs(gar).max())


def test_with_batch_normalisation_it_is_gar_in_the_derivative_reading():
    exact, _ = rewards_of("meta_gradient", network="fc_bn")
    gar, _ = rewards_of("gar", network="fc_bn", batch_norm="derivative")
    np.testing.assert_allclose(exact, 0.1 * 1.9 / 8 * gar, rtol=1e-3, atol=1e-5 * np.abs(exact).max())
    share, _ = rewards_of("gar", network="fc_bn")
    assert not np.allclose(exact, 0.1 * 1.9 / 8 * share, rtol=1e-2)


@pytest.mark.parametrize("env_id", ENVS)
def test_leaving_an_example_out_costs_what_its_gradient_says(env_id):
    options = {"step_size": 0.001, "momentum": 0.0, "network": smooth}
    exact, _ = rewards_of("leave_one_out", env_id, **options)
    linear, _ = rewards_of("meta_gradient", env_id, **options)
    # float32 knows the difference of two losses to about 1e-7.
    np.testing.assert_allclose(exact, linear, atol=0.02 * np.abs(linear).max() + 5e-7)


def test_leave_one_out_is_a_second_training_run_without_the_example():
    """Two environments of which one drops example 3: the difference of their reference losses."""
    options = {"env_id": "GAR/DataWeight-v0", **SMALL, "num_envs": 6, "reference": "uniform", "reward": "leave_one_out"}
    whole, without = make(**options), make(**options)
    for env in (whole, without):
        env.reset(seed=0)
    actions = np.ones(6, int)
    paid = whole.step(actions)[1]
    actions[3] = 0
    without.step(actions)
    losses = [float(env.unwrapped._losses.mean()) for env in (whole, without)]
    assert paid[3] == pytest.approx(losses[1] - losses[0], abs=1e-6)


def test_last_layer_gar_is_gar_with_the_other_gradients_set_to_zero():
    class OnlyLast(RewardSignal):
        needs = Need.TAPE | Need.NEXT_GRADIENT

        def __call__(self, evidence):
            from gar_env.alignment import align

            last = list(evidence.next_gradient)[-2:]
            kept = {name: g * (name in last) for name, g in evidence.next_gradient.items()}
            return align(evidence.tape, kept)

    for network in ("fc", "fc_bn"):
        for env_id in ENVS[:2]:
            expected, _ = rewards_of(OnlyLast(), env_id, network=network)
            found, _ = rewards_of("last_layer_gar", env_id, network=network)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_cosine_gar_is_the_cosine_of_single_gradients():
    class OneByOne(RewardSignal):
        needs = Need.PARAMETERS | Need.PASS | Need.NEXT_GRADIENT

        def __call__(self, evidence):
            repeat, g = evidence.repeat, evidence.next_gradient
            leaves = {name: p.clone().requires_grad_() for name, p in repeat.before.items()}
            cosines = []
            for own in repeat.losses(leaves):
                found = torch.autograd.grad(own, list(leaves.values()), retain_graph=True)
                flat = torch.cat([x.flatten() for x in found])
                cosines.append(F.cosine_similarity(flat, torch.cat([g[n].flatten() for n in leaves]), dim=0))
            return torch.stack(cosines)

    expected, _ = rewards_of(OneByOne())
    found, _ = rewards_of("cosine_gar")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert np.abs(found).max() < 1


def test_losses_and_their_decrease():
    losses, env = rewards_of("loss")
    np.testing.assert_allclose(rewards_of("negative_loss")[0], -losses)
    assert losses.mean() == pytest.approx(env.unwrapped.last_step()["loss"], rel=1e-5)
    one = make(**{**SMALL, "num_envs": 4, "reward": "loss_decrease", "heldout_share": 0.1})
    one.reset(seed=0)
    same = np.array([1, 1, 2, 2])
    assert one.step(same)[1].mean() > 0, "a small step along a batch's gradient takes something off its loss"


def test_the_finite_difference_of_dds_is_the_alignment_with_held_out_data():
    for network in ("fc", smooth):
        exact, _ = rewards_of("validation_gar", network=network)
        rough, _ = rewards_of("dds_finite_difference", network=network)
        np.testing.assert_allclose(rough, exact, atol=0.02 * np.abs(exact).max())
    share, _ = rewards_of("validation_gar", network="fc_bn", batch_norm="derivative")
    rough, _ = rewards_of("dds_finite_difference", network="fc_bn")
    np.testing.assert_allclose(rough, share, atol=0.02 * np.abs(share).max())


def test_same_batch_gar_adds_up_to_the_squared_length_of_the_gradient():
    class Squared(RewardSignal):
        needs = Need.TAPE

        def __call__(self, evidence):
            length = sum(g.square().sum() for g in evidence.tape.batch_gradient.values())
            return (evidence.n * length).expand(evidence.n).clone()

    paid, _ = rewards_of("same_batch_gar")
    assert paid.sum() == pytest.approx(rewards_of(Squared())[0][0], rel=1e-4)


def test_random_rewards_are_a_matter_of_the_seed_alone():
    a, b = rewards_of("random")[0], rewards_of("random")[0]
    np.testing.assert_array_equal(a, b)
    assert len(set(a.tolist())) == len(a)


def test_dropped_examples_are_not_paid():
    for signal in ("loss", "leave_one_out", "meta_gradient", "last_layer_gar", "cosine_gar", "loss_decrease"):
        env = make(env_id="GAR/DataWeight-v0", **{**SMALL, "num_envs": 6}, reward=signal)
        env.reset(seed=0)
        rewards = env.step(np.array([0, 1, 1, 0, 1, 1]))[1]
        assert (rewards[[0, 3]] == 0).all()
        assert rewards[[1, 2, 4, 5]].all()
        assert not env.step(np.zeros(6, int))[1].any(), "nothing was trained on"


def test_weights_scale_what_an_example_is_paid():
    options = {"env_id": "GAR/DataWeight-v0", **SMALL, "num_envs": 6, "weight_levels": 5, "network": smooth}
    gar, exact, last = (run_weighted(signal, options) for signal in ("gar", "meta_gradient", "last_layer_gar"))
    np.testing.assert_allclose(exact, 0.1 * 1.9 / 6 * gar, rtol=1e-3, atol=1e-7)
    assert (last != 0).sum() == (gar != 0).sum() == 5


def run_weighted(signal, options):
    env = make(**options, reward=signal)
    env.reset(seed=0)
    return env.step(np.array([0, 1, 2, 3, 4, 4]))[1]


def test_a_network_that_does_not_end_with_its_last_linear_layer_is_refused():
    def odd(image_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes), nn.BatchNorm1d(num_classes))

    with pytest.raises(
        RewardError, match=re.escape("but the network's losses are not the cross entropy of its output")
    ):
        rewards_of("last_layer_gar", network=odd)

    def none(image_shape, num_classes):
        return nn.Sequential(nn.Conv2d(1, num_classes, 8), nn.Flatten())

    with pytest.raises(ConfigurationError, match="The network has no linear layer"):
        rewards_of("last_layer_gar", network=none)


def test_a_frozen_last_layer_is_refused():
    def frozen(image_shape, num_classes):
        network = smooth(image_shape, num_classes)
        network[-1].requires_grad_(False)
        return network

    with pytest.raises(RewardError, match="last_layer_gar reads '3', which is frozen"):
        rewards_of("last_layer_gar", network=frozen)


def test_lengths_that_are_not_known_are_refused():
    with pytest.raises(UnsupportedLayerError, match=re.escape("Use way='hooks' with batch_norm='share'")):
        rewards_of("cosine_gar", way="forward")


def test_a_signal_may_be_an_object_and_says_its_name_when_it_is_wrong():
    class Short(RewardSignal):
        needs = Need.NEXT_LOSS
        name = "short one"

        def __call__(self, evidence: Evidence):
            return torch.zeros(evidence.n - 1)

    with pytest.raises(RewardError, match=re.escape("Reward signal 'short one' returned torch.float32 [7]")):
        rewards_of(Short())
    with pytest.raises(ConfigurationError, match="reward=3 must be str or RewardSignal"):
        DataSplitVectorEnv(8, reward=3)


def test_signals_of_wrong_devices_and_nan_are_named():
    class Elsewhere(RewardSignal):
        needs = Need.NEXT_LOSS

        def __call__(self, evidence: Evidence):
            return torch.zeros(evidence.n, device="meta")

    class NotANumber(RewardSignal):
        needs = Need.NEXT_LOSS

        def __call__(self, evidence: Evidence):
            return torch.full((evidence.n,), torch.nan)

    with pytest.raises(RewardError, match="Reward signal 'Elsewhere' returned a tensor on meta; expected cpu"):
        rewards_of(Elsewhere())
    with pytest.raises(RewardError, match="Reward signal 'NotANumber' returned NaN or infinity for 8 of 8 rows"):
        rewards_of(NotANumber())


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("alignment", "Need.ALIGNMENT"),
        ("tape", "Need.TAPE"),
        ("next_gradient", "Need.NEXT_GRADIENT"),
        ("heldout_gradient", "Need.HELDOUT_GRADIENT"),
        ("paid", "Need.PASS or Need.LAST_LAYER"),
        ("repeat", "Need.PARAMETERS or Need.STEP"),
    ],
)
def test_reading_what_was_not_asked_for_names_the_need_to_add(attribute, words):
    class Half(RewardSignal):
        needs = Need.NEXT_LOSS
        name = "half_gar"

        def __call__(self, evidence):
            return 0.5 * getattr(evidence, attribute)

    env = DataSplitVectorEnv(4, reward=Half(), network="fc")
    env.reset(seed=0)
    with pytest.raises(RewardError, match=f"half_gar reads evidence.{attribute}; add {words} to its needs"):
        env.step(np.array([0, 1, 2, 3]))


def test_a_signal_that_needs_what_an_environment_cannot_give_is_refused_when_it_is_made():
    class NoTapes(DataSplitVectorEnv):
        provides = Need.NEXT_LOSS | Need.NEXT_GRADIENT

    with pytest.raises(ConfigurationError, match=r"reward='gar' needs Need.ALIGNMENT, which NoTapes cannot give"):
        NoTapes(4)
    with pytest.raises(ConfigurationError, match=r"Signals that fit: .*negative_loss|nslr"):
        NoTapes(4, reward="validation_gar")
    NoTapes(4, reward="nslr")
