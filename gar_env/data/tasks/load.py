"""One string names a source of tasks: a registered one, or data with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gar_env.data.builtin import DATASETS
from gar_env.data.dataset import Dataset
from gar_env.data.load import load_dataset
from gar_env.data.tasks.classes import ClassTasks
from gar_env.data.tasks.source import TASKS, TaskSource
from gar_env.errors import ConfigurationError, UnknownNameError
from gar_env.registry import did_you_mean, shown


def load_tasks(
    tasks: str | Dataset | TaskSource,
    *,
    shots: int,
    download: bool = False,
    image_size: int | None = None,
    **of_classes: Any,
) -> TaskSource:
    """A source by its name; classes of any data by the data's.

    Args:
        tasks: ``"sine"``, ``"sine_maml"``, another registered name; whatever
            :func:`~gar_env.data.load_dataset` takes, such as ``"digits"``, ``"omniglot"`` or the path of an ``.npz``
            file or a folder; or a source, which is returned as it is.
        shots: Support examples, of each class where there are classes.
        download: Whether torchvision may fetch the data.
        image_size: Height and width to resize an image folder to.
        **of_classes: Of :class:`ClassTasks`, for data with classes alone.

    Raises:
        ConfigurationError: If options do not fit the source.
        UnknownNameError: If nothing is called so.
        GarEnvError: Whatever loading data raises.

    Example:
        >>> load_tasks("sine", shots=10).input_shape
        (1,)
        >>> load_tasks("digits", shots=1, ways=3, rotations=True).classes("test")
        12
    """
    if isinstance(tasks, TaskSource):
        return tasks
    if isinstance(tasks, str) and tasks in TASKS:
        for name, value in (("rotations", of_classes.get("rotations")), ("image_size", image_size)):
            if value:
                raise ConfigurationError(
                    f"{name}={shown(value)} is of images, and tasks={tasks!r} has none. Leave it out."
                )
        return TASKS[tasks](shots)  # pyright: ignore[reportCallIssue]
    if (
        isinstance(tasks, str)
        and not Path(tasks).is_dir()
        and ":" not in tasks
        and not any(mark in tasks for mark in "/\\.")
        and tasks not in DATASETS
    ):
        raise UnknownNameError(
            f"No tasks are called {shown(tasks)}.{did_you_mean(tasks, [*TASKS, *DATASETS])} Known: "
            f"{', '.join([*TASKS, *DATASETS])}, or a path."
        )
    if not isinstance(tasks, str | Dataset):
        raise ConfigurationError(f"tasks={shown(tasks)} must be a name, a path, a Dataset or a TaskSource.")
    return ClassTasks(load_dataset(tasks, download=download, image_size=image_size), shots=shots, **of_classes)
