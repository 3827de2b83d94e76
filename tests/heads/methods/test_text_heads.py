"""Heads that score by class texts: their accuracy on a store against a short loop over the same store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from suites import fsar_loops
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.protocol import EpisodeList, EpisodeSpec
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import configs
from vfc.heads.methods import fsar
from vfc.heads.results.tables import read_rows
from vfc.heads.tasks import fewshot
from vfc.heads.tasks.classification import Config
from vfc.heads.training.fit import train

WIDTH, FRAMES, CLASSES, CLIPS = 12, 4, 6, 8
HOW = TrainConfig(steps=20, batch=8, lr=0.03, warmup_epochs=0, validate_every=10, device="cpu", select="last")
TEMPLATES = {"plain": "a {label}", "video": "a video of {label}"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Videos scattered around a centre per class, and class texts near the centres, of two templates."""
    generator, rows = np.random.default_rng(0), []
    centres = generator.normal(size=(CLASSES, WIDTH))
    with StoreWriter(tmp_path / "store", Recipe({"made": "up"})) as writer:
        writer.declare("video", [ArraySpec("frames", "fp32", (FRAMES, WIDTH))])
        writer.declare("text", [ArraySpec("embedding", "fp32", (WIDTH,))])
        for template, text in TEMPLATES.items():
            writer.bind("template", template, text)
        for i, centre in enumerate(centres):
            label = f"class{i}"
            for template, text in TEMPLATES.items():
                length = 20 if template == "video" else 1  # an average that is not of unit vectors is this one alone
                values = (length * (centre + generator.normal(size=WIDTH))).astype(np.float32)
                about: dict[str, Any] = {"label": label, "template": template}
                writer.add(Record(Key("text", text.format(label=label)), {"embedding": values}, about))
            for clip in range(CLIPS):
                name = f"{label}/{clip}.mp4"
                values = (centre + 1.5 * generator.normal(size=(FRAMES, WIDTH))).astype(np.float32)
                writer.add(Record(Key("video", name), {"frames": values}))
                rows.append(Annotation(name, label, "train" if clip < 3 else "test"))
    write_annotations(tmp_path / "store", "default", Annotations(tuple(rows)))
    return tmp_path / "store"


def videos(store: Path) -> tuple[list[str], list[str], Tensor]:
    """Names, labels and frames `[n, T, D]` of the test videos."""
    rows = load(store).of_split("test").rows
    with open_store(store) as reader:
        frames = [torch.from_numpy(np.array(reader.read(Key("video", row.name), "frames"))) for row in rows]
    return [row.name for row in rows], [row.label for row in rows], torch.stack(frames)


def class_texts(store: Path, templates: tuple[str, ...]) -> Tensor:
    """Unit embeddings, averaged over templates `[C, D]`."""
    with open_store(store) as reader:
        by_template = [
            [reader.read(Key("text", TEMPLATES[t].format(label=f"class{i}")), "embedding") for i in range(CLASSES)]
            for t in templates
        ]
    return functional.normalize(torch.from_numpy(np.array(by_template)), dim=-1).mean(dim=0)


def run(name: str, config: Config, out: Path, **head: Any) -> dict[str, Any]:
    return train(name, config, replace(configs(name)["head"], **head), replace(HOW, out=out), Silent()).row


def compare(row: Mapping[str, Any], out: Path, store: Path, predicted: list[str]) -> None:
    """Accuracy and every single prediction of a run are those of a loop."""
    names, labels, _ = videos(store)
    correct = [one == other for one, other in zip(predicted, labels, strict=True)]
    assert 0.3 < np.mean(correct) < 1
    assert row["top1"] == np.mean(correct)
    items = {item["item"]: item["predicted"] for item in read_rows(out / "predictions.jsonl")}
    assert items == dict(zip(names, predicted, strict=True))


@pytest.mark.parametrize(
    ("flag", "templates"), [("plain", ("plain",)), ("video", ("video",)), ("all", tuple(TEMPLATES))]
)
def test_text_zero_shot_is_the_nearest_text(store: Path, tmp_path: Path, flag: str, templates: tuple[str, ...]) -> None:
    row = run("text-zero-shot", Config(store, template=(flag,)), tmp_path / "run")
    predicted = []
    texts = class_texts(store, templates)
    for frames in videos(store)[2]:
        mean = frames.mean(dim=0)
        cosines = [float(mean @ text / mean.norm() / text.norm()) for text in texts]
        predicted.append(f"class{int(np.argmax(cosines))}")
    compare(row, tmp_path / "run", store, predicted)


@pytest.mark.parametrize("protocol", ["all", "zero-shot"])
def test_mote_is_its_layers_with_the_mean_of_the_experts(store: Path, tmp_path: Path, protocol: Any) -> None:
    if protocol == "zero-shot":
        rows = tuple(replace(row, split="test" if row.label > "class2" else "train") for row in load(store).rows)
        write_annotations(store, "default", Annotations(rows))
    row = run("mote", Config(store, template=("plain",), protocol=protocol), tmp_path / "run", layers=2, experts=3)
    weights = load_file(tmp_path / "run" / "head.safetensors")
    texts = class_texts(store, ("plain",))
    first = 3 if protocol == "zero-shot" else 0
    predicted = []
    for frames in videos(store)[2]:
        change = mote_change(weights, frames, layers=2, experts=3)
        trained = texts[:3] if protocol == "zero-shot" else texts
        clip = (frames + mote_share(frames.mean(dim=0), texts[first:], trained) * change).mean(dim=0)
        cosines = [float(clip @ text / clip.norm() / text.norm()) for text in texts[first:]]
        predicted.append(f"class{first + int(np.argmax(cosines))}")
    compare(row, tmp_path / "run", store, predicted)


def mote_change(weights: Mapping[str, Tensor], frames: Tensor, *, layers: int, experts: int) -> Tensor:
    """What the layers give for the frames `[T, D]` of one clip: attention with one head, then the mean expert."""
    x = frames + weights["places"][: len(frames)]
    for i in range(layers):
        part = {name.removeprefix(f"layers.{i}."): value for name, value in weights.items()}

        def norm(x: Tensor, name: str, part: Mapping[str, Tensor] = part) -> Tensor:
            return functional.layer_norm(x, (WIDTH,), part[f"{name}.weight"], part[f"{name}.bias"])

        def mean(name: str, part: Mapping[str, Tensor] = part) -> Tensor:
            return torch.stack([part[f"experts.{e}.{name}"] for e in range(experts)]).mean(dim=0)

        rows = norm(x, "before_attention") @ part["attention.in_proj_weight"].T + part["attention.in_proj_bias"]
        query, key, value = rows.chunk(3, dim=-1)
        mixed = (query @ key.T / WIDTH**0.5).softmax(dim=-1) @ value
        x = x + mixed @ part["attention.out_proj.weight"].T + part["attention.out_proj.bias"]
        hidden = norm(x, "before_experts") @ mean("up.weight").T + mean("up.bias")
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        x = x + hidden @ mean("down.weight").T + mean("down.bias")
    return x


def mote_share(clip: Tensor, texts: Tensor, trained: Tensor) -> float:
    """exp(-(1 - s) / 0.05), s: how near the 5 texts nearest to a clip are to the 5 trained ones nearest to it."""

    def nearest(rows: Tensor) -> Tensor:
        unit = functional.normalize(rows, dim=-1)
        return unit[(unit @ clip).argsort(descending=True)[:5]]

    best = [max(float(one @ other) for other in nearest(trained)) for one in nearest(texts)]
    return float(np.exp(-(1 - np.mean(best)) / 0.05))


def test_fsar_is_its_equations_over_the_two_streams_of_the_store(tmp_path: Path) -> None:
    store, generator, rows = tmp_path / "store", np.random.default_rng(0), []
    with StoreWriter(store, Recipe({"made": "up"})) as writer:
        writer.declare("video", [ArraySpec("layer3.visual", "fp32", (2, 3, WIDTH), "frame-major")])
        writer.declare("prompted", [ArraySpec("layer3.text", "fp32", (None, WIDTH), "tokens")])
        writer.bind("prompt", "mine", "What is seen?")
        for label in range(9):
            centre = generator.normal(size=WIDTH)
            for clip in range(4):
                name, length = f"class{label}/{clip}.mp4", int(generator.integers(1, 5))
                visual, text = (
                    centre + generator.normal(size=(2, 3, WIDTH)),
                    centre + generator.normal(size=(length, WIDTH)),
                )
                writer.add(Record(Key("video", name), {"layer3.visual": visual.astype(np.float32)}))
                writer.add(Record(Key("prompted", name, prompt="mine"), {"layer3.text": text.astype(np.float32)}))
                rows.append(Annotation(name, f"class{label}", ("train", "val", "test")[label // 3]))
    write_annotations(store, "default", Annotations(tuple(rows)))
    small = replace(configs("fsar")["head"], dim=16, down_hidden=12, ffn_dim=20, attention_heads=2, alpha=0.9)
    task = fewshot.Config(cache=store, way=3, train_queries=2, queries=2, tasks=8)
    row = train("fsar", task, small, replace(HOW, lr=1e-3, batch=2, steps=5, out=tmp_path / "run"), Silent()).row

    with open_store(store) as reader:
        spec = {"visual": reader.spec("video", "layer3.visual"), "text": reader.spec("prompted", "layer3.text")}
        head = fsar.Head(small, spec).eval()
        head.load_state_dict(load_file(tmp_path / "run" / "head.safetensors"))

        def streams(name: str) -> tuple[Tensor, Tensor]:
            records = (Key("video", name), "layer3.visual"), (Key("prompted", name, prompt="mine"), "layer3.text")
            visual, text = (torch.from_numpy(np.array(reader.read(*record))) for record in records)
            return visual, text

        shares = []
        for episode in EpisodeList.draw(load(store), EpisodeSpec("test", 3, 1, 2, 0), 8).episodes:
            support = [[streams(name) for name in names] for names in episode.support]
            queries = [(streams(name), w) for w, names in enumerate(episode.query) for name in names]
            with torch.no_grad():
                logits = fsar_loops.scores(head, support, [query for query, _ in queries], 0.9)
            shares.append(np.mean(logits.argmax(dim=1).numpy() == [w for _, w in queries]))
    assert 0.3 < np.mean(shares) < 1
    assert row["accuracy"] == pytest.approx(np.mean(shares), abs=1e-12)
    assert [item["correct"] for item in read_rows(tmp_path / "run" / "predictions.jsonl")] == shares
