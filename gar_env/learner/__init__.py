"""The inner SGD loop."""

from gar_env.learner.learner import Learner, SidePass
from gar_env.learner.losses import CrossEntropy, WeightedCrossEntropy, losses_of
from gar_env.learner.optimizers import SCHEDULES, build_optimizer, check_schedule, step_size_factor
from gar_env.learner.precision import check_precision
from gar_env.learner.replay import Pass, Replay, Start
from gar_env.learner.stack import LearnerStack, StackPass
from gar_env.learner.stacked_layers import register_stacked_layer
from gar_env.learner.update_rules import UpdateRule, register_update_rule

__all__ = [
    "SCHEDULES",
    "CrossEntropy",
    "Learner",
    "LearnerStack",
    "Pass",
    "Replay",
    "SidePass",
    "StackPass",
    "Start",
    "UpdateRule",
    "WeightedCrossEntropy",
    "build_optimizer",
    "check_precision",
    "check_schedule",
    "losses_of",
    "register_stacked_layer",
    "register_update_rule",
    "step_size_factor",
]
