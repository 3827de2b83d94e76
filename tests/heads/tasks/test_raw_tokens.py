"""Avg, Dec-Avg and MPMM on raw tokens against loops over tokens read record by record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suites import fsar_loops as loops
from suites.motion_store import MakeStore, Told
from suites.observed_labels_store import TEXT, VISUAL, labelled, told_store
from torch import Tensor

from vfc.cache_schema.annotations import write_annotations
from vfc.cache_schema.protocol import EpisodeSpec, draw_episode
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate

CONFIG = EvalConfig(way=3, tasks=40)


def near(a: Tensor, b: Tensor, distance: str) -> float:
    return float(loops.cosine(a, b)) if distance == "cosine" else -loops.apart(a, b)


class Slow:
    """One clip after the other, from the reader."""

    def __init__(self, reader: StoreReader, prompt: str, centre: str) -> None:
        self.reader, self.prompt = reader, prompt
        self.frame_mean, self.text_mean = torch.zeros(4, 12), torch.zeros(6, 12)
        if centre != "none":
            names = [row.name for row in labelled().of_split(centre).rows]
            raw = [self.tokens(name) for name in names]
            self.frame_mean = torch.stack([visual.mean(dim=1) for visual, _ in raw]).mean(dim=0)
            for i in range(6):
                there = [text[i] for _, text in raw if text is not None and len(text) > i]
                if there:
                    self.text_mean[i] = torch.stack(there).mean(dim=0)

    def tokens(self, name: str) -> tuple[Tensor, Tensor | None]:
        visual = torch.from_numpy(self.reader.read(Key("video", name), VISUAL.name))
        if self.prompt == "none":
            return visual, None
        return visual, torch.from_numpy(self.reader.read(Key("prompted", name, 0, self.prompt), TEXT.name))

    def clip(self, name: str) -> list[Tensor]:
        visual, text = self.tokens(name)
        centred = visual - self.frame_mean[:, None]
        return [centred] if text is None else [centred, text - self.text_mean[: len(text)]]

    def logit(self, metric: str, query: str, shots: tuple[str, ...], distance: str) -> float:
        clips = [self.clip(name) for name in (query, *shots)]
        if metric == "mpmm":
            sides = [[clip[0].mean(dim=1), *clip[1:]] for clip in clips]
            proto = [loops.prototype([side[i] for side in sides[1:]]) for i in range(len(sides[0]))]
            return -loops.mpmm(sides[0], proto, 10, distance)
        if metric == "avg":
            vectors = [[torch.cat([clip[0].flatten(0, 1), *clip[1:]]).mean(dim=0)] for clip in clips]
        else:
            vectors = [[part.reshape(-1, 12).mean(dim=0) for part in clip] for clip in clips]
        total = 0.0
        for i, own in enumerate(vectors[0]):
            total += near(own, torch.stack([v[i] for v in vectors[1:]]).mean(dim=0), distance)
        return total


@pytest.mark.parametrize("centre", ["none", "train"])
@pytest.mark.parametrize("prompt", ["unknown", "none"])
@pytest.mark.parametrize(
    ("metric", "shot", "distance"),
    [("avg", 1, None), ("dec-avg", 1, None), ("mpmm", 1, None), ("avg", 3, "euclidean"), ("dec-avg", 3, "euclidean"),
     ("mpmm", 3, "cosine")],
)  # fmt: skip
def test_equals_a_loop(tmp_path: Path, metric: str, shot: int, distance: Any, prompt: str, centre: Any) -> None:
    config = replace(CONFIG, cache=told_store(tmp_path / "s"), metric=metric, shot=shot, distance=distance)
    found = evaluate(replace(config, prompt=prompt, centre=centre), Silent())
    used = distance or ("euclidean" if metric == "mpmm" else "cosine")
    right = []
    with open_store(config.cache) as reader:
        slow = Slow(reader, prompt, centre)
        for i in range(40):
            episode = draw_episode(labelled(), EpisodeSpec("test", 3, shot, 1, 0), i)
            for own, (query,) in enumerate(episode.query):
                logits = [slow.logit(metric, query, shots, used) for shots in episode.support]
                right.append(int(np.argmax(logits)) == own)
    assert found.score.accuracy == pytest.approx(np.mean(right))
    row = found.to_json()
    assert row["distance"] == used
    assert row.get("prompt") == (None if prompt == "none" else "unknown")


def test_known_prompts_are_scored_on_raw_tokens_too(tmp_path: Path) -> None:
    spec = EpisodeSpec("test", 3, 1, 1, 0)
    store = told_store(tmp_path / "s", prompts=(), known=[(spec, 40)])
    for metric in ("avg", "dec-avg", "mpmm"):
        row = evaluate(replace(CONFIG, cache=store, metric=metric), Silent()).to_json()
        assert row["prompt"] == "known"
    with pytest.raises(BadInput, match="Text under known prompts has no mean clip to subtract"):
        evaluate(replace(CONFIG, cache=store, metric="avg", centre="train"), Silent())


def test_without_text_it_says_so_and_avg_is_mean_cosine(make_store: MakeStore) -> None:
    told = Told()
    store = make_store(tokens=3)
    config = EvalConfig(store, way=3, tasks=60)
    plain = evaluate(replace(config, metric="mean-cosine"), Silent())
    for metric in ("avg", "dec-avg"):
        found = evaluate(replace(config, metric=metric), told)
        assert found.score.per_task.tolist() == plain.score.per_task.tolist()
    assert "There is no text stream here: visual tokens alone are compared." in told.lines


@pytest.mark.parametrize("metric", ["avg", "dec-avg", "mpmm"])
def test_scores_are_the_same_where_a_head_is_tested_in_mixed_precision(tmp_path: Path, metric: str) -> None:
    config = replace(CONFIG, cache=told_store(tmp_path / "s"), metric=metric, tasks=200)
    plain = evaluate(config, Silent())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = evaluate(config, Silent())
    assert mixed.score.per_task.tolist() == plain.score.per_task.tolist()


def test_text_of_another_layer_does_not_stand_in(tmp_path: Path) -> None:
    store = told_store(tmp_path / "s")
    other = ArraySpec("layer9.visual", "fp32", (4, 3, 12))
    copy = tmp_path / "copy"
    with open_store(store) as reader, StoreWriter(copy, reader.recipe) as writer:
        writer.declare("video", [VISUAL, other])
        writer.declare("prompted", [TEXT])
        writer.bind("prompt", "unknown", {"template": "What is it?"})
        for key in (*reader.keys("video"), *reader.keys("prompted")):
            name = VISUAL.name if key.kind == "video" else TEXT.name
            values = reader.read(key, name)
            writer.add(Record(key, {name: values} | ({other.name: values} if key.kind == "video" else {})))
    write_annotations(copy, "default", labelled())
    config = replace(CONFIG, cache=copy, metric="dec-avg")
    assert evaluate(replace(config, layer="3"), Silent()).to_json()["text"] == "layer3.text"
    with pytest.raises(BadInput, match=r"has text of layer3\.text; none is of the layer of layer9\.visual\.\nChoose a"):
        evaluate(replace(config, layer="9"), Silent())
    assert "text" not in evaluate(replace(config, layer="9", prompt="none"), Silent()).to_json()


def test_mpmm_of_differences_compares_frames(make_store: MakeStore) -> None:
    row = evaluate(EvalConfig(make_store(), way=3, tasks=20, metric="mpmm", representation="difference", u=3), Silent())
    assert (row.to_json()["representation"], row.to_json()["u"]) == ("difference", 3)
