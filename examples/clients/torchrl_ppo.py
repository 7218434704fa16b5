"""TorchRL: PPO from its own parts finds the noisy split. Needs torchrl 0.14 or newer: pip install torchrl."""

import os

import gymnasium
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.modules import OneHotCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import gar_env  # noqa: F401 - registers the environments

N, STEPS = 128, int(os.environ.get("STEPS", 300))

# TorchRL refuses NextStep; it resets the environment itself.
slots = gymnasium.make_vec(
    "GAR/DataSplit-v1", num_envs=N, num_steps=STEPS, autoreset_mode="Disabled", reward="gar", reference="heldout"
)
env = GymWrapper(slots)
torch.manual_seed(0)
env.set_seed(0)
width = slots.single_observation_space.shape[0]
logits = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
nn.init.zeros_(logits[-1].weight)  # start from uniform sampling
actor = ProbabilisticActor(
    TensorDictModule(logits, in_keys=["observation"], out_keys=["logits"]),
    in_keys=["logits"],
    distribution_class=OneHotCategorical,
    return_log_prob=True,
)
critic = ValueOperator(nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 1)), in_keys=["observation"])
advantage = GAE(gamma=0.0, lmbda=0.0, value_network=critic, average_gae=True)
loss = ClipPPOLoss(actor, critic, entropy_coeff=0.0)
optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)

lengths, length, usage = [], 0, []
for batch in Collector(env, actor, frames_per_batch=4 * N, total_frames=STEPS * N):
    size = batch["next", "reward"].std()
    batch["next", "reward"] /= size + 1e-8  # gradients shrink in training, and rewards with them
    advantage(batch)
    for _ in range(4):
        for rows in batch.reshape(-1)[torch.randperm(batch.numel())].split(256):
            terms = loss(rows)
            optimizer.zero_grad()
            sum(terms[name] for name in terms.keys() if name.startswith("loss_")).backward()  # noqa: SIM118
            optimizer.step()
    usage.append(batch["action"][..., 0].float().mean().item())
    for ended in batch["next", "done"][0].flatten().tolist():
        length += 1
        if ended:
            lengths.append(length)
            length = 0
print(f"episode lengths {lengths}, noisy split: {usage[0]:.3f} at first, {usage[-1]:.3f} at last")
