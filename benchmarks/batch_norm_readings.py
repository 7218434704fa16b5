"""Which reading of batch normalisation predicts what an example does to the next loss?

    python benchmarks/batch_norm_readings.py CIFAR10.npz [--network wrn-16-2] [--every 20] [--steps 200]

A network trains on CIFAR-10. At some steps, every example of the batch is left out in turn: the other ``n - 1`` make
the gradient, batch statistics included, and the next batch's loss is measured after a step along it. What that loss
gains over the one after the whole batch's step is the example's true effect; printed is its correlation over the batch
with the alignment in each reading, and the finite difference's median relative error.
"""

from __future__ import annotations

import argparse
import statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.jobs.provenance import provenance
from gar_env.alignment import FiniteDifferenceTape, align, gradient, record
from gar_env.data import load_dataset
from gar_env.functional import preserve
from gar_env.networks import build_network

Batch = tuple[Tensor, Tensor]


def next_loss(network: nn.Module, step: dict[str, Tensor], step_size: float, batch: Batch) -> float:
    """The mean loss of ``batch`` in training mode after a plain step along ``-step``; the network stays as it is."""
    parameters = {name: p.detach() - step_size * step[name] for name, p in network.named_parameters()}
    with preserve(network), torch.no_grad():
        outputs = torch.func.functional_call(network, parameters, (batch[0],))
        return float(F.cross_entropy(outputs, batch[1]))


def leave_one_out(network: nn.Module, batch: Batch, next_batch: Batch, step_size: float) -> Tensor:
    """What the next loss gains when an example is left out of the step, ``[n]``."""
    (inputs, targets), n = batch, len(batch[0])

    def after(kept: Tensor) -> float:
        with preserve(network):
            (F.cross_entropy(network(inputs[kept]), targets[kept], reduction="sum") / n).backward()
            step = gradient(network)
        return next_loss(network, step, step_size, next_batch)

    whole = after(torch.arange(n))
    return torch.tensor([after(torch.arange(n) != i) - whole for i in range(n)])


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's."""
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--network", default="wrn-16-2")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--step-size", type=float, default=0.05)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = load_dataset(args.dataset)
    network = build_network(args.network, dataset.image_shape, len(dataset.classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=args.step_size, momentum=0.9, nesterov=True, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)

    def draw() -> Batch:
        rows = torch.randint(len(dataset.x_train), (args.batch_size,), generator=generator)
        return dataset.x_train[rows].float().div(127.5).sub(1), dataset.y_train[rows]

    machine = provenance()
    print(f"{args.network}, n = {args.batch_size}, {machine['machine']}, torch {machine['torch']}, {machine['commit']}")
    print(f"{'step':>5} {'loss':>6} {'share':>7} {'derivative':>11} {'share~derivative':>17} {'finite difference':>18}")
    rows: list[tuple[float, ...]] = []
    for step in range(1, args.steps + 1):
        inputs, targets = draw()

        def losses(outputs: Tensor, targets: Tensor = targets) -> Tensor:
            return F.cross_entropy(outputs, targets, reduction="none")

        if step % args.every == 0:
            following = draw()
            truth = leave_one_out(network, (inputs, targets), following, args.step_size)
            with preserve(network):
                tapes = [
                    record(network, inputs, losses),
                    record(network, inputs, losses, batch_norm="derivative"),
                    record(network, inputs, losses, way="finite_difference", batch_norm="derivative"),
                ]
            assert isinstance(tapes[2], FiniteDifferenceTape)
            with preserve(network):
                network.zero_grad()
                batch_gradient = tapes[0].batch_gradient
                parameters = {n: p.detach() - args.step_size * batch_gradient[n] for n, p in network.named_parameters()}
                parameters = {name: p.requires_grad_() for name, p in parameters.items()}
                loss = F.cross_entropy(torch.func.functional_call(network, parameters, (following[0],)), following[1])
                direction = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
            share, derivative, rough = (align(tape, direction) for tape in tapes)
            error = float(((rough - derivative).abs() / derivative.abs()).median())
            found = (correlation(share, truth), correlation(derivative, truth), correlation(share, derivative), error)
            rows.append(found)
            mean = float(tapes[0].losses.mean())
            print(
                f"{step:>5} {mean:>6.2f} {found[0]:>7.3f} {found[1]:>11.3f} {found[2]:>17.3f} {found[3]:>18.1e}",
                flush=True,
            )
        losses(network(inputs)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    means = [statistics.mean(column) for column in zip(*rows, strict=True)]
    print("mean         {:>7.3f} {:>11.3f} {:>17.3f} {:>18.1e}".format(*means))


if __name__ == "__main__":
    main()
