"""How a method and its task are found by their names, with the default settings of both."""

from __future__ import annotations

from typing import Any, cast

from . import methods, tasks
from .contract.head import Method, TaskFile
from .contract.train_config import TrainConfig

names = methods.names


def find(name: str) -> Method:
    """The method called `name` (`prototype`); UnknownName with a suggestion where there is none."""
    return cast("Method", methods.find(name))


def task_of(method: Method) -> TaskFile:
    """The task a method plugs into."""
    return cast("TaskFile", tasks.find(method.TASK))


def configs(name: str) -> dict[str, Any]:
    """Default settings of a method and all it needs: `task`, `head`, `train`; the command line makes flags of these.

    A method may bring its own defaults of the training, as `TRAIN`; else its task may.
    """
    method = find(name)
    task = task_of(method)
    train = getattr(method, "TRAIN", None) or getattr(task, "TRAIN", None) or TrainConfig()
    return {"task": task.Config(), "head": method.Config(), "train": train}
