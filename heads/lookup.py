"""Methods and their tasks by name, and their default settings."""

from __future__ import annotations

from typing import Any, cast

from . import methods, tasks
from .contract.head import Method, TaskFile
from .contract.train_config import TrainConfig

names = methods.names


def find(name: str) -> Method:
    """The method called `name` (`prototype`); UnknownName with a suggestion if there is none."""
    return cast("Method", methods.find(name))


def task_of(method: Method) -> TaskFile:
    """The task file of a method."""
    return cast("TaskFile", tasks.find(method.TASK))


def configs(name: str) -> dict[str, Any]:
    """Default settings of a method: `task`, `head`, `train`. The command line makes flags of them.

    Training defaults are the method's `TRAIN`, else the task's, else `TrainConfig()`; those of the task are the
    method's `PROTOCOL`, else the task's own.
    """
    method = find(name)
    task = task_of(method)
    train = getattr(method, "TRAIN", None) or getattr(task, "TRAIN", None) or TrainConfig()
    protocol = getattr(method, "PROTOCOL", None) or task.Config()
    return {"task": protocol, "head": method.Config(), "train": train}
