"""The inner SGD loop."""

from gar_env.learner.learner import Learner, SidePass
from gar_env.learner.losses import CrossEntropy, WeightedCrossEntropy
from gar_env.learner.optimizers import SCHEDULES, build_optimizer, check_schedule, step_size_factor
from gar_env.learner.precision import check_precision

__all__ = [
    "SCHEDULES",
    "CrossEntropy",
    "Learner",
    "SidePass",
    "WeightedCrossEntropy",
    "build_optimizer",
    "check_precision",
    "check_schedule",
    "step_size_factor",
]
