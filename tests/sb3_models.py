"""Small Stable-Baselines3 models on small environments."""

from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO

from agents.sb3 import make_sb3_env

N = 8
SPLIT = "GAR/DataSplit-v0"


def make(num_steps=4, **options):
    return make_sb3_env(SPLIT, N, num_steps=num_steps, **options)


def small(algorithm, env, **options):
    sizes = {"n_steps": 2} if algorithm is not DQN else {"learning_starts": 8, "train_freq": 1, "buffer_size": 100}
    if algorithm in (PPO, MaskablePPO):
        sizes["batch_size"] = 8
    return algorithm("MlpPolicy", env, seed=0, **{**sizes, "gamma": 0.0, **options})
