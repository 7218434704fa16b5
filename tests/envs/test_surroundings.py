"""Trajectories do not depend on what goes on around them: threads, autocast, grad modes, default types and devices."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import gar_env  # noqa: F401 - registers the environments
from gar_env.alignment import align, record

IDS = ("GAR/DataSplit-v0", "GAR/DataWeight-v0", "GAR/Augment-v0")


def fc_dropout_builder(image_shape, num_classes):
    inputs = int(np.prod(image_shape))
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, num_classes))


def trajectory(id: str, seed: int = 0, steps: int = 5, **options) -> list[np.ndarray]:
    """Two episodes: observations, rewards and losses."""
    options = {"network": fc_dropout_builder, "num_steps": 3, "dataset": "digits", **options}
    env = gymnasium.make_vec(id, num_envs=16, **options)
    env.action_space.seed(seed)
    observations, _ = env.reset(seed=seed)
    found = [observations]
    for _ in range(steps):
        observations, rewards, _, _, infos = env.step(env.action_space.sample())
        found += [observations, rewards, np.nan_to_num(infos["loss"])]
    found.append(np.array(list(env.unwrapped.evaluate().values())))
    env.close()
    return found


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "device context": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("timing", ["same_step", "next_step"])
def test_trajectories_do_not_depend_on_the_surroundings(id, surroundings, timing):
    expected = trajectory(id, reward_timing=timing)
    with SURROUNDINGS[surroundings]():
        assert same(trajectory(id, reward_timing=timing), expected)


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("timing", ["same_step", "next_step"])
def test_mixed_precision_inside_of_somebody_elses_autocast_is_the_same(timing, enabled):
    options = {"precision": "bfloat16", "reward_timing": timing}
    expected = trajectory(IDS[0], **options)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        assert same(trajectory(IDS[0], **options), expected)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
def test_surroundings_may_change_after_the_environment_is_made(surroundings):
    def run(around):
        env = gymnasium.make_vec("GAR/DataSplit-v0", num_envs=16, num_steps=3, network=fc_dropout_builder)
        with around():
            found = [env.reset(seed=1)[0]]
            for _ in range(4):
                observations, rewards, *_ = env.step(np.arange(16) % 10)
                found += [observations, rewards]
        return found

    assert same(run(SURROUNDINGS[surroundings]), run(nullcontext))


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("way", ["auto", "forward", "finite_difference"])
def test_20_environments_in_20_threads_give_their_own_trajectories(id, way):
    seeds = [i % 4 for i in range(20)]
    expected = {seed: trajectory(id, seed, way=way) for seed in set(seeds)}
    found: dict[int, list[np.ndarray]] = {}
    start = threading.Barrier(20)

    def work(i: int) -> None:
        start.wait()
        found[i] = trajectory(id, seeds[i], way=way)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal = sum(i in found and same(found[i], expected[seed]) for i, seed in enumerate(seeds))
    assert equal == 20


def test_threads_that_record_with_dropout_are_never_refused_and_right():
    wrong: list[str] = []

    # Drawn before: what other code draws from the global generator meanwhile cannot be kept apart.
    networks, inputs = [fc_dropout_builder((1, 4, 4), 3) for _ in range(6)], torch.randn(6, 10, 8, 1, 4, 4)

    def work(seed: int) -> None:
        network = networks[seed]
        for i in range(10):
            tape = record(network, inputs[seed, i], lambda y: y.square().mean(1), way="forward")
            direction = {name: torch.ones_like(p) for name, p in network.named_parameters()}
            try:
                entries = align(tape, direction)  # checked against the batch gradient, with the same dropout
            except Exception as error:
                wrong.append(f"{seed}, {i}: {error}")
                continue
            if not bool(entries.isfinite().all()):
                wrong.append(f"{seed}, {i}: not finite")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
