"""A mixture over one's own data sources: a ``group_train`` array in the .npz names the source of each example."""

import tempfile
from pathlib import Path

import gymnasium
import numpy as np

from agents import Reinforce, train
from agents.policies import Keep
from gar_env.data import load_dataset

digits = load_dataset("digits")
images = {part: getattr(digits, f"x_{part}").permute(0, 2, 3, 1).numpy() for part in ("train", "test")}
sources = np.array(["lab", "phone", "web"])[np.arange(len(digits.y_train)) % 3]
labels = digits.y_train.numpy().copy()
scraped = np.flatnonzero(sources == "web")
labels[scraped] = np.random.default_rng(0).permutation(labels[scraped])  # the web's labels are worthless

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "mine.npz"
    np.savez(
        path,
        x_train=images["train"],
        y_train=labels,
        x_test=images["test"],
        y_test=digits.y_test.numpy(),
        group_train=sources,
    )
    env = gymnasium.make_vec("GAR/DataSplit-v1", num_envs=128, num_steps=150, dataset=str(path), splits="group")
    agent = Reinforce(Keep(3), normalise="size")
    train(env, agent, seed=0)

for name, probability in zip(env.unwrapped.split_names, agent.policy.probabilities().tolist(), strict=True):
    print(f"{name:<6} {probability:6.1%}")
