"""A run before its first update: the settings as they are trained, the task, the run folder, the untrained head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json
from vfc.heads.contract.head import Head, Task
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import configs, find, task_of
from vfc.heads.runs.run_folder import identity_of, settings_of

from .process import numeric_variables
from .schedule import length_in_updates, resolve_length, with_preset
from .trial import seed_of


@dataclass(frozen=True)
class PreparedRun:
    """What `vfc train-head` runs: settings (`task_settings`, `head_settings`, `config`), the task, the run folder.

    `head_config` is what the head is built from, `identity` the digests of the data, `settings` the content of
    config.json.
    """

    name: str
    task_settings: Any
    head_settings: Any
    config: TrainConfig
    task: Task
    head_config: Any
    identity: Mapping[str, Json]
    settings: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The folder of --out, else one named after the settings."""
        return self.config.out or Path("runs") / f"{self.name}-{digest(identity_of(self.settings))[:8]}"

    def in_updates(self, progress: Progress) -> TrainConfig:
        """The training settings with their length in updates."""
        return length_in_updates(self.config, self.task.per_pass, progress)

    def build_head(self, progress: Progress) -> Head:
        """The untrained head; sets torch's generator. Its notes are said."""
        torch.manual_seed(seed_of(self.config.seed, -1))
        head = find(self.name).Head(self.head_config, self.task.specs)
        head.set_task(self.task)
        for note in notes_of(head):
            progress.say(note)
        return head


def settled(name: str, head: Any, config: TrainConfig, progress: Progress) -> TrainConfig:
    """The training settings with those of the head's preset, and with the length that the user chose."""
    defaults = configs(name)["train"]
    config = with_preset(config, defaults, find(name).Head.training_of(head), progress)
    return resolve_length(config, defaults, progress)


def prepare_task(
    name: str, task: Any, head: Any, config: TrainConfig, device: torch.device, progress: Progress
) -> Task:
    """The task of a run whose training settings are `settled`."""
    method = find(name)
    return task_of(method).prepare(task, config, method.Head, head, device, progress)


def prepare_run(name: str, task: Any, head: Any, config: TrainConfig, prepared: Task) -> PreparedRun:
    """The run of `settled` settings on a task that `prepare_task` gave for them."""
    method = find(name)
    head_config = method.Head.prepare_config(head, prepared)
    identity = {**prepared.identity, **method.Head.identity(head_config)}
    settings = settings_of(name, task, head, config, identity, prepared.recipe)
    return PreparedRun(name, task, head, config, prepared, head_config, identity, settings)


def notes_of(head: Head) -> list[str]:
    """Lines for the user and the result: those of the head, and variables that change how libraries compute."""
    return [*head.notes, *(f"{variable} is set and may change the numbers." for variable in numeric_variables())]
