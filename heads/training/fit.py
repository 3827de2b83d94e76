"""Training of any head on any task: fit, choose by validation, checkpoint, exact resume, test once.

Every draw comes from (seed, update) and the checkpoint holds all weights and moments, so a run that was killed and
started again ends with the numbers of one that was not (same machine, same thread count).
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
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json
from vfc.heads.contract.head import Head, Task, TaskFile, Watching
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import configs, find, task_of
from vfc.heads.results.tables import Table, append_rows, lines_of, percent, read_rows, write_html
from vfc.heads.runs.run_folder import (
    ITEMS,
    claim,
    identity_of,
    load_weights,
    pour,
    refuse_other,
    settings_of,
    weights,
    write_items,
)

from .schedule import learning_rate, length_in_updates, optimizer, resolve_length


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, and the row of results.jsonl."""

    folder: Path
    row: dict[str, Json]
    task: TaskFile

    def to_json(self) -> dict[str, Json]:
        """The row, and where the run lies."""
        return {**self.row, "folder": str(self.folder)}

    def tables(self) -> list[Table]:
        """The task's tables, then how the training went."""
        return [*self.task.tables(self.row), _training_table(self.row)]


def train(name: str, task: Any, head: Any, config: TrainConfig, progress: Progress) -> TrainResult:
    """Train the head `name` with the settings `task`, `head` (both as `head.configs` gives them) and `config`.

    A run folder that exists is continued, or its result handed back if it is finished: the test split is measured once.

    Raises:
        UnknownName: no such head, or a store without an array it needs.
        RecipeMismatch: the run folder holds a run with other settings or data, with the difference.
        BadInput: see the task; a loss that is not finite; several processes.
    """
    method = find(name)
    kind = task_of(method)
    config = resolve_length(config, configs(name)["train"], progress)
    accelerator = Accelerator(cpu=config.device == "cpu")
    if accelerator.num_processes > 1:
        raise BadInput(
            f"{accelerator.num_processes} processes were launched; a head is trained by one.",
            "Start one process per head or seed, each with its own GPU in CUDA_VISIBLE_DEVICES.",
        )
    prepared = kind.prepare(task, config, method.Head, head, accelerator.device, progress)
    settled = method.Head.prepare_config(head, prepared)
    identity = {**prepared.identity, **method.Head.identity(settled)}
    settings = settings_of(name, task, head, config, identity, prepared.recipe)
    folder = config.out or Path("runs") / f"{name}-{digest(identity_of(settings))[:8]}"
    refuse_other(folder, settings)
    finished = read_rows(folder / "results.jsonl")
    if finished:
        progress.say(f"The run {folder} is finished; its result is shown. Another --seed or --out is another run.")
        return TrainResult(folder, finished[0], kind)
    steady = length_in_updates(config, prepared.per_pass, progress)
    cuda = [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(_seed(config.seed, -1))
        module = method.Head(settled, prepared.specs)
        module.set_task(prepared)
        for note in module.notes:
            progress.say(note)
        claim(folder, settings)  # after all that may refuse the settings: a mended line can take the same folder
        run = _Run(folder, module, prepared, steady, accelerator)
        notes: list[Json] = [*module.notes]
        row = {"head": name, "seed": config.seed, **identity, **run.to_end(progress), "notes": notes}
    result = TrainResult(folder, row, kind)
    title = f"{name} on {getattr(task, 'cache', '')}"
    pictures: list[str] = kind.pictures(row) if hasattr(kind, "pictures") else []
    curve = read_rows(folder / "curve.jsonl")
    write_html(folder / "report.html", title, result.tables(), curve, kind.confusion(row), pictures)
    replace_file(folder / "results.jsonl", lines_of([row]).encode())
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return result


class _Objective(nn.Module):
    """Sum of a head's loss terms; what accelerate wraps."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: Any) -> Tensor:
        return torch.stack([term.float() for term in self.head.loss(batch).values()]).sum()


class _Run:
    """One training in one folder, from wherever its checkpoint left off."""

    def __init__(self, folder: Path, head: Head, task: Task, config: TrainConfig, accelerator: Accelerator) -> None:
        self._folder, self._head, self._task, self._config = folder, head, task, config
        self._accelerator = accelerator
        self._trainable = [p for p in head.parameters() if p.requires_grad]
        if not self._trainable:  # a head with nothing to learn is tested as it is
            self._config, self._trainable = dataclasses.replace(config, steps=0), [nn.Parameter(torch.zeros(1))]
        made = optimizer(self._trainable, config)
        self._objective, self._optimizer = accelerator.prepare(_Objective(head), made)
        self._at = _Reached()
        self._resume()

    def to_end(self, progress: Progress) -> dict[str, Json]:
        """The updates that are left, then the test with the chosen weights; the result row."""
        config, at = self._config, self._at
        progress.begin("Train", config.steps, "updates")
        progress.advance(at.update)
        losses: list[Tensor] = []
        if not config.steps:
            replace_file(self._folder / "head.safetensors", save(weights(self._head)))
        with contextlib.closing(self._task.batches(at.update * config.accumulate)) as batches:
            while at.update < config.steps:
                started = time.perf_counter()
                losses.append(self._step(batches))
                at.seconds += time.perf_counter() - started
                progress.advance()
                if at.update % config.validate_every == 0 or at.update == config.steps:
                    self._pause(losses, progress)
                    losses.clear()
        load_weights(self._head, self._folder / "head.safetensors")
        with self._evaluation():
            result = self._task.test(self._head, progress)
        write_items(self._folder, cast("list[Json]", result.pop(ITEMS, [])))
        return {
            "updates": config.steps,
            "chosen_update": at.chosen,
            "validation": at.best if math.isfinite(at.best) else None,
            "parameters": sum(p.numel() for p in self._head.parameters() if p.requires_grad),
            **result,
            **self._watched(),
            "circumstances": {
                "seconds": round(at.seconds, 3),
                "waiting_share": round(at.waited / max(at.seconds, 1e-9), 4),
                "device": str(self._accelerator.device),
                "torch": torch.__version__,
            },
        }

    def _step(self, batches: Iterator[Any]) -> Tensor:
        """One update; its loss, still on the device."""
        config, at = self._config, self._at
        torch.manual_seed(_seed(config.seed, at.update))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(config, at.update)
        self._head.train()
        self._optimizer.zero_grad()
        losses = []
        for _ in range(config.accumulate):
            started = time.perf_counter()
            batch = next(batches)
            at.waited += time.perf_counter() - started
            with self._precision():
                loss: Tensor = self._objective(batch) / config.accumulate
            self._accelerator.backward(loss)
            losses.append(loss.detach())
        if config.clip:
            self._accelerator.clip_grad_norm_(self._trainable, config.clip)
        self._optimizer.step()
        at.update += 1
        return torch.stack(losses).sum()

    def _pause(self, losses: list[Tensor], progress: Progress) -> None:
        """Log the losses since the last pause, validate, keep the weights if they are the best, write a checkpoint."""
        at = self._at
        values = torch.stack(losses).tolist()
        first = at.update - len(values) + 1
        bad = next((first + i for i, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            raise BadInput(
                f"The loss of update {bad} is not finite.",
                "Try a lower --lr, a longer --warmup or --precision fp32; `vfc store verify` finds damaged features.",
            )
        figure = None
        if self._config.select == "val":
            with self._evaluation():
                figure = self._task.validate(self._head)
        rows: list[dict[str, Json]] = [{"step": first + i, "loss": value} for i, value in enumerate(values)]
        rows[-1]["validation"] = figure
        if isinstance(self._task, Watching):
            with self._evaluation():
                watched = self._task.watch(self._head)
            rows[-1].update({"watched": watched} if watched else {})
        append_rows(self._folder / "curve.jsonl", rows)
        if figure is None or figure > at.best:
            at.chosen, at.best = at.update, -math.inf if figure is None else figure
            replace_file(self._folder / "head.safetensors", save(weights(self._head)))
        tensors = {f"head.{name}": value for name, value in weights(self._head).items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{number}.{name}": value.cpu() for name, value in moments.items()})
        metadata = {"reached": json.dumps(dataclasses.asdict(at))}
        replace_file(self._folder / "checkpoint.safetensors", save(tensors, metadata))
        told = "" if figure is None else f", validation {100 * figure:.2f} %"
        progress.say(f"Update {at.update}: loss {values[-1]:.4f}{told}.")

    def _watched(self) -> dict[str, Json]:
        rows = [row for row in read_rows(self._folder / "curve.jsonl") if "watched" in row]
        return {"watched": [{"step": row["step"], **row["watched"]} for row in rows]} if rows else {}

    def _resume(self) -> None:
        """Weights, moments and place from the checkpoint, if there is one; the curve is cut back to it."""
        curve, path = self._folder / "curve.jsonl", self._folder / "checkpoint.safetensors"
        kept: list[Mapping[str, Json]] = []
        if path.exists():
            with safe_open(path, framework="pt") as file:
                self._at = _Reached(**json.loads(file.metadata()["reached"]))
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            pour(
                self._head,
                {name.removeprefix("head."): v for name, v in stored.items() if name.startswith("head.")},
                path,
            )
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in stored.items():
                if name.startswith("optimizer."):
                    _, number, moment = name.split(".", 2)
                    state.setdefault(int(number), {})[moment] = value
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
            kept = [row for row in read_rows(curve) if row["step"] <= self._at.update]
        replace_file(curve, lines_of(kept).encode())

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        # accelerate fixes its mixed precision once per process; autocast itself lets heads of both kinds share one.
        on = self._config.precision == "bf16"
        return torch.autocast(self._accelerator.device.type, torch.bfloat16, enabled=on)

    @contextlib.contextmanager
    def _evaluation(self) -> Iterator[None]:
        self._head.eval()
        with torch.no_grad(), self._precision():
            yield


@dataclass
class _Reached:
    """How far a run is: updates done, the best validation and its update, seconds spent and waited for data."""

    update: int = 0
    best: float = -math.inf
    chosen: int = 0
    seconds: float = 0.0
    waited: float = 0.0


def _seed(seed: int, update: int) -> int:
    """One generator seed per (seed, update); update -1 is the making of the head."""
    return int(np.random.SeedSequence([seed, update + 1]).generate_state(1, np.uint64)[0])


def _training_table(row: Mapping[str, Any]) -> Table:
    spent = row["circumstances"]
    validation = "none: the last update counts" if row["validation"] is None else percent(row["validation"])
    rows = (
        ("trained parameters", f"{row['parameters']:,}"),
        ("updates", str(row["updates"])),
        ("chosen update", str(row["chosen_update"])),
        ("validation", validation),
        ("seconds", f"{spent['seconds']:.1f} on {spent['device']}"),
        ("waiting for data", percent(spent["waiting_share"])),
    )
    return Table("Training", ("", ""), rows)
