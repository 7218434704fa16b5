"""Formulas as the update rule of a stack: each row follows its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from gar_env.errors import ConfigurationError
from gar_env.learner import UpdateRule
from gar_env.learner.update_rules import Memory, Tensors
from gar_env.optimizers.draws import Draws
from gar_env.optimizers.functions import MOMENTS
from gar_env.optimizers.interpreter import Interpreter, Semantics, Slab, flat
from gar_env.optimizers.rule import Rule, build_optimizer_rule

ROWS = "rows"
"""The one name that memory has: all parameters of a row side by side."""


class StackedRules(UpdateRule):
    """One rule for each row of a :class:`~gar_env.learner.LearnerStack`.

    Rows of one rule and one seed should follow each other: they are computed together.

    Args:
        rules: One for each row; rules, names or formulas.
        seeds: One for each row, of its rule's random numbers; 0 by default.
        semantics: What formulas leave open.
        total_steps: Length of training, for decays.
        way: ``"loop"``, ``"grouped"``, or ``"auto"``: by device.

    Raises:
        ConfigurationError: If there is no row, more seeds than rules, or a decay without ``total_steps``.
        FormulaError: If a formula cannot be read.

    Example:
        >>> from gar_env.learner import LearnerStack
        >>> rules = StackedRules(["Adam", "PowerSign"])
        >>> stack = LearnerStack(lambda: torch.nn.Linear(3, 2), seeds=[0, 0], rule=rules)
        >>> one = stack.run(torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64))
        >>> stack.move(stack.direction(one.gradient), torch.tensor([0.01, 0.1]))
    """

    def __init__(
        self,
        rules: Sequence[str | Rule],
        seeds: Sequence[int] | None = None,
        *,
        semantics: Semantics = Semantics(),  # noqa: B008 - frozen
        total_steps: int | None = None,
        way: str = "auto",
    ) -> None:
        self.rules = [build_optimizer_rule(rule) for rule in rules]
        self.seeds = [0] * len(self.rules) if seeds is None else list(seeds)
        if not self.rules or len(self.rules) != len(self.seeds):
            raise ConfigurationError(
                f"There are {len(self.rules)} rules and {len(self.seeds)} seeds; expected one of each for every row."
            )
        for rule in set(self.rules):
            rule.check_horizon(total_steps)
        self.semantics, self.total_steps, self.way = semantics, total_steps, way
        needed = {name for rule in self.rules for name in rule.memory}
        self.remembers = tuple(name for name in MOMENTS if name in needed)  # pyright: ignore
        self._interpreter: Interpreter | None = None

    def of_rows(self, rows: Tensor) -> StackedRules:
        """See :meth:`UpdateRule.of_rows`."""
        chosen = rows.tolist()
        found = StackedRules(
            [self.rules[i] for i in chosen],
            [self.seeds[i] for i in chosen],
            semantics=self.semantics,
            total_steps=self.total_steps,
            way=self.way,
        )
        found.remembers = self.remembers  # the same in all blocks of a stack
        return found

    def start(self, parameters: Tensors) -> Memory:
        """See :meth:`UpdateRule.start`."""
        if not self.remembers:
            return {}
        zeros = torch.zeros_like(flat(list(parameters.values()), len(self.rules)))
        return {name: {ROWS: zeros.clone()} for name in self.remembers}

    def direction(
        self, gradient: Tensors, memory: Memory, steps: Tensor, parameters: Tensors
    ) -> tuple[dict[str, Tensor], Memory]:
        """See :meth:`UpdateRule.direction`."""
        n = len(steps)
        g = flat(list(gradient.values()), n)
        w = flat([parameters[name] for name in gradient], n)
        if self._interpreter is None:
            width = sum(value[0].numel() for value in gradient.values())
            self._interpreter = self._made(width, g)
        after = self._interpreter.remember(g, {name: memory[name][ROWS] for name in self.remembers})
        u = -self._interpreter.updates(g, w, after, steps)
        found, at = {}, 0
        for name, value in gradient.items():
            size = value[0].numel()
            found[name] = u[:, at : at + size].unflatten(1, value.shape[1:] or (1,)).view(value.shape)
            at += size
        return found, {name: {ROWS: value} for name, value in after.items()}

    def _made(self, width: int, g: Tensor) -> Interpreter:
        draws: dict[int, Draws] = {}
        slabs, start = [], 0
        for (rule, seed), members in groupby(zip(self.rules, self.seeds, strict=True)):
            end = start + len(list(members))
            if seed not in draws:
                draws[seed] = Draws(seed, width, g.shape[1], g.device)
            slabs.append(Slab(slice(start, end), rule.steps, rule.memory, draws[seed]))
            start = end
        return Interpreter(slabs, self.semantics, self.total_steps, self.way)
