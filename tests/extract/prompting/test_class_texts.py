from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from vfc.cache_schema.values.errors import BadInput, MissingPath, UnknownName
from vfc.cache_schema.values.record import Key
from vfc.extract.prompting.class_texts import read_class_texts, template_id


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("brush_hair", "brush hair"),
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("riding a bike", "riding a bike"),
        ("Pretending to put [something] into [something]", "pretending to put something into something"),
        ("TV", "tv"),
    ],
)
def test_class_names_are_written_as_in_prompts(label: str, said: str) -> None:
    (text,) = read_class_texts("classes", (), [label])
    assert (text.text, text.label) == (said, label)


def test_classes_fill_every_template_and_keep_their_label() -> None:
    texts = read_class_texts("classes", ("a photo of {label}", "{label}, seen twice: {label}"), ["shake_hands", "hug"])
    assert [(text.text, text.label) for text in texts] == [
        ("a photo of shake hands", "shake_hands"),
        ("a photo of hug", "hug"),
        ("shake hands, seen twice: shake hands", "shake_hands"),
        ("hug, seen twice: hug", "hug"),
    ]
    assert texts[0].key == Key("text", "a photo of shake hands")
    assert texts[0].template == texts[1].template != texts[2].template


def test_a_file_gives_its_lines_as_they_are_each_once(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\ufeffa_b CamelCase\n\n  two  \na_b CamelCase\n", "utf-8")
    assert [text.text for text in read_class_texts(str(file), (), ["not used"])] == ["a_b CamelCase", "two"]


def test_template_ids_are_readable_and_distinct() -> None:
    digest = hashlib.sha256(b"A photo of {label}!").hexdigest()
    assert template_id("A photo of {label}!") == f"a-photo-of-label-{digest[:8]}"
    assert template_id("A photo of {label}.") != template_id("A photo of {label}!")
    assert template_id("拍 {{").startswith("template-")


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_no_text_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.txt").write_text(content)
    with pytest.raises(BadInput, match=r"gives no text\.\nPut one text on each line"):
        read_class_texts(str(tmp_path / "t.txt"), (), [])
    with pytest.raises(BadInput, match=r"--texts classes gives no text"):
        read_class_texts("classes", (), [])


def test_bad_files_and_templates_are_errors(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"no file of texts .*nowhere.txt"):
        read_class_texts(str(tmp_path / "nowhere.txt"), (), [])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(BadInput, match=r"not UTF-8 text \(byte 3\)"):
        read_class_texts(str(tmp_path / "latin.txt"), (), [])
    with pytest.raises(UnknownName, match=r"no prompt field 'lable'. Did you mean 'label'"):
        read_class_texts("classes", ("a {lable}",), ["hug"])
    with pytest.raises(BadInput, match="cannot be read"):
        read_class_texts("classes", ("a {label",), ["hug"])
