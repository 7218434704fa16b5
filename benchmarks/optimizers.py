"""Candidates per CPU minute: update rules trained one at a time, and many at once.

    python benchmarks/optimizers.py [--rules 1 16 64] [--rounds 7] [--candidates 64]

One thread, one process. Random rules of two groups; a candidate is the paper's: every one of seven step sizes for an
epoch, the best for four more, and an evaluation on validation and test data. "One at a time": a network of torch, the
rule as its optimizer, a loop over step sizes. The ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator

from agents.jobs.provenance import provenance
from agents.measures.timing import median_and_quartiles
from gar_env.optimizers import Grammar, Rule
from gar_env.optimizers.child_options import ChildOptions
from gar_env.optimizers.children import Children
from gar_env.seeding import lend_to_global, named_generator


def one_at_a_time(children: Children, rule: Rule) -> float:
    """A candidate as anybody would train it; its validation accuracy."""
    options, found = children.options, []
    x, t = children.validation_data

    def accuracy(network: torch.nn.Module) -> float:
        with torch.no_grad():
            return float((network(x).argmax(1) == t).float().mean())

    for lr in options.step_sizes:
        with lend_to_global(named_generator(0, "initialisation")):
            network = children.build()
        optimizer = rule.to_optimizer(network.parameters(), lr, total_steps=options.total_steps)
        batches = children.batches(0)
        train(network, optimizer, batches, options.step_size_epochs * options.steps_of_epoch)
        found.append((accuracy(network), network, optimizer, batches))
    _, network, optimizer, batches = max(found, key=lambda one: one[0])
    train(network, optimizer, batches, (options.epochs - options.step_size_epochs) * options.steps_of_epoch)
    with torch.no_grad():
        network(children.train_data[0][:360])  # the test data's share
    return accuracy(network)


def train(network: torch.nn.Module, optimizer: torch.optim.Optimizer, batches, steps: int) -> None:
    """So many steps."""
    for _ in range(steps):
        x, t = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(network(x), t).backward()
        optimizer.step()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rules", nargs="*", type=int, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--candidates", type=int, default=64)
    args = parser.parse_args()
    if args.rounds < 2 or min(args.rules, default=0) < 1 or args.candidates < max(args.rules, default=1):
        parser.error("--rounds must be at least 2, --rules at least 1 each, and no more than --candidates.")
    torch.set_num_threads(1)
    children, grammar, generator = Children(ChildOptions()), Grammar(2), Generator().manual_seed(0)
    rules = [grammar.decode(grammar.random(generator)) for _ in range(args.candidates)]

    def together(size: int) -> Callable[[list[Rule]], object]:
        return lambda some: [children.train(some[at : at + size], [0]) for at in range(0, len(some), size)]

    calls = {"one at a time": lambda some: [one_at_a_time(children, rule) for rule in some]}
    calls |= {f"{size} at once": together(size) for size in args.rules}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(args.rounds + 1):  # the first warms up
        for name, call in calls.items():
            some = rules[: max(8, args.candidates // 4)] if name in ("one at a time", "1 at once") else rules
            start = time.process_time()
            call(some)
            if round_:
                taken[name].append((time.process_time() - start) / len(some))
    print(
        f"{args.candidates} candidates, digits, fully connected, 32 units; {args.rounds} rounds, median [quartiles]\n"
    )
    print("| | candidates per CPU minute | times one at a time |\n| --- | --- | --- |")
    for name, seconds in taken.items():
        middle, low, high = median_and_quartiles([60 / one for one in seconds])
        ratio = median_and_quartiles([a / b for a, b in zip(taken["one at a time"], seconds, strict=True)])
        cells = f"{middle:,.0f} [{low:,.0f}, {high:,.0f}]", "{:.1f} [{:.1f}, {:.1f}]".format(*ratio)
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
