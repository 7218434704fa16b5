"""Tasks of a meta-batch: a few examples to adapt to, and others to be judged by."""

from gar_env.data.tasks.classes import ClassTasks
from gar_env.data.tasks.corruptions import TASK_CORRUPTIONS, register_task_corruption
from gar_env.data.tasks.load import load_tasks
from gar_env.data.tasks.sine import MamlSineTasks, SineTasks
from gar_env.data.tasks.source import TASKS, Tasks, TaskSource, register_tasks

__all__ = [
    "TASKS",
    "TASK_CORRUPTIONS",
    "ClassTasks",
    "MamlSineTasks",
    "SineTasks",
    "TaskSource",
    "Tasks",
    "load_tasks",
    "register_task_corruption",
    "register_tasks",
]
