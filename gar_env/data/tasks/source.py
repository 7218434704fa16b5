"""Where tasks come from: what every source of them says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Generator, Tensor

from gar_env.errors import ConfigurationError
from gar_env.registry import Registry, check_choice, shown
from gar_env.state import plain

PARTS = ("train", "test")


@plain
class Tasks(NamedTuple):
    """N tasks, all with as many examples.

    Args:
        inputs: To adapt to, the support set: ``[N, S, ...]``.
        targets: ``[N, S, ...]``.
        query_inputs: To be judged by: ``[N, Q, ...]``.
        query_targets: ``[N, Q, ...]``.
        corrupted: bool ``[N]``: whose targets were spoiled.
    """

    inputs: Tensor
    targets: Tensor
    query_inputs: Tensor
    query_targets: Tensor
    corrupted: Tensor


class TaskSource(ABC):
    """A distribution over tasks; those to train on and those to test on have nothing in common, if it can be helped."""

    name: str
    """In messages and results."""

    input_shape: tuple[int, ...]
    """Of one example, as a network sees it."""

    outputs: int
    """How many logits or numbers a network returns for it."""

    loss: ClassVar[str]
    """A registered loss: ``"cross_entropy"`` or ``"squared_error"``."""

    shots: int
    """Support examples, S; of each class where there are classes."""

    @property
    def support(self) -> int:
        """S: support examples of a task."""
        return self.shots

    @abstractmethod
    def draw(self, n: int, generator: Generator, *, part: str = "train", queries: int | None = None) -> Tasks:
        """Some tasks, clean.

        Args:
            n: N.
            generator: On the CPU.
            part: ``"train"`` or ``"test"``.
            queries: Query examples, of each class where there are classes; by default as many as the source has for
                the part.
        """


def check_draw(part: str, queries: int | None) -> None:
    """Refuse what no source has.

    Raises:
        ConfigurationError: If there is no such part, or no query.
    """
    check_choice("part", part, PARTS)
    if queries is not None and (type(queries) is not int or queries < 1):
        raise ConfigurationError(f"queries={shown(queries)} must be a whole number, at least 1.")


TASKS: Registry[type[TaskSource]] = Registry("source of tasks")
register_tasks = TASKS.register
