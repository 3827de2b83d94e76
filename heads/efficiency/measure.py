"""Time and memory of a head on a store: a training step and scoring, read from the store or with the model in the loop.

One round measures every column once, so that a busy machine slows all of them alike.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.devices import chosen_device, functions, has_streams
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.heads.contract.head import Head, Task
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import find, task_of
from vfc.heads.runs.run_folder import load_weights
from vfc.heads.tasks.anticipation import WindowBatch
from vfc.heads.tasks.classification import ClipBatch
from vfc.heads.tasks.fewshot import EpisodeBatch
from vfc.heads.training.process import own_draws
from vfc.heads.training.schedule import optimizer
from vfc.heads.training.trial import Objective, seed_of

from .cost import HeadCost, Model, Timing
from .flops import head_flops
from .memory import peak_bytes, tensors_of

WARMING: Final = 2
"""Rounds before the first one that counts."""


@dataclass(frozen=True)
class Ready:
    """A head and its task, ready to be measured. `name`: of the head; `run`: the folder of its weights, or empty."""

    name: str
    store: str
    run: str
    head: Head
    task: Task
    train: TrainConfig
    device: torch.device

    @property
    def identity(self) -> Mapping[str, Json]:
        """What the head reads: arrays, prompt, digests."""
        return self.task.identity


@dataclass(frozen=True)
class InTheLoop:
    """The model that made the features: `features(n)` decodes and forwards n clips."""

    features: Callable[[int], None]
    model: Model


def ready(name: str, task: Any, head: Any, train: TrainConfig, progress: Progress, run: Path | None = None) -> Ready:
    """Build the task and the head; with `run`, the head has the weights of that run.

    Raises:
        VfcError: what `vfc train-head` with these settings would refuse; weights of another head.
    """
    device = chosen_device(train.device)
    method = find(name)
    train = replace(train, select="last")
    prepared = task_of(method).prepare(task, train, method.Head, head, device, progress)
    config = method.Head.prepare_config(head, prepared)
    with own_draws(device):
        torch.manual_seed(seed_of(train.seed, -1))
        module = method.Head(config, prepared.specs)
        module.set_task(prepared)
    if run is not None:
        load_weights(module, run / "head.safetensors")
    store = str(getattr(task, "cache", ""))
    return Ready(name, store, "" if run is None else str(run), module.to(device), prepared, train, device)


def measure(
    prepared: Ready, rounds: int, progress: Progress, in_the_loop: InTheLoop | None = None, no_online: str = ""
) -> HeadCost:
    """The cost of a head per unit; `no_online` says why there is no model in the loop."""
    with own_draws(prepared.device), _Steps(prepared) as steps:
        progress.begin(f"{prepared.name} on {prepared.store}", rounds + WARMING, "rounds")
        first = next(steps.batches)
        unit, count, clips = _unit(first)
        flops = head_flops(prepared.head, first)
        seconds: dict[str, list[float]] = defaultdict(list)
        for number in range(rounds + WARMING):
            measured = steps.round(None if in_the_loop is None else in_the_loop.features, clips * count)
            for column, spent in measured.items() if number >= WARMING else ():
                seconds[column].append(spent / count)
            progress.advance()
        timings = {column: Timing.of(values) for column, values in seconds.items()}
        scoring_memory, training_memory = steps.memory(first)
    parameters = [*prepared.head.parameters()]
    return HeadCost(
        prepared.name,
        prepared.store,
        prepared.run,
        unit,
        clips,
        count,
        sum(p.numel() for p in parameters if p.requires_grad),
        sum(p.numel() for p in parameters),
        flops.total // count,
        flops.once,
        timings["scoring"],
        timings["reading"],
        scoring_memory,
        timings.get("training"),
        training_memory,
        None if in_the_loop is None else in_the_loop.model,
        timings.get("online_scoring"),
        timings.get("online_training"),
        no_online,
    )


class _Steps:
    """Training steps and scoring of one head, on batches from the store."""

    def __init__(self, prepared: Ready) -> None:
        self.head, self.device, self.train = prepared.head, prepared.device, prepared.train
        self.trained = [p for p in self.head.parameters() if p.requires_grad]
        self.optimizer = optimizer(self.trained, prepared.train) if self.trained else None
        self.objective: nn.Module = Objective(self.head)
        self.batches: Generator[Any] = prepared.task.batches(0)

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, *error: object) -> None:
        self.batches.close()

    def round(self, features: Callable[[int], None] | None, clips: int) -> dict[str, float]:
        """Seconds of one batch by column."""
        seconds = {}
        batch, reading = self._timed(lambda: next(self.batches))
        seconds["reading"] = reading
        if self.trained:
            _, step = self._timed(lambda: self._train(batch))
            seconds["training"] = reading + step
        batch, reading = self._timed(lambda: next(self.batches))
        _, scored = self._timed(lambda: self._score(batch))
        seconds["scoring"] = reading + scored
        if features is not None:
            _, model = self._timed(lambda: features(clips))
            seconds["online_scoring"] = model + scored
            if self.trained:
                seconds["online_training"] = model + step
        return seconds

    def memory(self, batch: Any) -> tuple[int, int | None]:
        """The peak of scoring, and of a training step."""
        counted = [*self.head.parameters(), *self.head.buffers(), *tensors_of(batch)]
        self.head.zero_grad()
        scoring = peak_bytes(lambda: self._score(batch), self.device, counted)
        if self.optimizer is None:
            return scoring, None
        counted += [value for state in self.optimizer.state.values() for value in tensors_of(state)]
        return scoring, peak_bytes(lambda: self._train(batch), self.device, counted)

    def _timed(self, run: Callable[[], Any]) -> tuple[Any, float]:
        started = time.perf_counter()
        result = run()
        if has_streams(self.device):
            functions(self.device).synchronize(self.device)
        return result, time.perf_counter() - started

    def _train(self, batch: Any) -> None:
        assert self.optimizer is not None
        self.head.train()
        self.optimizer.zero_grad()
        with self._autocast():
            loss: Tensor = self.objective(batch)
        loss.backward()
        if self.train.clip:
            nn.utils.clip_grad_norm_(self.trained, self.train.clip)
        self.optimizer.step()

    def _score(self, batch: Any) -> Tensor:
        self.head.eval()
        with torch.no_grad(), self._autocast():
            return self.head.scores(batch)

    @contextlib.contextmanager
    def _autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bf16"):
            yield


def _unit(batch: Any) -> tuple[str, int, int]:
    """What a batch holds: the name of a unit, how many of it, and clips of the store per unit."""
    if isinstance(batch, EpisodeBatch):
        way, shot = batch.support.shape[1:]
        clips = way * shot + batch.query.shape[1]
        return f"task: {way}-way {shot}-shot, {clips} clips", len(batch.support), clips
    if isinstance(batch, ClipBatch):
        return "clip", len(batch.labels), 1
    if isinstance(batch, WindowBatch):
        return f"window of {batch.visual.shape[1]} steps", len(batch.visual), 1
    return "frame", len(batch.labels), 1
