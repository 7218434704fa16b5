"""Which text to train on, in a loop of one's own: a mixture learned from a small sample of what is wanted.

Usage: python examples/text_mixture.py [SOURCES.npz], with bytes <source>_train and <source>_test.
"""

import sys

import torch
import torch.nn.functional as F

from agents import LearnedMixture
from agents.studies.mixture.sources import UNWANTED, mixture_dataset
from gar_env.networks import build_network

STEPS, BATCH, SAMPLE = 100, 16, 500

path = next((argument for argument in sys.argv[1:] if argument.endswith(".npz")), "")
data = mixture_dataset(path)  # by default code of the standard library
print("Sources:", ", ".join(data.groups))
rows = {name: (data.group_train == i).nonzero().flatten() for i, name in enumerate(data.groups)}
wanted = [name for name in data.groups if name not in UNWANTED]
sample = torch.cat([rows[name][: SAMPLE // len(wanted)] for name in wanted])  # 48 kB of what is wanted
sources = {name: own[SAMPLE // len(wanted) :] for name, own in rows.items()}  # and not trained on

torch.manual_seed(0)
network = build_network("transformer-64-1", data.input_shape, data.outputs)
optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
mixture = LearnedMixture(sources, batch_size=BATCH)


def losses(logits, targets):
    """Each sequence's, in nats per byte."""
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(1)


for step in range(STEPS):
    batch = mixture.draw()
    x, y = data.x_train[batch], data.y_train[batch]
    own = mixture.record(network, x, lambda logits, y=y: losses(logits, y))  # forward and backward
    optimizer.step()
    optimizer.zero_grad()
    some = sample[torch.randint(len(sample), (8,))]
    mixture.pay(lambda some=some: losses(network(data.x_train[some]), data.y_train[some]).mean())
    if (step + 1) % 25 == 0:
        print(f"step {step + 1:3}: loss {own.mean():.2f} nats per byte")

for name, chance in mixture.probabilities.items():
    print(f"{name:<20} {chance:6.1%}{'  (not wanted)' if name in UNWANTED else ''}")
