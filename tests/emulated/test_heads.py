"""Every head trains, is tested and predicts on an emulated GPU, wherever its features lie: as on a CPU, no wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from suites.emulated_gpu import DEVICE, Counts, table
from suites.family_stores import ADAPTED, TEXTS, extract_family, write_videos
from suites.language import llama_tokenizer
from suites.sequence_store import write_made_up

from vfc.cache_schema.annotations import Annotations, load
from vfc.cache_schema.values.progress import Silent
from vfc.cli import matrix
from vfc.heads import lookup
from vfc.heads.evaluation.predict import Run, SequenceSettings, predict, predict_classes, predict_sequences
from vfc.heads.results.tables import read_rows
from vfc.heads.training.fit import train

Train = Callable[[str, str, str, str], "Trained"]
PLACEMENTS: Final = ("device", "ram", "off")
FAMILIES: Final[dict[str, dict[str, Any]]] = {"viclip": {**TEXTS, **ADAPTED}, "qwen3-vl": {}}
"""Stores of clips: one shape and texts of classes; lengths and grids that differ, and a text per clip."""
SEQUENCES: Final = "sequences"
TASKS: Final[dict[str, dict[str, Any]]] = {
    "fewshot": {"way": 2, "shot": 1, "classes": "seeded", "tasks": 4, "val_tasks": 2, "train_queries": 1},
    "classification": {},
    "anticipation": {"told": "truth", "stride": 16, "train_ratios": (0.2, 0.5), "offsets": 1},
    "frame-labels": {},
}
ONLY_ITS_OWN_ARRAYS: Final = ("mote", "text-zero-shot", "msta")


def cases() -> list[tuple[str, str]]:
    """Each head with each kind of store that it reads."""
    reads = matrix.matrix()
    pairs = []
    for head in lookup.names():
        if getattr(lookup.task_of(lookup.find(head)), "SEQUENCES", False):
            pairs.append((head, SEQUENCES))
        else:
            pairs += [(head, family) for family in FAMILIES if reads[head][family].startswith("yes")]
    return pairs


@pytest.fixture(scope="session")
def store_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The store of a name, written once."""
    folder = tmp_path_factory.mktemp("stores")

    @cache
    def of(name: str) -> Path:
        if name == SEQUENCES:
            return write_made_up(folder / name, videos=8, tests=2)
        videos = folder / "videos"
        return extract_family(name, videos if videos.exists() else write_videos(videos), folder, **FAMILIES[name])

    return of


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA of two layers with a tokenizer."""
    from transformers import LlamaConfig, LlamaModel

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = llama_tokenizer()
    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaModel(LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Trained:
    """A finished run: its loss per update, its weights, and what `vfc predict` says of some clips of the store."""

    losses: list[float]
    weights: torch.Tensor
    predictions: Any


@pytest.fixture(scope="session")
def trained(store_of: Callable[[str], Path], llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains a head with its defaults, which are made small where the features are."""
    own: dict[str, Any] = {"msta": {"dim": 8}, "actionllm": {"llm": str(llama), "queries": 8, "cmib_width": 8}}
    short = {"steps": 3, "epochs": 0, "least_steps": 0, "warmup_epochs": 0, "batch": 2, "validate_every": 3}

    @cache
    def of(head: str, store: str, placement: str, device: str) -> Trained:
        settings, kind, root = lookup.configs(head), lookup.find(head).TASK, store_of(store)
        layer = {"layer": "8"} if store == "viclip" and head not in ONLY_ITS_OWN_ARRAYS else {}
        out = tmp_path_factory.mktemp("run") / "run"
        train(
            head,
            replace(settings["task"], cache=root, resident=placement, **TASKS[kind], **layer),
            replace(settings["head"], **own.get(head, {})),
            replace(settings["train"], **short, device=device, out=out),
            Silent(),
        )
        weights = [value.flatten() for _, value in sorted(load_file(out / "head.safetensors").items())]
        losses = [row["loss"] for row in read_rows(out / "curve.jsonl")]
        return Trained(losses, torch.cat([torch.zeros(1), *weights]), predicted(Run.read(out), root, device))

    return of


def predicted(run: Run, store: Path, device: str) -> Any:
    """Shares of the classes `[clips, classes]`; of long videos their segments."""
    sequences = store.name == SEQUENCES
    rows = load(store, "split1" if sequences else "default").rows
    if run.few_shot:
        support = Annotations(tuple({row.label: row for row in rows}.values())[:3])
        return np.array(predict(run, store, store, support, Annotations(rows[:3]), device).shares)
    videos = {row.name: row.name for row in rows[:3]}
    if not sequences:
        return np.array(predict_classes(run, store, videos, store, Silent(), device=device).shares)
    return predict_sequences(run, store, videos, Silent(), SequenceSettings(device=device)).to_json()


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(("head", "store"), cases())
def test_a_head_on_the_device_is_that_of_the_cpu(
    head: str, store: str, placement: str, trained: Train, counts: Counts, steps: list[Counts]
) -> None:
    on_cpu = trained(head, store, "ram", "cpu")
    steps.clear()
    on_device = trained(head, store, placement, DEVICE)
    assert on_device.losses == pytest.approx(on_cpu.losses, rel=1e-4)
    # Adam makes a step of every gradient, also of those that are 0 but for rounding.
    assert (on_device.weights - on_cpu.weights).norm() <= 1e-3 * on_cpu.weights.norm()
    if store == SEQUENCES:
        assert on_device.predictions == on_cpu.predictions
    else:
        np.testing.assert_allclose(on_device.predictions, on_cpu.predictions, atol=1e-3)
    if steps:
        row = table.largest(map(table.row_of, steps[1:]))  # the first loads the features
        if placement != "device":
            del row[
                "launches"
            ]  # copies of the next batch begin in this step or the next, as the reading thread is fast
        table.check(f"train {head} on {store}, {placement}, per step", row, "\n".join(map(str, steps)))
