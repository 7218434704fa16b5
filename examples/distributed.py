"""Two processes, one network, one policy: ``torchrun --nproc-per-node 2 examples/distributed.py`` (or plain python).

Each trains on its half of the batch; gradients are averaged, so the direction is the whole batch's; rewards stay local.
"""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from agents import InvertedSoftmax, Reinforce
from gar_env.alignment import Alignment, aligning
from gar_env.data import load_dataset

world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo", timeout=timedelta(minutes=5))  # one that hangs must not hold the others for ever


def train() -> InvertedSoftmax:
    """One training run of this process's share; the policy is the same in all."""
    digits = load_dataset("digits")
    inputs, targets = digits.x_train.float() / 255, digits.y_train.clone()
    splits = torch.arange(len(targets)) % 5
    noisy = splits == 0
    targets[noisy] = torch.randint(10, (int(noisy.sum()),), generator=torch.Generator().manual_seed(0))

    torch.manual_seed(0)  # the same network everywhere
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    network = DistributedDataParallel(network) if world > 1 else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    agent = Reinforce(InvertedSoftmax(5), reward_timing="next_step", distributed=world > 1)
    agent.num_envs = n = 128 // world
    alignment, tape, generator = Alignment(network), None, torch.Generator().manual_seed(1)
    for _ in range(100):
        actions = agent.act(None)
        draws = torch.rand(128, generator=generator)[rank * n : (rank + 1) * n]
        rows = (draws * (len(targets) // 5)).long() * 5 + actions
        batch = inputs[rows], lambda logits, y=targets[rows]: F.cross_entropy(logits, y, reduction="none")
        if tape is None:
            tape = alignment.record(*batch)
        else:
            with aligning(tape) as paid:
                tape = alignment.record(*batch)
            agent.learn(paid.entries, False, {})
        optimizer.step()
        optimizer.zero_grad()
    return agent.policy


policy = train()
print(f"process {rank}: probabilities of the splits, the first is noisy: {policy.probabilities().numpy().round(4)}")
if world > 1:
    dist.destroy_process_group()  # after the network is gone: it holds on to the group
