"""The inner SGD loop."""

from gar_env.learner.adaptation import AdaptationOptions, Adapted, Adapter
from gar_env.learner.learner import Learner
from gar_env.learner.losses import (
    LOSSES,
    CrossEntropy,
    Loss,
    SquaredError,
    TokenCrossEntropy,
    losses_of,
    measure,
    register_loss,
)
from gar_env.learner.optimizers import SCHEDULES, build_optimizer, check_schedule, step_size_factor
from gar_env.learner.options import TrainingOptions
from gar_env.learner.passes import Origin, Pass, Start
from gar_env.learner.precision import check_precision
from gar_env.learner.repeat import Repeat
from gar_env.learner.stack import LearnerStack, StackPass
from gar_env.learner.stack_rows import Rows
from gar_env.learner.stacked_layers import register_stacked_layer
from gar_env.learner.update_rules import UpdateRule, register_update_rule

__all__ = [
    "LOSSES",
    "SCHEDULES",
    "AdaptationOptions",
    "Adapted",
    "Adapter",
    "CrossEntropy",
    "Learner",
    "LearnerStack",
    "Loss",
    "Origin",
    "Pass",
    "Repeat",
    "Rows",
    "SquaredError",
    "StackPass",
    "Start",
    "TokenCrossEntropy",
    "TrainingOptions",
    "UpdateRule",
    "build_optimizer",
    "check_precision",
    "check_schedule",
    "losses_of",
    "measure",
    "register_loss",
    "register_stacked_layer",
    "register_update_rule",
    "step_size_factor",
]
