"""The settings of training, which every head shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.settings import DEVICE_HELP, setting

from .ranges import AT_LEAST_ONE, BELOW_ONE, NOT_NEGATIVE, POSITIVE, check_range


def _setting(default: Any, text: str, **more: Any) -> Any:
    return setting(default, text, "Training", **more)


@dataclass(frozen=True)
class TrainConfig:
    """How any head is trained. Every draw comes from (seed, update): a resumed run equals an uninterrupted one."""

    steps: int = _setting(300, "Train for this many updates. Replaces the epochs that a head trains for by default.")
    epochs: float = _setting(0, "Train for this many epochs instead of --steps; 0: use --steps.")
    least_steps: int = _setting(0, "With --epochs: train for at least this many updates (for small training sets).")
    batch: int = _setting(16, "Tasks (few-shot) or clips per batch.")
    accumulate: int = _setting(1, "Batches per update (gradient accumulation).")
    lr: float = _setting(1e-3, "Learning rate.")
    optimizer: Literal["adamw", "adam"] = _setting(
        "adamw", "adam: weight decay is added to the gradient of every parameter (L2), as most published codes do."
    )
    weight_decay: float = _setting(1e-2, "Weight decay. adamw does not apply it to biases and norms.")
    decay_all: bool = _setting(False, "adamw: apply weight decay to biases and norms too.")
    betas: tuple[float, ...] = _setting((0.9, 0.999), "Adam betas: decay rates of the two moment estimates.")
    eps: float = _setting(1e-8, "Adam epsilon.")
    warmup: int = _setting(0, "Updates of linear warm-up of the learning rate.")
    warmup_epochs: float = _setting(0, "With --epochs: length of the warm-up in epochs, instead of --warmup.")
    schedule: Literal["constant", "cosine", "cosine-total", "multistep"] = _setting(
        "cosine",
        "Learning rate after the warm-up. cosine: down to 0. cosine-total: down to 1 % of --lr, over all updates "
        "including the warm-up. multistep: x0.1 at 60 % and again at 80 % of the updates.",
        choices=("constant", "cosine", "cosine-total", "multistep"),
    )
    clip: float = _setting(1.0, "Largest gradient norm (gradient clipping); 0: no clipping.")
    precision: Literal["fp32", "bf16"] = _setting(
        "fp32", "bf16: mixed precision by autocast.", choices=("fp32", "bf16")
    )
    validate_every: int = _setting(50, "Updates between validations, which also write a checkpoint; 0: every epoch.")
    select: Literal["val", "last"] = _setting(
        "val", "Weights to test: those with the best validation score, or the last."
    )
    patience: int = _setting(
        0, "Stop when this many validations in a row bring no better score; 0: train for all updates.", added=True
    )
    seed: int = _setting(0, "Seed of the initial weights and of all training draws.")
    device: str = _setting("auto", DEVICE_HELP + ".")
    out: Path | None = setting(None, "Run folder; default runs/<head>-<digest of the settings>.", "Output")

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "batch", "accumulate")
        check_range(self, POSITIVE, "eps")
        check_range(self, BELOW_ONE, "betas")
        names = ("steps", "epochs", "least_steps", "lr", "weight_decay", "warmup", "warmup_epochs", "clip")
        check_range(self, NOT_NEGATIVE, *names, "validate_every", "seed", "patience")
        if self.patience and self.select == "last":
            raise BadInput(
                f"--patience {self.patience} cannot be used with --select last, which makes no validation.",
                "Leave out one of them.",
            )
        if len(self.betas) != 2:
            raise BadInput(
                f"--betas {','.join(map(str, self.betas))} cannot be used.",
                "Give two numbers, as in --betas 0.9,0.999.",
            )
