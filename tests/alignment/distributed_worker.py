"""Trains on a share of each batch, saves rewards and policy; a test starts it alone and with torchrun."""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from agents import InvertedSoftmax, Reinforce
from gar_env.alignment import Alignment, aligning

BATCH, STEPS = 24, 6
world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))


def train(way, bucket_view, normalise):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.PReLU(), nn.Linear(16, 3))
    if world > 1:
        network = DistributedDataParallel(network, gradient_as_bucket_view=bucket_view)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.003, momentum=0.9, nesterov=True)
    agent = Reinforce(
        InvertedSoftmax(4), reward_timing="next_step", normalise=normalise, aggregate=2, distributed=world > 1
    )
    agent.num_envs = n = BATCH // world
    alignment, tape, generator, rewards = Alignment(network, way=way), None, torch.Generator().manual_seed(1), []
    for _ in range(STEPS):
        mine = slice(rank * n, (rank + 1) * n)
        actions = agent.act(None)
        inputs = torch.randn(BATCH, 6, generator=generator)[mine] + actions[:, None]

        def loss(outputs, actions=actions):
            return outputs.square().sum(1) * (1 + actions)

        if tape is None:
            tape = alignment.record(inputs, loss)
        else:
            with aligning(tape) as paid:
                tape = alignment.record(inputs, loss)
            rewards.append(paid.entries)
            agent.learn(paid.entries, False, {})
        optimizer.step()
        optimizer.zero_grad()
    return torch.stack(rewards), agent.policy.logits.detach()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo")
    cases = [("hooks", False, "step"), ("hooks", True, "running"), ("forward", False, "none")]
    torch.save([train(*case) for case in cases], f"{sys.argv[1]}.{rank}")
    if world > 1:
        dist.destroy_process_group()
        # Without the interpreter's own end: in about one of ten runs a thread of gloo's is still there then, and the
        # process aborts ("terminate called without an active exception"), as it does with torch alone.
        os._exit(0)
