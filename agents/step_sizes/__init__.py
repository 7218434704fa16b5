"""Step-size controllers: what Daniel, Taylor & Nowozin (2016) learn, how, and schedules to hold them against."""

from agents.step_sizes.agents import Controlled, Scheduled
from agents.step_sizes.controller import StepSizeController
from agents.step_sizes.forms import FORMS, Form, register_form
from agents.step_sizes.reps import Reps
from agents.step_sizes.scheduler import StepSizeScheduler
from agents.step_sizes.schedules import SCHEDULES, register_schedule
from agents.step_sizes.search import RepsAgent, learn

__all__ = [
    "FORMS",
    "SCHEDULES",
    "Controlled",
    "Form",
    "Reps",
    "RepsAgent",
    "Scheduled",
    "StepSizeController",
    "StepSizeScheduler",
    "learn",
    "register_form",
    "register_schedule",
]
