"""`vfc describe`: a real small language model, scripted answers, resumption, and what is read out of an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vfc.cache_schema.protocol.descriptions import read_descriptions
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.progress import Silent
from vfc.extract.language.class_descriptions import DescribeConfig, describe_classes, sentences


@pytest.fixture
def config(tmp_path: Path) -> DescribeConfig:
    """Two classes, and a checkpoint of which only names and digests are read."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "classes.txt").write_text("ShakeHands\nhug\n")
    return DescribeConfig(str(folder), class_list=tmp_path / "classes.txt", name="ut", out=tmp_path / "out")


def answer(prompt: str, attempt: int) -> str:
    return f"Here they are:\n1. A video about {prompt[:5]}.\n2) “A second one, {attempt}.”\n3. A third one."


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("1. A b.\n2. C d.\n3. E f.", ("A b.", "C d.")),
        ("Sure:\n\n- A b\n* **C d**", ("A b", "C d")),
        ("A b is. C d is! E.", ("A b is.", "C d is!")),
        ("<think>no this\nnor this</think>(1) A b.\nA b.\nC d.", ("A b.", "C d.")),
        ("one", ()),
        ("<think>never ends", ()),
    ],
)
def test_sentences_are_read_out_of_an_answer(said: str, read: tuple[str, ...]) -> None:
    assert sentences(said, 2) == read


def test_both_files_are_written_with_who_wrote_them_and_how(config: DescribeConfig) -> None:
    asked: list[str] = []

    def writer(prompt: str, attempt: int) -> str:
        asked.append(prompt)
        return answer(prompt, attempt)

    made = describe_classes(config, Silent(), writer=writer)
    assert (made.written, made.earlier, made.failed, made.exit_code) == (4, 0, {}, 0)
    assert [path.name for path in made.files] == ["2_s_description_ut.json", "2_t_description_ut.json"]
    assert sum('"shake hands"' in prompt for prompt in asked) == 2
    spatial = read_descriptions(made.files[0])
    assert spatial.about["classes"] == ["ShakeHands", "hug"]
    assert spatial.about["prompt"] == config.spatial_prompt
    assert spatial.about["model"]["id"] == "model"
    assert len(spatial.about["model"]["digest"]) == 64
    assert json.loads(made.files[0].read_text("utf-8"))["1"] == ["A video about Think.", "A second one, 0."]


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_files(config: DescribeConfig, tmp_path: Path) -> None:
    whole = describe_classes(replace(config, out=tmp_path / "whole"), Silent(), writer=answer)
    asked: list[str] = []

    def failing(prompt: str, attempt: int) -> str:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(prompt)
        return answer(prompt, attempt)

    with pytest.raises(KeyboardInterrupt):
        describe_classes(config, Silent(), writer=failing)
    made = describe_classes(config, Silent(), writer=answer)
    assert (made.written, made.earlier) == (2, 2)
    assert [p.read_bytes() for p in made.files] == [p.read_bytes() for p in whole.files]
    with pytest.raises(RecipeMismatch, match="was written with other settings: prompt differ"):
        describe_classes(replace(config, spatial_prompt="What is {label}?"), Silent(), writer=answer)


def test_too_little_said_is_tried_again_and_then_told(config: DescribeConfig) -> None:
    def shy(prompt: str, attempt: int) -> str:
        return answer(prompt, attempt) if attempt == 1 and "hug" in prompt else "A b."

    made = describe_classes(config, Silent(), writer=shy)
    assert made.exit_code == 3
    assert made.lines()[-1].startswith("Next: more --tries or --new-tokens, ")
    assert made.written == 2
    assert made.failed["ShakeHands (2_s_description_ut.json)"] == "1 sentences after 3 attempts."
    assert set(read_descriptions(made.files[1], whole=False).sentences) == {1}


def test_a_real_language_model_writes_what_it_can(shared_data: Path, config: DescribeConfig) -> None:
    real = replace(config, checkpoint=str(shared_data / "weights" / "stories260K_hf"), new_tokens=64, tries=3)
    made = describe_classes(real, Silent())
    assert made.written == 4
    found = read_descriptions(made.files[0])
    assert found.count == 2
    made.files[0].unlink()
    describe_classes(real, Silent())
    assert read_descriptions(made.files[0]) == found


def test_what_cannot_be_described_is_refused(config: DescribeConfig) -> None:
    with pytest.raises(BadInput, match="There is no class to describe"):
        describe_classes(replace(config, class_list=None), Silent(), writer=answer)
    with pytest.raises(BadInput, match="--count is 0"):
        replace(config, count=0)
    with pytest.raises(BadInput, match="cannot be filled"):
        replace(config, spatial_prompt="About {name}")
    with pytest.raises(BadInput, match="cannot be opened as a causal language model"):
        describe_classes(config, Silent())
