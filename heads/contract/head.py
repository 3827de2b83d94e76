"""The contract of a head, of a method file, of a task and of a task file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import UnknownName
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.heads.results.tables import Confusion, Table

from .train_config import TrainConfig


class Head(nn.Module, ABC):
    """Turns batches of its task into loss terms and scores. Built as `Head(config, specs)`.

    `specs` maps each stream's role (`visual` and others) to its spec, so that a head knows
    nothing of layers or files. A head takes its widths from the specs and calls `require` for a stream it needs.
    Dropout and other random draws use torch's global generator, seeded from (seed, update) before every update.
    """

    tokens: ClassVar[bool] = False
    """True: the head reads tokens `[T', N, D]`. False: they are averaged to `[T', D]` before it sees them."""

    masks: ClassVar[bool] = False
    """True: the head takes clips with different numbers of time steps and tokens, padded, with `visual.valid`."""

    text: ClassVar[bool] = False
    """True: the head reads the text stream of a store that has one."""

    transductive: bool = False
    """True: the score of a query depends on the other queries that are scored with it. Set per instance if it is a
    setting. A head that says False must give a query the same scores whatever its neighbours are."""

    notes: tuple[str, ...] = ()
    """Lines for the user where this store or these settings lead to something one would not expect."""

    @abstractmethod
    def __init__(self, config: Any, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__()

    @classmethod
    def prepare_config(cls, config: Any, task: Any) -> Any:
        """The settings passed to the constructor: `config` completed with what the head reads of the task's store."""
        return config

    @classmethod
    def training_of(cls, config: Any) -> Mapping[str, Any]:
        """Settings of the training that a preset in `config` brings, where the user leaves the method's defaults."""
        return {}

    @classmethod
    def least_steps(cls, config: Any) -> int:
        """The fewest time steps per clip that the head takes with `config`, its own settings."""
        return 1

    @classmethod
    def reads_of(cls, config: Any) -> Any:
        """What of `config`, the head's own settings, decides what its task reads.

        Runs of a sweep that agree in it, and in the settings of the task, share their batches.
        """
        return ()

    @classmethod
    def trained_config(cls, config: Any, store: Path) -> Any:
        """`config` completed with what the head reads of the training store, to score new data with trained weights."""
        return config

    @classmethod
    def identity(cls, config: Any) -> Mapping[str, Json]:
        """Digests of what `prepare_config` read in addition to the task's data, as in `Task.identity`."""
        return {}

    def set_task(self, task: Any) -> None:
        """Called once after construction with the task."""

    @abstractmethod
    def loss(self, batch: Any) -> Mapping[str, Tensor]:
        """Named loss terms; training minimises their sum."""

    @abstractmethod
    def scores(self, batch: Any) -> Tensor:
        """Logits: larger means more likely (a distance needs a minus sign)."""


class Method(Protocol):
    """What a file in `methods/` defines.

    It may also define `TRAIN` and `PROTOCOL`, the method's own defaults of training and of its task's settings, and
    `EXAMPLE`, a command for its help where `vfc train-head <method> --cache ./store` alone would not work.
    """

    TASK: str
    Config: type[Any]
    Head: type[Head]


class Task(Protocol):
    """One task on one store: how batches are drawn and what is measured. Made by `prepare` of its file in `tasks/`."""

    specs: Mapping[str, ArraySpec]
    """By role, as the head will see them."""

    identity: Mapping[str, Json]
    """Digests of everything but the settings that the numbers depend on: store, recipe, annotations, test list."""

    recipe: Mapping[str, Json]
    """How the store was made; kept with the run, for `vfc predict`."""

    per_pass: int
    """Batches per epoch; 0 where the task draws without end."""

    def batches(self, start: int) -> Generator[Any]:
        """Training batches `start`, `start + 1` ... without end, each a function of (seed, its number).

        One update takes --accumulate batches.
        """

    def validate(self, heads: Sequence[Head]) -> Sequence[float] | None:
        """A validation score per head, which chooses its checkpoint; higher is better.

        None: nothing is held out for it, and the last checkpoint is used.
        """

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """The result, measured once; the task's `tables` formats it."""


@runtime_checkable
class Watching(Protocol):
    """A task that also measures something during training that does not choose the checkpoint."""

    def watch(self, head: Head) -> dict[str, Json] | None:
        """Values for the curve at every validation; the result lists all of them as `watched`."""


class TaskFile(Protocol):
    """What a file in `tasks/` defines; it may also define `pictures(result)`, SVG images for the report.

    And `over_runs(results)`: tables over several runs' results, where a score is over splits rather than over items.
    `SEQUENCES = True`: it reads long videos step by step, not clips with a fixed number of rows.
    `SWEEPS = False`: its test writes what only one run can write, so that no sweep is made of it.
    """

    Config: type[Any]

    def prepare(
        self,
        config: Any,
        train: TrainConfig,
        head: type[Head],
        settings: Any,
        device: torch.device,
        progress: Progress,
    ) -> Task:
        """Read the store and the annotations and fix the protocol; `settings` is the head's own Config."""

    def tables(self, result: Mapping[str, Json]) -> list[Table]:
        """A result as text tables."""

    def confusion(self, result: Mapping[str, Json]) -> Confusion | None:
        """The confusion matrix of a result, if the task has one."""


def require(specs: Mapping[str, ArraySpec], role: str, head: str) -> ArraySpec:
    """The spec of a stream that `head` needs; raises UnknownName with a list of what the store offers."""
    if role not in specs:
        served = ", ".join(f"{name} ({spec.name} {list(spec.shape)})" for name, spec in sorted(specs.items()))
        raise UnknownName(
            f"The head {head!r} needs a stream {role!r}, which this store does not give.",
            f"It gives: {served or 'nothing'}. Choose with --array or --layer, or extract with a model that has it.",
        )
    return specs[role]
