import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfc.cache_schema.annotations import Annotation, Annotations, segment, source
from vfc.cache_schema.protocol import (
    EpisodeList,
    EpisodeSpec,
    draw_episode,
    fill_prompt,
    k_shot,
    option_list,
    prompt_fields,
    prompt_id,
    spoken,
)
from vfc.cache_schema.values.errors import BadInput, Damaged, MissingPath, UnknownName


def videos(classes: int, per_class: int, segments: int = 1, split: str = "test") -> Annotations:
    def name(c: int, v: int, s: int) -> str:
        file = f"class {c}/video {v}.mp4"
        return segment(file, s, s + 1) if segments > 1 else file

    return Annotations(
        tuple(
            Annotation(name(c, v, s), f"class {c}", split)
            for c in range(classes)
            for v in range(per_class)
            for s in range(segments)
        )
    )


@given(
    way=st.integers(2, 6),
    shot=st.integers(1, 4),
    queries=st.integers(1, 3),
    spare=st.integers(0, 3),
    segments=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    i=st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_what_an_episode_is(way: int, shot: int, queries: int, spare: int, segments: int, seed: int, i: int) -> None:
    rows = videos(way + spare, shot + queries + spare, segments)
    label_of = {row.name: row.label for row in rows.rows}
    spec = EpisodeSpec("test", way, shot, queries, seed)
    episode = draw_episode(rows, spec, i)
    assert len(set(episode.classes)) == way
    assert [len(names) for names in episode.support] == [shot] * way
    assert [len(names) for names in episode.query] == [queries] * way
    for label, support, query in zip(episode.classes, episode.support, episode.query, strict=True):
        assert {label_of[name] for name in support + query} == {label}
    files = [source(name) for names in episode.support + episode.query for name in names]
    assert len(set(files)) == way * (shot + queries)
    assert draw_episode(rows, spec, i) == episode
    assert draw_episode(Annotations(rows.rows[::-1]), spec, i) == episode


def test_an_episode_does_not_depend_on_how_many_are_drawn() -> None:
    rows, spec = videos(6, 8), EpisodeSpec("test", 3, 2, 2, 11)
    long = EpisodeList.draw(rows, spec, 50).episodes
    assert EpisodeList.draw(rows, spec, 20).episodes == long[:20]
    assert tuple(draw_episode(rows, spec, i) for i in reversed(range(50))) == long[::-1]


def test_every_part_of_the_spec_and_every_label_makes_other_episodes() -> None:
    rows, spec = videos(8, 9, split="val"), EpisodeSpec("val", 3, 2, 2, 0)
    relabelled = Annotations((*rows.rows[1:], Annotation(rows.rows[0].name, "class 1", "val")))
    drawn = [
        EpisodeList.draw(a, s, 4).episodes
        for a, s in (
            (rows, spec),
            (relabelled, spec),
            (rows, EpisodeSpec("all", 3, 2, 2, 0)),
            (rows, EpisodeSpec("val", 3, 2, 3, 0)),
            (rows, EpisodeSpec("val", 3, 2, 2, 1)),
        )
    ]
    assert len(set(drawn)) == len(drawn)


def test_draws_are_uniform() -> None:
    # 4 of 6 classes, 3 of 5 videos: each class stands in 2/3 of 3000 episodes, each video in 3/5 of those.
    rows, spec = videos(6, 5), EpisodeSpec("test", 4, 2, 1)
    episodes = EpisodeList.draw(rows, spec, 3000).episodes
    classes = [label for e in episodes for label in e.classes]
    names = [name for e in episodes for names in e.support + e.query for name in names]
    firsts = [e.classes[0] for e in episodes]
    queries = [name for e in episodes for names in e.query for name in names]
    for values, each in ((classes, 2000), (names, 1200), (firsts, 500), (queries, 400)):
        counts = np.unique(values, return_counts=True)[1]
        # Five standard deviations of a binomial count, at its widest.
        assert np.abs(counts - each).max() < 5 * np.sqrt(each), counts


def test_classes_that_share_files_never_meet_in_one() -> None:
    # Every file has a segment of each of the two classes: 4 files can fill 2 classes with 1 + 1 videos, not with 2 + 1.
    rows = Annotations(
        tuple(Annotation(segment(f"{v}.mp4", c, c + 1), f"class {c}", "test") for v in range(4) for c in range(2))
    )
    for i in range(40):
        episode = draw_episode(rows, EpisodeSpec("test", 2, 1, 1), i)
        assert len({source(name) for names in episode.support + episode.query for name in names}) == 4
    with pytest.raises(BadInput, match=r"No episode of way 2 with 2 \+ 1 videos per class .* share their files"):
        draw_episode(rows, EpisodeSpec("test", 2, 2, 1), 0)


def test_too_little_to_draw_from() -> None:
    rows = Annotations((*videos(3, 6).rows, *(Annotation(f"few/{v}", "few", "test") for v in range(4))))
    with pytest.raises(
        BadInput, match=r"Split 'test' has 4 classes; --way 5 was asked\.\nThe largest possible way is 4"
    ):
        draw_episode(rows, EpisodeSpec("test", 5), 0)
    with pytest.raises(
        BadInput,
        match=r"Class 'few' of split 'test' has 4 videos; 4 shot \+ 1 queries per class need 5\.\n"
        r"The largest possible shot \+ queries is 4",
    ):
        draw_episode(rows, EpisodeSpec("test", 2, 4, 1), 0)
    with pytest.raises(UnknownName, match="no split 'train'"):
        draw_episode(rows, EpisodeSpec("train"), 0)
    with pytest.raises(BadInput, match=r"Way 0, shot 1, queries 1 and seed 0 make no episode"):
        EpisodeSpec("test", way=0)
    with pytest.raises(BadInput, match=r"Way 1, .* make no episode(.|\n)*a single class is always right"):
        EpisodeSpec("test", way=1)


# ---- lists


@given(st.integers(0, 5), st.integers(0, 2**63), st.integers(1, 3))
@settings(max_examples=25)
def test_lists_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, queries: int
) -> None:
    rows = videos(4, 6)
    written = EpisodeList.draw(rows, EpisodeSpec("test", 3, 2, queries, seed), count)
    path = tmp_path_factory.mktemp("lists") / "a.jsonl"
    written.write(path)
    assert EpisodeList.read(path, rows) == written
    assert EpisodeList.read(path).digest == written.digest
    lines = path.read_bytes().split(b"\n")
    header = json.loads(lines[0])
    assert header["format"] == "vfc episodes 1"
    assert header["annotations"] == rows.digest
    assert header["count"] == count == len(lines) - 2
    assert header["sha256"] == hashlib.sha256(b"\n".join(lines[1:])).hexdigest()
    assert written.digest == hashlib.sha256(lines[0]).hexdigest()


def test_a_changed_list_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    EpisodeList.draw(videos(4, 6), EpisodeSpec("test", 3, 1, 1), 5).write(path)
    data = path.read_bytes()
    body = data.index(b"\n") + 1
    for changed in (data[:body] + data[body:].replace(b"video 1", b"video 2"), data[: data.rindex(b"\n", 0, -1) + 1]):
        path.write_bytes(changed)
        with pytest.raises(Damaged, match=r"list\.jsonl are not those that were written"):
            EpisodeList.read(path)
    path.write_bytes(data.replace(b'"count":5', b'"count":6', 1))
    with pytest.raises(Damaged, match=r"header of .* does not describe the episodes"):
        EpisodeList.read(path)


@pytest.mark.parametrize("first", [b"", b"[]", b"{}", b'{"format": "vfc episodes 2"}', b"\xff\xfe"])
def test_other_files_are_no_lists(tmp_path: Path, first: bytes) -> None:
    (tmp_path / "x").write_bytes(first + b"\n")
    with pytest.raises(BadInput, match=r"x is no episode list that this version reads"):
        EpisodeList.read(tmp_path / "x")
    with pytest.raises(MissingPath, match=r"no episode list .*absent"):
        EpisodeList.read(tmp_path / "absent")


def test_a_list_for_other_annotations_is_refused_with_the_difference(tmp_path: Path) -> None:
    rows, path = videos(2, 3), tmp_path / "list.jsonl"
    EpisodeList.draw(rows, EpisodeSpec("test", 2, 2, 1), 30).write(path)
    fewer = Annotations(rows.rows[1:])
    with pytest.raises(BadInput, match=r"1 of its 6 videos are not in these, first 'class 0/video 0\.mp4'"):
        EpisodeList.read(path, fewer)
    relabelled = Annotations((*rows.rows[1:], Annotation(rows.rows[0].name, "class 1", "test")))
    with pytest.raises(BadInput, match=r"1 carry another label, first .*: 'class 0' there, 'class 1' here"):
        EpisodeList.read(path, relabelled)
    with pytest.raises(BadInput, match=r"its 6 videos and their labels are here too, so other rows or splits differ"):
        EpisodeList.read(path, Annotations((*rows.rows, Annotation("one more"))))


# ---- K-shot lists


@given(st.integers(1, 12), st.integers(0, 10**9))
def test_k_shot_is_what_the_design_says(shots: int, seed: int) -> None:
    from zlib import crc32

    rows = Annotations(
        tuple(Annotation(f"{v:02} ü", f"klasse {c} ß") for c in range(3) for v in range(15 * c, 15 * c + 15))
    )
    found = k_shot(rows, shots, seed=seed)
    for label, names in rows.by_label().items():
        shuffled = np.array(sorted(names, key=lambda name: name.encode()))
        np.random.default_rng([seed, crc32(label.encode())]).shuffle(shuffled)
        assert list(found[label]) == shuffled[:shots].tolist()
        if shots > 1:
            assert k_shot(rows, shots - 1, seed=seed)[label] == found[label][:-1]


def test_k_shot_with_too_few() -> None:
    rows = Annotations((Annotation("1", "a"), Annotation("2", "a"), Annotation("3", "b"), Annotation("4")))
    with pytest.raises(
        BadInput, match=r"Class 'b' has 1 videos; 2 shots were asked\.\nAsk for 1 shots or fewer, or give --allow"
    ):
        k_shot(rows, 2, seed=0)
    assert {label: len(names) for label, names in k_shot(rows, 2, seed=0, allow_fewer=True).items()} == {"a": 2, "b": 1}
    for shots, seed in ((0, 0), (1, -1)):
        with pytest.raises(BadInput, match=f"{shots} shots were asked with the seed {seed}"):
            k_shot(rows, shots, seed=seed)


# ---- prompts


def test_prompts_are_filled_and_named() -> None:
    template = "Is this {action}? {{yes}} or {{no}}. Options: {options}; {action}"
    assert prompt_fields(template) == ["action", "options"]
    filled = fill_prompt(template, {"action": "a {brace}", "options": "x", "unused": "y"})
    assert filled == "Is this a {brace}? {yes} or {no}. Options: x; a {brace}"
    assert prompt_id("mcq-five", filled) == "mcq-five@" + hashlib.sha256(filled.encode()).hexdigest()[:16]
    assert fill_prompt("What happens?", {}) == "What happens?"


def test_prompts_that_cannot_be_filled() -> None:
    with pytest.raises(UnknownName, match=r"no prompt field 'acton'\. Did you mean 'action'\?\nKnown: action, options"):
        fill_prompt("Is this {acton}?", {"action": "", "options": ""})
    for template in ("{", "a } b", "{action", "{a.b}", "{a[0]}", "{}", "{0}", "{a!r}", "{a:>9}"):
        with pytest.raises(BadInput, match="prompt template") as caught:
            fill_prompt(template, {"a": "x", "action": "x"})
        assert caught.value.remedy.startswith("Write a field as {name}")


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("apply_eye_makeup", "apply eye makeup"),
        ("YoYo", "yo yo"),
        ("TVShow", "tv show"),
        ("Pushing [something] from left to right", "pushing something from left to right"),
        ("hand-shake", "hand-shake"),
        ("don't", "don't"),
        ("3x3Cube", "3x3 cube"),
    ],
)
def test_labels_are_spoken_in_words(label: str, said: str) -> None:
    assert spoken(label) == said
    assert spoken(said) == said


def test_options_stand_in_the_order_given() -> None:
    assert option_list(["ReadingBook", "feeding_birds"]) == "'reading book', 'feeding birds'"
