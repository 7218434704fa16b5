"""Regularised evolution of strings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.optimizer_search.strings import StringAgent
from gar_env.errors import ConfigurationError
from gar_env.registry import shown


class Evolution(StringAgent):
    """The best of a random sample of the population gets a child with one other token; the oldest dies.

    Args:
        population: How many live; as many random ones come first.
        sample: How many are drawn for a parent to be chosen from.
        seed: Of what is drawn.

    Raises:
        ConfigurationError: If a number is out of range.

    Source:
        Real, Aggarwal, Huang & Le (2019), "Regularized Evolution for Image Classifier Architecture Search",
        algorithm 1.
    """

    def __init__(self, population: int = 64, sample: int = 16, *, seed: int = 0) -> None:
        super().__init__(seed)
        for name, value in (("population", population), ("sample", sample)):
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"{name}={shown(value)} must be a whole number, at least 1.")
        if sample > population:
            raise ConfigurationError(f"sample={sample} must be at most population={population}.")
        self.population, self.sample = population, sample
        self.living: list[tuple[list[int], float]] = []
        """Strings and what they were paid, oldest first."""

    def propose(self, n: int) -> Tensor:
        """See :class:`StringAgent`."""
        assert self.grammar is not None
        random = min(n, max(0, self.population - len(self.living)))
        fresh = [self.grammar.random(self.generator) for _ in range(random)]
        return torch.tensor(fresh + [self._child() for _ in range(n - random)])

    def _child(self) -> list[int]:
        assert self.grammar is not None
        if not self.living:
            return self.grammar.random(self.generator)
        drawn = torch.randint(len(self.living), (self.sample,), generator=self.generator).tolist()
        child = list(max((self.living[i] for i in drawn), key=lambda one: one[1])[0])
        place = int(torch.randint(len(child), (), generator=self.generator))
        choices = self.grammar.choices(place)
        others = [token for token in choices if token != child[place]]
        child[place] = others[int(torch.randint(len(others), (), generator=self.generator))]
        return child

    def tell(self, strings: Tensor, rewards: Tensor) -> None:
        """See :class:`StringAgent`."""
        self.living += list(zip(strings.tolist(), rewards.tolist(), strict=True))
        self.living = self.living[-self.population :]

    def state_dict(self) -> dict[str, Any]:
        """See :class:`StringAgent`."""
        strings = torch.tensor([string for string, _ in self.living], dtype=torch.int64)
        return {**super().state_dict(), "living": strings, "rewards": torch.tensor([paid for _, paid in self.living])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See :class:`StringAgent`."""
        super().load_state_dict(state)
        self.living = list(zip(state["living"].tolist(), state["rewards"].tolist(), strict=True))
