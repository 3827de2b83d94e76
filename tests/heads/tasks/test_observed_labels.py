"""Few-shot heads on stores with text: what is served, which prompt goes where, what is refused; killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from suites.motion_store import Told
from suites.observed_labels_store import TEMPLATES, TEXT, VISUAL, labelled, told_store
from torch import Tensor

from vfc.cache_schema.protocol import Episode, EpisodeSpec, draw_episode, fill_prompt, option_list, prompt_id, spoken
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate
from vfc.heads.methods import fsar
from vfc.heads.runs.run_folder import load_weights
from vfc.heads.tasks import fewshot
from vfc.heads.tasks.fewshot import EpisodeBatch
from vfc.heads.training.fit import train

SMALL = fsar.Config(dim=16, down_hidden=12, ffn_dim=20, attention_heads=2)
QUICK = TrainConfig(
    steps=8, batch=3, validate_every=4, device="cpu", lr=1e-3, optimizer="adam", weight_decay=5e-5, schedule="multistep"
)
TASK = fewshot.Config(way=3, train_queries=2, val_tasks=20, tasks=30)
LISTS = [
    (EpisodeSpec("train", 3, 1, 2, 0), 10),
    (EpisodeSpec("val", 3, 1, 1, 0), 20),
    (EpisodeSpec("test", 3, 1, 1, 0), 30),
]
CPU = torch.device("cpu")


def by_hand(reader: StoreReader, episode: Episode, prompts: tuple[str, str]) -> EpisodeBatch:
    """One episode read record by record, every place encoded for itself."""
    places = [(name, prompts[0]) for names in episode.support for name in names]
    places += [(name, prompts[1]) for names in episode.query for name in names]
    frames = torch.stack([torch.from_numpy(reader.read(Key("video", name), VISUAL.name)) for name, _ in places])
    texts = [torch.from_numpy(reader.read(Key("prompted", name, 0, prompt), TEXT.name)) for name, prompt in places]
    valid = torch.zeros(len(places), 9, dtype=torch.bool)
    text = torch.zeros(len(places), 9, texts[0].shape[1])
    for i, rows in enumerate(texts):
        text[i, : len(rows)], valid[i, : len(rows)] = rows, True
    shots = len(episode.classes) * len(episode.support[0])
    support = torch.arange(shots).view(1, len(episode.classes), -1)
    target = torch.zeros(1, len(places) - shots, dtype=torch.int64)
    videos = {"visual": frames, "text": text, "text.valid": valid}
    return EpisodeBatch(videos, support, torch.arange(shots, len(places))[None], target)


def known_prompts(episode: Episode) -> dict[str, str]:
    own = {
        label: prompt_id("known-support", fill_prompt(TEMPLATES["known-support"], {"label": spoken(label)}))
        for label in episode.classes
    }
    asked = fill_prompt(TEMPLATES["known-query"], {"options": option_list(episode.classes)})
    return {**own, "": prompt_id("known-query", asked)}


@pytest.mark.parametrize("prompt", ["unknown", "known"])
@pytest.mark.parametrize("resident", ["ram", "off"])
def test_the_test_scores_equal_reading_record_by_record(tmp_path: Path, prompt: str, resident: Any) -> None:
    store = told_store(tmp_path / "s", known=LISTS)
    config = replace(TASK, cache=store, prompt=prompt, train_tasks=10, resident=resident)
    opened = fewshot.prepare(config, QUICK, fsar.Head, fsar.Config(), CPU, Silent())
    torch.manual_seed(0)
    head = fsar.Head(SMALL, opened.specs).eval()
    seen: list[Tensor] = []
    match = head.match
    head.match = lambda batch: seen.append(match(batch)) or seen[-1]  # type: ignore[func-returns-value, method-assign, assignment]
    opened.scores([head], "test", Silent())
    scores = torch.cat(seen)
    head.match = match  # type: ignore[method-assign]
    with open_store(store) as reader, torch.no_grad():
        for i in range(30):
            episode = draw_episode(labelled(), LISTS[2][0], i)
            told = known_prompts(episode)
            batch = by_hand(reader, episode, ("unknown", "unknown"))
            if prompt == "known":
                parts = [
                    by_hand(reader, replace(episode, classes=(label,), support=(names,)), (told[label], told[""]))
                    for label, names in zip(episode.classes, episode.support, strict=True)
                ]
                videos = {
                    name: torch.cat([*(part.videos[name][:1] for part in parts), parts[0].videos[name][1:]])
                    for name in batch.videos
                }
                batch = replace(batch, videos=videos)
            torch.testing.assert_close(scores[i : i + 1], head.scores(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prompt", ["unknown", "known"])
def test_training_serves_the_records_of_the_episodes(tmp_path: Path, prompt: str) -> None:
    store = told_store(tmp_path / "s", known=LISTS)
    config = replace(TASK, cache=store, prompt=prompt, train_tasks=10)
    opened = fewshot.prepare(config, QUICK, fsar.Head, fsar.Config(), CPU, Silent())
    torch.manual_seed(0)
    head = fsar.Head(replace(SMALL, ctpcm_queries="all"), opened.specs).eval()
    batches = opened.batches(0)
    drawn = [next(batches) for _ in range(5)]
    batches.close()
    with open_store(store) as reader, torch.no_grad():
        for update, batch in enumerate(drawn):
            scores = head.scores(batch)
            for i in range(3):
                episode = draw_episode(labelled(), LISTS[0][0], (3 * update + i) % 10)
                told = known_prompts(episode)
                prompts = [told[c] for c in episode.classes] + [told[""]] * 6 if prompt == "known" else ["unknown"] * 9
                slow = by_hand(reader, episode, ("unknown", "unknown"))
                names = [n for names in (*episode.support, *episode.query) for n in names]
                text, valid = torch.zeros_like(slow.videos["text"]), torch.zeros_like(slow.videos["text.valid"])
                for place, (name, asked) in enumerate(zip(names, prompts, strict=True)):
                    rows = torch.from_numpy(reader.read(Key("prompted", name, 0, asked), TEXT.name))
                    text[place, : len(rows)], valid[place, : len(rows)] = rows, True
                slow = replace(slow, videos={**slow.videos, "text": text, "text.valid": valid})
                torch.testing.assert_close(scores[i : i + 1], head.scores(slow), rtol=1e-4, atol=1e-5)


def test_where_values_rest_changes_no_number(tmp_path: Path) -> None:
    config = replace(TASK, cache=told_store(tmp_path / "s", views=2))
    rows, ends = [], []
    for resident in ("ram", "off", "device", "auto"):
        out = tmp_path / resident
        task = replace(config, resident=resident)  # type: ignore[arg-type]
        rows.append(train("fsar", task, SMALL, replace(QUICK, out=out), Silent()).row)
        ends.append(load_file(out / "head.safetensors"))
    for row, end in zip(rows[1:], ends[1:], strict=True):
        assert all(torch.equal(end[name], ends[0][name]) for name in ends[0])
        assert {k: v for k, v in row.items() if k != "circumstances"} == {
            k: v for k, v in rows[0].items() if k != "circumstances"
        }


def test_the_result_names_its_text_and_every_baseline(tmp_path: Path) -> None:
    told = Told()
    config = replace(TASK, cache=told_store(tmp_path / "s"))
    row: Any = train("fsar", config, SMALL, replace(QUICK, out=tmp_path / "run"), told).row
    assert (row["text"], row["prompt"], row["array"]) == ("layer3.text", "unknown", "layer3.visual")
    assert any("transductive" in note for note in row["notes"])
    assert any("kept in: visual ram, text ram" in line for line in told.lines)
    assert [b["name"].split(",")[0] for b in row["baselines"]] == [
        *["mean-cosine"] * 3, "bi-mhm", "otam", "mpmm", "avg", "dec-avg", "mpmm"
    ]  # fmt: skip


def test_without_text_it_says_so(tmp_path: Path) -> None:
    told = Told()
    config = replace(TASK, cache=told_store(tmp_path / "s"), prompt="none")
    row: Any = train("fsar", config, SMALL, replace(QUICK, out=tmp_path / "run"), told).row
    assert "text" not in row
    assert any("This store has no text stream" in line for line in told.lines)


def test_the_last_step_counts_where_asked(tmp_path: Path) -> None:
    config = replace(TASK, cache=told_store(tmp_path / "s"))
    row = train("fsar", config, SMALL, replace(QUICK, select="last", out=tmp_path / "run"), Silent()).row
    assert (row["chosen_update"], row["validation"]) == (8, None)


def test_peers_are_as_many_queries_as_at_test(tmp_path: Path) -> None:
    config = replace(TASK, cache=told_store(tmp_path / "s"), train_queries=5)
    opened = fewshot.prepare(config, QUICK, fsar.Head, fsar.Config(), CPU, Silent())
    seen = set()
    for batch, _ in zip(opened.batches(0), range(20), strict=False):
        assert batch.peers is not None
        assert batch.peers.shape == (3, 15, 3)
        for task in batch.peers:
            for query, peers in enumerate(task.tolist()):
                assert query in peers
                assert [peer // 5 for peer in peers] == [0, 1, 2]
                seen.add((query, *peers))
    assert len(seen) > 200
    even = fewshot.prepare(replace(config, train_queries=1), QUICK, fsar.Head, fsar.Config(), CPU, Silent())
    assert next(even.batches(0)).peers is None


@pytest.mark.parametrize(
    ("made", "change", "error", "told"),
    [
        ({"prompts": ("unknown", "other")}, {}, BadInput, r"several prompts: other, unknown"),
        ({}, {"prompt": "unknwon"}, UnknownName, r"no prompt in this store 'unknwon'. Did you mean 'unknown'"),
        ({}, {"prompt": "known"}, UnknownName, r"no prompt in this store 'known'"),
        ({"known": LISTS}, {"prompt": "known"}, BadInput, r"--shot 1 --queries 2 --seed 0 --tasks N`"),
        ({"known": LISTS[:2]}, {"prompt": "known", "train_tasks": 10}, BadInput, r"whole.*no prompted 'class1[1-4]"),
        ({"known": LISTS}, {"prompt": "known", "train_tasks": 50}, BadInput, r"text stream is not whole.*no prompted"),
        ({"leave_out": 1}, {}, BadInput, r"The text stream is not whole.*class14/7.mp4"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(
    tmp_path: Path, made: dict[str, Any], change: dict[str, Any], error: type[Exception], told: str
) -> None:
    config = replace(TASK, cache=told_store(tmp_path / "s", **made), **change)
    with pytest.raises(error, match=told):
        train("fsar", config, SMALL, replace(QUICK, out=tmp_path / "run"), Silent())
    assert not (tmp_path / "run").exists()  # before the training, though it may be the test that misses something


def test_everything_that_is_refused_is_said_at_once(tmp_path: Path) -> None:
    config = replace(TASK, cache=told_store(tmp_path / "s"), layer="13", prompt="unknwon", annotations="defualt")
    with pytest.raises(UnknownName) as caught:
        fewshot.prepare(config, QUICK, fsar.Head, fsar.Config(), CPU, Silent())
    problem, remedy = str(caught.value).split("\n")
    assert problem == (
        "There is no set of annotations 'defualt'. Did you mean 'default'? There is no stored layer '13'. Did you mean "
        "'3'? There is no prompt in this store 'unknwon'. Did you mean 'unknown'?"
    )
    assert remedy == "Known: default. Known: 3. Known: unknown."
    with pytest.raises(UnknownName, match=r"no stored layer '13'.*no prompt in this store 'unknwon'"):
        evaluate(EvalConfig(config.cache, way=3, metric="avg", layer="13", prompt="unknwon"), Silent())


def test_views_made_for_a_test_are_drawn_on_request_only(tmp_path: Path) -> None:
    store = told_store(tmp_path / "s", views=3)
    with open_store(store) as reader, StoreWriter(store, reader.recipe) as writer:
        writer.bind("view", "1", {"clip": 1, "of": 2})
        writer.bind("view", "2", {"copy": 1, "crop": "random"})
    for train_views, views in ((None, [0, 2]), ("all", [0, 1, 2]), ("0", [0])):
        config = replace(TASK, cache=store, prompt="none", train_views=train_views)
        opened = fewshot.prepare(config, QUICK, fsar.Head, fsar.Config(), CPU, Silent())
        assert opened.facts["views"] == {"train": views, "test": [0]}
        with open_store(store) as reader:
            view_of = {reader.read(key, VISUAL.name).tobytes(): key.view for key in reader.keys("video")}
        drawn = {
            view_of[clip.numpy().tobytes()]
            for batch, _ in zip(opened.batches(0), range(12), strict=False)
            for clip in batch.videos["visual"]
        }
        assert sorted(drawn) == views


@pytest.mark.parametrize("resident", ["ram", "off"])
@pytest.mark.parametrize("kind", ["video", "prompted"])
def test_nan_is_refused_by_the_name_of_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resident: Any, kind: str
) -> None:
    store = told_store(tmp_path / "s", leave_out=1 if kind == "prompted" else 0)
    key = Key("prompted", "class14/7.mp4", 0, "unknown") if kind == "prompted" else Key("video", "class00/x.mp4")
    # A writer refuses NaN; such a record can only come from elsewhere, so the check is switched off.
    monkeypatch.setattr("vfc.cache_schema.values.dtypes._finite", lambda *_: True)
    with StoreWriter(store, Recipe({"made": "up"})) as writer:
        spec = TEXT if kind == "prompted" else VISUAL
        shape = (3, 12) if kind == "prompted" else VISUAL.shape
        writer.add(Record(key, {spec.name: np.full(shape, np.nan, dtype=np.float32)}))
        if kind == "video":
            writer.add(Record(Key("prompted", key.name, 0, "unknown"), {TEXT.name: np.ones((3, 12), np.float32)}))
    monkeypatch.undo()
    if kind == "video":
        from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations

        rows = labelled()
        write_annotations(store, "default", Annotations((*rows.rows, Annotation(key.name, "Class00", "train"))))
    config = replace(TASK, cache=store, resident=resident)
    with pytest.raises(
        BadInput, match=rf"of '{key.name}' \((view 0|prompt 'unknown')\) holds values that are no numbers"
    ):
        train("fsar", config, SMALL, replace(QUICK, steps=200, out=tmp_path / "run"), Silent())


SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
from vfc.cache_schema.values.progress import Silent
from vfc.heads.training.fit import train
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.methods import fsar
from vfc.heads.tasks import fewshot
import torch
torch.set_num_threads(1)
kinds = (fewshot.Config, fsar.Config, TrainConfig)
task, head, config = (kind(**json.loads(text)) for kind, text in zip(kinds, sys.argv[2:]))
task, config = dataclasses.replace(task, cache=Path(task.cache)), dataclasses.replace(config, out=Path(sys.argv[1]))
train("fsar", task, head, config, Silent())
"""


def test_killed_for_real_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    store = told_store(tmp_path / "s", views=2)
    task = {"cache": str(store), "way": 3, "train_queries": 2, "val_tasks": 10, "tasks": 20}
    head = {"dim": 16, "down_hidden": 12, "ffn_dim": 20, "attention_heads": 2, "alpha_mode": "learn", "alpha": 0.5}
    settings = {"steps": 60, "batch": 2, "validate_every": 6, "device": "cpu", "optimizer": "adam", "seed": 3}

    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(out), json.dumps(task), json.dumps(head), json.dumps(settings)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    assert start(tmp_path / "whole").wait(120) == 0
    kills = 0
    for reached in (7,):
        process = start(tmp_path / "cut")
        curve = tmp_path / "cut" / "curve.jsonl"
        while process.poll() is None and not (curve.exists() and len(curve.read_bytes().splitlines()) >= reached):
            time.sleep(0.005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    assert start(tmp_path / "cut").wait(120) == 0
    ends = [load_file(tmp_path / name / "head.safetensors") for name in ("whole", "cut")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert (tmp_path / "whole/curve.jsonl").read_bytes() == (tmp_path / "cut/curve.jsonl").read_bytes()
    opened = fsar.Head(fsar.Config(**head), {"visual": replace(VISUAL), "text": TEXT})
    load_weights(opened, tmp_path / "cut" / "head.safetensors")
