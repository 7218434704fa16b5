"""Training runs side by side: steps of all runs per CPU second, over one run in plain torch.

    python benchmarks/step_size.py [--only digits fashion] [--rows 1 4 16 64 256] [--rounds 15] [--dacbench]
    python benchmarks/step_size.py --device cuda --rows 1 16 256 4096

One thread, one process. In each round every contender takes as many steps as fit into about 0.1 seconds, and the ratio
to the plain run is taken round by round, in CPU seconds, for machines are shared; on a GPU in seconds, until it is
done. All draw batches of 32 by index from the same bytes, normalise them, and take a step of SGD.

- plain: one network, ``torch.optim.SGD``. "with features": hooks give each layer's predicted changes, and the paper's
  four features are kept.
- stack: R networks as one :class:`~gar_env.learner.LearnerStack`, without and with features.
- environment: ``GAR/StepSize-v0`` of R rows, all of ``step()``: actions checked, rewards, infos.
- dacbench: a step of DACBench's SGD benchmark on Fashion-MNIST, where the package can be imported.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gar_env  # noqa: F401 - registers the environments
from agents.jobs.provenance import provenance
from agents.measures.timing import median_and_quartiles
from gar_env.data import load_dataset, normalisation
from gar_env.data.builtin import download_folder
from gar_env.envs.runs.batches import BLOCK
from gar_env.envs.runs.statistics import Discounted, signals
from gar_env.networks import build_network

N, SECONDS, WARM_UP = 32, 0.1, 2

CASES = {
    "digits": ("digits 64-32-10", "digits", "mlp-32"),
    "fashion": ("Fashion 784-32-10", "fashion_mnist", "mlp-32"),
    "cnn": ("Fashion CNN 6-15-50", "fashion_mnist", "cpcpcrcs-6-15-50"),
}


class Plain:
    """One run as it is written in plain torch.

    Args:
        dataset: Name.
        network: Name.
        device: Where it trains.
        features: Whether predicted changes are computed, and features kept.
    """

    def __init__(self, dataset: str, network: str, device: str, *, features: bool) -> None:
        data = load_dataset(dataset).to(torch.device(device))
        self.x, self.y = data.x_train, data.y_train
        self.normalise = normalisation(self.x, "standardised")
        self.network = build_network(network, data.input_shape, data.outputs).to(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3)
        self.features, self.calls = features, []
        self.order, self.place = torch.randperm(len(self.x), device=device), 0
        self.mean, self.uncertainty, self.left = torch.zeros(2, device=device), torch.zeros(2, device=device), 1.0
        if features:
            for layer in self.network.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        output.retain_grad()
        self.calls.append((layer, inputs[0], output))

    def step(self) -> None:
        """One step."""
        if self.place + N > len(self.order):
            self.order, self.place = torch.randperm(len(self.x), device=self.x.device), 0
        rows = self.order[self.place : self.place + N]
        self.place += N
        self.calls.clear()
        losses = F.cross_entropy(self.network(self.normalise(self.x[rows])), self.y[rows], reduction="none")
        losses.mean().backward()
        if self.features:
            self._observe(losses.detach())
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def _observe(self, losses: Tensor) -> None:
        changes = torch.zeros(N, device=losses.device)
        for layer, inputs, output in self.calls:
            if isinstance(layer, nn.Linear):
                moved = F.linear(inputs, layer.weight.grad, layer.bias.grad)  # pyright: ignore[reportArgumentType]
            else:
                moved = F.conv2d(inputs, layer.weight.grad, layer.bias.grad, padding=layer.padding)
            changes -= (output.grad * moved).flatten(1).sum(1) * N
        phi = torch.stack([changes.var().log() + 2 * math.log(1e-3), losses.var().log()])
        self.left *= 0.9
        self.mean = 0.9 * self.mean + 0.1 * phi
        self.uncertainty = 0.9 * self.uncertainty + 0.1 * (phi - self.mean / (1 - self.left)).square()


def of_environment(dataset: str, network: str, rows: int, device: str) -> dict[str, Callable[[], object]]:
    """The stack's step without and with features, and the environment's."""
    options: dict[str, Any] = {"dataset": dataset, "network": network, "device": device}
    options |= {"instances": "fixed", "num_steps": 2**30}
    env: Any = gymnasium.make_vec("GAR/StepSize-v0", num_envs=rows, initial_step_sizes=(1e-3,), **options).unwrapped
    env.reset(seed=0)
    every, sizes = torch.ones(rows, dtype=torch.bool, device=device), torch.full((rows,), 1e-3, device=device)
    seen = Discounted(rows, 0.9, device)
    still = np.zeros((rows, 1), np.float32)

    def step(features: bool) -> None:
        env.steps = env.steps + 1  # the next batch
        one = env.stack.run(*env.draw(every))
        direction = env.stack.direction(one.gradient)
        if features:
            seen.show(signals(one.losses, env.stack.predicted_changes(one, direction), sizes), every)
        env.stack.move(direction, sizes)

    return {
        f"stack, {rows}": lambda: step(False),
        f"stack with features, {rows}": lambda: step(True),
        f"environment, {rows}": lambda: env.step(still),
    }


def of_dacbench(network: str) -> Callable[[], object]:
    """A step of DACBench's environment with the same network, data and batch size; it takes AdamW whatever it is told.

    Torchvision's files of Fashion-MNIST have to stand in the folder of ``GAR_ENV_DATA``.
    """
    from dacbench.benchmarks import SGDBenchmark  # pyright: ignore[reportMissingImports]
    from dacbench.envs.sgd import SGDInstance  # pyright: ignore[reportMissingImports]

    data = load_dataset("fashion_mnist")
    instance = SGDInstance(
        model=lambda: build_network(network, data.input_shape, data.outputs),
        optimizer_type=torch.optim.SGD,
        optimizer_params={},
        dataset_path=str(download_folder()),
        dataset_name="FashionMNIST",
        batch_size=N,
        fraction_of_dataset=1.0,
        train_validation_ratio=0.8,
        seed=0,
    )
    benchmark = SGDBenchmark()
    benchmark.config.update({"epoch_mode": False, "cutoff": 10**9, "instance_set": {0: instance}})
    env: Any = benchmark.get_environment()
    env.reset()
    return lambda: env.step(1e-3)


def steps_per_second(call: Callable[[], object], count: int, device: str) -> float:
    """Of CPU time; with a GPU of time."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(count):
        call()
    if device != "cpu":
        torch.cuda.synchronize()
    return count / (clock() - start)


def measure(name: str, rows: list[int], rounds: int, device: str, *, dacbench: bool) -> None:
    """The table of one case."""
    title, dataset, network = CASES[name]
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "plain": (Plain(dataset, network, device, features=False).step, 1),
        "plain with features": (Plain(dataset, network, device, features=True).step, 1),
    }
    for r in rows:
        calls |= {key: (call, r) for key, call in of_environment(dataset, network, r, device).items()}
    if dacbench and dataset == "fashion_mnist":
        calls["dacbench"] = (of_dacbench(network), 1)
    counts = {key: max(1, int(SECONDS * steps_per_second(call, 3, device))) for key, (call, _) in calls.items()}
    if device != "cpu":  # all rows lay out their next batches in the same step of 64
        counts = {key: BLOCK * -(-count // BLOCK) for key, count in counts.items()}
    rates: dict[str, list[float]] = {key: [] for key in calls}
    for round_ in range(rounds + WARM_UP):
        for key, (call, r) in calls.items():
            rate = r * steps_per_second(call, counts[key], device)
            if round_ >= WARM_UP:
                rates[key].append(rate)
    unit = "CPU second" if device == "cpu" else "second"
    print(f"\n{title}\n\n| | runs x steps per {unit} | over plain | over plain with features |")
    print("| --- | --- | --- | --- |")
    for key, own in rates.items():
        cells = [f"{median_and_quartiles(own)[0]:,.0f}"]
        for base in ("plain", "plain with features"):
            middle, low, high = median_and_quartiles([a / b for a, b in zip(own, rates[base], strict=True)])
            cells.append(f"{middle:.2f} [{low:.2f}, {high:.2f}]")
        print(f"| {key} | {' | '.join(cells)} |", flush=True)
    for r in rows:
        pairs = zip(rates[f"stack, {r}"], rates[f"stack with features, {r}"], strict=True)
        middle, low, high = median_and_quartiles([a / b for a, b in pairs])
        print(f"\nFeatures, {r} runs: {middle:.2f} [{low:.2f}, {high:.2f}] times the step without.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dacbench", action="store_true", help="DACBench too; it has to be importable")
    args = parser.parse_args()
    if args.rounds < 2 or min(args.rows, default=0) < 1:
        parser.error("--rounds must be at least 2, for quartiles, and --rows at least 1 each.")
    torch.set_num_threads(1)
    where = "one thread" if args.device == "cpu" else torch.cuda.get_device_name()
    print(f"Batches of {N}, SGD, {where}, {args.rounds} rounds; median [quartiles] of ratios")
    for name in args.only:
        measure(name, args.rows, args.rounds, args.device, dacbench=args.dacbench)
    print(f"\n{provenance()}")


if __name__ == "__main__":
    main()
