"""Few-shot classification out of any data with labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gar_env.data.batch import normalisation
from gar_env.data.dataset import Dataset
from gar_env.data.tasks.source import Tasks, TaskSource, check_draw
from gar_env.errors import ConfigurationError
from gar_env.registry import shown

TEST_SHARE = 0.3
"""Of the classes, where the data do not say which are to test on."""


class ClassTasks(TaskSource):
    """Each task has a few classes, numbered anew, and a few examples of each.

    Classes to train on and to test on have nothing in common. Where training and test data have the same classes, all
    examples are put together, and 0.3 of the classes, the same for every seed, are to test on.

    Args:
        dataset: With labels.
        ways: Classes of a task.
        shots: Support examples of a class.
        queries: Query examples of a class.
        rotations: Whether an image turned by 90, 180 and 270 degrees is of three other classes. (A 0 that is turned
            by 180 degrees is still a 0: such classes cannot be told apart, and cost all methods alike.)
        inputs: Of images: ``"unit"``, ``"symmetric"`` or ``"standardised"``.

    Raises:
        ConfigurationError: If there are too few classes, or too few examples of one; or images to be turned are not
            square.

    Source:
        Vinyals et al. (2016) for ways and shots; Santoro et al. (2016) for rotations as classes.
    """

    loss: ClassVar[str] = "cross_entropy"

    def __init__(
        self,
        dataset: Dataset,
        *,
        ways: int = 5,
        shots: int = 1,
        queries: int = 1,
        rotations: bool = False,
        inputs: str = "unit",
    ) -> None:
        for name, value, least in (("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1)):
            if type(value) is not int or value < least:
                raise ConfigurationError(f"{name}={shown(value)} must be a whole number, at least {least}.")
        if not dataset.has_labels:
            raise ConfigurationError(f"{dataset.name} has no labels, and tasks are made of classes. Use other data.")
        shape = dataset.input_shape
        if rotations and (dataset.kind != "images" or shape[1] != shape[2]):
            raise ConfigurationError(
                f"rotations=True turns square images; {dataset.name} has {dataset.kind} {list(shape)}. Leave it out."
            )
        self.name, self.input_shape, self.outputs = dataset.name, tuple(shape), ways
        self.ways, self.shots, self.queries, self.rotations = ways, shots, queries, rotations
        self.x, self._members = torch.cat([dataset.x_train, dataset.x_test]), {}
        y = torch.cat([dataset.y_train, dataset.y_test])
        for part, classes in zip(("train", "test"), _classes(dataset), strict=True):
            self._members[part] = [(y == label).nonzero().flatten() for label in classes.tolist()]
            self._check(part)
        train = torch.cat(self._members["train"])
        self.normalise: Callable[[Tensor], Tensor] = normalisation(self.x[train], inputs)

    @property
    def support(self) -> int:
        """See :class:`TaskSource`."""
        return self.ways * self.shots

    def classes(self, part: str) -> int:
        """How many there are, turned ones counted too."""
        return len(self._members[part]) * (4 if self.rotations else 1)

    def draw(self, n: int, generator: Generator, *, part: str = "train", queries: int | None = None) -> Tasks:
        """See :class:`TaskSource`; examples of a task are ordered by class, which is how they are numbered."""
        check_draw(part, queries)
        own, count = self._members[part], self.shots + (queries or self.queries)
        fewest = min(map(len, own))
        if count > fewest:
            raise ConfigurationError(
                f"{self.shots} shots and {queries or self.queries} queries are {count} examples of a class, and one of "
                f"{self.name} has {fewest}. Use fewer."
            )
        ways = self.ways
        chosen = torch.rand(n, self.classes(part), generator=generator).argsort(1)[:, :ways]
        turns = chosen % 4 if self.rotations else torch.zeros_like(chosen)
        members = chosen // 4 if self.rotations else chosen
        sizes = torch.tensor([len(one) for one in own])
        # A random key for each example of each class; those beyond a smaller class come last.
        keys = torch.rand(n, ways, int(sizes.max()), generator=generator)
        keys[torch.arange(keys.shape[2]) >= sizes[members][..., None]] = 2
        places = keys.argsort(2)[..., :count]
        table = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
        examples = table[members[..., None], places]  # [n, ways, count]
        x = self.normalise(self.x[examples.flatten()]).view(*examples.shape, *self.input_shape)
        x = _turned(x, turns) if self.rotations else x
        labels = torch.arange(ways)[:, None].expand(n, ways, count)
        parts = slice(self.shots), slice(self.shots, None)
        inputs, targets = ([values[:, :, part].flatten(1, 2) for part in parts] for values in (x, labels))
        return Tasks(inputs[0], targets[0], inputs[1], targets[1], torch.zeros(n, dtype=torch.bool))

    def _check(self, part: str) -> None:
        if self.classes(part) < self.ways:
            raise ConfigurationError(
                f"{self.name} has {self.classes(part)} classes to {part} on, fewer than ways={self.ways}. Use "
                f"fewer ways{'' if self.rotations else ', or rotations=True with images'}."
            )
        fewest, needed = min(map(len, self._members[part])), self.shots + self.queries
        if fewest < needed:
            raise ConfigurationError(
                f"A class of {self.name} to {part} on has {fewest} examples, fewer than shots={self.shots} and queries="
                f"{self.queries} together. Use fewer."
            )


def _classes(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Labels to train on and to test on."""
    train, test = dataset.y_train.unique(), dataset.y_test.unique()
    common = train[torch.isin(train, test)]
    if not len(common):
        return train, test
    if len(common) < max(len(train), len(test)):
        raise ConfigurationError(
            f"{dataset.name} has {len(common)} classes in both its training and its test data, and others in one of "
            "them. Classes to train on and to test on must have nothing in common: give each class to one of them, or "
            "all classes to both, and some are chosen to test on."
        )
    order = torch.randperm(len(common), generator=torch.Generator().manual_seed(0))
    count = max(1, round(TEST_SHARE * len(common)))
    return common[order[count:]].sort().values, common[order[:count]].sort().values


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """Images ``[n, ways, k, c, s, s]``, each class by its own quarter turns ``[n, ways]``."""
    found = x.clone()
    for turn in (1, 2, 3):
        own = turns == turn
        found[own] = torch.rot90(x[own], turn, (-2, -1))
    return found
