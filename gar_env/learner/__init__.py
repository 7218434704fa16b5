"""The inner SGD loop."""

from gar_env.learner.learner import Learner, SidePass
from gar_env.learner.losses import CrossEntropy, WeightedCrossEntropy, losses_of
from gar_env.learner.optimizers import SCHEDULES, build_optimizer, check_schedule, step_size_factor
from gar_env.learner.precision import check_precision
from gar_env.learner.replay import Pass, Replay, Start

__all__ = [
    "SCHEDULES",
    "CrossEntropy",
    "Learner",
    "Pass",
    "Replay",
    "SidePass",
    "Start",
    "WeightedCrossEntropy",
    "build_optimizer",
    "check_precision",
    "check_schedule",
    "losses_of",
    "step_size_factor",
]
