"""RLlib: its PPO finds the noisy split. Needs ray 2.40 or newer: pip install 'ray[rllib]', which pins Gymnasium 1.2."""

import os

import numpy as np
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

N, STEPS = 64, int(os.environ.get("STEPS", 200))
lengths, shares = [], []


class Watch(RLlibCallback):
    """Notes each finished episode's length, and how often slot actions were the noisy split."""

    def on_episode_end(self, *, episode, **kwargs):
        lengths.append(episode.t)

    def on_sample_end(self, *, samples, **kwargs):
        shares.append(np.mean([np.mean(np.asarray(episode.get_actions()) == 0) for episode in samples]))


config = (
    PPOConfig()
    # "gar_env:" imports the package in every worker; NextStep, the environment's default, is what RLlib expects.
    .environment("gar_env:GAR/DataSplit-v1", env_config={"num_steps": STEPS, "reward": "gar", "reference": "heldout"})
    .env_runners(
        num_env_runners=0,
        num_envs_per_env_runner=N,
        gym_env_vectorize_mode="vector_entry_point",  # one training run with N slots
        rollout_fragment_length=4,
    )
    .training(train_batch_size=4 * N, minibatch_size=128, num_epochs=4, gamma=0.0, lambda_=0.0, lr=1e-3)
    .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
    .callbacks(Watch)
    .debugging(seed=0, log_level="ERROR")
)
algorithm = config.build_algo()
# A reset takes a step of its own with NextStep, and RLlib does not count it.
for _ in range(STEPS // 4 + 1):
    algorithm.train()
algorithm.stop()
found = f"noisy split: {np.mean(shares[:5]):.3f} at first, {np.mean(shares[-5:]):.3f} at last"
print(f"episode lengths {sorted(set(lengths))} ({len(lengths)} slots), {found}")
