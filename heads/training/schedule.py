"""Length of a training in updates, learning-rate schedule and optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.heads.contract.train_config import TrainConfig


def with_preset(
    config: TrainConfig, defaults: TrainConfig, preset: Mapping[str, Any], progress: Progress
) -> TrainConfig:
    """The settings with those of a preset wherever they are the method's `defaults`.

    A length in updates that the user chose (`--steps`) leaves the preset's epochs out.
    """
    taken = {
        name: value
        for name, value in preset.items()
        if getattr(config, name) == getattr(defaults, name) != value
        and not (name == "epochs" and config.steps != defaults.steps)
    }
    if taken:
        flags = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in taken.items())
        progress.say(f"The preset is trained with {flags}; other values of these flags replace them.")
    return replace(config, **taken)


def resolve_length(config: TrainConfig, defaults: TrainConfig, progress: Progress) -> TrainConfig:
    """The settings where a length in updates that the user chose replaces the epochs that a method trains by default.

    `--steps` takes effect if it differs from the default and `--epochs` does not. Without epochs, the default value of
    --warmup-epochs has no meaning and is dropped.
    """
    if config.epochs == defaults.epochs and config.steps != defaults.steps:
        config = replace(config, epochs=0)
    if config.epochs or not config.warmup_epochs or config.warmup_epochs != defaults.warmup_epochs:
        return config
    progress.say(
        f"The default warm-up of {defaults.warmup_epochs:g} epochs is not used with --steps; set one with --warmup."
    )
    return replace(config, warmup_epochs=0)


def length_in_updates(config: TrainConfig, per_pass: int, progress: Progress) -> TrainConfig:
    """The settings with epochs turned into updates: only `steps` and `warmup` count from here on.

    `per_pass` is the number of batches in one epoch; 0: the task has no epochs.

    Raises:
        BadInput: epochs were given for a task without epochs.
    """
    if not config.validate_every:
        if not per_pass:
            raise BadInput(
                "--validate-every 0 means once per epoch, and this task has no epochs.", "Give a number of updates."
            )
        config = replace(config, validate_every=max(1, per_pass // config.accumulate))
    if not config.epochs:
        if config.warmup_epochs:
            raise BadInput("--warmup-epochs is given without --epochs.", "Give the warm-up in updates: --warmup.")
        return config
    if not per_pass:
        raise BadInput("This task draws batches without end, so it has no epochs.", "Give --steps, not --epochs.")
    in_epochs = math.ceil(config.epochs * per_pass / config.accumulate)
    steps = max(in_epochs, config.least_steps)
    floor = f", raised to {steps} by --least-steps" if steps > in_epochs else ""
    progress.say(f"{config.epochs:g} epochs are {in_epochs} updates{floor}.")
    warmup = round(steps * config.warmup_epochs / config.epochs) if config.warmup_epochs else config.warmup
    return replace(config, steps=steps, warmup=warmup)


def optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW without weight decay on biases and norms (unless `decay_all`), or Adam with L2 on every parameter.

    Fused: takes a quarter of the time on one CPU thread, and is as deterministic.
    """
    betas = (config.betas[0], config.betas[1])
    if config.optimizer == "adam":
        return torch.optim.Adam(
            parameters, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
        )
    matrices, rest = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": rest}]
    if not config.decay_all:
        groups[1]["weight_decay"] = 0.0
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def learning_rate(config: TrainConfig, update: int) -> float:
    """The learning rate of update `update` (from 0): linear warm-up, then the schedule.

    `cosine` runs over the updates after the warm-up and ends at 0; `cosine-total` runs over all updates, as if there
    were no warm-up, and ends at a hundredth of the rate.
    """
    if update < config.warmup:
        return config.lr * (update + 1) / config.warmup
    if config.schedule == "cosine":
        share = (update - config.warmup) / max(1, config.steps - config.warmup)
        return config.lr * 0.5 * (1 + math.cos(math.pi * share))
    if config.schedule == "cosine-total":
        return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * update / config.steps)))
    if config.schedule == "multistep":
        return config.lr * 0.1 ** sum(update >= part * config.steps for part in (0.6, 0.8))
    return config.lr
