"""Options of ``GAR/OptimizerSearch-v0``."""

from __future__ import annotations

from dataclasses import dataclass, fields

from gar_env.envs.config import BaseConfig
from gar_env.errors import ConfigurationError
from gar_env.optimizers import Grammar
from gar_env.optimizers.child_options import ChildOptions
from gar_env.optimizers.child_rewards import CHILD_REWARDS
from gar_env.optimizers.judge import check_screen
from gar_env.optimizers.screen import THRESHOLD
from gar_env.registry import check_choice, shown

ENCODINGS = ("tokens", "flat")


@dataclass(frozen=True)
class OptimizerSearchConfig(BaseConfig, ChildOptions):
    """Options of ``GAR/OptimizerSearch-v0``.

    Args:
        encoding: ``"tokens"``: one token a step, with action masks. ``"flat"``: a whole string at once, in episodes of
            one step; every action is valid.
        groups: Of a rule's string, 1 to 10; two hold PowerSign, three all published rules.
        decays: Whether decays and annealed noise are among the operands.
        reward: ``"validation_accuracy"`` (the paper), ``"validation_loss"``, ``"one_epoch"``, ``"gar"``, ``"nslr"``,
            ``"alignment"`` (on a shared trajectory, nothing is trained), ``"table"`` (of all functions of one group; it
            comes with the package: exact regret, in seconds).
        screen: Rules whose alignment on a shared trajectory is below are not trained, and paid what guessing is;
            ``None``: all are trained (the paper).
        child_seeds: How many children a rule is judged by; it is paid the mean.
        resample: Whether each episode has new children: nothing is remembered, and there is nothing to overfit.
        cache: ``"memory"``; a path, where verdicts stay from one run to the next; ``None``: every rule anew.
    """

    encoding: str = "tokens"
    groups: int = 2
    decays: bool = False
    reward: str = "validation_accuracy"
    screen: float | None = THRESHOLD
    child_seeds: int = 3
    resample: bool = False
    cache: str | None = "memory"

    def __post_init__(self) -> None:
        BaseConfig.__post_init__(self)
        ChildOptions.__post_init__(self)
        check_choice("encoding", self.encoding, ENCODINGS)
        CHILD_REWARDS[self.reward]  # refuses one that there is not
        self.grammar  # noqa: B018 - likewise
        if self.child_seeds < 1:
            raise ConfigurationError(f"child_seeds={self.child_seeds} must be at least 1.")
        check_screen(self.screen)
        if self.reward == "table":
            self._check_table()
        if self.resample and self.cache not in ("memory", None):
            raise ConfigurationError(
                f"cache={self.cache!r} would keep verdicts of children that are new in each episode (resample=True). "
                "Leave cache out."
            )

    def _check_table(self) -> None:
        """The table is of one grammar, and of one kind of children."""
        if self.groups != 1 or self.decays or self.resample:
            raise ConfigurationError(
                "reward='table' knows the functions of one group without decays, and of fixed children. Use groups=1."
            )
        for name in ("screen", "child_seeds", *vars(self.child)):
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default and name not in ("download", "test_examples"):
                raise ConfigurationError(
                    f"reward='table' was made with {name}={shown(default)}, and it is {shown(value)}. Leave {name} out."
                )

    @property
    def grammar(self) -> Grammar:
        """Of the strings."""
        return Grammar(self.groups, self.decays)

    @property
    def longest(self) -> int:
        """Steps of an episode."""
        return self.grammar.length if self.encoding == "tokens" else 1

    @property
    def child(self) -> ChildOptions:
        """Of the networks that are trained."""
        return ChildOptions(**{field.name: getattr(self, field.name) for field in fields(ChildOptions)})
