"""Classification from a store: lists, views, class texts, shuffled frames; what is drawn, measured and refused."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from suites.killed import Killed, KilledAt
from suites.motion_store import FRAMES, MakeStore, Told

from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.protocol import k_shot
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.reduction.projection import Projection, publish_projection
from vfc.cache_schema.values.errors import BadInput, MissingPath, MissingRecord, RecipeMismatch, UnknownName
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data import views
from vfc.heads.data.views import numbers
from vfc.heads.lookup import configs
from vfc.heads.methods import linear_probe, mote, text_zero_shot
from vfc.heads.results.tables import read_rows
from vfc.heads.tasks import classification
from vfc.heads.tasks.classification import Classification, ClassifierHead, ClipBatch, Config, Wants, prepare
from vfc.heads.tasks.classification.lists import Listed, base_and_novel
from vfc.heads.tasks.classification.official import with_lists
from vfc.heads.tasks.classification.results import Scored, harmonic_mean, result_of
from vfc.heads.training.fit import train

QUICK = TrainConfig(steps=30, batch=8, validate_every=10, device="cpu", select="last")
CPU = torch.device("cpu")


def by_video(store: Path, train: int = 5, val: int = 0) -> Path:
    """The first `train` clips of each class train, the next `val` choose, the rest test."""
    parts = ["train"] * train + ["val"] * val
    rows = []
    for label, names in load(store).by_label().items():
        for i, name in enumerate(names):
            rows.append(Annotation(name, label, parts[i] if i < len(parts) else "test", fold=str(i % 4)))
    write_annotations(store, "default", Annotations(tuple(rows)))
    return store


@pytest.fixture
def store(make_store: MakeStore) -> Path:
    return by_video(make_store(classes=6, noise=0.3))


def with_texts(store: Path, width: int = 12, templates: tuple[str, ...] = ("plain",), skip: str = "") -> Path:
    """Adds a text record per class and template: embedding, rows, ids and the place of the last one."""
    with open_store(store) as reader:
        recipe, labels = reader.recipe, load(store).labels()
    arrays = [
        ArraySpec("embedding", "fp32", (width,)),
        ArraySpec("layer3.text", "fp32", (None, 5)),
        ArraySpec("text.eot", "int64", (1,)),
    ]
    with StoreWriter(store, recipe) as writer:
        writer.declare("text", arrays)
        for number, template in enumerate(templates):
            writer.bind("template", template, f"a {template} {{label}}")
            for i, label in enumerate(labels):
                if label == skip:
                    continue
                generator = np.random.default_rng([i, number])
                values = {
                    "embedding": generator.normal(size=width).astype(np.float32),
                    "layer3.text": generator.normal(size=(2 + i, 5)).astype(np.float32),
                    "text.eot": np.array([1 + i]),
                }
                about: dict[str, Any] = {"label": label, "template": template}
                writer.add(Record(Key("text", f"a {template} {label}"), values, about))
    return store


def opened(config: Config, head: type[ClassifierHead] = linear_probe.Head, how: TrainConfig = QUICK) -> Classification:
    return prepare(config, how, head, None, CPU, Silent())


def run(name: str, config: Config, out: Path, how: TrainConfig = QUICK) -> dict[str, Any]:
    return train(name, config, configs(name)["head"], replace(how, out=out), Silent()).row


def with_places(root: Path, classes: int = 6, clips: int = 8) -> Path:
    """A store whose classes have places of their own, which the mean of the frames shows."""
    generator, rows = np.random.default_rng(0), []
    centres = generator.normal(size=(classes, 12))
    with StoreWriter(root, Recipe({"made": "up"})) as writer:
        writer.declare("video", [ArraySpec("frames", "fp32", (4, 12))])
        for label in range(classes):
            for clip in range(clips):
                name = f"class{label:02}/{clip}.mp4"
                rows.append(Annotation(name, f"class{label:02}"))
                values = centres[label] + 0.8 * generator.normal(size=(4, 12))
                writer.add(Record(Key("video", name), {"frames": values.astype(np.float32)}))
    write_annotations(root, "default", Annotations(tuple(rows)))
    return by_video(root)


def strip(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "circumstances"}


# --- which videos ---


def test_the_splits_that_are_given_hold(store: Path) -> None:
    task = opened(Config(store))
    assert {row.name[-5] for row in task.lists.train.rows} == set("01234")
    assert {row.name[-5] for row in task.lists.tests["test"].rows} == set("567")
    assert task.specs["classes"].shape == (6,)
    assert task.per_pass == 30 // 8
    assert opened(Config(store), how=replace(QUICK, batch=64)).per_pass == 1


def test_without_splits_the_videos_of_each_class_are_split_and_said(make_store: MakeStore) -> None:
    store = make_store(classes=4, split=False)
    told = Told()
    task = prepare(Config(store, split_seed=3), QUICK, linear_probe.Head, None, CPU, told)
    assert any("split 60/20/20 at random (seed 3)" in line for line in told.lines)
    assert Counter(row.label for row in task.lists.train.rows) == {f"class{i:02}": 4 for i in range(4)}


def test_shots_are_the_nested_lists_of_the_protocol(store: Path) -> None:
    sets = {}
    for shots in (1, 2, 4):
        rows = opened(Config(store, shots=shots, shot_seed=5)).lists.train.rows
        sets[shots] = {row.name for row in rows}
        wanted = k_shot(load(store).of_split("train"), shots, seed=5)
        assert sets[shots] == {name for names in wanted.values() for name in names}
    assert sets[1] < sets[2] < sets[4]
    seeds = [opened(Config(store, shots=2), how=replace(QUICK, seed=s)).lists.train.digest for s in (0, 1)]
    assert seeds[0] != seeds[1]
    with pytest.raises(
        BadInput, match=r"has 5 videos; 6 shots were asked.\nAsk for 5 shots or fewer, or .*--allow-fewer"
    ):
        opened(Config(store, shots=6))
    assert len(opened(Config(store, shots=6, allow_fewer=True)).lists.train.rows) == 30


def test_a_fold_is_tested_and_the_others_are_trained_on(store: Path) -> None:
    task = opened(Config(store, fold="2"))
    assert {row.name[-5] for row in task.lists.tests["test"].rows} == {"2", "6"}
    assert {row.name[-5] for row in task.lists.train.rows} == set("013457")
    with pytest.raises(UnknownName, match=r"fold in the annotations '9'"):
        opened(Config(store, fold="9"))


def test_published_lists_are_laid_onto_the_store(store: Path, tmp_path: Path) -> None:
    # As UCF101's (path and class id), and as others write them (another root, another suffix, frames too).
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("".join(f"class0{c}/{i}.mp4 {c + 1}\n" for c in range(6) for i in (0, 3)) + "gone/1.mp4 7\n")
    test.write_text("\n".join(f"/data/videos/class0{c}/{i}.avi 120 {c}" for c in range(6) for i in (6, 7)))
    told = Told()
    task = prepare(Config(store, train_list=train, test_list=test), QUICK, linear_probe.Head, None, CPU, told)
    assert {row.name[-5] for row in task.lists.train.rows} == {"0", "3"}
    assert {row.name[-5] for row in task.lists.tests["test"].rows} == {"6", "7"}
    assert f"{train}: 12 of its 13 videos are in the store, for train." in told.lines
    with pytest.raises(BadInput, match=r"--train-list, --test-list and --fold settle one thing.\nGive both lists, or"):
        opened(Config(store, train_list=train))
    with pytest.raises(BadInput, match=r"'class00/0.mp4' and 11 more are in both .*\nA list has one video per line"):
        opened(Config(store, train_list=train, test_list=train))
    test.write_text("elsewhere.mp4 3\n")
    with pytest.raises(BadInput, match=r"None of the 1 videos that .*test.txt names is in the store.\nA list has"):
        opened(Config(store, train_list=train, test_list=test))
    with pytest.raises(MissingPath, match=r"no split list .*nothing.txt.\nA list has"):
        opened(Config(store, train_list=train, test_list=tmp_path / "nothing.txt"))


def test_the_lists_of_ucf101_name_files_that_are_found(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "splits" / "vidprism_lists.tar.xz") as archive:
        lists = {
            name: archive.extractfile(f"vidprism_lists/ucf101/{name}01-1.txt") for name in ("trainlist", "testlist")
        }
        texts = {name: file.read() for name, file in lists.items() if file is not None}
    paths = [tmp_path / f"{name}.txt" for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_bytes(text)
    names = [line.rsplit(" ", 1)[0] for text in texts.values() for line in text.decode().splitlines()]
    rows = Annotations(tuple(Annotation(f"ucf/{name[:-4]}.mp4", name.split("/")[0]) for name in set(names)))
    found = with_lists(rows, paths[0], paths[1], Silent())
    # UCF101's first official split: 9,537 and 3,783 videos.
    assert Counter(row.split for row in found.rows) == {"train": 9537, "test": 3783}


def test_base_classes_are_the_frequent_half() -> None:
    # HMDB51 has as many videos of every class: base are the ids 25 to 50 of 51, as published.
    names = tuple(f"c{i:02}" for i in range(51))
    base, novel = base_and_novel(tuple(Annotation(f"{n}-{i}", n) for n in names for i in range(2)), names)
    assert (base, novel) == (names[25:], names[:25])
    counts = {"a": 3, "b": 9, "c": 1, "d": 2}
    rows = tuple(Annotation(f"{label}{i}", label) for label, n in counts.items() for i in range(n))
    assert base_and_novel(rows, "dcba") == (("b", "a"), ("d", "c"))


def test_base_to_novel_trains_on_base_and_tests_each_within_itself(store: Path, tmp_path: Path) -> None:
    with_texts(store)
    config = Config(store, protocol="base-to-novel", shots=2)
    task = opened(config, text_zero_shot.Head)
    base, novel = task.lists.tests["base"], task.lists.tests["novel"]
    assert (base.names, novel.names) == (("class03", "class04", "class05"), ("class00", "class01", "class02"))
    assert task.train_names == base.names
    assert {row.label for row in task.lists.train.rows} == set(base.names)
    row = run("text-zero-shot", config, tmp_path / "run")
    assert row["harmonic_mean"] == harmonic_mean(row["base"]["top1"], row["novel"]["top1"]) == row["top1"]
    assert (row["base"]["classes"], row["novel"]["videos"]) == (3, 9)
    shown = classification.tables(row)
    assert [line[0] for line in shown[0].rows][-1] == "text-zero-shot, harmonic mean"
    assert classification.confusion(row).labels == base.names
    items = read_rows(tmp_path / "run" / "predictions.jsonl")
    assert Counter(item["group"] for item in items) == {"base": 9, "novel": 9}
    assert all(item["predicted"] in (base if item["group"] == "base" else novel).names for item in items)
    assert harmonic_mean(0.0, 0.0) == 0
    other = {**row, "base": {"top1": 0.5}, "novel": {"top1": 1.0}, "harmonic_mean": 2 / 3}
    (line,) = classification.over_runs([{**other, "base": {"top1": 0.7}}, other, {"head": "of another protocol"}])[
        0
    ].rows
    assert line == ("text-zero-shot", "60.00 ± 14.14 %", "100.00 ± 0.00 %", "66.67 ± 0.00 %", "2")


def test_a_weight_per_class_cannot_meet_other_classes(store: Path) -> None:
    for config in (Config(store, protocol="base-to-novel"), Config(store, protocol="zero-shot")):
        if config.protocol == "zero-shot":
            rows = tuple(replace(row, split="test" if row.label > "class03" else "train") for row in load(store).rows)
            write_annotations(store, "default", Annotations(rows))
        with pytest.raises(BadInput, match=r"tested classes are not among them: class0.*\nTake a head that goes by"):
            opened(config)
    task = opened(Config(with_texts(store), protocol="zero-shot"), text_zero_shot.Head)
    assert task.lists.tests["test"].names == ("class04", "class05")
    assert task.train_names == ("class00", "class01", "class02", "class03")


def test_another_store_can_be_tested_on_if_it_was_made_the_same_way(store: Path, tmp_path: Path) -> None:
    from suites.motion_store import make_store

    with_texts(store)
    other = with_texts(make_store(tmp_path / "other", classes=9, split=False))
    config = Config(store, test_cache=other, protocol="zero-shot")
    row = run("text-zero-shot", config, tmp_path / "run")
    assert (row["test_videos"], row["classes"]) == (72, 9)
    with open_store(other) as reader:
        assert row["test_store_digest"] == reader.digest
    for given in ({"fold": "1"}, {"train_list": tmp_path / "train.txt"}, {"test_list": tmp_path / "test.txt"}):
        with pytest.raises(BadInput, match=r"^--test-cache and --(fold|train-list|test-list) both say what is tested"):
            opened(replace(config, **given), text_zero_shot.Head)
    with pytest.raises(BadInput, match=r"^--test-annotations is given without --test-cache\.\nThey are the"):
        opened(Config(store, test_annotations="default"))
    wrong = tmp_path / "wrong"
    with StoreWriter(wrong, Recipe({"made": "otherwise"})) as writer:
        writer.declare("video", [ArraySpec("frames", "fp32", (4, 12))])
    with pytest.raises(
        RecipeMismatch, match=r"made in another way: made: 'up' in .*, 'otherwise' there.\nExtract both"
    ):
        opened(Config(store, test_cache=wrong))


def test_the_class_list_orders_the_classes(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("\n".join(f"Class{i:02}" for i in (9, 5, 4, 3, 2, 1, 0)))
    task = opened(Config(store, class_list=path))
    assert task.train_names == tuple(f"class{i:02}" for i in (5, 4, 3, 2, 1, 0))
    assert task.class_list[0] == "Class09"
    assert opened(Config(store)).class_list == ()
    path.write_text("class00\nclass01")
    with pytest.raises(
        BadInput, match=r"4 classes are not in the class list of 2 names: class02.*\nGive the --class-list"
    ):
        opened(Config(store, class_list=path))


def test_nothing_to_test_and_nothing_labelled_is_refused(store: Path) -> None:
    rows = load(store).rows
    write_annotations(store, "default", Annotations(tuple(replace(row, split="train") for row in rows)))
    with pytest.raises(BadInput, match=r"name no video to test on.\nGive --annotations with a test split"):
        opened(Config(store))
    write_annotations(store, "default", Annotations((Annotation("elsewhere.mp4", "class00"),)))
    with pytest.raises(
        BadInput, match=r"None of the 1 annotated videos \(1 with a label\) has a record in .*\nNames in"
    ):
        opened(Config(store))


def test_val_videos_choose_where_they_are_asked_to(make_store: MakeStore, tmp_path: Path) -> None:
    store = by_video(make_store(classes=6, noise=0.3), train=4, val=2)
    assert run("linear-probe", Config(store), tmp_path / "last")["validation"] is None
    row = run("linear-probe", Config(store), tmp_path / "val", replace(QUICK, select="val"))
    assert row["validation"] is not None
    held = opened(Config(store, val_fraction=0.25)).lists
    assert Counter(row.label for row in held.val.rows) == {f"class{i:02}": 1 for i in range(6)}
    assert not {row.name for row in held.val.rows} & {row.name for row in held.train.rows}


# --- what is drawn ---


def test_batches_go_through_every_video_once_a_pass(store: Path) -> None:
    task = opened(Config(store), how=replace(QUICK, batch=10))
    with open_store(store) as reader:
        name_of = {reader.read(key, "frames").tobytes(): key.name for key in reader.keys("video")}
    label_of = {row.name: row.label for row in load(store).rows}
    passes = []
    batches = [batch for batch, _ in zip(task.batches(0), range(6), strict=False)]
    for first in (0, 3):
        names = [name_of[clip.numpy().tobytes()] for b in batches[first : first + 3] for clip in b.clips["visual"]]
        labels = [b.names[i] for b in batches[first : first + 3] for i in b.labels.tolist()]
        assert labels == [label_of[name] for name in names]
        assert len(set(names)) == 30
        passes.append(names)
    assert passes[0] != passes[1]
    late = next(task.batches(4))
    assert torch.equal(late.clips["visual"], batches[4].clips["visual"])


def test_views_are_drawn_in_training_and_averaged_at_test(make_store: MakeStore) -> None:
    store = by_video(make_store(classes=3, views=3), train=4)
    with open_store(store) as reader:
        view_of = {reader.read(key, "frames").tobytes(): key.view for key in reader.keys("video")}

    class Seen(linear_probe.Head):
        batches: ClassVar[list[ClipBatch]] = []

        def scores(self, batch: ClipBatch) -> torch.Tensor:
            self.batches.append(batch)
            return super().scores(batch)

        def usage(self, batch: ClipBatch) -> dict[str, torch.Tensor]:
            return {"level": batch.clips["visual"].mean(dim=(1, 2))}

    def seen(config: Config, training: bool) -> set[int]:
        task = opened(config)
        Seen.batches.clear()
        head = Seen(linear_probe.Config(), task.specs)
        if training:
            for batch, _ in zip(task.batches(0), range(12), strict=False):
                Seen.batches.append(batch)
        else:
            task.test(head, Silent())
        return {view_of[clip.numpy().tobytes()] for batch in Seen.batches for clip in batch.clips["visual"]}

    assert seen(Config(store), True) == {0, 1, 2}
    assert seen(Config(store, train_views="0,2"), True) == {0, 2}
    assert seen(Config(store), False) == {0}
    assert seen(Config(store, test_views="all"), False) == {0, 1, 2}
    row = opened(Config(store, test_views="1-2")).test(
        Seen(linear_probe.Config(), opened(Config(store)).specs), Silent()
    )
    assert row["train_views"] == 3
    # By hand: the head's logits of both views of a clip, averaged; as probabilities after the softmax.
    task = opened(Config(store, test_views="1-2"), how=replace(QUICK, batch=5))
    head = Seen(linear_probe.Config(), task.specs)
    listed = task.lists.tests["test"]
    with open_store(store) as reader:
        for kind in ("logits", "probabilities"):
            by_hand = opened(Config(store, test_views="1-2", view_sum=kind), how=replace(QUICK, batch=5))
            (scored,) = by_hand.scores([head], by_hand.tested, listed, "1-2", Silent())
            for i, row_ in enumerate(listed.rows):
                clips = torch.stack([torch.tensor(reader.read(Key("video", row_.name, v), "frames")) for v in (1, 2)])
                logits = head.scores(ClipBatch({"visual": clips}, torch.zeros(2), listed.names, {}))
                wanted = (logits.softmax(-1) if kind == "probabilities" else logits).mean(0)
                np.testing.assert_allclose(scored.scores[i], wanted.detach().numpy(), rtol=1e-4, atol=1e-5)
                assert scored.usage["level"][i] == pytest.approx(float(clips.mean()), rel=1e-4)


def test_views_made_for_a_test_are_not_trained_on(make_store: MakeStore) -> None:
    store = by_video(make_store(classes=3, views=4), train=4)
    with open_store(store) as reader:
        recipe = reader.recipe
    with StoreWriter(store, recipe) as writer:
        writer.bind("view", "1", {"crop": 1, "of": 3})
        writer.bind("view", "2", {"clip": 1, "of": 2})
        writer.bind("view", "3", {"copy": 1, "crop": "random"})
        writer.bind("view", "2000", {"clip": 1, "of": 2, "crop": "first", "crops": 3, "pipeline": "msta"})
    with open_store(store) as reader:
        auto, whole = views.training_views(reader, "auto"), views.test_views(reader, "all")
        assert [auto(v) for v in range(4)] == [True, False, False, True]
        assert [whole(v) for v in range(4)] == [True, True, True, False]
        chosen = views.test_views(reader, "2x3")
        assert [v for v in range(3000) if chosen(v)] == [2000]
        with pytest.raises(
            BadInput, match=r"--test-views 4x3: of such views .* has none.\nExtract them with --views test:4x3"
        ):
            views.test_views(reader, "4x3")
    with StoreWriter(store, recipe) as writer:
        writer.bind("view", "1000", {"clip": 1, "of": 2, "crop": "first", "crops": 3, "pipeline": "vidprism"})
    with (
        open_store(store) as reader,
        pytest.raises(BadInput, match=r"has those of (msta|vidprism) and (msta|vidprism)"),
    ):
        views.test_views(reader, "2x3")
    with pytest.raises(
        MissingRecord, match=r"^12 of 12 videos have no record in the views asked for, .*\nSee the views"
    ):
        next(opened(Config(store, train_views="77")).batches(0))


def test_what_a_test_would_miss_is_told_of_before_the_training(make_store: MakeStore, tmp_path: Path) -> None:
    store = by_video(make_store(classes=3, views=2), train=4, val=1)
    how = replace(QUICK, select="val")
    with pytest.raises(BadInput, match=r"^--test-views 4x3: of such views"):
        run("linear-probe", Config(store, test_views="4x3"), tmp_path / "run")
    with pytest.raises(BadInput, match=r"^--test-views 'first' names no views"):
        run("linear-probe", Config(store, test_views="first"), tmp_path / "run")
    with pytest.raises(MissingRecord, match=r"^9 of 9 videos have no record in the views asked for"):
        run("linear-probe", Config(store, test_views="7"), tmp_path / "run", how)
    with_texts(store, skip="class02")
    rows = tuple(replace(row, split="test" if row.label == "class02" else "train") for row in load(store).rows)
    write_annotations(store, "default", Annotations(rows))
    with pytest.raises(MissingRecord, match=r"^1 of 1 classes have no text of the template 'plain'"):
        run("mote", Config(store, protocol="zero-shot"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_numbers_of_views_are_read_as_written() -> None:
    chosen = numbers("0,401-404", "--test-views")
    assert [v for v in range(500) if chosen(v)] == [0, 401, 402, 403, 404]
    for wrong in ("", "a", "1-", "1,,2", "-3"):
        with pytest.raises(BadInput, match=r"--test-views .* names no views.\nWrite numbers and ranges"):
            numbers(wrong, "--test-views")


def test_shuffled_frames_are_the_same_frames_anew_in_every_pass(store: Path) -> None:
    def clips(config: Config, seed: int = 0, passes: int = 2) -> list[dict[bytes, torch.Tensor]]:
        how = replace(QUICK, batch=30, seed=seed)
        found = []
        for batch, _ in zip(opened(config, how=how).batches(0), range(passes), strict=False):
            sorted_ = {clip.sort(dim=0).values.numpy().tobytes(): clip for clip in batch.clips["visual"]}
            found.append(sorted_)
        return found

    plain, mixed = clips(Config(store)), clips(Config(store, shuffle_frames=True))
    other = clips(Config(store, shuffle_frames=True), seed=1)
    assert plain[0].keys() == mixed[0].keys() == mixed[1].keys() == other[0].keys()
    for a, b in ((plain[0], mixed[0]), (mixed[0], mixed[1]), (mixed[0], other[0])):
        moved = sum(not torch.equal(a[key], b[key]) for key in a)
        # 4 frames have 24 orders, so of 30 clips one or two keep theirs.
        assert moved >= 24
    again = clips(Config(store, shuffle_frames=True))
    assert all(torch.equal(mixed[1][key], again[1][key]) for key in mixed[1])
    for name, clip in mixed[0].items():
        # Whole frames are moved, not numbers within them.
        assert {f.numpy().tobytes() for f in clip} == {f.numpy().tobytes() for f in plain[0][name]}
    assert FRAMES == 4


def test_one_vector_per_clip_has_no_order_to_shuffle(make_store: MakeStore) -> None:
    store = by_video(make_store(classes=3, extra=(ArraySpec("embedding", "fp32", (12,)),)))
    with pytest.raises(BadInput, match=r"embedding \(visual\) has no axis of frames.*\nLeave the flag out"):
        next(opened(Config(store, array="embedding", shuffle_frames=True)).batches(0))


# --- class texts ---


class Told3(linear_probe.Head):
    """Takes everything that a store knows of its classes."""

    open_classes = True

    def __init__(self, config: Any, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)

    @classmethod
    def wants(cls, settings: Any) -> Wants:
        roles = {"text": "embedding", "rows": "layer3.text", "eot": "text.eot", "more": "norm.text"}
        return Wants(classes=roles, optional=frozenset({"more"}), remedy="vfc extract --say-this")


def test_classes_bring_what_the_store_knows_of_them(store: Path) -> None:
    with_texts(store)
    task = opened(Config(store), Told3)
    assert {role: spec.shape for role, spec in task.specs.items() if role.startswith("class.")} == {
        "class.text": (12,), "class.rows": (None, 5), "class.eot": (1,)
    }  # fmt: skip
    found = next(task.batches(0)).classes
    with open_store(store) as reader:
        for i in range(6):
            key = Key("text", f"a plain class{i:02}")
            values = reader.read(key, "embedding")
            np.testing.assert_allclose(found["text"][i], values / np.linalg.norm(values), rtol=1e-6)
            rows = reader.read(key, "layer3.text")
            np.testing.assert_array_equal(found["rows"][i, : 2 + i], rows)
            assert found["rows.valid"][i].tolist() == [True] * (2 + i) + [False] * (5 - i)
            assert not found["rows"][i, 2 + i :].any()
            assert found["eot"][i].tolist() == [1 + i]


def test_a_text_head_takes_the_projected_features_by_itself(make_store: MakeStore) -> None:
    shapes = {"embedding": (12,), "layer7.visual": (3, 12)}
    extra = tuple(ArraySpec(name, "fp32", shape) for name, shape in shapes.items())
    store = with_texts(by_video(make_store(classes=3, tokens=2, extra=extra)))
    with pytest.raises(BadInput, match=r"Several arrays of .* could be meant: embedding, layer3.visual, layer7.visual"):
        opened(Config(store))
    task = opened(Config(store), text_zero_shot.Head)
    assert (task.specs["visual"].name, task.specs["visual"].shape) == ("embedding", (1, 12))
    assert opened(Config(store, layer="7"), text_zero_shot.Head).specs["visual"].name == "layer7.visual"


def test_templates_are_averaged_or_chosen(store: Path) -> None:
    with_texts(store, templates=("one", "two"))
    mean = next(opened(Config(store, template=("all",)), text_zero_shot.Head).batches(0)).classes["text"]
    chosen = next(opened(Config(store, template=("two",)), text_zero_shot.Head).batches(0)).classes["text"]
    by_text = next(opened(Config(store, template=("a two {label}",)), text_zero_shot.Head).batches(0)).classes["text"]
    assert torch.equal(chosen, by_text)
    with open_store(store) as reader:
        both = [reader.read(Key("text", f"a {t} class00"), "embedding") for t in ("one", "two")]
    scaled = [values / np.linalg.norm(values) for values in both]
    np.testing.assert_allclose(mean[0], np.mean(scaled, axis=0), rtol=1e-5)
    np.testing.assert_allclose(chosen[0], scaled[1], rtol=1e-5)
    with pytest.raises(BadInput, match=r"layer3.text of 2 templates cannot be averaged: one, two.\nChoose one"):
        next(opened(Config(store, template=("all",)), Told3).batches(0))
    with pytest.raises(UnknownName, match=r"template of class texts in this store 'tow'. Did you mean 'two'"):
        next(opened(Config(store, template=("tow",)), text_zero_shot.Head).batches(0))


def test_several_templates_are_refused_until_one_is_chosen(store: Path, tmp_path: Path) -> None:
    with_texts(store, templates=("one",))
    row = run("text-zero-shot", Config(store), tmp_path / "run")
    assert row["templates"] == ["one"]
    data = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert data["templates"] == ["one"]
    # One more template in the store must not change what the same line gives.
    with_texts(store, templates=("two",))
    with pytest.raises(
        BadInput, match=r"class texts of 2 templates: one \('a one \{label\}'\), two .*\nChoose one .*--template all\.$"
    ):
        opened(Config(store), text_zero_shot.Head)
    again = run("text-zero-shot", Config(store, template=("one",)), tmp_path / "again")
    assert (again["top1"], again["templates_digest"]) == (row["top1"], row["templates_digest"])
    assert run("text-zero-shot", Config(store, template=("all",)), tmp_path / "all")["templates"] == ["one", "two"]


def test_a_template_without_every_class_is_refused_by_name(store: Path) -> None:
    with_texts(store, templates=("whole",))
    with_texts(store, templates=("part",), skip="class02")
    assert opened(Config(store, template=("whole",)), text_zero_shot.Head).identity["templates"] == ["whole"]
    for template in ("part", "all"):
        with pytest.raises(
            MissingRecord, match=r"1 of 6 classes have no text of the template 'part' in .*: class02.\nExtract"
        ):
            opened(Config(store, template=(template,)), text_zero_shot.Head)


def test_clips_and_texts_of_different_bases_are_not_compared(store: Path) -> None:
    with_texts(store)
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0].astype(np.float32)
    one, other = (Projection(np.zeros(12, np.float32), basis, {"rule": "pca:12"}) for basis in (axes, -axes))
    publish_projection(store, "frames", one)
    assert opened(Config(store)).specs["visual"].name == "frames"
    with pytest.raises(
        BadInput, match=r"frames of the clips and embedding of the class texts .* different bases.*\nTake"
    ):
        opened(Config(store), text_zero_shot.Head)
    publish_projection(store, "embedding", one)
    assert opened(Config(store), text_zero_shot.Head).specs["visual"].name == "frames"
    (store / "projection" / "embedding.safetensors").unlink()
    publish_projection(store, "embedding", other)
    with pytest.raises(BadInput, match=r"different bases"):
        opened(Config(store), text_zero_shot.Head)


def test_every_tested_video_has_every_averaged_view(make_store: MakeStore) -> None:
    store = by_video(make_store(classes=3, views=2), train=4)
    with open_store(store) as reader:
        recipe, values = reader.recipe, reader.read(Key("video", "class00/5.mp4"), "frames")
    with StoreWriter(store, recipe) as writer:
        for name in ("class00/5.mp4", "class01/6.mp4"):
            writer.add(Record(Key("video", name, 2), {"frames": values}))
    with pytest.raises(
        MissingRecord,
        match=r"10 of 12 tested videos do not have all of the 3 views .*'class00/4.mp4' lacks 2; .* and 5 more videos\."
        r"\nExtract .*--leave-out-incomplete",
    ):
        opened(Config(store, test_views="all"))
    told = Told()
    config = Config(store, test_views="all", leave_out_incomplete=True)
    task = prepare(config, QUICK, linear_probe.Head, None, CPU, told)
    assert task.lists.tests["test"].videos == ["class00/5.mp4", "class01/6.mp4"]
    assert task.facts["views"] == {"train": [0, 1], "test": [0, 1, 2]}
    assert any("10 of 12 tested videos" in line and "They are left out." in line for line in told.lines)
    both = opened(Config(store, test_views="0-1"))
    assert both.facts["views"] == {"train": [0, 1], "test": [0, 1]}
    with StoreWriter(store, recipe) as writer:
        writer.add(Record(Key("video", "class02/6.mp4", 3), {"frames": values}))
    with pytest.raises(BadInput, match=r"No test video has all of the 4 views[^\n]*none is left to test\.\nName views"):
        opened(config)
    assert len(both.lists.tests["test"].videos) == 12


def test_a_result_names_what_it_rests_on(store: Path, tmp_path: Path) -> None:
    row = run("linear-probe", Config(store), tmp_path / "run")
    assert row["views"] == {"train": [0], "test": [0]}
    assert row["clips_per_class"] == {f"class{i:02}": 8 for i in range(6)}
    assert (row["split_rule"], row["groups_kept"], row["centring"]) == ("Splits as given", None, "none")
    assert row["tokens"] == {"visual": "as stored"}
    for name in ("videos_digest", "views_digest", "classes_digest"):
        assert len(row[name]) == 64
    # Another fold of the same videos is the same set; a corrected label is another.
    fold = run("linear-probe", Config(store, fold="1"), tmp_path / "fold")
    assert (fold["videos_digest"], fold["split_rule"]) == (
        row["videos_digest"],
        "one fold tested, the others trained on",
    )
    rows = load(store).rows
    write_annotations(store, "default", Annotations((replace(rows[0], label="class01"), *rows[1:])))
    assert run("linear-probe", Config(store), tmp_path / "corrected")["videos_digest"] != row["videos_digest"]


def test_groups_are_kept_together_and_counted(make_store: MakeStore) -> None:
    store = make_store(classes=3, clips=10, split=False)
    rows = tuple(replace(row, group=f"{row.label}-{int(row.name[-5]) // 2}") for row in load(store).rows)
    write_annotations(store, "default", Annotations(rows))
    told = Told()
    task = prepare(Config(store), QUICK, linear_probe.Head, None, CPU, told)
    assert (task.facts["groups_kept"], task.facts["split_rule"]) == (
        15, "Videos of every class split 60/20/20 at random"
    )  # fmt: skip
    assert any("stay together" in line for line in told.lines)
    group = {row.name: row.group for row in rows}
    trained = {group[name] for name in task.lists.train.videos}
    assert not trained & {group[name] for name in task.lists.tests["test"].videos}
    held_out = opened(Config(store, val_fraction=0.3)).lists
    assert not {group[name] for name in held_out.val.videos} & {group[name] for name in held_out.train.videos}


def with_contents(store: Path, copy: Path, same: tuple[str, ...]) -> Path:
    """A copy of a store whose records know the SHA-256 of their files; those of `same` are equal."""
    with open_store(store) as reader:
        recipe = reader.recipe
        values = {key.name: reader.read(key, "frames") for key in reader.keys("video")}
    with StoreWriter(copy, recipe) as writer:
        writer.declare("video", [ArraySpec("frames", "fp32", (4, 12))])
        for name, frames in values.items():
            file: dict[str, Any] = {"size": 1, "sha256": "same" if name in same else name}
            writer.add(Record(Key("video", name), {"frames": frames}, {"file": file}))
    write_annotations(copy, "default", load(store))
    return copy


def test_identical_files_in_train_and_test_are_named(make_store: MakeStore, tmp_path: Path) -> None:
    store = with_contents(by_video(make_store(classes=3)), tmp_path / "copy", ("class00/0.mp4", "class01/7.mp4"))
    told = Told()
    task = prepare(Config(store), QUICK, linear_probe.Head, None, CPU, told)
    assert task.facts["identical_in_train_and_test"] == [["class00/0.mp4", "class01/7.mp4"]]
    line = "Identical files are in train and in test: 'class00/0.mp4' (train) and 'class01/7.mp4' (test)."
    assert line in told.lines
    # The test videos of another store may be the training videos of this one.
    other = opened(Config(store, test_cache=store))
    assert other.facts["identical_in_train_and_test"] == [["class00/0.mp4", "class01/7.mp4"]]


def test_identical_files_are_never_divided_by_a_random_split(make_store: MakeStore, tmp_path: Path) -> None:
    same = ("class00/0.mp4", "class00/5.mp4", "class01/7.mp4")
    store = with_contents(make_store(classes=3, split=False), tmp_path / "copy", same)
    for seed in range(6):
        task = opened(Config(store, split_seed=seed))
        parts = (task.lists.train, task.lists.val, task.lists.tests["test"])
        assert sorted(len({*same} & {*part.videos}) for part in parts) == [0, 0, 3]
        assert task.facts["groups_kept"] == 1


def test_identical_files_are_never_divided_by_val_fraction(make_store: MakeStore, tmp_path: Path) -> None:
    # Two names of one class, and one of another class: they are in one part, whatever the seed.
    same = ("class00/0.mp4", "class00/3.mp4", "class01/1.mp4")
    store = with_contents(by_video(make_store(classes=3)), tmp_path / "copy", same)
    parts = set()
    for seed in range(8):
        task = opened(Config(store, val_fraction=0.3, split_seed=seed)).lists
        parts.add(tuple(len({*same} & {*part.videos}) for part in (task.train, task.val)))
    assert parts == {(3, 0), (0, 3)}


def test_what_a_head_wants_and_a_store_has_not_is_refused_with_the_remedy(store: Path) -> None:
    with pytest.raises(UnknownName, match=r"has no 'embedding' of the class names.*\nvfc extract --say-this"):
        opened(Config(store), Told3)
    with pytest.raises(UnknownName, match=r"has no 'embedding' of .*texts: nothing.\nExtract the class names with"):
        opened(Config(store), text_zero_shot.Head)

    class Two(linear_probe.Head):
        @classmethod
        def wants(cls, settings: Any) -> Wants:
            return Wants(clips={"visual": "frames", "more": "layer7.visual"}, remedy="vfc extract --layer 7")

    with pytest.raises(UnknownName, match=r"'layer7.visual'.*\nvfc extract --layer 7"):
        opened(Config(store), Two)
    with pytest.raises(
        BadInput, match=r"reads frames, layer7.visual; --array and --layer change nothing.\nLeave them out"
    ):
        opened(Config(store, array="frames"), Two)


# --- training and testing ---


def test_it_learns_tests_and_writes_the_run(tmp_path: Path) -> None:
    store = with_places(tmp_path / "store")
    how = replace(QUICK, steps=0, epochs=40, lr=3e-3)
    result = train("linear-probe", Config(store), linear_probe.Config(), replace(how, out=tmp_path / "run"), Silent())
    row = result.row
    assert row["updates"] == 40 * 3
    assert row["chosen_update"] == 120
    assert row["top1"] > 0.8
    assert row["top1"] <= row["top5"] <= 1
    assert (row["classes"], row["videos"], row["parameters"]) == (6, 18, 12 * 6 + 6)
    items = read_rows(tmp_path / "run" / "predictions.jsonl")
    assert np.mean([item["correct"] for item in items]) == pytest.approx(row["top1"])
    counts = np.array(row["confusion"])
    assert counts.sum() == 18
    assert counts.trace() / 18 == pytest.approx(row["top1"])
    for item in items:
        assert (item["label"] == item["predicted"]) == bool(item["correct"])
    assert "linear-probe" in (tmp_path / "run" / "report.html").read_text()
    assert [table.title for table in result.tables()][1:] == ["Per class", "Data", "Training"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["task"]["shots"] == 0


def test_killed_and_resumed_served_from_disk_equals_uninterrupted_from_memory(store: Path, tmp_path: Path) -> None:
    config = Config(with_texts(store), shuffle_frames=True)
    head, how = mote.Config(layers=1, experts=2), replace(QUICK, steps=14, validate_every=4, accumulate=2)
    whole = train("mote", config, head, replace(how, out=tmp_path / "whole"), Silent())
    disk = replace(config, resident="off")
    with pytest.raises(Killed):
        train("mote", disk, head, replace(how, out=tmp_path / "cut"), KilledAt(10))
    cut = train("mote", disk, head, replace(how, out=tmp_path / "cut"), Silent())
    assert strip(cut.row) == strip(whole.row)
    ends = [load_file(tmp_path / name / "head.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    curves = [read_rows(tmp_path / name / "curve.jsonl") for name in ("whole", "cut")]
    assert curves[0] == curves[1]


def test_nothing_is_trained_where_there_is_nothing_to_train(store: Path, tmp_path: Path) -> None:
    row = run("text-zero-shot", Config(with_texts(store)), tmp_path / "run", replace(QUICK, epochs=5))
    assert (row["updates"], row["parameters"], row["top1"] >= 0) == (0, 0, True)
    rows = tuple(replace(row, split="test") for row in load(store).rows)
    write_annotations(store, "default", Annotations(rows))
    assert run("text-zero-shot", Config(store), tmp_path / "all")["test_videos"] == 48
    with pytest.raises(BadInput, match=r"no video to train on.\nGive annotations with a train split"):
        run("mote", Config(store), tmp_path / "mote")


def test_scores_that_are_no_numbers_are_refused_by_name(store: Path) -> None:
    task = opened(Config(store))
    head = linear_probe.Head(linear_probe.Config(), task.specs)
    head.classify.weight.data.fill_(float("nan"))
    with pytest.raises(
        BadInput, match=r"scores of 'class00/5.mp4' are no numbers .* 17 more videos.\nTrain with a lower"
    ):
        task.test(head, Silent())


def test_shares_by_hand() -> None:
    names = tuple("abcdefg")
    rows = tuple(Annotation(f"{i}", label) for i, label in enumerate("aabg"))
    scores = np.array(
        [
            [9.0, 1, 1, 1, 1, 1, 1],  # a, right
            [1.0, 9, 1, 1, 1, 1, 1],  # a, taken for b; a comes second
            [2.0, 2, 1, 1, 1, 1, 1],  # b, level with a, which stands first
            [7.0, 6, 5, 4, 3, 2, 1],  # g, last of seven
        ]
    )
    scored = Scored(Listed(rows, names), scores, {"share": np.array([1.0, 2.0, 3.0, 6.0])})
    found: dict[str, Any] = result_of({"test": scored})
    assert (found["top1"], found["top5"], found["classes"], found["videos"]) == (0.25, 0.75, 7, 4)
    assert found["interval"] == pytest.approx(1.96 * np.sqrt(0.25 * 0.75 / 4))
    assert found["per_class"] == {"a": 0.5, "b": 0.0, **dict.fromkeys("cdef"), "g": 0.0}
    assert np.array(found["confusion"])[:, :2].tolist() == [[1, 1], [1, 0], [0, 0], [0, 0], [0, 0], [0, 0], [1, 0]]
    told = {part: values["share"] for part, values in found["usage"].items()}
    assert told == {"a": 1.5, "b": 3.0, "g": 6.0, "(right)": 1.0, "(wrong)": pytest.approx(11 / 3), "(all)": 3.0}
    shown = classification.tables(
        {"head": "h", "shots": 0, "train_videos": 1, "train_views": 1.0, "test_videos": 4, **found}
    )
    assert shown[1].rows[0] == ("a", "1.500")


def test_the_interval_of_a_share_is_over_files_and_near_the_ends_wilsons() -> None:
    # 4 files of 10 segments each, right or wrong as a whole; then 40 files, all right but one.
    names = ("a", "b")
    segments = tuple(Annotation(f"v{i // 10}.mp4#t={i % 10}-{i % 10 + 1}", "a") for i in range(40))
    scores = np.array([[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20)
    shares: dict[str, Any] = Scored(Listed(segments, names), scores, {}).shares()
    assert (shares["interval_over"], shares["interval"]) == ("files", pytest.approx(3.182446 * np.sqrt(1 / 3) / 2))
    assert "within" not in shares
    files = tuple(Annotation(f"v{i}.mp4", "a") for i in range(40))
    most = np.array([[1.0, 0.0]] * 39 + [[0.0, 1.0]])
    result: dict[str, Any] = result_of({"test": Scored(Listed(files, names), most, {})})
    assert "interval_over" not in result
    assert result["within"] == pytest.approx([0.8712, 0.9956], abs=1e-4)
    facts = {"head": "h", "shots": 0, "train_videos": 1, "train_views": 1.0, "test_videos": 40}
    assert classification.tables({**facts, **result})[0].rows[0][1] == "97.50 [87.12, 99.56] %"
