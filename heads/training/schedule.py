"""How many updates a training makes, how large each is, and the optimizer that makes them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.heads.contract.head import TrainConfig


def counted(config: TrainConfig, per_pass: int, progress: Progress) -> TrainConfig:
    """The settings with passes turned into updates: `steps` and `warmup` hold from here on.

    `per_pass` is the number of batches in one pass over the training set.

    Raises:
        BadInput: passes were asked for where there are none.
    """
    if not config.validate_every:
        if not per_pass:
            raise BadInput("--validate-every 0 means one pass, and this task has no end.", "Give a number of updates.")
        config = replace(config, validate_every=max(1, per_pass // config.accumulate))
    if not config.epochs:
        if config.warmup_epochs:
            raise BadInput("--warmup-epochs is given without --epochs.", "Give the warm-up in updates: --warmup.")
        return config
    if not per_pass:
        raise BadInput("This task has no end, so there is no pass over it to count.", "Give --steps, not --epochs.")
    asked = math.ceil(config.epochs * per_pass / config.accumulate)
    steps = max(asked, config.least_steps)
    if steps > asked:
        progress.say(f"{config.epochs:g} passes are {asked} updates; {steps} are made (--least-steps).")
    warmup = round(steps * config.warmup_epochs / config.epochs) if config.warmup_epochs else config.warmup
    return replace(config, steps=steps, warmup=warmup)


def optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW that spares biases and norms unless `decay_all`, or Adam with weight decay in everything's gradient.

    Fused: on one thread of a CPU a quarter of the time, and as deterministic.
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
    """The rate of update `update` (from 0): linear warm-up, then the schedule.

    `cosine` runs over what the warm-up leaves and ends at 0; `cosine-total` runs over all updates, as if there had
    been no warm-up, and ends at a hundredth of the rate.
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
