"""The training loop of one run: updates, validation, checkpoints and exact resume.

The checkpoint holds all weights, optimizer moments and the state of the run, so a run that was killed and started again
ends with the numbers of one that was not (same machine, same thread count).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.heads.contract.head import Head, Task, Watching
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.results.tables import append_rows, lines_of, read_rows
from vfc.heads.runs.run_folder import load_weights, set_weights, weights

from .process import make_accelerator
from .schedule import learning_rate, optimizer


class Objective(nn.Module):
    """Sum of a head's loss terms; the module that accelerate wraps."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch, a scalar in float32."""
        return torch.stack([term.float() for term in self.head.loss(batch).values()]).sum()


@dataclass
class TrainingState:
    """Updates done, the best validation score and its update, seconds spent and seconds waited for data."""

    update: int = 0
    best: float = -math.inf
    chosen: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class TrainingLoop:
    """Trains a head in a run folder, from its checkpoint if there is one.

    `config` has its length in updates. Files: `curve.jsonl`, `head.safetensors` (the chosen weights), and
    `checkpoint.safetensors` while training.
    """

    def __init__(self, folder: Path, head: Head, task: Task, config: TrainConfig, device: torch.device) -> None:
        self._folder, self._head, self._task, self._config = folder, head, task, config
        self._accelerator, self._device = make_accelerator(), device
        self._trainable = [p for p in head.parameters() if p.requires_grad]
        if not self._trainable:  # a head with nothing to train is tested as it is
            self._config, self._trainable = dataclasses.replace(config, steps=0), [nn.Parameter(torch.zeros(1))]
        objective = Objective(head).to(device)
        self._objective, self._optimizer = self._accelerator.prepare(objective, optimizer(self._trainable, config))
        self._state = TrainingState()
        self._resume()

    def run(self, progress: Progress) -> dict[str, Json]:
        """Train for the remaining updates and load the chosen weights; the training part of the result row."""
        config, state = self._config, self._state
        progress.begin("Train", config.steps, "updates")
        progress.advance(state.update)
        losses: list[Tensor] = []
        if not config.steps:
            self._write_weights()
        with contextlib.closing(self._task.batches(state.update * config.accumulate)) as batches:
            while state.update < config.steps and not self._stopped():
                started = time.perf_counter()
                losses.append(self._update(batches))
                state.seconds += time.perf_counter() - started
                progress.advance()
                if state.update % config.validate_every == 0 or state.update == config.steps:
                    self._validate(losses, progress)
                    losses.clear()
        if state.update < config.steps:
            progress.say(f"No better validation in {config.patience}: stopped at update {state.update}.")
        load_weights(self._head, self._folder / "head.safetensors")
        return {
            "updates": state.update,
            "chosen_update": state.chosen,
            "validation": state.best if math.isfinite(state.best) else None,
            "parameters": sum(p.numel() for p in self._head.parameters() if p.requires_grad),
        }

    def watched(self) -> dict[str, Json]:
        """What a `Watching` task measured during training."""
        rows = [row for row in read_rows(self._folder / "curve.jsonl") if "watched" in row]
        return {"watched": [{"step": row["step"], **row["watched"]} for row in rows]} if rows else {}

    def circumstances(self) -> dict[str, Json]:
        """Time, device and version, which are recorded and never compared."""
        state = self._state
        return {
            "seconds": round(state.seconds, 3),
            "waiting_share": round(state.waited / max(state.seconds, 1e-9), 4),
            "device": str(self._device),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """The head in evaluation mode, without gradients, in the precision of training."""
        self._head.eval()
        with torch.no_grad(), self._autocast():
            yield

    def _update(self, batches: Iterator[Any]) -> Tensor:
        """One update of the weights; its loss, still on the device."""
        config, state = self._config, self._state
        torch.manual_seed(seed_of(config.seed, state.update))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(config, state.update)
        self._head.train()
        self._optimizer.zero_grad()
        losses = []
        for _ in range(config.accumulate):
            started = time.perf_counter()
            batch = next(batches)
            state.waited += time.perf_counter() - started
            with self._autocast():
                loss: Tensor = self._objective(batch) / config.accumulate
            self._accelerator.backward(loss)
            losses.append(loss.detach())
        if config.clip:
            self._accelerator.clip_grad_norm_(self._trainable, config.clip)
        self._optimizer.step()
        state.update += 1
        return torch.stack(losses).sum()

    def _stopped(self) -> bool:
        """Whether the last `patience` validations have brought no better score; a function of the checkpoint alone."""
        config, state = self._config, self._state
        at_validation = state.update % config.validate_every == 0
        since_best = state.update - state.chosen
        return config.patience > 0 and at_validation and since_best >= config.patience * config.validate_every

    def _validate(self, losses: list[Tensor], progress: Progress) -> None:
        """Validate, log the losses since the last validation, keep the weights if they are best, write a checkpoint."""
        state = self._state
        values = torch.stack(losses).tolist()
        first = state.update - len(values) + 1
        _refuse_infinite(values, first)
        rows: list[dict[str, Json]] = [{"step": first + i, "loss": value} for i, value in enumerate(values)]
        with self.evaluation():
            score = self._task.validate(self._head) if self._config.select == "val" else None
            watched = self._task.watch(self._head) if isinstance(self._task, Watching) else None
        rows[-1].update({"validation": score} | ({"watched": watched} if watched else {}))
        append_rows(self._folder / "curve.jsonl", rows)
        if score is None and self._config.patience:
            raise BadInput(
                f"--patience {self._config.patience} needs a validation, and nothing is held out for one.",
                "Give the store a val split (or --val-fraction, where the task has it), or leave out --patience.",
            )
        if score is None or score > state.best:
            state.chosen, state.best = state.update, -math.inf if score is None else score
            self._write_weights()
        self._write_checkpoint()
        validation = "" if score is None else f", validation {100 * score:.2f} %"
        progress.say(f"Update {state.update}: loss {values[-1]:.4f}{validation}.")

    def _write_weights(self) -> None:
        replace_file(self._folder / "head.safetensors", save(weights(self._head)))

    def _write_checkpoint(self) -> None:
        tensors = {f"head.{name}": value for name, value in weights(self._head).items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{number}.{name}": value.cpu() for name, value in moments.items()})
        metadata = {"reached": json.dumps(dataclasses.asdict(self._state))}
        replace_file(self._folder / "checkpoint.safetensors", save(tensors, metadata))

    def _resume(self) -> None:
        """Weights, moments and state from the checkpoint, if there is one; the curve is cut back to its update."""
        curve, path = self._folder / "curve.jsonl", self._folder / "checkpoint.safetensors"
        rows: list[Mapping[str, Json]] = []
        if path.exists():
            with safe_open(path, framework="pt") as file:
                self._state = TrainingState(**json.loads(file.metadata()["reached"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored = {name.removeprefix("head."): v for name, v in tensors.items() if name.startswith("head.")}
            set_weights(self._head, stored, path)
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith("optimizer."):
                    _, number, moment = name.split(".", 2)
                    moments.setdefault(int(number), {})[moment] = value
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
            rows = [row for row in read_rows(curve) if row["step"] <= self._state.update]
        replace_file(curve, lines_of(rows).encode())

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        # accelerate fixes its mixed precision once per process; with autocast itself, runs of both kinds can share one.
        on = self._config.precision == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=on)


def seed_of(seed: int, update: int) -> int:
    """One generator seed per (seed, update); update -1 is the construction of the head."""
    return int(np.random.SeedSequence([seed, update + 1]).generate_state(1, np.uint64)[0])


def _refuse_infinite(losses: list[float], first: int) -> None:
    """Raises BadInput that names the first update (of those from `first` on) whose loss is not finite."""
    for update, loss in enumerate(losses, first):
        if not math.isfinite(loss):
            raise BadInput(
                f"The loss of update {update} is not finite.",
                "Try a lower --lr, a longer --warmup or --precision fp32; `vfc store verify` finds damaged features.",
            )
