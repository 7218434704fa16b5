"""What people's own data come to: weights of examples, values of labels, other people's agents on a noisy source.

    python benchmarks/own_data.py weights [--seeds 0 1 2 3 4] [--corrupt "symmetric_noise(0.4)" ""] [--data cifar10.npz]
    python benchmarks/own_data.py values [--seeds 0 1 2 3 4] [--mistakes random next weak]
    python benchmarks/own_data.py agents [--seeds 0 1 ... 19] [--pays heldout policy distinct v1]
    python benchmarks/own_data.py time [--text SOURCES.npz] [--rounds 7]

One thread; a line for each run as it comes, then a table with 95 % bootstrap intervals over seeds. ``weights`` and
``values`` are on 6,000 images of Fashion-MNIST (Debian's ``dataset-fashion-mnist`` holds it) with the network ``cnn``;
``agents`` on the digits, one split of ten with random labels, Stable-Baselines3's PPO, A2C and DQN with the settings of
``gar-env train``. ``time`` is CPU seconds of an SGD step of a mixture over those of uniform draws, in one process,
round by round; median and quartiles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

import gar_env  # noqa: F401 - registers the environments
from agents.controllers import CONTROLLERS
from agents.controllers.native import KeepAllOptions, OracleOptions, ValueRegressionOptions
from agents.jobs.provenance import provenance
from agents.measures.intervals import summarise
from agents.measures.tables import Table
from agents.measures.timing import median_and_quartiles
from agents.studies.mixture.jobs import ARMS, agent_of, environment_of
from agents.studies.mixture.sources import mixture_dataset
from agents.training.loops import start_session
from gar_env.data import Dataset, load_dataset
from gar_env.networks import build_network
from gar_env.values import value

EXAMPLES, TESTED = 6000, 4000
STEPS, EPOCH = 552, 46
"""Twelve epochs of 128, and steps after which accuracy is looked at: at the ends of the last three."""

TIMED = 40
"""Steps of a round."""

FOLDS, FOLD_EPOCHS = 4, 6
"""Of cross-validated probabilities, as cleanlab reads them."""

Line = tuple[str, dict[str, float]]
"""What was run, and what it came to."""


def some_of(name: str, seed: int | None = None) -> Dataset:
    """Some of a data set, chosen by the seed; the same for all by default."""
    data = load_dataset(name)
    generator = torch.Generator().manual_seed(seed or 0)
    tests = torch.randperm(len(data.x_test), generator=torch.Generator().manual_seed(0))[:TESTED]
    some = data.taking(torch.randperm(len(data.x_train), generator=generator)[:EXAMPLES])
    return replace(some, x_test=data.x_test[tests], y_test=data.y_test[tests])


def weights(args: argparse.Namespace) -> Iterator[Line]:
    """Final accuracies, and means of those after the last three epochs."""
    paid = {"pay_dropped": True, "keep_all_steps": 2 * 47, "keep_bonus": 0.0}
    first = {"reference": "policy", "keep_bonus": 0.0}
    arms: dict[str, tuple[Any, dict[str, Any]]] = {
        "keep-all": (KeepAllOptions(), {"reward": "random"}),
        "value-regression": (ValueRegressionOptions(), paid),
        "sb3-ppo": (CONTROLLERS["sb3-ppo"](), {}),
        "sb3-ppo, v0": (CONTROLLERS["sb3-ppo"](), first),
        "oracle": (OracleOptions(), {"reward": "random"}),
    }
    data = some_of(args.data)
    arms = {name: arm for name, arm in arms.items() if not args.arms or name in args.arms}
    for corrupt in args.corrupt:
        for seed in args.seeds:
            for name, (options, more) in arms.items():
                if name == "oracle" and not corrupt:
                    continue
                env = gymnasium.make_vec(
                    "GAR/DataWeight-v1", num_envs=128, num_steps=STEPS, dataset=data, corrupt=corrupt, network="cnn",
                    step_size=0.1, momentum=0.0, autoreset_mode="SameStep", **more,
                )  # fmt: skip
                epochs = Epochs(env.unwrapped)
                start_session(env, options.build, seed).run(STEPS, epochs)
                values = env.unwrapped.finished[-1].values  # pyright: ignore[reportAttributeAccessIssue]
                accuracies = [*epochs.accuracies, values["test_accuracy"]]
                shares = {name: values[name] for name in ("kept_share", "drop_precision", "drop_recall")}
                found = {"final": accuracies[-1], "last three": sum(accuracies) / 3, **shares}
                yield f"{corrupt or 'clean'}, {name}", found
                env.close()


class Epochs:
    """Accuracies at the ends of the last epochs but one; see :class:`~agents.training.loops.Hooks`.

    Args:
        slots: The environment.
    """

    def __init__(self, slots: Any) -> None:
        self.slots, self.accuracies = slots, []

    def on_step(self) -> None:
        """Called by the session."""
        if self.slots.steps in (STEPS - 2 * EPOCH, STEPS - EPOCH):
            self.accuracies.append(self.slots.evaluate()["test_accuracy"])

    def at_rest(self) -> None:
        """Called by the session."""


def mistaken(kind: str, seed: int) -> tuple[Dataset, np.ndarray]:
    """Wrong labels, and which are right: 40 % at random, 35 % the next class, or up to 30 % a weak model's."""
    generator = torch.Generator().manual_seed(seed)
    whole = load_dataset("fashion_mnist")
    data = whole.taking(torch.randperm(len(whole.x_train), generator=generator)[:EXAMPLES])
    labels = data.y_train.clone()
    order = torch.randperm(EXAMPLES, generator=generator)
    if kind == "random":
        bad = order[: int(0.4 * EXAMPLES)]
        labels[bad] = (labels[bad] + torch.randint(1, 10, (len(bad),), generator=generator)) % 10
    elif kind == "next":
        bad = order[: int(0.35 * EXAMPLES)]
        labels[bad] = (labels[bad] + 1) % 10
    else:
        answers = weak_answers(whole, data, seed)
        wrong = (answers != labels).nonzero().flatten()
        bad = wrong[torch.randperm(len(wrong), generator=generator)][: int(0.3 * EXAMPLES)]
        labels[bad] = answers[bad]
    return replace(data, y_train=labels), (labels == data.y_train).numpy()


def weak_answers(whole: Dataset, data: Dataset, seed: int) -> Tensor:
    """Of a network that saw 300 other images for a moment."""
    others = whole.taking(torch.randperm(len(whole.x_train), generator=torch.Generator().manual_seed(seed + 99))[:300])
    torch.manual_seed(seed)
    network = build_network("fc", data.input_shape, 10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(60):
        rows = torch.randint(300, (64,))
        F.cross_entropy(network(others.x_train[rows].float() / 127.5 - 1), others.y_train[rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return network(data.x_train.float() / 127.5 - 1).argmax(1)


def cross_validated(data: Dataset, seed: int) -> np.ndarray:
    """The label's probability by a network that did not train on the example: cleanlab's self-confidence."""
    order = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(seed))
    inputs, found = data.x_train.float() / 127.5 - 1, torch.zeros(len(order))
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        rest = torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold])
        torch.manual_seed(seed)
        network = build_network("cnn", data.input_shape, 10)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=5e-4)
        for _ in range(FOLD_EPOCHS):
            for rows in rest[torch.randperm(len(rest))].split(128):
                F.cross_entropy(network(inputs[rows]), data.y_train[rows]).backward()
                optimizer.step()
                optimizer.zero_grad()
        network.eval()
        with torch.no_grad():
            chances = torch.cat([network(inputs[rows]).softmax(1) for rows in held.split(1000)])
        found[held] = chances[torch.arange(len(held)), data.y_train[held]]
    return found.numpy()


def area(values: np.ndarray, good: np.ndarray) -> float:
    """Under the curve: whether higher values are right labels."""
    ranks = rankdata(values)
    return float((ranks[good].sum() - good.sum() * (good.sum() + 1) / 2) / (good.sum() * (~good).sum()))


def values(args: argparse.Namespace) -> Iterator[Line]:
    """Areas under the curve."""
    for kind in args.mistakes:
        for seed in args.seeds:
            data, good = mistaken(kind, seed)
            found = value("cnn", data, seed=seed)
            yield (
                kind,
                {
                    "rank": area(found.rank, good),
                    "alignment": area(found.alignment, good),
                    "margin (AUM)": area(found.margin, good),
                    "error (EL2N)": area(-found.error, good),
                    "loss": area(-found.loss, good),
                    "cross-validated (cleanlab)": area(cross_validated(data, seed), good),
                    "systematic": float(found.systematic),
                },
            )


class Drawn:
    """How often the noisy split was drawn after learning.

    Args:
        slots: The environment.
    """

    def __init__(self, slots: Any) -> None:
        self.slots, self.steps, self.share = slots, 0, float("nan")
        self._before: Tensor | None = None

    def on_step(self) -> None:
        """Called by the session: the last hundred steps of two episodes of 300 count."""
        self.steps += 1
        if self.steps == 500:
            self._before = self.slots.decisions.clone()
        elif self.steps == 599 and self._before is not None:
            drawn = self.slots.decisions - self._before
            self.share = float(drawn[0] / drawn.sum())

    def at_rest(self) -> None:
        """Called by the session."""


def agents(args: argparse.Namespace) -> Iterator[Line]:
    """Shares of the noisy split after learning."""
    pays: dict[str, dict[str, Any]] = {
        "heldout": {"reference": "heldout", "reward": "gar"},
        "policy": {"reference": "policy", "reward": "gar"},
        "distinct": {"reference": "policy", "reward": "distinct_gar"},
        "v1": {},
    }
    for name in ("sb3-ppo", "sb3-a2c", "sb3-dqn"):
        for what in args.pays:
            for seed in args.seeds:
                options = {"num_steps": 300, "autoreset_mode": "SameStep", **pays[what]}
                env = gymnasium.make_vec("GAR/DataSplit-v1", num_envs=128, **options)
                controller: Any = CONTROLLERS[name]()
                session, drawn = start_session(env, controller.build, seed), Drawn(env.unwrapped)
                session.run(600, drawn)
                env.close()
                yield f"{name}, {what}", {"share": drawn.share, "below 0.05": float(drawn.share < 0.05)}


def step_times(text: str, rounds: int) -> None:
    """Print how many times as long a step takes with a target, round by round."""
    data = mixture_dataset(text)
    envs: dict[str, tuple[Any, Any, list[Any]]] = {}
    for name in ("uniform", "target, softmax", "target, DGA's weights"):
        arm = ARMS[name]
        env = environment_of(arm, data, steps=(rounds + 1) * TIMED + 1)
        agent = agent_of(arm, env, 0)
        observations, _ = env.reset(seed=0)
        agent.begin(env)
        envs[name] = env, agent, [observations]
    taken: dict[str, list[float]] = {name: [] for name in envs}
    for round_ in range(rounds + 1):  # the first warms up
        for name, (env, agent, seen) in envs.items():
            start = time.process_time()
            for _ in range(TIMED):
                seen[0], rewards, terminations, truncations, infos = env.step(agent.act(seen[0]))
                agent.learn(rewards, terminations | truncations, infos)
            if round_:
                taken[name].append((time.process_time() - start) / TIMED)
    table = Table("time", ["mixture", "CPU ms a step", "over uniform"])
    for name, each in taken.items():
        ratio = median_and_quartiles([a / b for a, b in zip(each, taken["uniform"], strict=True)])
        middle, low, high = (1000 * number for number in median_and_quartiles(each))
        table.append([name, f"{middle:.1f} [{low:.1f}, {high:.1f}]", "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)])
    print(f"{table.markdown()}\n\n{provenance()}")


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Line]]] = {
    "weights": weights,
    "values": values,
    "agents": agents,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=(*PARTS, "time"))
    parser.add_argument("--text", default="")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--arms", nargs="*")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", nargs="*", type=int)
    parser.add_argument("--corrupt", nargs="*", default=["symmetric_noise(0.4)", "", "asymmetric_noise(0.35)"])
    parser.add_argument("--mistakes", nargs="*", choices=("random", "next", "weak"), default=["random", "next", "weak"])
    parser.add_argument(
        "--pays", nargs="*", choices=("heldout", "policy", "distinct", "v1"), default=["heldout", "policy"]
    )
    args = parser.parse_args()
    args.seeds = args.seeds or list(range(20 if args.part == "agents" else 5))
    torch.set_num_threads(1)
    if args.part == "time":
        if args.rounds < 2:
            parser.error("--rounds must be at least 2.")
        return step_times(args.text, args.rounds)
    found: dict[str, list[dict[str, float]]] = {}
    for name, numbers in PARTS[args.part](args):
        found.setdefault(name, []).append(numbers)
        print(name, {key: round(number, 3) for key, number in numbers.items()}, flush=True)
    keys = list(dict.fromkeys(key for runs in found.values() for key in runs[0]))
    table = Table(args.part, ["", *keys, "runs"])
    for name, runs in found.items():
        cells = [summarise([run[key] for run in runs]).with_interval() for key in keys]
        table.append([name, *cells, str(len(runs))])
    print(f"\n{table.markdown()}\n\n{provenance()}")


if __name__ == "__main__":
    main()
