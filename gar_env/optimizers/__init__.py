"""Update rules as formulas: written, read, compared, and trained by."""

from gar_env.optimizers.functions import register_binary, register_operand, register_unary
from gar_env.optimizers.grammar import Grammar
from gar_env.optimizers.interpreter import Semantics
from gar_env.optimizers.named import NAMED, TABLE
from gar_env.optimizers.rule import Rule, build_optimizer_rule
from gar_env.optimizers.stacked_rules import StackedRules
from gar_env.optimizers.torch_optimizer import RuleOptimizer

__all__ = [
    "NAMED",
    "TABLE",
    "Grammar",
    "Rule",
    "RuleOptimizer",
    "Semantics",
    "StackedRules",
    "build_optimizer_rule",
    "register_binary",
    "register_operand",
    "register_unary",
]
