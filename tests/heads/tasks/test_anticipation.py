"""The anticipation task: what it reads, how it cuts and batches, what it refuses, and a run from end to end."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suites.motion_store import Told
from suites.sequence_store import made_up, write_made_up, write_sequences

from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.upkeep import inspect, verify
from vfc.cache_schema.values.errors import (
    BadInput,
    MissingPath,
    MissingRecord,
    RecipeMismatch,
    RecordRejected,
    UnknownName,
)
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Json, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.arrays import choose_sequence
from vfc.heads.data.store_view import StoreView
from vfc.heads.evaluation.compare_runs import ReportConfig, report
from vfc.heads.methods import frame_classifier, futr
from vfc.heads.results.tables import read_rows
from vfc.heads.tasks import anticipation, frame_labels
from vfc.heads.tasks.anticipation.dataset import SequenceDataset, stored_stride
from vfc.heads.tasks.anticipation.ground_truth import StoreGroundTruth
from vfc.heads.tasks.anticipation.observed_labels import disturbed, observed_labels
from vfc.heads.tasks.anticipation.segments import Window
from vfc.heads.tasks.anticipation.splits import over_runs, over_splits, per_split
from vfc.heads.tasks.anticipation.trivial_baselines import repeat_last, tallied
from vfc.heads.tasks.anticipation.windows import Sample, collate, cut_of, moved, one_pass, windows
from vfc.heads.training.fit import train

CPU = torch.device("cpu")
FUTR = futr.Config(width=16, decoder_layers=1, queries=6, positions=48, attention_heads=2)
TRAINING = TrainConfig(epochs=2, batch=8, lr=3e-3, validate_every=0, select="last", clip=0.0)


class Hearing(anticipation.AnticipationHead):
    """A head that reads observed labels; used as a class alone."""

    @classmethod
    def reads_observed_labels(cls, settings: Any) -> bool:
        return True


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_made_up(tmp_path / "store")


def task(store: Path, head: Any = futr.Head, train: TrainConfig = TRAINING, **settings: Any) -> Any:
    config = anticipation.Config(cache=store, **{"stride": 4, **settings})
    return anticipation.prepare(config, train, head, FUTR, CPU, Silent())


def sequences(store: Path, names: list[str], stride: int = 4, **settings: Any) -> SequenceDataset:
    reader = open_store(store)
    view = StoreView(reader, Annotations(()), {"visual": choose_sequence(reader)})
    return SequenceDataset(view, names, StoreGroundTruth(reader), stride=stride, device=CPU, **settings)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
def test_steps_are_the_stored_rows_in_memory_and_on_disk(tmp_path: Path, dtype: str) -> None:
    store = write_made_up(tmp_path / "store", dtype=dtype, stride=2)
    kept, on_disk = (sequences(store, ["v01", "v05"], resident=where) for where in ("ram", "off"))
    whole = open_store(store).read(Key("video", "v05"), "features")
    frames = np.arange(12, 40, 4)
    found = kept.steps(1, frames)
    np.testing.assert_array_equal(found.numpy(), whole[6:20:2])
    assert torch.equal(on_disk.steps(1, frames), found)
    on_disk.prefetch(1, frames)
    singles = kept.single([1, 0, 1], np.array([16, 8, 12]))
    assert torch.equal(singles[[2, 0]], found[:2])
    assert torch.equal(on_disk.single([1, 0, 1], np.array([16, 8, 12])), singles)
    assert stored_stride(open_store(store), ["v01", "v05"]) == 2


def test_a_batch_equals_a_loop_over_frames(store: Path) -> None:
    videos = sequences(store, ["v00", "v03"])
    sampling = anticipation.Sampling(4, (0.2, 0.5), 3)
    samples = windows(videos, sampling, full=True)
    assert len(samples) == 2 * 2 * 3
    batch = collate(videos, samples, None, device=CPU, learning=True)
    whole = [open_store(store).read(Key("video", name), "features") for name in ("v00", "v03")]
    plan = [(v, ratio, offset) for v in (0, 1) for ratio in (0.2, 0.5) for offset in range(3)]
    for row, (v, ratio, offset) in enumerate(plan):
        labels = videos.labels[v].tolist()
        n, start = len(labels), 4 * offset
        seen = [i for i in range(start, start + int(ratio * n)) if (i - start) % 4 == 0]
        first = start + int(ratio * n)
        later = [i for i in range(first, min(first + int(0.5 * n), n)) if (i - first) % 4 == 0]
        steps = int(batch.valid[row].sum())
        assert steps == len(seen)
        assert batch.past[row, :steps].tolist() == [labels[i] for i in seen]
        assert (batch.past[row, steps:] == -100).all()
        np.testing.assert_array_equal(batch.visual[row, :steps].numpy(), whole[v][seen])
        assert (batch.visual[row, steps:] == 0).all()
        count = int((batch.actions[row] >= 0).sum())
        lengths = (batch.durations[row, :count] * len(later)).round().int()
        found = np.repeat(batch.actions[row, :count].numpy(), lengths.numpy())
        assert found.tolist() == [labels[i] for i in later]


@pytest.mark.parametrize("resident", ["ram", "off"])
@pytest.mark.parametrize("full", [True, False])
def test_phases_are_the_same_windows_some_frames_later(tmp_path: Path, resident: str, full: bool) -> None:
    store = write_made_up(tmp_path / "store", stride=2)
    videos = sequences(store, ["v00", "v03"], stride=8, phases=4, resident=resident)
    told, _ = observed_labels(open_store(store), "truth", "split1", videos)
    samples = windows(videos, anticipation.Sampling(8, (0.2, 0.5), 40), full=full)
    whole = [open_store(store).read(Key("video", name), "features") for name in ("v00", "v03")]
    chosen = set()
    for trial in range(12):
        later = moved(videos, samples, np.random.default_rng(trial))
        batch = collate(videos, later, told, device=CPU, learning=True)
        assert torch.equal(batch.observed_labels.clamp(min=0)[batch.valid], batch.past[batch.valid])
        for row, (before, after) in enumerate(zip(samples, later, strict=True)):
            n, phase = len(videos.labels[before.video]), after.cut.phase
            chosen.add(phase)
            seen = [i + phase for i in before.cut.observed_frames(8).tolist()]
            assert after.cut.observed_frames(8).tolist() == seen
            np.testing.assert_array_equal(batch.visual[row, : len(seen)], whole[before.video][[i // 2 for i in seen]])
            to_come = [i + phase for i in before.cut.future_frames(8).tolist()]
            assert after.cut.future_frames(8).tolist() == [i for i in to_come if i < n]
            assert after.cut.future > 0
    assert chosen == {0, 2, 4, 6}


def test_a_window_at_the_end_moves_no_further_than_something_is_left(store: Path) -> None:
    videos = sequences(store, ["v00"], stride=8, phases=8)
    n = len(videos.labels[0])
    cut = Window(n - 23, 20, 3)
    phases = {moved(videos, [Sample(0, cut)], np.random.default_rng(i))[0].cut.phase for i in range(60)}
    assert phases == {0, 1, 2}
    assert cut.later(2, n).future_frames(8).tolist() == [n - 1]


def test_only_training_draws_phases(store: Path) -> None:
    plain, drawn = task(store), task(store, phases=4)
    assert "phases" not in plain.identity
    assert drawn.identity["phases"] == 4
    assert drawn.per_pass == plain.per_pass
    pairs = list(zip(itertools.islice(plain.batches(0), 6), itertools.islice(drawn.batches(0), 6), strict=True))
    assert all(a.visual.shape == b.visual.shape for a, b in pairs)
    assert not any(torch.equal(a.visual, b.visual) for a, b in pairs)
    head = futr.Head(FUTR, plain.specs)
    head.set_task(plain)
    head.eval()
    with torch.no_grad():
        assert plain.test(head, Silent())["moc"] == drawn.test(head, Silent())["moc"]


@pytest.mark.parametrize(
    ("settings", "problem", "remedy"),
    [
        ({"stride": 4, "phases": 3}, "Steps of 4 frames cannot begin in 3 places", "a divisor of 4"),
        ({"stride": 4, "phases": -1}, "cannot begin in -1 places", "a divisor of 4"),
        ({"stride": 4, "phases": 4}, "one row per 2 frames: steps of 4 frames begin in 2 places, not in 4", "phases 2"),
    ],
)
def test_phases_that_cannot_be_had(tmp_path: Path, settings: Any, problem: str, remedy: str) -> None:
    store = write_made_up(tmp_path / "store", stride=2)
    with pytest.raises(BadInput, match=problem) as caught:
        task(store, **settings)
    assert remedy in caught.value.remedy


def test_at_test_nothing_of_the_future_is_in_a_batch(store: Path) -> None:
    videos = sequences(store, ["v00", "v03"])
    batch = collate(videos, windows(videos, anticipation.Sampling(), full=True), None, device=CPU, learning=False)
    assert (batch.past == -100).all()
    assert batch.actions.shape[1] == 0
    classes, shares = anticipation.targets(batch, 3, 4)
    assert classes.shape == shares.shape == (6, 3)


def test_a_pass_has_every_window_once_and_lengths_together() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, size=1003).tolist()
    passes = [one_pass(lengths, 8, np.random.default_rng([0, i])) for i in range(2)]
    for batches in passes:
        assert sorted(i for batch in batches for i in batch) == list(range(1003))
        assert len(batches) == 126
    assert passes[0] != passes[1]
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in passes[0])
    assert padded < 1.1 * sum(lengths)
    order = [lengths[batch[0]] for batch in passes[0]]
    assert order != sorted(order)


def test_batches_depend_on_seed_and_number_alone(store: Path) -> None:
    whole, later = task(store).batches(0), task(store).batches(5)
    for _ in range(5):
        next(whole)
    for _ in range(3):
        here, there = next(whole), next(later)
        assert torch.equal(here.visual, there.visual)
        assert torch.equal(here.actions, there.actions)
    other = task(store, train=replace(TRAINING, seed=1)).batches(5)
    assert not torch.equal(next(other).visual[:1, :3], there.visual[:1, :3])


def test_subsampled_windows_are_cut_after_striding(store: Path) -> None:
    videos = sequences(store, ["v00"], stride=8)
    n = len(videos.labels[0])
    kept = len(range(0, n, 8))
    cut = cut_of(videos, 0, 0.3, full=False)
    assert cut.observed_frames(8).tolist() == [8 * i for i in range(int(0.3 * kept))]
    assert cut.future_frames(8).tolist() == [8 * i for i in range(int(0.3 * kept), int(0.3 * kept) + int(0.5 * kept))]


def test_a_run_from_end_to_end(store: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    config = anticipation.Config(cache=store, stride=4, report_best_on_test=True)
    results = []
    for fold in (1, 2):
        for seed in (0, 1):
            out = tmp_path / f"run{fold}{seed}"
            training = replace(TRAINING, seed=seed, out=out)
            results.append(train("futr", replace(config, fold=fold), FUTR, training, told))
            monkeypatch.setattr(
                "vfc.heads.training.fit.write_html", lambda *_: None
            )  # the first run's page is looked at
    row = results[0].row
    assert np.array(row["moc"]).shape == (2, 4)
    assert row["mean_moc"] == pytest.approx(np.mean(row["moc"]))
    assert row["updates"] == 2 * -(-10 * 3 // 8)
    assert len(row["watched"]) == 2
    assert row["watched"][-1]["moc"] == row["moc"]
    shown = results[0].tables()[0]
    names = [line[0] for line in shown.rows]
    assert names[0] == "futr, last epoch"
    assert names[1].startswith("best on test (update ")
    assert "no result" in names[1]
    assert names[2:5] == ["repeat last label", "train majority", "oracle transcript, 6 queries"]
    assert shown.title == "MoC in %, split1, 4 test videos, every label frame scored; observed→predicted"
    page = (tmp_path / "run10" / "report.html").read_text()
    assert page.count("<svg") == 3  # the curve, and segments for each observed ratio
    assert "v00 truth" in page
    items = read_rows(tmp_path / "run10" / "predictions.jsonl")
    assert len(items) == 2 * 4
    assert all(sum(item["frames"]) > 0 for item in items)
    rows = [json.loads(json.dumps(result.to_json())) for result in results]
    assert len({row["videos_digest"] for row in rows}) == 1  # two splits of one set of videos and labels
    assert rows[0]["clips_per_class"] == dict.fromkeys(["c0", "c1", "c2", "c3"], 14)
    grids = per_split(rows)
    assert list(grids) == ["futr", "repeat last label", "train majority", "oracle transcript, 6 queries"]
    np.testing.assert_allclose(grids["futr"]["split1"], (np.array(rows[0]["moc"]) + rows[1]["moc"]) / 2)
    means, every, apart = over_splits(rows)
    assert [line[0] for line in every.rows] == ["futr, split1, 2 seeds", "futr, split2, 2 seeds"]
    found = float(means.rows[0][-1])
    assert found == pytest.approx(np.mean([float(line[-1]) for line in every.rows]), abs=0.01)
    assert apart.rows[0][0] == "futr - repeat last label"
    _, *told_by_runs = report(ReportConfig((tmp_path,)), told).tables()
    assert [line[1:] for line in told_by_runs[0].rows] == [line[1:] for line in means.rows]
    with pytest.raises(BadInput, match=r"futr on split1 with seed 0 is there twice\.\nGive one run of each"):
        over_splits([*rows, rows[0]])
    with pytest.raises(BadInput, match=r"The splits of futr have different seeds: split1: \[0, 1\]; split2: \[0\]\."):
        over_splits(rows[:3])
    (other, _, _), lacking = over_runs([{**rows[0], "rate": "subsampled"}]), over_runs(rows[:3])
    assert "subsampled labels scored" in other.title
    assert [table.title for table in lacking] == [
        "The splits of futr have different seeds: split1: [0, 1]; split2: [0]."
    ]
    with pytest.raises(BadInput, match=r"These runs differ in rate: full, subsampled\.\nGive runs of one store"):
        over_splits([rows[0], {**rows[1], "rate": "subsampled"}])


def test_scores_do_not_depend_on_how_tests_are_batched(store: Path) -> None:
    torch.manual_seed(0)
    alone, together = task(store, train=replace(TRAINING, batch=1)), task(store)
    head = futr.Head(FUTR, alone.specs).eval()
    with torch.no_grad():
        found = [each.test(head, Silent())["moc"] for each in (alone, together)]
    assert found[0] == found[1]


def test_subsampled_scores_count_one_label_in_stride(store: Path) -> None:
    prepared = task(store, rate="subsampled", stride=8)
    head = futr.Head(FUTR, prepared.specs).eval()
    with torch.no_grad():
        result = prepared.test(head, Silent())
    videos = [ids[::8] for ids in list(made_up(14).values())[:4]]
    wanted = tallied(repeat_last, videos, 4, (0.2, 0.3), (0.1, 0.2, 0.3, 0.5))
    assert result["baselines"][0]["moc"] == wanted.moc().tolist()
    assert result["classes_counted"] == wanted.classes().tolist()
    frames = [sum(item["frames"]) for item in result["items"]]
    assert frames == [len(ids) // 2 for _ in range(2) for ids in videos]


def classify(store: Path, out: Path, *, fold: int = 1, seed: int = 0) -> Any:
    training = replace(frame_labels.TRAIN, steps=150, batch=64, lr=1e-2, seed=seed, out=out)
    config = frame_labels.Config(cache=store, fold=fold)
    return train("frame-classifier", config, frame_classifier.Config(), training, Silent())


def test_labels_of_the_frame_classifier_are_what_heads_are_told(tmp_path: Path) -> None:
    store = write_made_up(tmp_path / "store", stride=2, sigma=1.0, width=4)
    done = classify(store, tmp_path / "run")
    row = done.row
    labels = open_store(store / "derived" / "frame-labels-split1")
    made = labels.recipe.fields
    assert (made["split"], made["seed"], made["classifier"]) == ("split1", 0, row["classifier"])
    assert made["parent"]["digest"] == open_store(store).recipe.digest
    assert len(labels) == 14
    truth = made_up(14)
    right = [labels.view(Key("video", name), "labels") == ids[::2] for name, ids in list(truth.items())[:4]]
    assert row["accuracy"] == pytest.approx(np.concatenate(right).mean())
    assert 0.6 < row["accuracy"] < 1.0
    assert np.array(row["confusion"]).sum() == row["frames"]["test"]
    kept = json.loads((labels.root / "confusion.json").read_text())
    assert kept["test"] == row["confusion"]
    assert verify(labels.root, Silent()).ok
    assert inspect(store, Silent()).derived
    heard = task(store, Hearing)
    batch = next(heard.batches(0))
    assert batch.observed_labels.shape == batch.past.shape
    assert ((batch.observed_labels == -1) == ~batch.valid).all()
    agree = (batch.observed_labels == batch.past)[batch.valid].float().mean()
    assert agree == pytest.approx(row["train_accuracy"], abs=0.15)
    # Deterministic, and other settings are refused before they are trained.
    again = classify(store, tmp_path / "again")
    assert again.row["classifier"] == row["classifier"]
    with pytest.raises(RecipeMismatch, match=r"holds labels that were made in another way: seed: 0 there, 1 asked"):
        classify(store, tmp_path / "other", seed=1)


def test_no_classifier_labels_a_video_that_it_has_seen(tmp_path: Path) -> None:
    store = write_made_up(tmp_path / "store")
    config, train_config = frame_labels.Config(cache=store), replace(frame_labels.TRAIN, batch=64)
    prepared = frame_labels.prepare(
        config, train_config, frame_classifier.Head, frame_classifier.Config(), CPU, Silent()
    )
    head = frame_classifier.Head(frame_classifier.Config(), prepared.specs)
    batch = next(prepared.batches(0))
    assert sorted(set(batch.group.tolist())) == [0, 1, 2, 3, 4]
    for group in range(5):
        only = batch.group == group
        part = frame_labels.FrameBatch(batch.frames[only], batch.labels[only], batch.group[only])
        head.zero_grad()
        torch.stack(list(head.loss(part).values())).sum().backward()
        unseen = head.classifiers[1 + group](part.frames)
        assert torch.equal(head.scores(part), unseen)
        touched = [any(bool(p.grad.any()) for p in each.parameters()) for each in head.classifiers]
        assert touched == [i != 1 + group for i in range(6)]
    test = frame_labels.FrameBatch(batch.frames, batch.labels, torch.full_like(batch.group, -1))
    assert torch.equal(head.scores(test), head.classifiers[0](batch.frames))


def test_labels_of_another_split_or_store_are_refused(tmp_path: Path, store: Path) -> None:
    with pytest.raises(MissingPath, match=r"no predicted labels for 'split1'.*\nMake them: vfc train-head frame-class"):
        task(store, Hearing)
    classify(store, tmp_path / "run", fold=2)
    other = str(store / "derived" / "frame-labels-split2")
    with pytest.raises(
        RecipeMismatch, match=r"for something else: split: split2 there, split1 asked\.\nA classifier of"
    ):
        task(store, Hearing, told=other)
    away = write_made_up(tmp_path / "away", seed=5)
    with pytest.raises(RecipeMismatch, match="for something else: parent: "):
        observed_labels(open_store(away), other, "split2", sequences(away, ["v00"]))


def test_noise_changes_whole_segments() -> None:
    ids = np.repeat([0, 1, 2, 0], [5, 3, 8, 4])
    assert disturbed(ids, 0.0, 9, np.random.default_rng(0)) is ids
    changed = disturbed(ids, 1.0, 1000, np.random.default_rng(0))
    assert np.flatnonzero(np.diff(changed)).tolist() == [4, 7, 15]
    shares: list[float] = [
        np.mean(disturbed(np.arange(500), 0.3, 10**6, np.random.default_rng(i)) != np.arange(500)) for i in range(5)
    ]
    assert np.mean(shares) == pytest.approx(0.3, abs=0.05)


def test_told_the_truth_with_noise_in_training_alone(store: Path) -> None:
    heard = task(store, Hearing, told="truth", told_noise=0.5)
    batch = next(heard.batches(0))
    assert 0.2 < (batch.observed_labels == batch.past)[batch.valid].float().mean() < 0.95


def broken(root: Path, *, labels: int = 100, rows: int = 100, top: int = 3, names: int = 4, **extra: Any) -> Path:
    """A store whose video v1 is as told, beside a sound one."""
    with StoreWriter(root, Recipe({"made": "up"})) as writer:
        spec = ArraySpec("features", "fp32", (None, 3), "steps")
        writer.declare("video", [spec, ArraySpec("labels", "int64", (None,), "steps")])
        if names:
            writer.bind("labels", "classes", {"names": [f"c{i}" for i in range(names)]})
        for name, n, m, last in (("v0", 100, 100, 3), ("v1", labels, rows, top)):
            ids = np.minimum(np.arange(n) // 10, last)
            writer.add(Record(Key("video", name), {"features": np.ones((m, 3), np.float32), "labels": ids}, extra))
    rows_ = (Annotation("v0", split="train"), Annotation("v1", split="test"))
    write_annotations(root, "split1", Annotations(rows_))
    return root


@pytest.mark.parametrize(
    ("how", "stride", "message"),
    [
        ({"rows": 60}, 4, r"'v1' has labels for 100 frames and features for 60 \(one row per 1 frames\)\.\nLabels and"),
        ({"top": 9}, 4, r"'v1' holds the class id 4; the class list has ids 0 to 3\.\nImport again with the mapping"),
        (
            {"labels": 4, "rows": 4},
            4,
            r"'v1' has 4 label frames: 0\.2 of it is 0 of one frame\(s\) to observe and 2 to p",
        ),
        ({"names": 0}, 4, r"has no ordered list of classes, so its labels have no names\.\nImport the sequences with"),
        (
            {"stride": 3, "rows": 34},
            4,
            r"stored with one row per 3 frames, so one in 4 frames cannot be had\.\nGive a --s",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, how: dict[str, Any], stride: int, message: str) -> None:
    if how.get("stride"):
        store = write_sequences(tmp_path / "s", made_up(2), ["a", "b", "c", "d"], {}, stride=3)
        with pytest.raises(BadInput, match=message):
            sequences(store, ["v00"])
        return
    store = broken(tmp_path / "store", **how)
    with pytest.raises(BadInput, match=message):
        task(store, stride=stride)


def extracted(root: Path, source: Path, border: str) -> Path:
    """The features of a store as if they had been extracted from videos: no labels, rows told by the recipe."""
    reader = open_store(source)
    windows: dict[str, Json] = {"frames": 21, "stride": 2, "border": border}
    with StoreWriter(root, Recipe({"backbone": "i3d", "windows": windows})) as writer:
        writer.declare("video", [ArraySpec("frames", "fp16", (None, 8), "steps")])
        for key in reader.keys("video"):
            name = f"cam/{key.name}.avi"
            writer.add(Record(Key("video", name), {"frames": reader.read(key, "features")[::2]}))
    return root


def ground_truth(folder: Path) -> Path:
    """What MS-TCN's folders know of the made-up videos; half of them are named as Breakfast's are."""
    for part in ("groundTruth", "splits"):
        (folder / part).mkdir(parents=True)
    (folder / "mapping.txt").write_text("".join(f"{i} c{i}\n" for i in range(4)))
    named = [f"cam_{name}" if i % 2 else name for i, name in enumerate(made_up(14))]
    for name, ids in zip(named, made_up(14).values(), strict=True):
        (folder / "groundTruth" / f"{name}.txt").write_text("".join(f"c{i}\n" for i in ids))
    for part, videos in {"test": named[:4], "train": named[4:]}.items():
        (folder / "splits" / f"{part}.split1.bundle").write_text("".join(f"{name}.txt\n" for name in videos))
    return folder


def test_labels_beside_extracted_features_are_as_good_as_imported_ones(tmp_path: Path, store: Path) -> None:
    bare, folder = extracted(tmp_path / "bare", store, "repeat"), ground_truth(tmp_path / "truth")
    here, there = task(store), task(bare, labels=folder)
    assert there.class_names == here.class_names
    for _, a, b in zip(range(6), here.batches(0), there.batches(0), strict=False):
        assert torch.equal(a.actions, b.actions)
        assert torch.equal(a.visual, b.visual)
    torch.manual_seed(0)
    head = futr.Head(FUTR, here.specs).eval()
    with torch.no_grad():
        assert here.test(head, Silent())["moc"] == there.test(head, Silent())["moc"]
    assert "labels_digest" not in here.identity
    assert len(there.identity["labels_digest"]) == 64
    with pytest.raises(UnknownName, match=r"holds no sequences: labels are missing\.\n.*or give their --labels\."):
        task(bare)
    with pytest.raises(MissingPath, match=r"There is no folder .*groundTruth\.\n--labels is a folder with groundTruth"):
        task(bare, labels=tmp_path)
    with pytest.raises(UnknownName, match=r"There is no split in .* 'split3'\. Did you mean 'split1'\?"):
        task(bare, labels=folder, fold=3)
    with pytest.raises(BadInput, match=r"are of whole windows of 21 frames only.*\nExtract with --border repeat"):
        task(extracted(tmp_path / "less", store, "drop"), labels=folder)
    truth = folder / "groundTruth" / "v02.txt"
    truth.write_text(truth.read_text().replace("c1", "c9"))
    with pytest.raises(RecordRejected, match=r"v02.txt, line \d+: there is no class 'c9' in mapping\.txt\."):
        task(bare, labels=folder)
    truth.unlink()
    with pytest.raises(MissingRecord, match=r"There is no .*v02\.txt for 'cam/v02\.avi'\.\nName the ground truth as"):
        task(bare, labels=folder)


def test_a_few_frames_of_difference_are_cut_off(tmp_path: Path) -> None:
    videos = sequences(broken(tmp_path / "store", rows=93), ["v1"])
    assert len(videos.labels[0]) == 93


def test_stores_and_annotations_that_do_not_serve_are_refused(tmp_path: Path, store: Path, told: Told) -> None:
    with pytest.raises(
        UnknownName, match=r"There is no array of steps \[None, D\] 'featuers'\. Did you mean 'features'"
    ):
        task(store, array="featuers")
    with StoreWriter(tmp_path / "bare", Recipe({"made": "up"})) as writer:
        writer.declare("video", [ArraySpec("frames", "fp32", (4, 3))])
    with pytest.raises(UnknownName, match=r"holds no sequences: features \[None, D\] are missing\.\nIt holds: frames"):
        task(tmp_path / "bare")
    with pytest.raises(UnknownName, match=r"There is no set of annotations 'split7'"):
        task(store, fold=7)
    rows = (Annotation("v00", split="train"), Annotation("gone", split="test"), Annotation("lost", split="train"))
    write_annotations(store, "odd", Annotations(rows))
    with pytest.raises(
        BadInput, match=r"'odd' have no video of this store to train on, or none to test on\.\nThey need"
    ):
        task(store, annotations="odd")
    write_annotations(store, "less", Annotations((*rows, Annotation("v01", split="test"))))
    config = anticipation.Config(cache=store, annotations="less", stride=4)
    anticipation.prepare(config, TRAINING, futr.Head, FUTR, CPU, told)
    assert told.lines == [
        "1 of the 2 train videos are not in this store.",
        "1 of the 2 test videos are not in this store.",
    ]
