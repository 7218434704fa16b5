"""An update rule as a formula."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gar_env.errors import ConfigurationError
from gar_env.optimizers.canonical import canonical
from gar_env.optimizers.formula import Call, Leaf, Node, check_tree, read, write
from gar_env.optimizers.functions import MOMENTS, OPERANDS
from gar_env.optimizers.interpreter import Semantics, Step, program
from gar_env.optimizers.named import NAMED
from gar_env.registry import did_you_mean, shown

if TYPE_CHECKING:
    from gar_env.optimizers.grammar import Grammar
    from gar_env.optimizers.torch_optimizer import RuleOptimizer


class Rule:
    """``theta <- theta - step_size * u``, where a formula says what ``u`` is.

    Operands: ``g`` (gradient), ``g2``, ``g3``; ``m``, ``v``, ``gamma``, running means of these; ``Adam``, ``RMSProp``;
    numbers; ``1e-3w``, the parameters times a scale; ``noise`` and decays. Functions: ``-x``, ``exp``, ``log``,
    ``sqrt``, ``clip(x, c)``, ``drop(x, p)``, ``sign``; ``+ - * / ^``. Equal parts of a formula are one: computed once,
    and with one random draw.

    Args:
        formula: Text, the name of a published rule (:data:`~gar_env.optimizers.NAMED`), or a tree.

    Raises:
        FormulaError: If the text cannot be read; the message shows the column.

    Example:
        >>> rule = Rule("g * exp(sign(g) * sign(m))")
        >>> rule == Rule("PowerSign"), str(rule.canonical), rule.memory
        (True, 'exp(sign(g) * sign(m)) * g', ('m',))

    Source:
        Bello, Zoph, Vasudevan & Le (2017), "Neural Optimizer Search with Reinforcement Learning", section 3.
    """

    def __init__(self, formula: str | Leaf | Call) -> None:
        if isinstance(formula, str):
            self.tree: Node = read(NAMED.get(formula, formula))
        elif isinstance(formula, Leaf | Call):
            check_tree(formula)
            self.tree = formula
        else:
            raise ConfigurationError(f"formula={shown(formula)} must be text, or a tree.")

    @classmethod
    def parse(cls, text: str) -> Rule:
        """A rule from its formula; the inverse of ``str(rule)``."""
        return cls(text)

    def __str__(self) -> str:
        return write(self.tree)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rule, (self.tree,)  # what is cached are functions, which cannot be pickled

    def __repr__(self) -> str:
        return f"Rule({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        """Whether both are one function by signs and order of sides; see :attr:`key` for more."""
        return isinstance(other, Rule) and self.canonical.tree == other.canonical.tree

    def __hash__(self) -> int:
        return hash(self.canonical.tree)

    @cached_property
    def canonical(self) -> Rule:
        """The same function in the one form that all its writings share."""
        return Rule(canonical(self.tree))

    @cached_property
    def steps(self) -> list[Step]:
        """Its program."""
        return program(canonical(self.tree))

    @cached_property
    def memory(self) -> tuple[str, ...]:
        """Running means that it reads: of ``"m"``, ``"v"``, ``"gamma"``."""
        read_by = {name for one in self._operands for name in OPERANDS[one].memory}
        return tuple(name for name in MOMENTS if name in read_by)

    @cached_property
    def decays(self) -> bool:
        """Whether it needs to know how long training is."""
        return any(OPERANDS[one].decays for one in self._operands)

    def check_horizon(self, total_steps: int | None) -> None:
        """Refuse a decay without a horizon.

        Raises:
            ConfigurationError: If the rule has one, and ``total_steps`` is no whole number above 0.
        """
        if self.decays and total_steps is None:
            raise ConfigurationError(f"{self} has a decay, which needs to know how long training is. Pass total_steps.")
        if total_steps is not None and (type(total_steps) is not int or total_steps < 1):
            raise ConfigurationError(f"total_steps={shown(total_steps)} must be a whole number, at least 1.")

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits, the same for all formulas that compute the same function; see :mod:`.key`."""
        from gar_env.optimizers.key import functional_key

        return functional_key(self)

    def encode(self, grammar: Grammar) -> list[int]:
        """A string of the grammar that says this rule; :meth:`Grammar.encode`."""
        return grammar.encode(self)

    def to_optimizer(
        self,
        parameters: Iterable[Any],
        lr: float,
        *,
        total_steps: int | None = None,
        seed: int = 0,
        semantics: Semantics = Semantics(),  # noqa: B008 - frozen
    ) -> RuleOptimizer:
        """A ``torch.optim.Optimizer`` that follows the rule; see :class:`~gar_env.optimizers.RuleOptimizer`.

        Example:
            >>> import torch
            >>> network = torch.nn.Linear(2, 1)
            >>> optimizer = Rule("PowerSign").to_optimizer(network.parameters(), lr=0.1)
            >>> network(torch.ones(1, 2)).sum().backward()
            >>> optimizer.step()
        """
        from gar_env.optimizers.torch_optimizer import RuleOptimizer

        return RuleOptimizer(parameters, self, lr, total_steps=total_steps, seed=seed, semantics=semantics)

    @cached_property
    def _operands(self) -> list[str]:
        return [one.name for one in (step.node for step in self.steps) if isinstance(one, Leaf) and one.value is None]


def build_optimizer_rule(rule: str | Rule) -> Rule:
    """A rule from its name or formula; a rule is returned as it is.

    Raises:
        FormulaError: If it cannot be read; the message shows the column, and known names if it is one word.
    """
    if isinstance(rule, str) and rule.strip().isidentifier() and rule not in NAMED:
        hint = did_you_mean(rule, NAMED)
        if hint and rule not in OPERANDS:
            raise ConfigurationError(f"No rule is called {shown(rule)}.{hint} Known: {', '.join(NAMED)}; or a formula.")
    return rule if isinstance(rule, Rule) else Rule(rule)
