"""Environments paid by a target of one's own."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import gar_env
from gar_env.data import Dataset, load_dataset
from gar_env.errors import ConfigurationError

ENVIRONMENTS = ("GAR/DataSplit-v0", "GAR/DataWeight-v0", "GAR/Augment-v0")


def sources() -> Dataset:
    digits = load_dataset("digits")
    group = (torch.arange(len(digits.x_train)) % 3).clamp_max(1)
    return replace(digits, name="sources", group_train=group, groups=("a", "b"))


def made(env_id: str = "GAR/DataSplit-v0", n: int = 12, **options: Any) -> Any:
    return gymnasium.make_vec(env_id, num_envs=n, num_steps=4, dataset=sources(), **options).unwrapped


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_held_out_batches_are_of_the_target(env_id, monkeypatch):
    """Inputs of the passes aside, against the images of the source; none of them is trained on."""
    env = made(env_id, target="b(0.2)", target_batch_size=5)
    assert env.reference == "heldout"
    aside, trained = [], []
    env.reset(seed=1)
    run = env.learner.run

    def watched(batch, *args, **options):
        (aside if options.get("aside") and len(batch.targets) == 5 else trained).append(batch.inputs)
        return run(batch, *args, **options)

    monkeypatch.setattr(env.learner, "run", watched)
    env.action_space.seed(0)
    for _ in range(4):
        env.step(env.action_space.sample())
    heldout = env.normalise(env.pool.inputs[env.pool.heldout])
    members = env.normalise(env.pool.inputs[env.pool.members])
    assert len(aside) == 4

    def known(batch: torch.Tensor, among: torch.Tensor) -> list[bool]:
        return [bool((row == among).flatten(1).all(1).any()) for row in batch]

    assert all(all(known(batch, heldout)) for batch in aside)
    assert set(env.dataset.group_train[env.pool.heldout].tolist()) == {1}
    if env_id != "GAR/Augment-v0":  # there they are changed
        assert all(all(known(batch, members)) for batch in trained)


def test_a_sample_of_ones_own_pays_as_held_out_data_do():
    """The same images held out by hand, and as a sample: equal rewards where the draws are equal."""
    data = sources()
    sample = replace(data, name="sample", x_train=data.x_test, y_train=data.y_test, group_train=None, groups=())
    env = made(target=sample, target_batch_size=40)
    env.reset(seed=0)
    start = env.learner.state_dict()
    drawn = env.data_generator.get_state()
    rewards = env.step(np.zeros(12, int))[1]
    env.reset(seed=0)
    env.learner.load_state_dict(start)
    env.data_generator.set_state(drawn)
    batch = env.batch(torch.zeros(12, dtype=torch.int64))
    tape = env.learner.run(batch.examples, record=True).tape
    env.learner.update()
    rows = torch.randint(len(data.x_test), (40,), generator=env.data_generator)
    aside = env.learner.run(type(batch.examples)(env.normalise(data.x_test[rows]), data.y_test[rows]), aside=True)
    np.testing.assert_allclose(rewards, gar_env.align(tape, aside.gradient).numpy(), rtol=1e-4, atol=1e-6)


def test_validation_gar_reads_the_target_beside_the_usual_reference():
    env = made(target="a(0.1)", reward="validation_gar")
    assert env.reference == "policy"
    env.reset(seed=0)
    assert np.isfinite(env.step(np.zeros(12, int))[1]).all()


def test_a_run_goes_on_with_the_same_target_only():
    env, other = made(target="b(0.2)"), made(target="b(0.3)")
    for one in (env, other):
        one.reset(seed=0)
    env.step(np.ones(12, int))
    with pytest.raises(gar_env.errors.CheckpointError, match="target"):
        other.load_state_dict(env.state_dict())
    again = made(target="b(0.2)")
    again.reset(seed=5)
    again.load_state_dict(env.state_dict())
    np.testing.assert_array_equal(env.step(np.ones(12, int))[1], again.step(np.ones(12, int))[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "b", "heldout_share": 0.1}, "heldout_share=0.1 and target='b' both say what is held out"),
        ({"target": "b", "reference": "uniform"}, "with reference='uniform' reads none"),
        ({"target": "b", "target_batch_size": 0}, "target_batch_size=0 must be at least 1"),
        ({"target": "b", "reward_timing": "next_step"}, "with reference=None reads none"),
        ({"target": "c(0.2)"}, "names no source of sources, which has a, b"),
    ],
)
def test_targets_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        made(**options)


def test_an_overlap_is_said_when_the_environment_is_made():
    data = sources()
    with pytest.warns(UserWarning, match="30 of 30 examples of target part"):
        made(target=replace(data.taking(torch.arange(30)), name="part"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made(target="a(0.1)")
