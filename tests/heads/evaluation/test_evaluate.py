"""Training-free evaluation against a slow loop over episodes, and everything it refuses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from suites.motion_store import MakeStore, Told

from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.protocol import EpisodeList
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput, MissingRecord, UnknownName
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import ArraySpec, Key
from vfc.heads.evaluation.evaluate import EpisodesConfig, EvalConfig, episodes, evaluate
from vfc.heads.tasks.fewshot.episodes import Tasks, half_width, score


def slow_accuracy(store: Path, listed: EpisodeList, representation: str, centre: str) -> tuple[list[float], np.ndarray]:
    """Per-task accuracies of mean-cosine, one episode, one query, one class at a time, in the order acceptance asks."""
    rows = load(store).rows
    with open_store(store) as reader:
        frames = {row.name: reader.read(Key("video", row.name), "frames").astype(float) for row in rows}

    def represent(clip: np.ndarray) -> np.ndarray:
        if representation == "mean":
            return np.asarray(clip.mean(axis=0))
        return (
            clip.reshape(-1)
            if representation == "ordered"
            else np.concatenate([b - a for a, b in itertools.pairwise(clip)])
        )

    vector = {name: represent(clip) for name, clip in frames.items()}
    pool = [row.name for row in rows if centre == "all" or row.split == "train"]
    middle = sum(vector[name] for name in pool) / len(pool) if centre != "none" else 0
    accuracy = []
    labels = sorted({label for e in listed.episodes for label in e.classes})
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    for episode in listed.episodes:
        right = total = 0
        for w, queries in enumerate(episode.query):
            for query in queries:
                cosines = []
                for shots in episode.support:
                    proto = sum(vector[s] - middle for s in shots) / len(shots)
                    x = vector[query] - middle
                    cosines.append(x @ proto / np.linalg.norm(x) / np.linalg.norm(proto))
                guess = int(np.argmax(cosines))
                confusion[labels.index(episode.classes[w]), labels.index(episode.classes[guess])] += 1
                right, total = right + (guess == w), total + 1
        accuracy.append(right / total)
    return accuracy, confusion


@pytest.mark.parametrize("representation", ["mean", "ordered", "difference"])
@pytest.mark.parametrize(
    ("centre", "split", "shot", "queries"), [("all", "all", 2, 1), ("train", "test", 1, 3), ("none", "val", 3, 2)]
)
def test_equals_a_slow_loop(
    make_store: MakeStore, representation: str, centre: str, split: str, shot: int, queries: int
) -> None:
    store = make_store()
    config = EvalConfig(
        store, way=3, shot=shot, queries=queries, representation=representation, centre=centre, split=split, tasks=60
    )  # type: ignore[arg-type]
    found = evaluate(config, Silent())
    listed = episodes(
        EpisodesConfig(store, way=3, shot=shot, queries=queries, split=split, tasks=60, out=store.parent / "e.jsonl"),
        Silent(),
    ).episodes  # type: ignore[arg-type]
    accuracy, confusion = slow_accuracy(store, listed, representation, centre)
    assert found.score.per_task.tolist() == pytest.approx(accuracy)
    assert found.score.confusion.tolist() == confusion.tolist()
    assert found.to_json()["list_digest"] == listed.digest
    assert found.score.accuracy == pytest.approx(np.mean(accuracy))
    assert found.score.interval == pytest.approx(1.96 * np.std(accuracy) / 60**0.5)


def test_the_result_names_everything_and_two_runs_are_equal(make_store: MakeStore) -> None:
    store = make_store()
    config = EvalConfig(store, way=4, metric="otam", centre="all", tasks=50, seed=3)
    first, second = evaluate(config, Silent()).to_json(), evaluate(config, Silent()).to_json()
    assert json.dumps(first) == json.dumps(second)
    with open_store(store) as reader:
        assert first["store_digest"] == reader.digest
        assert first["recipe_digest"] == reader.recipe.digest
    assert first["annotations_digest"] == load(store).digest
    assert (first["metric"], first["representation"], first["smoothing"], first["array"]) == (
        "otam",
        "ordered",
        0.1,
        "frames",
    )
    assert (first["tasks"], first["seed"], first["split"], first["way"], first["shot"], first["queries"]) == (
        50,
        3,
        "test",
        4,
        1,
        1,
    )
    assert np.sum(first["confusion"]) == 50 * 4  # type: ignore[arg-type]
    assert list(first["per_class"]) == ["class11", "class12", "class13", "class14"]  # type: ignore[arg-type]
    title, data, classes = evaluate(config, Silent()).tables()
    assert dict(data.rows)["split rule"]
    assert title.title == "4-way 1-shot, otam, ordered"
    assert len(classes.rows) == 4


def test_a_frozen_list_decides_over_the_flags(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    written = episodes(
        EpisodesConfig(store, way=3, shot=2, queries=2, split="val", tasks=40, seed=7, out=tmp_path / "l.jsonl"),
        Silent(),
    )
    found = evaluate(EvalConfig(store, episodes=tmp_path / "l.jsonl"), Silent())
    same = evaluate(EvalConfig(store, way=3, shot=2, queries=2, split="val", tasks=40, seed=7), Silent())
    assert found.to_json() == same.to_json()
    assert found.to_json()["list_digest"] == written.to_json()["list_digest"]
    assert written.tables()[0].rows[0] == ("path", str(tmp_path / "l.jsonl"))


def test_a_list_for_other_annotations_is_refused(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store()
    episodes(EpisodesConfig(store, way=3, tasks=5, out=tmp_path / "l.jsonl"), Silent())
    rows = load(store).rows
    write_annotations(store, "default", Annotations(rows[:-1]))
    with pytest.raises(BadInput, match="was drawn from other annotations"):
        evaluate(EvalConfig(store, episodes=tmp_path / "l.jsonl"), Silent())


def test_classes_are_split_where_no_split_is_given(make_store: MakeStore, told: Told) -> None:
    store = make_store(split=False)
    found = evaluate(EvalConfig(store, way=3, tasks=20), told)
    assert any("Classes split 60/20/20 at random (seed 0)" in line for line in told.lines)
    assert len(found.score.labels) == 3
    with pytest.raises(BadInput, match=r"largest possible way is 3"):
        evaluate(EvalConfig(store, way=4, tasks=20), Silent())
    # Over all classes no split is needed, and none is made up.
    assert len(evaluate(EvalConfig(store, way=5, split="all", tasks=200), Silent()).score.labels) == 15


def test_videos_without_label_or_record_are_left_out_aloud(make_store: MakeStore, told: Told) -> None:
    store = make_store()
    rows = load(store).rows
    extra = (Annotation("class11/gone.mp4", "class11", "test"), Annotation("class11/unlabelled.mp4"))
    write_annotations(store, "more", Annotations((*rows, *extra)))
    found = evaluate(EvalConfig(store, annotations="more", way=4, tasks=20), told)
    assert "120 of 122 annotated videos are used: 1 have no label, 1 no record." in told.lines
    assert found.to_json()["annotations_digest"] == load(store).digest
    with pytest.raises(BadInput, match=r"None of the 120 annotated videos \(120 with a label\) has a record of view 2"):
        evaluate(EvalConfig(store, view=2, way=4, tasks=20), Silent())


def test_tokens_are_averaged_and_layers_chosen(make_store: MakeStore) -> None:
    store = make_store(tokens=5, extra=(ArraySpec("layer9.visual", "fp16", (4, 5, 12)),))
    with pytest.raises(BadInput, match=r"layer3\.visual, layer9\.visual"):
        evaluate(EvalConfig(store, way=4, tasks=20), Silent())
    found = evaluate(EvalConfig(store, layer="3", way=4, tasks=20), Silent())
    assert found.to_json()["array"] == "layer3.visual"


@pytest.mark.parametrize(
    ("flags", "error", "text"),
    [
        ({"metric": "bimhm"}, UnknownName, "no metric 'bimhm'. Did you mean 'bi-mhm'?"),
        ({"representation": "diference"}, UnknownName, "Did you mean 'difference'?"),
        (
            {"metric": "otam", "representation": "mean"},
            BadInput,
            "compares sequences of frames; a mean is not a sequence",
        ),
        ({"metric": "dec-avg", "representation": "mean"}, BadInput, "takes the mean of whole streams"),
        ({"shot": 8}, BadInput, "has 8 videos"),
        ({"split": "tset"}, UnknownName, "no split 'tset'. Did you mean 'test'?"),
        ({"annotations": "defualt"}, UnknownName, "Did you mean 'default'?"),
        ({"classes": "hmdb51"}, UnknownName, "Did you mean 'hmdb51-arn'?"),
    ],
)
def test_bad_input(make_store: MakeStore, flags: dict[str, object], error: type[Exception], text: str) -> None:
    settings = {"way": 4, "tasks": 5, **flags}
    with pytest.raises(error, match=text.replace("?", r"\?").replace("(", r"\(")):
        evaluate(EvalConfig(make_store(), **settings), Silent())  # type: ignore[arg-type]


def test_differences_of_one_vector_per_clip_are_refused() -> None:
    from vfc.heads.similarity.matching import comparable

    with pytest.raises(BadInput, match="the array holds one vector per clip"):
        comparable(torch.zeros(2, 1, 3), "mean-cosine", "difference")


def test_sequence_metrics_take_differences_too() -> None:
    from vfc.heads.similarity.matching import comparable

    frames = torch.arange(12.0).reshape(1, 3, 4) ** 2
    assert torch.equal(comparable(frames, "otam", "difference"), frames[:, 1:] - frames[:, :-1])
    assert torch.equal(comparable(frames, "otam"), frames)


def test_score_by_hand() -> None:
    tasks = Tasks(
        ("a", "b", "c"),
        torch.tensor([[0, 1], [2, 0]]),
        torch.zeros(2, 2, 1).long(),
        torch.tensor([[5, 6], [7, 8]]),
        torch.arange(2),
    )
    guesses = {5: 0, 6: 0, 7: 0, 8: 1}  # the first task mistakes its b for its a; the second is all right

    def classify(support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        chosen = torch.tensor([[guesses[int(q)] for q in row] for row in query])
        return torch.nn.functional.one_hot(chosen, 2).float()

    found = score(tasks, classify, 1, Silent())
    assert found.per_task.tolist() == [0.5, 1.0]
    assert found.accuracy == 0.75
    assert found.interval == pytest.approx(1.96 * 0.25 / 2**0.5)
    assert found.confusion.tolist() == [[2, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert found.to_json()["per_class"] == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert half_width(np.array([1.0])) == 0


def test_a_clip_outside_the_list_of_clips_is_named(make_store: MakeStore) -> None:
    store = make_store()
    listed = episodes(EpisodesConfig(store, way=4, tasks=3, out=store.parent / "l.jsonl"), Silent()).episodes
    with pytest.raises(BadInput, match="which is not among the 1 clips in use"):
        Tasks.of(listed.episodes, {"class11/0.mp4": 0})
    with open_store(store) as reader, pytest.raises(MissingRecord):
        reader.locate([Key("video", "nowhere.mp4")])
