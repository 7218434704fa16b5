"""skrl: its PPO finds the noisy split. Needs skrl 2.1 or newer: pip install 'skrl[torch]'."""

import os

import gymnasium
import torch
from gymnasium.vector import VectorWrapper
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import nn

import gar_env  # noqa: F401 - registers the environments

N, STEPS = 128, int(os.environ.get("STEPS", 300))
lengths, shares = [0], []


class Watched(VectorWrapper):
    """Notes episode lengths and the share of the noisy split, and divides rewards by their size."""

    def step(self, actions):
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        lengths[-1] += 1
        shares.append((actions == 0).mean())
        if terminations.all():
            lengths.append(0)
        return observations, rewards / (rewards.std() + 1e-8), terminations, truncations, infos


def body(width, outputs):
    return nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs))


class Policy(CategoricalMixin, Model):
    def __init__(self, **spaces):
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self, unnormalized_log_prob=True)
        self.body = body(self.num_observations, self.num_actions)
        nn.init.zeros_(self.body[-1].weight)  # start from uniform sampling

    def compute(self, inputs, role=""):
        return self.body(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self, **spaces):
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.body = body(self.num_observations, 1)

    def compute(self, inputs, role=""):
        return self.body(inputs["observations"]), {}


set_seed(0)
# skrl takes the observation that a step returns as the next one, so an episode has to be followed in the same step.
slots = gymnasium.make_vec(
    "GAR/DataSplit-v1", num_envs=N, num_steps=STEPS, autoreset_mode="SameStep", reward="gar", reference="heldout"
)
env = wrap_env(Watched(slots), wrapper="gymnasium")
spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
cfg = PPO_CFG(rollouts=4, learning_epochs=4, mini_batches=2, discount_factor=0.0, gae_lambda=0.0, learning_rate=1e-3)
cfg.experiment.write_interval = cfg.experiment.checkpoint_interval = 0
agent = PPO(
    models={"policy": Policy(**spaces), "value": Value(**spaces)},
    memory=RandomMemory(memory_size=4, num_envs=N, device="cpu"),
    cfg=cfg,
    **spaces,
)
trainer = {"timesteps": STEPS, "headless": True, "disable_progressbar": True}
SequentialTrainer(env=env, agents=agent, cfg=trainer).train()
first, last = torch.tensor(shares[:30]).mean(), torch.tensor(shares[-30:]).mean()
print(f"episode lengths {lengths[:-1]}, noisy split: {first:.3f} at first, {last:.3f} at last")
