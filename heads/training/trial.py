"""One training: weights, optimizer, curve and checkpoint. Batches are handed in, so that several can share them.

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
from vfc.cache_schema.values.record import Json
from vfc.heads.contract.head import Head
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


class Trial:
    """The training of a head in a run folder, from its checkpoint if there is one.

    `config` has its length in updates. Files: `curve.jsonl`, `head.safetensors` (the chosen weights), and
    `checkpoint.safetensors` while training. `label` names the trial in messages where there are several.
    """

    def __init__(self, folder: Path, head: Head, config: TrainConfig, device: torch.device, label: str = "") -> None:
        self.folder, self.head, self.config, self.label = folder, head, config, label
        self._accelerator, self._device = make_accelerator(), device
        self._trainable = [p for p in head.parameters() if p.requires_grad]
        if not self._trainable:  # a head with nothing to train is tested as it is
            self.config, self._trainable = dataclasses.replace(config, steps=0), [nn.Parameter(torch.zeros(1))]
        objective = Objective(head).to(device)
        self._objective, self._optimizer = self._accelerator.prepare(objective, optimizer(self._trainable, config))
        self.state = TrainingState()
        self._losses: list[Tensor] = []
        self._terms: list[Tensor] = []
        self._generators: list[Tensor] = []
        self._resume()
        if not self.config.steps:
            self._write_weights()

    @property
    def position(self) -> int:
        """The number of the batch that it takes next."""
        return self.state.update * self.config.accumulate + len(self._terms)

    @property
    def is_complete(self) -> bool:
        """Whether all updates are done, or it stopped because validation no longer rose."""
        return self.state.update >= self.config.steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether the last `patience` validations have brought no better score; a function of the checkpoint alone."""
        config, state = self.config, self.state
        at_validation = state.update % config.validate_every == 0
        since_best = state.update - state.chosen
        waited = since_best >= config.patience * config.validate_every
        return state.update < config.steps and config.patience > 0 and at_validation and waited

    @property
    def awaits_validation(self) -> bool:
        """Whether a validation follows the last update."""
        update = self.state.update
        return bool(self._losses) and (update % self.config.validate_every == 0 or update == self.config.steps)

    def take(self, batch: Any, waited: float) -> bool:
        """Train on batch number `position`, for which `waited` seconds were spent; whether an update is complete.

        Every `accumulate` batches make an update. Its draws come from (seed, update) alone, whatever else is drawn
        between the batches.
        """
        config, state = self.config, self.state
        started = time.perf_counter()
        if self._terms:
            self._draw_on()
        else:
            torch.manual_seed(seed_of(config.seed, state.update))
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate(config, state.update)
            self.head.train()
            self._optimizer.zero_grad()
        with self._autocast():
            loss: Tensor = self._objective(batch) / config.accumulate
        self._accelerator.backward(loss)
        self._terms.append(loss.detach())
        complete = len(self._terms) == config.accumulate
        if complete:
            self._step()
        else:
            self._generators = _generator_states(self._device)
        state.waited += waited
        state.seconds += waited + time.perf_counter() - started
        return complete

    def refuse_infinite(self) -> None:
        """Check the losses since the last validation.

        Raises:
            BadInput: one is not finite; the first such update is named.
        """
        first = self.state.update - len(self._losses) + 1
        for update, loss in enumerate(torch.stack(self._losses).tolist(), first):
            if not math.isfinite(loss):
                raise BadInput(
                    f"The loss of update {update} is not finite.",
                    "Try a lower --lr, a longer --warmup or --precision fp32; `vfc store verify` finds damaged "
                    "features.",
                )

    def record(self, score: float | None, watched: Json = None) -> str:
        """Log the losses since the last validation, keep the weights if they are best, write a checkpoint.

        `score`: of the validation, None: the last weights count. Returns a line for the user.

        Raises:
            BadInput: --patience without a score.
        """
        config, state = self.config, self.state
        values = torch.stack(self._losses).tolist()
        first = state.update - len(values) + 1
        rows: list[dict[str, Json]] = [{"step": first + i, "loss": value} for i, value in enumerate(values)]
        rows[-1].update({"validation": score} | ({"watched": watched} if watched else {}))
        append_rows(self.folder / "curve.jsonl", rows)
        if score is None and config.patience:
            raise BadInput(
                f"--patience {config.patience} needs a validation, and nothing is held out for one.",
                "Give the store a val split (or --val-fraction, where the task has it), or leave out --patience.",
            )
        if score is None or score > state.best:
            state.chosen, state.best = state.update, -math.inf if score is None else score
            self._write_weights()
        self._losses.clear()
        self._write_checkpoint()
        validation = "" if score is None else f", validation {100 * score:.2f} %"
        return f"Update {state.update}: loss {values[-1]:.4f}{validation}."

    def choose(self) -> dict[str, Json]:
        """Load the chosen weights; the training part of the result row."""
        load_weights(self.head, self.folder / "head.safetensors")
        return self.summary()

    def summary(self) -> dict[str, Json]:
        """The training part of the result row."""
        state = self.state
        return {
            "updates": state.update,
            "chosen_update": state.chosen,
            "validation": state.best if math.isfinite(state.best) else None,
            "parameters": sum(p.numel() for p in self.head.parameters() if p.requires_grad),
        }

    def watched(self) -> dict[str, Json]:
        """What a `Watching` task measured during training."""
        rows = [row for row in read_rows(self.folder / "curve.jsonl") if "watched" in row]
        return {"watched": [{"step": row["step"], **row["watched"]} for row in rows]} if rows else {}

    def circumstances(self) -> dict[str, Json]:
        """Time, device and version, which are recorded and never compared."""
        state = self.state
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
        self.head.eval()
        with torch.no_grad(), self._autocast():
            yield

    def _step(self) -> None:
        """The optimizer's step at the end of an update."""
        if self.config.clip:
            self._accelerator.clip_grad_norm_(self._trainable, self.config.clip)
        self._optimizer.step()
        self.state.update += 1
        self._losses.append(torch.stack(self._terms).sum())
        self._terms.clear()

    def _draw_on(self) -> None:
        """Go on with the draws of this update where its last batch left them."""
        cpu, *others = self._generators
        torch.set_rng_state(cpu)
        for state in others:
            torch.get_device_module(self._device).set_rng_state(state)

    def _write_weights(self) -> None:
        replace_file(self.folder / "head.safetensors", save(weights(self.head)))

    def _write_checkpoint(self) -> None:
        tensors = {f"head.{name}": value for name, value in weights(self.head).items()}
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{number}.{name}": value.cpu() for name, value in moments.items()})
        metadata = {"reached": json.dumps(dataclasses.asdict(self.state))}
        replace_file(self.folder / "checkpoint.safetensors", save(tensors, metadata))

    def _resume(self) -> None:
        """Weights, moments and state from the checkpoint, if there is one; the curve is cut back to its update."""
        curve, path = self.folder / "curve.jsonl", self.folder / "checkpoint.safetensors"
        rows: list[Mapping[str, Json]] = []
        if path.exists():
            with safe_open(path, framework="pt") as file:
                self.state = TrainingState(**json.loads(file.metadata()["reached"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            stored = {name.removeprefix("head."): v for name, v in tensors.items() if name.startswith("head.")}
            set_weights(self.head, stored, path)
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                if name.startswith("optimizer."):
                    _, number, moment = name.split(".", 2)
                    moments.setdefault(int(number), {})[moment] = value
            self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
            rows = [row for row in read_rows(curve) if row["step"] <= self.state.update]
        replace_file(curve, lines_of(rows).encode())

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        # accelerate fixes its mixed precision once per process; with autocast itself, runs of both kinds can share one.
        on = self.config.precision == "bf16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=on)


def seed_of(seed: int, update: int) -> int:
    """One generator seed per (seed, update); update -1 is the construction of the head."""
    return int(np.random.SeedSequence([seed, update + 1]).generate_state(1, np.uint64)[0])


def _generator_states(device: torch.device) -> list[Tensor]:
    """The state of torch's generator on the CPU, and on the device where that is another."""
    on_device = [] if device.type == "cpu" else [torch.get_device_module(device).get_rng_state()]
    return [torch.get_rng_state(), *on_device]
