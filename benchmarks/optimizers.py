"""Candidates per CPU minute: update rules trained one at a time, and many at once.

    python benchmarks/optimizers.py [--rules 1 16 64] [--rounds 7] [--candidates 64] [--child digits]
    python benchmarks/optimizers.py --device cuda --rules 1 64 1024 --candidates 1024

One thread, one process; CPU seconds, on a GPU seconds until it is done. Random rules of two groups; a candidate is the
paper's: every one of seven step sizes for an epoch, the best for four more, and an evaluation on validation and test
data. "One at a time": a network of torch, the rule as its optimizer, a loop over step sizes. The ratio is taken round
by round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator

from agents.jobs.provenance import provenance
from agents.measures.timing import median_and_quartiles
from agents.studies.optimizers.cases import TITLES
from agents.studies.optimizers.jobs import children_of
from gar_env.optimizers import Grammar, Rule
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
            network = children.build().to(children.device)
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


def seconds(call: Callable[[], object], device: str) -> float:
    """Of a call: CPU seconds; on a GPU seconds until it is done."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rules", nargs="*", type=int, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--child", choices=("digits", "digits-cnn"), default="digits")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.rounds < 2 or min(args.rules, default=0) < 1 or args.candidates < max(args.rules, default=1):
        parser.error("--rounds must be at least 2, --rules at least 1 each, and no more than --candidates.")
    torch.set_num_threads(1)
    children, grammar, generator = children_of(args.child, "", args.device), Grammar(2), Generator().manual_seed(0)
    rules = [grammar.decode(grammar.random(generator)) for _ in range(args.candidates)]

    def together(size: int) -> Callable[[list[Rule]], object]:
        return lambda some: [children.train(some[at : at + size], [0]) for at in range(0, len(some), size)]

    calls = {"one at a time": lambda some: [one_at_a_time(children, rule) for rule in some]}
    calls |= {f"{size} at once": together(size) for size in args.rules}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(args.rounds + 1):  # the first warms up
        for name, call in calls.items():
            some = rules[: max(8, min(16, args.candidates // 4))] if name in ("one at a time", "1 at once") else rules
            found = seconds(partial(call, some), args.device)
            if round_:
                taken[name].append(found / len(some))
    where = "" if args.device == "cpu" else f"{torch.cuda.get_device_name()}; "
    unit = "CPU minute" if args.device == "cpu" else "minute"
    print(f"{args.candidates} candidates, {TITLES[args.child]}; {where}{args.rounds} rounds, median [quartiles]\n")
    print(f"| | candidates per {unit} | times one at a time |\n| --- | --- | --- |")
    for name, each in taken.items():
        middle, low, high = median_and_quartiles([60 / one for one in each])
        ratio = median_and_quartiles([a / b for a, b in zip(taken["one at a time"], each, strict=True)])
        cells = f"{middle:,.0f} [{low:,.0f}, {high:,.0f}]", "{:.1f} [{:.1f}, {:.1f}]".format(*ratio)
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
