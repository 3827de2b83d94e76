"""The contract of a head and of a task, and the settings of training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.heads.results.tables import Confusion, Table

from .ranges import COUNT, NUMBER, PART, POSITIVE, within


class Head(nn.Module, ABC):
    """Turns batches of its task into loss terms and scores. Built as `Head(config, specs)`.

    `specs` names each stream by its role (`visual`, and whatever else a task serves), not by layer or file, so that
    a head knows nothing of layers; it takes its widths from there and calls `require` for what it cannot do without.
    Dropout and other draws use torch's global generator, seeded anew from (seed, update) before every update.
    """

    tokens: ClassVar[bool] = False
    """True where the head wants `[T, N, D]` as stored; else tokens are averaged to `[T, D]` before they reach it."""

    text: ClassVar[bool] = False
    """True where the head reads the text stream of a store that has one."""

    notes: tuple[str, ...] = ()
    """What the head makes of this store and these settings, where it is not what one would expect."""

    @abstractmethod
    def __init__(self, config: Any, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__()

    @classmethod
    def settled(cls, config: Any, task: Any) -> Any:
        """The settings the head is made with: `config`, and with it what the head reads of the task's store itself."""
        return config

    @classmethod
    def identity(cls, settled: Any) -> Mapping[str, Json]:
        """Digests of what `settled` read beside the task's data, as in `Task.identity`."""
        return {}

    def meet(self, task: Any) -> None:
        """Told once, when the head is made: its task, for what is neither a setting nor in a batch."""

    @abstractmethod
    def loss(self, batch: Any) -> Mapping[str, Tensor]:
        """Named terms; training minimises their sum."""

    @abstractmethod
    def scores(self, batch: Any) -> Tensor:
        """What the task measures; larger is likelier."""


class Method(Protocol):
    """What a file in `methods/` defines.

    It may also bring `TRAIN`, its own defaults of the training, and `EXAMPLE`, a line for its help that works where
    `vfc train-head <method> --cache ./store` alone would not.
    """

    TASK: str
    Config: type[Any]
    Head: type[Head]


class Task(Protocol):
    """One task on one store: how batches are drawn, what is measured. Made by `prepare` of its file in `tasks/`."""

    specs: Mapping[str, ArraySpec]
    """By role, as the head will see them."""

    identity: Mapping[str, Json]
    """Digests of what the numbers depend on beside the settings: store, recipe, annotations, test list."""

    recipe: Mapping[str, Json]
    """How the store was made; kept with the run, for `vfc predict`."""

    per_pass: int
    """Batches that make one pass over the training set; 0 where there is no such thing."""

    def batches(self, start: int) -> Generator[Any]:
        """Training batches `start`, `start + 1` ... without end, each a function of (seed, its number).

        An update takes one of them, or as many as --accumulate says.
        """

    def validate(self, head: Head) -> float | None:
        """The figure that chooses the checkpoint, higher is better; None where the last one counts."""

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """The result, measured once; the task's `tables` draws it."""


@runtime_checkable
class Watching(Protocol):
    """A task that measures something in the middle of training, which chooses nothing."""

    def watch(self, head: Head) -> dict[str, Json] | None:
        """Figures for the curve at every validation; the result has them all as `watched`."""


class TaskFile(Protocol):
    """What a file in `tasks/` defines; it may also have `pictures(result)`, SVG for the report.

    And `over_runs(results)`: tables of several runs' results, where a score is over splits rather than over items.
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
        """Read the store and the annotations, fix the protocol; `settings` are the head's own, for what it wants."""

    def tables(self, result: Mapping[str, Json]) -> list[Table]:
        """A result as tables of text."""

    def confusion(self, result: Mapping[str, Json]) -> Confusion | None:
        """The confusion matrix of a result, where the task has one."""


@dataclass(frozen=True)
class TrainConfig:
    """How any head is trained. Every draw comes from (seed, update): a resumed run equals an uninterrupted one."""

    steps: int = field(default=300, metadata={"help": "Updates of the weights.", "panel": "Training"})
    epochs: float = field(
        default=0,
        metadata={"help": "Passes over the training set, instead of --steps; 0: --steps.", "panel": "Training"},
    )
    least_steps: int = field(
        default=0, metadata={"help": "With --epochs: updates at the least, for small sets.", "panel": "Training"}
    )
    batch: int = field(default=16, metadata={"help": "Tasks (or clips) per batch.", "panel": "Training"})
    accumulate: int = field(default=1, metadata={"help": "Batches per update.", "panel": "Training"})
    lr: float = field(default=1e-3, metadata={"help": "Learning rate.", "panel": "Training"})
    optimizer: Literal["adamw", "adam"] = field(
        default="adamw",
        metadata={
            "help": "adam: weight decay within the gradient, on every parameter, as the field's codes do.",
            "panel": "Training",
        },
    )
    weight_decay: float = field(
        default=1e-2, metadata={"help": "Weight decay; adamw spares biases and norms.", "panel": "Training"}
    )
    decay_all: bool = field(
        default=False, metadata={"help": "Weight decay of adamw on biases and norms too.", "panel": "Training"}
    )
    betas: tuple[float, ...] = field(
        default=(0.9, 0.999), metadata={"help": "Decay of the two moments of the optimizer.", "panel": "Training"}
    )
    eps: float = field(default=1e-8, metadata={"help": "What the optimizer adds below the bar.", "panel": "Training"})
    warmup: int = field(default=0, metadata={"help": "Updates in which the rate rises to --lr.", "panel": "Training"})
    warmup_epochs: float = field(
        default=0, metadata={"help": "With --epochs: the warm-up in passes, instead of --warmup.", "panel": "Training"}
    )
    schedule: Literal["constant", "cosine", "cosine-total", "multistep"] = field(
        default="cosine",
        metadata={
            "help": "The rate after the warm-up; multistep: x0.1 at 60 % and at 80 %; cosine-total: down to a "
            "hundredth, the warm-up's updates counted.",
            "panel": "Training",
            "choices": ("constant", "cosine", "cosine-total", "multistep"),
        },
    )
    clip: float = field(
        default=1.0, metadata={"help": "Largest norm of the gradient; 0: no limit.", "panel": "Training"}
    )
    precision: Literal["fp32", "bf16"] = field(
        default="fp32",
        metadata={"help": "bf16: mixed precision by autocast.", "panel": "Training", "choices": ("fp32", "bf16")},
    )
    validate_every: int = field(
        default=50,
        metadata={
            "help": "Updates between validations, which also write checkpoints; 0: one pass.",
            "panel": "Training",
        },
    )
    select: Literal["val", "last"] = field(
        default="val",
        metadata={"help": "Which weights count: the best on the val split, or the last.", "panel": "Training"},
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights and training draws.", "panel": "Training"})
    device: Literal["auto", "cpu"] = field(
        default="auto",
        metadata={"help": "auto: a GPU where there is one.", "panel": "Training", "choices": ("auto", "cpu")},
    )
    out: Path | None = field(
        default=None, metadata={"help": "Run folder; default runs/<head>-<digest of the settings>.", "panel": "Output"}
    )

    def __post_init__(self) -> None:
        within(self, COUNT, "batch", "accumulate")
        within(self, POSITIVE, "eps")
        within(self, PART, "betas")
        names = ("steps", "epochs", "least_steps", "lr", "weight_decay", "warmup", "warmup_epochs", "clip")
        within(self, NUMBER, *names, "validate_every", "seed")
        if len(self.betas) != 2:
            raise BadInput(
                f"--betas {','.join(map(str, self.betas))} cannot be used.",
                "Give two numbers, as in --betas 0.9,0.999.",
            )


def require(specs: Mapping[str, ArraySpec], role: str, head: str) -> ArraySpec:
    """The spec of a stream that `head` cannot do without; UnknownName that lists what the store serves."""
    if role not in specs:
        served = ", ".join(f"{name} ({spec.name} {list(spec.shape)})" for name, spec in sorted(specs.items()))
        raise UnknownName(
            f"The head {head!r} needs a stream {role!r}, which this store does not give.",
            f"It gives: {served or 'nothing'}. Choose with --array or --layer, or extract with a model that has it.",
        )
    return specs[role]
