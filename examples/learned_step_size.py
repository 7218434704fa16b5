"""A step-size controller learned on small digits networks, in a training loop of your own, on another network."""

import torch
import torch.nn.functional as F
from torch import nn

from agents.step_sizes import StepSizeController, StepSizeScheduler, learn
from gar_env.alignment import Alignment
from gar_env.data import load_dataset

torch.set_num_threads(1)  # for networks this small
torch.manual_seed(0)
learn("multiply", updates=10, rule="sgd", dataset="digits").save("controller.json")  # about 10 seconds

data = load_dataset("digits")
inputs, labels = data.x_train / 255, data.y_train


def train(step_size: float, path: str | None) -> float:
    """Loss after 300 steps, with a controller from a file or at a constant step size."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=step_size, momentum=0.9)
    alignment, scheduler = Alignment(network), None
    if path:
        scheduler = StepSizeScheduler(network, optimizer, StepSizeController.load(path))  # from the optimizer's rate
    for _ in range(300):
        rows = torch.randint(len(inputs), (32,))
        tape = alignment.record(inputs[rows], lambda out, y=labels[rows]: F.cross_entropy(out, y, reduction="none"))
        if scheduler:
            scheduler.step(tape)
        optimizer.step()
        optimizer.zero_grad()
    return F.cross_entropy(network(inputs), labels).item()


for step_size in (1e-5, 1e-3, 0.1):
    losses = train(step_size, None), train(step_size, "controller.json")
    print("from {:g}: loss {:.3f} alone, {:.3f} controlled".format(step_size, *losses))
