"""The inner SGD loop."""

from gar_env.learner.learner import CrossEntropy, Learner
from gar_env.learner.optimizers import SCHEDULES, build_optimizer, check_schedule, step_size_factor

__all__ = ["SCHEDULES", "CrossEntropy", "Learner", "build_optimizer", "check_schedule", "step_size_factor"]
