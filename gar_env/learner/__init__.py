"""The inner SGD loop."""

from gar_env.learner.learner import CrossEntropy, Learner, SidePass, WeightedCrossEntropy
from gar_env.learner.optimizers import SCHEDULES, build_optimizer, check_schedule, step_size_factor

__all__ = [
    "SCHEDULES",
    "CrossEntropy",
    "Learner",
    "SidePass",
    "WeightedCrossEntropy",
    "build_optimizer",
    "check_schedule",
    "step_size_factor",
]
