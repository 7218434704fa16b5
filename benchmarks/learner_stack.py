"""R training runs at once over a loop of R plain ones: time of a step, and how far the gradients are apart.

    python benchmarks/learner_stack.py [--only fc cnn] [--rows 16 64] [--rounds 15] [--device cpu]

Both run forward, backward and SGD on batches of 32 that are there already, one thread, interleaved in one process:
each round times three steps of each, and the ratio is taken round by round. "with changes" adds every example's
predicted change to the stack's step. "vmap" is the same stack by ``torch.func.vmap``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.jobs.provenance import provenance
from agents.measures.timing import interleaved, median_and_quartiles
from gar_env.errors import UnsupportedLayerError
from gar_env.learner import LearnerStack
from gar_env.networks import build_network

N, STEPS = 32, 3


def mlp(*widths: int) -> nn.Module:
    """Rectified layers."""
    pairs = list(pairwise(widths))
    layers = [layer for i, o in pairs[:-1] for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(*pairs[-1]))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp 64-32-10": (lambda: mlp(64, 32, 10), (1, 8, 8)),
    "mlp 784-100-50-10": (lambda: mlp(784, 100, 50, 10), (1, 28, 28)),
    **{
        f"{name} {shape[1]}x{shape[1]}": (lambda name=name, shape=shape: build_network(name, shape, 10), shape)
        for name in ("fc", "fc_bn", "cnn_bn", "cnn")
        for shape in ((1, 8, 8), (3, 32, 32))
    },
}


class Loop:
    """R networks, one after the other."""

    def __init__(self, stack: LearnerStack, x: Tensor, y: Tensor) -> None:
        self.networks = [stack.network(row).to(stack.device) for row in range(len(stack))]
        self.optimizers = [torch.optim.SGD(network.parameters(), lr=0.01) for network in self.networks]
        self.x, self.y = x, y

    def passes(self) -> None:
        """Forward and backward of all."""
        for network, x, y in zip(self.networks, self.x, self.y, strict=True):
            F.cross_entropy(network(x), y).backward()

    def step(self) -> None:
        """And their updates."""
        self.passes()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()


def step(stack: LearnerStack, x: Tensor, y: Tensor, *, changes: bool) -> None:
    """One step of all rows."""
    one = stack.run(x, y)
    direction = stack.direction(one.gradient)
    if changes:
        stack.predicted_changes(one, direction)
    stack.move(direction, torch.full((len(stack),), 0.01, device=stack.device))


def several(call: Callable[[], object]) -> None:
    """Steps of one contender."""
    for _ in range(STEPS):
        call()


def measure(name: str, rows: int, rounds: int, device: str) -> str:
    """A row of the table."""
    build, shape = CASES[name]
    x, y = torch.randn(rows, N, *shape, device=device), torch.randint(10, (rows, N), device=device)
    by_layers, with_changes, by_vmap = (
        LearnerStack(build, range(rows), way=way, device=device) for way in ("layers", "layers", "vmap")
    )
    try:
        by_vmap.run(x, y)
        vmapped = {"vmap": lambda: step(by_vmap, x, y, changes=False)}
    except UnsupportedLayerError:  # batch normalisation on a GPU, in some versions of torch
        vmapped = {}
    loop = Loop(by_layers, x, y)
    loop.passes()
    gradient = by_layers.run(x, y).gradient
    gap = max(
        float((g - torch.stack([dict(n.named_parameters())[key].grad for n in loop.networks])).abs().max())  # pyright: ignore[reportArgumentType, reportCallIssue]
        for key, g in gradient.items()
    )
    for optimizer in loop.optimizers:
        optimizer.zero_grad()
    calls = {
        "loop": loop.step,
        "stack": lambda: step(by_layers, x, y, changes=False),
        "with changes": lambda: step(with_changes, x, y, changes=True),
        **vmapped,
    }
    ratios = interleaved({key: partial(several, call) for key, call in calls.items()}, "loop", rounds, device)
    cells = []
    for key in ("stack", "with changes", "vmap"):
        if key not in ratios:
            cells.append("refused")
            continue
        middle, low, high = median_and_quartiles(ratios[key])
        cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
    return f"| {name} | {rows} | {' | '.join(cells)} | {gap:.1e} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", default=[], help="networks whose names begin so")
    parser.add_argument("--rows", nargs="*", type=int, default=[16, 64])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"Time over a loop of plain runs, batches of {N}, {args.rounds} rounds; median [quartiles]\n")
    print("| network | rows | stack | with changes | vmap | gradients' largest difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in CASES:
        if not args.only or name.startswith(tuple(args.only)):
            for rows in args.rows:
                print(measure(name, rows, args.rounds, args.device), flush=True)
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
