"""Tasks on which a signal has to tell apart what cheap tricks take for the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from agents.studies.mixture.sources import PACKAGES, UNWANTED, mixture_dataset
from gar_env.data import Dataset, load_dataset
from gar_env.errors import ConfigurationError

EASY_CLASSES = 2  # of the task "hard"
HELDOUT_SHARE = 0.1  # put aside for every signal, used by some: all train on the same data

# Momentum makes a step overshoot along what the batch has in common: at a step size of 0.1 and a momentum of 0.9 the
# gradient after it points back, the policy gradient of even the exact meta-gradient signal has a cosine of 0.2 with the
# true one at 1,024 slots (0.8 without), and the benchmark would measure that instead of signals.
TRAINING = {"step_size": 0.05, "momentum": 0.0}
"""Of networks on data splits."""

UNWANTED_SPLITS = tuple(range(len(PACKAGES), len(PACKAGES) + len(UNWANTED)))
"""Of the task "text"."""


@dataclass(frozen=True)
class SplitTask:
    """A task on ``GAR/DataSplit-v0``: how often are some splits drawn?

    Args:
        about: What these splits are.
        options: Of the environment.
        bad: The splits; none where all are wanted, and uniform draws are right.
        start: Share of training after which draws count.
        data: From the benchmark's data set to the task's.
        own: Data of its own, whatever the benchmark's are.
        oracle: From the data set to the chance of each split that is right; by default never a bad one.
    """

    about: str
    options: dict[str, Any]
    bad: tuple[int, ...] = (0,)
    start: float = 0.0
    data: Callable[[Dataset], Dataset] | None = None
    own: Callable[[], Dataset] | None = None
    oracle: Callable[[Dataset], list[float]] | None = None

    @property
    def has_oracle(self) -> bool:
        """Whether there is anything that an oracle would do otherwise than uniform draws."""
        return bool(self.bad) or self.oracle is not None

    def dataset(self, name: str) -> str | Dataset:
        """What the environment trains on; a name where it is the benchmark's own."""
        if self.own is not None:
            return self.own()
        return name if self.data is None else self.data(load_dataset(name))

    def score(self, draws: torch.Tensor, dataset: Dataset) -> float:
        """How much nearer the bad splits' share of draws is to what is right than uniform draws are.

        Args:
            draws: From each split, ``[k]``.
            dataset: That they are from.

        Returns:
            0 for uniform draws, 1 for the oracle's, negative for the other way. Where all splits are wanted, minus
            the total variation distance from uniform draws: 0 at best.

        Example:
            >>> noisy, digits = SPLIT_TASKS["noisy"], load_dataset("digits")
            >>> [noisy.score(torch.tensor(draws), digits) for draws in ([9.0, 9.0], [0.0, 18.0], [18.0, 0.0])]
            [0.0, 1.0, -1.0]
            >>> SPLIT_TASKS["wanted"].score(torch.tensor([1.0, 3.0]), digits)
            -0.25
        """
        shares, k = draws / draws.sum(), len(draws)
        if not self.has_oracle:
            return -float((shares - 1 / k).abs().sum() / 2)
        bad = list(self.bad)
        share, uniform = float(shares[bad].sum()), len(bad) / k
        right = sum(self.oracle(dataset)[i] for i in bad) if self.oracle else 0.0
        return 1 - abs(share - right) / abs(uniform - right)


def hard_and_easy(dataset: Dataset) -> Dataset:
    """The same data from two sources: the first two classes are the easy one, the other classes the hard one.

    Both are tested on. Drawing from them equally often gives the easy classes several times their share.
    """
    easy = dataset.y_train < EASY_CLASSES
    name = f"{dataset.name}, hard and easy"
    return replace(dataset, name=name, group_train=easy.long(), groups=("hard", "easy"))


def check_hard(dataset: Dataset) -> None:
    """Refuse data of which :func:`hard_and_easy` makes no task.

    Raises:
        ConfigurationError: If 45 % of the test data or more, or none, are of the easy classes.
    """
    easy = shares_of_the_test(dataset)[1]
    if not 0 < easy < 0.45 or not bool((dataset.y_train < EASY_CLASSES).any()):
        raise ConfigurationError(
            f"The task 'hard' needs more to learn than the first {EASY_CLASSES} classes; {easy:.0%} of the tests of "
            f"{dataset.name} are of these. Leave it out: --tasks noisy trivial redundant labels arrows."
        )


def shares_of_the_test(dataset: Dataset) -> list[float]:
    """Chances of the two sources of :func:`hard_and_easy` as in the test data."""
    easy = float((dataset.y_test < EASY_CLASSES).double().mean())
    return [1 - easy, easy]


SPLIT_TASKS: dict[str, SplitTask] = {
    "noisy": SplitTask("one of ten splits has random labels: high in loss, useless", {"corrupt": "0:label_noise"}),
    "trivial": SplitTask("one has a trivial image per class, repeated: low in loss, useless", {"corrupt": "0:easy"}),
    "redundant": SplitTask(
        "one has a few real images, repeated: useful at first, redundant when the second half of training starts",
        {"corrupt": "0:repeated"},
        start=0.5,
    ),
    "hard": SplitTask(
        "one of two splits has all classes but two: higher in loss, and most of what is tested",
        {"splits": "group"},
        data=hard_and_easy,
        oracle=shares_of_the_test,
    ),
    "wanted": SplitTask("one split for each class: all are wanted", {"splits": "class", "corrupt": ""}, bad=()),
    "several": SplitTask(
        "three of ten are useless: two with random labels, one with trivial images",
        {"corrupt": "0:label_noise, 1:label_noise, 2:easy"},
        bad=(0, 1, 2),
    ),
    "near": SplitTask(
        "one has a trivial image per class, each time with a little noise: near-duplicates, none identical",
        {"corrupt": "0:near_easy"},
    ),
    "text": SplitTask(
        "packages of Python's standard library, one of them with its bytes shuffled, and 2,000 bytes repeated",
        {"splits": "group", "network": "transformer-48-1", "optimizer": "adamw", "step_size": 3e-3, "momentum": None},
        bad=UNWANTED_SPLITS,
        own=lambda: mixture_dataset(""),
    ),
}
"""What controllers of splits are tried on; the paper's toy task is the first."""

SOURCES = ("wanted", "several", "near", "text")
"""Tasks that are asked for by name: what people's own sources are like."""

UNSCORED = tuple(name for name, task in SPLIT_TASKS.items() if not task.has_oracle)
"""Tasks on which nothing is better than uniform draws: in no mean score; what they cost is in accuracies."""

ENVIRONMENTS = {
    **dict.fromkeys(SPLIT_TASKS, "GAR/DataSplit-v0"),
    "labels": "GAR/DataWeight-v0",
    "arrows": "GAR/Augment-v0",
}
"""Every task, and where it is."""

ABOUT = {
    **{name: task.about for name, task in SPLIT_TASKS.items()},
    "labels": "40 % of labels are wrong; PPO drops or keeps examples by their losses and margins",
    "arrows": "image operations that turn arrows into others, among harmless ones",
}
