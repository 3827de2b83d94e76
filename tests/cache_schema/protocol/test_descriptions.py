"""Descriptions of classes: the published files, what `vfc describe` writes, and who can read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vfc.cache_schema.protocol.descriptions import read_descriptions, write_descriptions
from vfc.cache_schema.values.errors import BadInput, MissingPath


def test_all_published_files_load(shared_data: Path) -> None:
    files = sorted((shared_data / "descriptions" / "etl4video").glob("*.json"))
    assert len(files) == 32
    sizes = {"hmdb": 51, "ucf_101": 101, "k400": 400, "ssv2": 174}
    for path in files:
        found = read_descriptions(path)
        assert found.count == int(path.name[0])
        assert not found.uneven
        assert not found.about
        name = path.stem.split("description_")[1]
        assert name in sizes or name.endswith(("_base", "_novel"))
        assert name not in sizes or len(found.sentences) == sizes[name]


def test_what_is_written_reads_back_with_its_header_and_looks_published_to_everyone_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "2_s.json"
    sentences = {1: ("b one.", "b “two”."), 0: ("a one.", "a two.")}
    about = {"prompt": "say {label}", "model": {"id": "m", "revision": None}, "classes": ["a", "b"]}
    write_descriptions(path, sentences, about)
    found = read_descriptions(path)
    assert (found.sentences, found.about) == (sentences, about)
    others = json.loads(path.read_text("utf-8"))
    assert others == {"0": ["a one.", "a two."], "1": ["b one.", "b “two”."]}
    assert list(others) == ["0", "1"]
    write_descriptions(path, sentences, {})
    assert read_descriptions(path).about == {}


def test_gaps_are_refused_unless_they_are_expected(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    write_descriptions(path, {0: ("a b",), 3: ("c d", "e f")}, {})
    assert read_descriptions(path, whole=False).uneven == (3,)
    with pytest.raises(BadInput, match=r"describes 2 classes; without a sentence are the ids \[1, 2\]"):
        read_descriptions(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "holds no JSON object"),
        ("{", "is not JSON"),
        ('{"0": "one"}', "'0' stands for no list of sentences"),
        ('{"0": ["one", ""]}', "'0' stands for no list of sentences"),
        ('{"0": ["one"], "wave": ["two"]}', "'wave' stands for no list of sentences"),
        ('{"0": ["one"], "1": ["two"], "00": ["three"]}', "describes the class id 0 twice"),
        ('{"0": ["one"], "1": {"a": 1}}', "'1' stands for no list of sentences"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(BadInput, match=problem):
        read_descriptions(tmp_path / "d.json")
    with pytest.raises(MissingPath, match="There is no file of descriptions"):
        read_descriptions(tmp_path / "none.json")
