import re

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from gar_env.alignment import align, record
from gar_env.envs import DataSplitVectorEnv
from gar_env.learner import CrossEntropy
from gar_env.networks import build_network
from rollouts import N, make, rollout


class Spy(DataSplitVectorEnv):
    """Keeps each pass's batch and the parameters it was taken at."""

    def start(self, rows, seeds):
        super().start(rows, seeds)
        self.passes = []
        inner = self.learner.run
        self.learner.run = lambda batch, *args, **kw: self._spy(inner, batch, args, kw)

    def _spy(self, inner, batch, args, kw):
        network = build_network(self.config.network, self.dataset.image_shape, len(self.dataset.classes))
        network.load_state_dict(self.learner.network.state_dict())  # a deep copy would copy the hooks of a collector
        self.passes.append((batch, network))
        return inner(batch, *args, **kw)


def expected_gar(paid, paying):
    """GAR from its definition: the paid batch at its parameters, the gradient of the paying batch at its own."""
    (batch, network), (next_batch, next_network) = paid, paying
    nn.functional.cross_entropy(next_network(next_batch.inputs), next_batch.targets).backward()
    direction = {name: p.grad for name, p in next_network.named_parameters()}
    return align(record(network, batch.inputs, CrossEntropy(batch.targets)), direction).numpy()


@pytest.mark.parametrize("reference", ["policy", "uniform"])
def test_same_step_pays_each_action_with_the_reference_batch_that_follows(reference):
    env = Spy(N, num_steps=3, reference=reference)
    steps = rollout(env, 3)
    assert len(env.passes) == 6, "two SGD steps per environment step"
    assert env.learner.steps == 6
    for t, (_, rewards, *_, infos) in enumerate(steps):
        np.testing.assert_allclose(rewards, expected_gar(*env.passes[2 * t : 2 * t + 2]), rtol=1e-4, atol=1e-6)
        assert infos["reward_valid"].all()


def test_next_step_pays_the_actions_before_with_the_batch_that_they_did_not_choose():
    env = Spy(N, num_steps=4, reward_timing="next_step")
    steps = rollout(env, 4)
    assert len(env.passes) == 4, "no extra gradient"
    assert (steps[0][1] == 0).all()
    assert not steps[0][-1]["reward_valid"].any()
    for t in range(1, 4):
        np.testing.assert_allclose(steps[t][1], expected_gar(*env.passes[t - 1 : t + 1]), rtol=1e-4, atol=1e-6)
        assert steps[t][-1]["reward_valid"].all()


def test_a_heldout_reference_pays_without_being_trained_on():
    env = Spy(N, num_steps=2, reference="heldout")
    rollout(env, 2)
    assert env.learner.steps == 2
    assert len(env.splits.heldout) == 143
    held = env.normalise(env.splits.inputs[env.splits.heldout])
    for batch, _ in env.passes[1::2]:
        assert all((held == row).flatten(1).all(1).any() for row in batch.inputs)


@pytest.mark.parametrize("timing", ["same_step", "next_step"])
def test_nslr_is_minus_the_next_loss_in_every_slot_and_needs_no_tape(timing):
    env = Spy(N, num_steps=3, reward="nslr", reward_timing=timing)
    steps = rollout(env, 3)
    gap = 2 if timing == "same_step" else 1
    for t, (_, rewards, *_) in enumerate(steps[1:], start=1):
        batch, network = env.passes[gap * t + 1] if timing == "same_step" else env.passes[t]
        loss = nn.functional.cross_entropy(network(batch.inputs), batch.targets)
        np.testing.assert_allclose(rewards, -loss.item(), rtol=1e-5)
    assert not env.evaluator.reads_examples


def test_every_slot_draws_from_the_split_its_action_names():
    env = Spy(300, num_steps=1, corrupt="4:easy", reward="nslr")
    env.reset(seed=0)
    env.step(np.full(300, 4))
    assert len(env.passes[0][0].inputs.unique(dim=0)) <= 10, "split 4 holds one image per class"


def test_both_readings_of_batch_norm_reach_the_environment():
    share, derivative = (rollout(make(batch_norm=reading))[0] for reading in ("share", "derivative"))
    assert not np.allclose(share[1], derivative[1])
    np.testing.assert_allclose(share[1].sum(), derivative[1].sum(), rtol=1e-4)


def test_observations_are_what_their_names_say():
    env = make(num_steps=4)
    observations, _ = env.reset(seed=0)
    names = env.unwrapped.observation_names
    assert len(names) == len(set(names)) == observations.shape[1] == 23
    column = {name: observations[:, i] for i, name in enumerate(names)}
    assert (column["progress"] == 0).all()
    np.testing.assert_allclose(column["running_loss"], np.log(10) / (1 + np.log(10)), rtol=1e-6)
    actions = np.arange(N) % 3
    observations, rewards, *_, infos = env.step(actions)
    column = {name: observations[:, i] for i, name in enumerate(names)}
    np.testing.assert_allclose(column["progress"], 0.25)
    np.testing.assert_allclose(column["usage_0"], 4 / 12, rtol=1e-6)
    assert (column["usage_9"] == 0).all()
    for split in range(10):
        np.testing.assert_array_equal(column[f"last_action_{split}"], actions == split)
    np.testing.assert_allclose(column["last_reward"], np.tanh(rewards / np.sqrt((rewards**2).mean())), rtol=1e-4)
    running = 0.9 * np.log(10) + 0.1 * infos["loss"][0]
    np.testing.assert_allclose(column["running_loss"], running / (1 + running), rtol=1e-5)


def test_the_end_is_terminated_and_tells_the_test_accuracy():
    env = make(num_steps=2)
    first, last = rollout(env, 2)
    assert not first[2].any()
    assert not first[-1]["_test_accuracy"].any()
    assert last[2].all()
    assert not last[3].any()
    assert last[-1]["_test_accuracy"].all()
    assert last[-1]["test_accuracy"][0] == pytest.approx(env.unwrapped.evaluate()["test_accuracy"])


def test_infos_have_the_same_keys_always():
    env = make(num_steps=2)
    _, infos = env.reset(seed=0)
    keys = set(infos)
    for _, *_, infos in rollout(env, 2):
        assert set(infos) == keys


def test_divergence_ends_the_run_with_a_finite_reward_and_observation():
    env = make(network="fc", step_size=1e18, num_steps=50, divergence_reward=-3.0)
    env.reset(seed=0)
    terminations = np.zeros(N, bool)
    while not terminations.all():
        observations, rewards, terminations, _, infos = env.step([0] * N)
    assert np.isfinite(observations).all()
    assert infos["diverged"].all()
    assert (rewards == -3.0).all()
    assert infos["reward_valid"].all()
    assert not infos["_test_accuracy"].any()
    observations, rewards, terminations, _, infos = env.step([0] * N)  # NextStep: a new run
    assert np.isfinite(observations).all()
    assert not terminations.any()


def test_torch_output_stays_torch_and_equals_numpy_output():
    arrays, tensors = rollout(make()), rollout(make(output="torch"))
    for (_, *array_parts, array_infos), (_, *tensor_parts, tensor_infos) in zip(arrays, tensors, strict=True):
        for array, tensor in zip(array_parts, tensor_parts, strict=True):
            assert isinstance(tensor, torch.Tensor)
            np.testing.assert_array_equal(array, tensor.numpy())
        for key, value in array_infos.items():
            assert isinstance(tensor_infos[key], torch.Tensor)
            np.testing.assert_array_equal(value, tensor_infos[key].numpy())


@pytest.mark.parametrize("kind", [list, np.int8, np.uint8, np.int64, torch.tensor])
def test_actions_may_be_any_integers(kind):
    env = make()
    env.reset(seed=0)
    actions = [i % 10 for i in range(N)]
    env.step(kind(actions) if kind in (list, torch.tensor) else np.array(actions, dtype=kind))


def test_actions_may_be_a_reversed_view():
    env = make()
    env.reset(seed=0)
    env.step(np.arange(N)[::-1] % 10)


def test_a_single_slot_trains_where_the_network_allows_it():
    assert np.isfinite(rollout(make(1, network="fc"))[0][1]).all()


def test_a_spec_made_with_an_enum_has_a_json_form():
    env = make(autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
    again = gymnasium.make_vec(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.autoreset_mode is gymnasium.vector.AutoresetMode.SAME_STEP


def test_gymnasiums_video_recorder_takes_the_dashboard(tmp_path):
    pytest.importorskip("moviepy")
    env = make(3, render_mode="rgb_array")
    video = gymnasium.wrappers.vector.RecordVideo(
        env, str(tmp_path / "videos"), step_trigger=lambda t: t == 0, video_length=2
    )
    video.reset(seed=0)
    for _ in range(3):
        video.step([0, 1, 2])
    video.close()
    assert list((tmp_path / "videos").glob("*.mp4"))


def test_ones_own_sources_are_a_mixture_to_learn(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(60, 6, 6, 3), dtype=np.uint8), np.arange(60) % 3
    path = tmp_path / "mine.npz"
    groups = np.array(["web", "lab", "phone"])[np.arange(60) // 20]
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels, group_train=groups)
    env = make(dataset=str(path), splits="group")
    env.reset(seed=0)
    assert env.unwrapped.split_names == ("lab", "phone", "web")
    assert env.unwrapped.corrupted_splits == ()
    assert env.single_action_space == gymnasium.spaces.Discrete(3)
    env.step(np.arange(N) % 3)


def test_a_network_of_ones_own_trains():
    env = make(network=lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, classes)))
    assert np.isfinite(rollout(env)[0][1]).all()


def test_a_seed_decides_everything_and_episodes_differ():
    env = make(num_steps=2)
    first, again = rollout(env, 2, seed=3), rollout(env, 2, seed=3)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a[1], b[1])
    members = env.unwrapped.splits.members.clone()
    env.reset()
    assert not torch.equal(env.unwrapped.splits.members, members)


def test_training_runs_learn():
    env = make(64, num_steps=60)
    env.reset(seed=0)
    for _ in range(60):
        *_, infos = env.step(np.random.default_rng(0).integers(1, 10, size=64))
    assert infos["test_accuracy"][0] > 0.85


# Rendering


def test_the_dashboard_as_text_shows_loss_rewards_and_usage():
    env = make(render_mode="ansi")
    rollout(env, 3)
    frame, *others = env.render()
    assert len(others) == N - 1
    assert re.search(r"^loss +\d", frame, re.M)
    assert re.search(r"^reward +-?\d", frame, re.M)
    assert "0 (label_noise)" in frame
    assert "step 3" in frame


def test_the_dashboard_as_pixels_changes_as_training_goes_on():
    env = make(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()[0]
    env.step([0] * N)
    after = env.render()[0]
    assert before.shape == after.shape == (360, 640, 3)
    assert before.dtype == np.uint8
    assert (before != after).any()
    assert make().render() is None
