"""Controllers that write whole strings of an optimizer search, whatever the encoding of its actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Generator, Tensor

from gar_env.errors import CheckpointError, ConfigurationError
from gar_env.optimizers import Grammar
from gar_env.seeding import named_generator


class StringAgent(ABC):
    """Proposes a string for each row of ``GAR/OptimizerSearch-v0``, and is told what each was paid.

    A subclass says what to propose (:meth:`propose`) and what to learn (:meth:`tell`).

    Args:
        seed: Of what is drawn.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator: Generator = named_generator(seed, "actions")
        self._strings: Tensor | None = None
        self._place = 0

    @abstractmethod
    def propose(self, n: int) -> Tensor:
        """Strings, int64 ``[n, length]``: numbers of tokens in the grammar's vocabulary."""

    @abstractmethod
    def tell(self, strings: Tensor, rewards: Tensor) -> None:
        """What proposed strings were paid, ``[n]``."""

    def prepare(self) -> None:  # noqa: B027 - not all have something to make
        """Called when :attr:`grammar` is there for the first time."""

    grammar: Grammar | None = None
    """Of the environment."""

    def begin(self, env: VectorEnv) -> None:
        """See :class:`agents.Agent`.

        Raises:
            ConfigurationError: If the environment is no optimizer search, or has another grammar than before.
        """
        slots: Any = env.unwrapped
        grammar = getattr(slots, "grammar", None)
        if not isinstance(grammar, Grammar):
            raise ConfigurationError(
                f"{type(self).__name__} writes update rules, and {type(slots).__name__} asks for none. Use it on "
                "GAR/OptimizerSearch-v0."
            )
        if self.grammar is None:
            self.grammar = grammar
            self.prepare()
        elif grammar != self.grammar:
            raise ConfigurationError(
                f"The controller writes strings of {self.grammar}, and the environment's are of {grammar}."
            )
        self._n, self._flat = env.num_envs, slots.config.encoding == "flat"
        self._strings, self._place = None, 0

    def act(self, observations: Any) -> Tensor:
        """The next token of each row, int64 ``[n]``; or all, ``[n, length]``, as the environment counts them."""
        assert self.grammar is not None
        if self._strings is None:
            self._strings, self._place = self.propose(self._n), 0
        if self._flat:
            return self._strings - torch.tensor(self.grammar.firsts)
        self._place += 1
        return self._strings[:, self._place - 1]

    def learn(self, rewards: Any, ended: Any, infos: dict[str, Any]) -> None:
        """See :class:`agents.Agent`."""
        if self._strings is not None and bool(ended[0]):
            self.tell(self._strings, torch.as_tensor(rewards).cpu().float())
            self._strings, self._place = None, 0

    def state_dict(self) -> dict[str, Any]:
        """What it goes on with."""
        strings = torch.empty(0, 0, dtype=torch.int64) if self._strings is None else self._strings
        return {"generator": self.generator.get_state(), "strings": strings, "place": self._place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict`.

        Raises:
            CheckpointError: If it is none.
        """
        if not {"generator", "strings", "place"} <= state.keys():
            raise CheckpointError(f"That is no state of {type(self).__name__}: it lacks its strings.")
        self.generator.set_state(state["generator"])
        self._strings = state["strings"] if state["strings"].numel() else None
        self._place = int(state["place"])


class RandomStrings(StringAgent):
    """Each token uniform among those that may stand there: what a search has to beat."""

    def propose(self, n: int) -> Tensor:
        """See :class:`StringAgent`."""
        assert self.grammar is not None
        return torch.tensor([self.grammar.random(self.generator) for _ in range(n)])

    def tell(self, strings: Tensor, rewards: Tensor) -> None:
        """Nothing to learn."""
