"""GAR/Augment-v0: what an action does to an image, who is paid, and what is refused."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gar_env.augment import SPACES, apply
from gar_env.data import load_dataset
from gar_env.envs import AugmentVectorEnv
from gar_env.errors import ConfigurationError, InvalidActionError, UnknownNameError
from rollouts import make as make_any

PLAIN = {"crop_padding": 0, "flip": False, "cutout": 0}


def make(num_envs=12, **options):
    return make_any(num_envs, env_id="GAR/Augment-v0", **{"network": "fc", **options})


def row(env, *names_and_strengths, r=None, keep=1):
    """One slot's action."""
    places = [[env.unwrapped.space.index(name), keep, k] for name, k in names_and_strengths]
    unused = [[0, 0, 0]] * (env.unwrapped.layout.places - len(places))
    return [(r or len(places)) - 1, *np.ravel(places + unused)]


def passes(monkeypatch):
    """The batches that the learner is given, as they come."""
    from gar_env.learner import Learner

    seen = []
    usual = Learner.run

    def remember(self, batch, *args, record=False, **options):
        parameters = {n: p.detach().clone() for n, p in self.network.named_parameters()}
        seen.append(("recorded" if record else "plain", batch, parameters))
        return usual(self, batch, *args, record=record, **options)

    monkeypatch.setattr(Learner, "run", remember)
    return seen


def test_the_network_trains_on_exactly_what_the_plan_says(monkeypatch):
    seen = passes(monkeypatch)
    env = make(**PLAIN)
    env.reset(seed=0)
    slots = env.unwrapped
    examples = slots._drawn
    env.step(np.stack([env.single_action_space.sample() for _ in range(12)]))
    (kind, batch, _), (reference_kind, reference, _) = seen
    images = slots.pool.inputs[examples]
    assert (kind, reference_kind) == ("recorded", "plain")
    assert torch.equal(batch.inputs, slots.normalise(apply(slots.plan, images, backend="pillow")))
    assert torch.equal(batch.targets, slots.pool.targets[examples])
    # The reference is other examples as they are.
    originals = slots.normalise(slots.pool.inputs.all()).flatten(1)
    assert (reference.inputs.flatten(1)[:, None] == originals).all(2).any(1).all()


@pytest.mark.parametrize("reference", ["plain", "policy"])
def test_rewards_are_each_augmented_examples_gradient_with_the_reference_batchs(monkeypatch, reference):
    seen = passes(monkeypatch)
    env = make(reference=reference)
    env.reset(seed=0)
    _, rewards, *_ = env.step(np.stack([env.single_action_space.sample() for _ in range(12)]))
    network = env.unwrapped.learner.network

    def gradient(parameters, inputs, targets):
        leaves = {name: p.double().requires_grad_() for name, p in parameters.items()}
        logits = torch.func.functional_call(network.double(), leaves, (inputs.double(),))
        grads = torch.autograd.grad(F.cross_entropy(logits, targets), list(leaves.values()))
        return torch.cat([g.flatten() for g in grads])

    (_, batch, before), (_, next_batch, after) = seen
    direction = gradient(after, *next_batch)
    expected = [float(gradient(before, batch.inputs[[i]], batch.targets[[i]]) @ direction) for i in range(12)]
    np.testing.assert_allclose(rewards, expected, rtol=1e-4, atol=1e-6)


def test_a_policy_reference_is_augmented_and_a_plain_one_is_not(monkeypatch):
    seen = passes(monkeypatch)
    for reference in ("plain", "policy"):
        env = make(reference=reference, **PLAIN)
        env.reset(seed=0)
        env.step([row(env, ("brightness", 0))] * 12)  # a hundredth of the brightness: all but black
    (_, _, _), (_, plain, _), (_, _, _), (_, policy, _) = seen
    assert plain.inputs.max() > 0.5
    assert policy.inputs.max() < -0.9


def test_crop_flip_and_cutout_come_after_the_policy_on_plain_steps_too(monkeypatch):
    seen = passes(monkeypatch)
    env = make(64, cutout=16, crop_padding=4, flip=True)
    env.reset(seed=0)
    env.step([row(env, ("identity", 0))] * 64)
    for _, batch, _ in seen:
        assert ((batch.inputs == 0).all(1).flatten(1).sum(1) >= 64).all()  # Cutout: 0 in all channels
        assert (batch.inputs[:, :, 0] == -1).all(1).any()  # black rows of a shifted crop


def test_the_class_is_that_of_the_example_that_the_next_action_is_about(monkeypatch):
    seen = passes(monkeypatch)
    env = make(**PLAIN)
    observations, _ = env.reset(seed=0)
    names = env.unwrapped.observation_names
    assert names == ("progress", "running_loss", "last_reward", "class_0", "class_1", "class_2", "class_3")
    shown = observations[:, 3:].argmax(1)
    observations, rewards, *_ = env.step([row(env, ("identity", 0))] * 12)
    assert np.array_equal(shown, seen[0][1].targets)
    assert observations[0, 0] == 0.25
    assert (observations[:, 1] > 0).all()
    assert np.array_equal(np.sign(observations[:, 2]), np.sign(rewards))


def test_actions_are_counted_as_they_were_applied():
    env = make()
    env.reset(seed=0)
    rotate, color = (env.unwrapped.space.index(name) for name in ("rotate", "color"))
    env.step([row(env, ("rotate", 20), ("rotate", 5), ("color", 0))] * 12)
    decisions = env.unwrapped.decisions
    assert (decisions[rotate, 20], decisions[rotate, 5], decisions[color, 0]) == (12, 0, 12)
    env.step([row(env, ("rotate", 0))] * 12)
    env.step([row(env, ("color", 3), keep=0)] * 12)
    metrics = env.unwrapped.metrics()
    assert metrics["applied_rotate"] == pytest.approx(2 / 3)  # rotation by 0 counts as applied,
    assert metrics["operations"] == pytest.approx(2 / 3)  # but changes nothing
    assert metrics["applied_color"] == pytest.approx(1 / 3)


def test_backends_train_the_same_network():
    losses = []
    for backend in ("torch", "masked", "pillow"):
        env = make(num_steps=3, backend=backend)
        env.reset(seed=0)
        env.action_space.seed(0)
        losses.append([env.step(env.action_space.sample())[-1]["loss"][0] for _ in range(3)])
    assert losses[0] == losses[1] == losses[2]


def test_the_single_agent_view_takes_one_flat_action():
    import gymnasium

    env = gymnasium.make("GAR/Augment-v0", batch_size=3, num_steps=2, network="fc")
    env.reset(seed=0)
    assert env.action_space.nvec.shape == (3 * 13,)
    action = env.action_space.sample()
    env.step(action)
    chosen = env.unwrapped.slots.layout.read(torch.as_tensor(action).view(3, 13))
    assert torch.equal(env.unwrapped.slots.plan.operations, chosen.operations)


def test_gray_images_and_other_sizes_scale_crop_and_cutout():
    env = make(dataset="digits")
    env.reset(seed=0)
    env.step([row(env, ("color", 0), ("rotate", 20), ("cutout", 9))] * 12)
    assert env.unwrapped.standard.crop_padding == 1
    assert env.unwrapped.standard.cutout == 4
    assert env.unwrapped.standard.flip is False  # a mirrored digit is none


def test_a_subset_is_the_same_for_every_seed():
    env = make(subset=40)
    env.reset(seed=0)
    first = env.unwrapped.pool.inputs.all().flatten(1).sum(1).sort().values
    env.reset(seed=1)
    assert torch.equal(env.unwrapped.pool.inputs.all().flatten(1).sum(1).sort().values, first)
    assert len(first) == 40


def test_spaces_come_by_name_in_part_or_from_a_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(SPACES["ra"].subset(["rotate", "color"]).to_json())
    assert make(space=str(path), max_operations=2).unwrapped.space.names == ("rotate", "color")
    assert make(space="wl[blur, invert]", max_operations=2).unwrapped.space.names == ("blur", "invert")
    assert make(space="wl[blur,invert]").unwrapped.layout.places == 2
    env = make(space="ra", max_operations=2)
    assert env.single_action_space.nvec.tolist() == [2, 14, 2, 31, 14, 2, 31]


def test_other_rewards_and_timings():
    for options in ({"reward": "nslr"}, {"reward_timing": "next_step"}, {"reference": "heldout"}):
        env = make(**options)
        env.reset(seed=0)
        *_, infos = env.step([row(env, ("invert", 0))] * 12)
        assert infos["loss"][0] > 0


def test_mixed_precision_and_channels_last_change_little():
    losses = {}
    for precision in ("float32", "bfloat16"):
        env = make(24, network="cnn", precision=precision, channels_last=True, num_steps=5)
        env.reset(seed=0)
        action = [row(env, ("invert", 0))] * 24
        losses[precision] = [env.step(action)[-1]["loss"][0] for _ in range(5)]
    assert losses["float32"] != losses["bfloat16"]
    np.testing.assert_allclose(losses["float32"], losses["bfloat16"], rtol=0.1)


class FourChannels:
    @staticmethod
    def make():
        digits = load_dataset("digits")
        from dataclasses import replace

        return replace(digits, x_train=digits.x_train.repeat(1, 4, 1, 1), x_test=digits.x_test.repeat(1, 4, 1, 1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"space": "wide"}, UnknownNameError, "No search space is called 'wide'"),
        ({"space": "wl[rotat]"}, UnknownNameError, "no operation 'rotat'. Did you mean 'rotate'?"),
        ({"space": "wl[]"}, ConfigurationError, "is empty. Give it at least one operation"),
        ({"space": "wl[rotate"}, ConfigurationError, "space='wl[rotate' has no closing bracket"),
        ({"space": "no/such.json"}, ConfigurationError, "space='no/such.json' cannot be read: No such file"),
        ({"space": "wl[blur]", "max_operations": 2}, ConfigurationError, "max_operations=2 must be in 1..1, the size"),
        ({"max_operations": 0}, ConfigurationError, "max_operations=0 must be in 1..19"),
        ({"subset": 0}, ConfigurationError, "subset=0 must be at least 1"),
        ({"subset": 5000}, ConfigurationError, "subset=5000 is more than synthetic_invariances has: 2000"),
        ({"subset": 5}, ConfigurationError, "A batch of 12 examples is larger than the 5 that are left"),
        ({"backend": "triton"}, UnknownNameError, "No augmentation backend is called 'triton'"),
        ({"cutout": -1}, ConfigurationError, "cutout=-1 must not be negative"),
        ({"crop_padding": 1.5}, ConfigurationError, "crop_padding=1.5 must be int or None"),
        ({"reference": "uniform"}, ConfigurationError, "reference='uniform' is unknown. Choose one of plain, policy"),
        ({"corrupt": "typo(0.5)"}, UnknownNameError, "No corruption is called 'typo'"),
        ({"precision": "bfloat16", "batch_norm": "derivative"}, ConfigurationError, "batch_norm='share'"),
        ({"precision": "bfloat16", "way": "finite_difference"}, ConfigurationError, "way='auto'"),
        ({"precision": "float16"}, ConfigurationError, "precision='float16' is unknown. Did you mean 'bfloat16'?"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(**options)


def test_images_of_four_channels_are_refused(monkeypatch):
    monkeypatch.setattr("gar_env.envs.slots.base.load_dataset", lambda *args, **options: FourChannels.make())
    with pytest.raises(ConfigurationError, match=re.escape("digits has 4 channels; image operations are defined for")):
        AugmentVectorEnv(12, network="fc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:, :5], "actions have the shape [12, 5]; expected [12, 13], one for each row"),
        (lambda rows: rows + 31, "The action of row 0"),
        (lambda rows: rows.astype(float), "actions are torch.float64; expected integers"),
    ],
    ids=["shape", "range", "type"],
)
def test_wrong_actions_are_refused(change, message):
    env = make()
    env.reset(seed=0)
    rows = np.array([row(env, ("rotate", 3))] * 12)
    with pytest.raises(InvalidActionError, match=re.escape(message)):
        env.step(change(rows))
