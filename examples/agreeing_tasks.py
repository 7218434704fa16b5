"""Task weights in a meta-learning loop of your own: Reptile on sine waves, with damped updates or with their mean."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from gar_env.agreement import combine, task_weights
from gar_env.data.tasks import load_tasks

torch.set_num_threads(1)  # for networks this small
waves = load_tasks("sine", shots=10)


def adapt(network, inputs, targets):
    """Parameters after five steps on one task."""
    own = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    for _ in range(5):
        gradient = torch.autograd.grad(F.mse_loss(functional_call(network, own, (inputs,)), targets), [*own.values()])
        moved = [(p - 0.02 * g).detach().requires_grad_() for p, g in zip(own.values(), gradient, strict=True)]
        own = dict(zip(own, moved, strict=True))
    return own


for rule in ("uniform", "damped(0.1)"):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    start, generator = {name: p.data for name, p in network.named_parameters()}, torch.Generator().manual_seed(0)
    for step in range(100):
        tasks = waves.draw(10, generator)
        adapted = [adapt(network, x, t) for x, t in zip(tasks.inputs, tasks.targets, strict=True)]
        updates = [{name: start[name] - p.detach() for name, p in own.items()} for own in adapted]
        weights = task_weights(updates, rule=rule, normalise="length")  # as long a step as their mean
        for name, update in combine(updates, weights).items():
            start[name] -= 1.5 * (1 - step / 100) * update
    tasks = zip(*waves.draw(100, generator, part="test")[:4], strict=True)
    losses = [F.mse_loss(functional_call(network, adapt(network, x, t), (q,)), a).item() for x, t, q, a in tasks]
    print(f"{rule}: loss {sum(losses) / len(losses):.3f} of 100 tasks that it has not seen")
