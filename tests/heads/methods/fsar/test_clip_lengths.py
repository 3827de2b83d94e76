"""FSAR-LLaVA on clips of different length, from a store to the tested result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vfc.cache_schema import StoreWriter
from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.methods.fsar import Config
from vfc.heads.tasks import fewshot
from vfc.heads.training.fit import train

SMALL = Config(dim=16, down_hidden=12, ffn_dim=20, attention_heads=2)
QUICK = TrainConfig(steps=2, batch=2, validate_every=2, device="cpu")


@pytest.mark.parametrize("tokens", [(), (3,)])
def test_all_steps_are_trained_on_and_the_baselines_are_measured_too(tmp_path: Path, tokens: tuple[int, ...]) -> None:
    generator, rows = np.random.default_rng(0), []
    with StoreWriter(tmp_path / "s", Recipe({})) as writer:
        writer.declare("video", [ArraySpec("layer5.visual", "fp32", (None, *tokens, 6), "steps")])
        for number in range(36):
            label, name = number // 4, f"{number}.mp4"
            values = generator.normal(size=(2 + number % 5, *tokens, 6)).astype(np.float32) + label
            writer.add(Record(Key("video", name), {"layer5.visual": values}))
            rows.append(Annotation(name, f"class{label}", ("train", "val", "test")[label // 3]))
    write_annotations(tmp_path / "s", "default", Annotations(tuple(rows)))
    task = fewshot.Config(tmp_path / "s", way=3, train_queries=1, val_tasks=5, tasks=20, clip_rule="all")
    row = train("fsar", task, SMALL, replace(QUICK, out=tmp_path / "run"), Silent()).row
    assert row["tokens"] == {"visual": "as stored"}
    of_tokens = "mean of patch tokens, " if tokens else ""
    assert row["baseline_tokens"] == {"visual": f"{of_tokens}8 steps by segment-mean"}
    assert row["baselines"]
