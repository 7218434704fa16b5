"""A check for each extension point, to be run on one's own: each raises :class:`ConformanceError`, or says nothing."""

from gar_env.checks.layers import check_rule, check_stacked_layer
from gar_env.checks.rewards import check_reward
from gar_env.checks.rule_parts import check_rule_part
from gar_env.checks.update_rules import check_update_rule

__all__ = ["check_reward", "check_rule", "check_rule_part", "check_stacked_layer", "check_update_rule"]
