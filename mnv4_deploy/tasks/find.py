"""The tasks by their names."""

from __future__ import annotations

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from mnv4_deploy.tasks.task import Task

TASKS: tuple[Task, ...] = (CLASSIFICATION,)


def find_task(name: str) -> Task:
    """Raises UnsupportedError for a name that is none, with those there are."""
    for task in TASKS:
        if task.name == name:
            return task
    raise UnsupportedError(
        f"There is no task {name!r}: choose {', '.join(task.name for task in TASKS)}."
    )
