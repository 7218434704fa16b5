"""Gradient alignment in a training loop of one's own, without any environment."""

import torch
import torch.nn.functional as F
from torch import nn

from gar_env.alignment import align, gradient, record
from gar_env.data import load_dataset

digits = load_dataset("digits")
inputs, targets = digits.x_train.float() / 255, digits.y_train.clone()
noisy = torch.arange(len(targets)) % 10 == 0
targets[noisy] = torch.randint(10, (int(noisy.sum()),), generator=torch.Generator().manual_seed(0))

torch.manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
value = torch.zeros(len(targets))
for _ in range(300):
    batch, next_batch = torch.randint(len(targets), (2, 128))
    tape = record(network, inputs[batch], lambda x, y=targets[batch]: F.cross_entropy(x, y, reduction="none"))
    optimizer.step()
    optimizer.zero_grad()
    F.cross_entropy(network(inputs[next_batch]), targets[next_batch]).backward()
    value.index_add_(0, batch, align(tape, gradient(network)))
    optimizer.step()
    optimizer.zero_grad()

print(f"mean alignment: noisy labels {value[noisy].mean():+.3f}, true labels {value[~noisy].mean():+.3f}")
