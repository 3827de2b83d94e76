"""Prompt templates: the published strings to the letter, filling, naming, refusals."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from vfc.cache_schema.values.errors import BadInput, RecordRejected, UnknownName
from vfc.extract.prompting.prompts import TEMPLATES, Prompt, PromptTemplate, fill, prompt_templates


def test_the_published_strings() -> None:
    published = {
        "unknown": "What's the action of the video?",
        "unknown-temporal": "Describe the sequence of actions happening in the video.",
        "unknown-interaction": "How does the interaction between the person and the object evolve?",
        "unknown-interaction-b": "What is the person doing with the object in the video?",
    }
    assert {name: fill(PromptTemplate(name, TEMPLATES[name])).text for name in published} == published
    (support, query) = prompt_templates(("known-support", "known-query"))
    assert (
        fill(support, label="brush_hair").text
        == "Please describe if the 'brush hair' action is present in the video in one sentence."
    )
    assert (
        fill(query, options=("feeding birds", "ReadingBook")).text
        == "Watch the video and identify the main action category from these options: 'feeding birds', 'reading book'."
    )


def test_a_prompt_without_fields_keeps_its_id_and_a_filled_one_is_named_by_its_text() -> None:
    (open_one, support) = prompt_templates(("unknown", "known-support"))
    assert fill(open_one, label="hug") == Prompt("unknown", "unknown", "What's the action of the video?")
    filled = fill(support, label="hug")
    digest = hashlib.sha256(filled.text.encode()).hexdigest()[:16]
    assert (filled.id, filled.template) == (f"known-support@{digest}", "known-support")
    assert fill(support, label="Hug").id == filled.id
    assert fill(support, label="kick").id != filled.id


def test_options_are_named_in_their_order() -> None:
    (query,) = prompt_templates(("known-query",))
    assert fill(query, options=("a", "b")).id != fill(query, options=("b", "a")).id


def test_own_texts_get_a_name() -> None:
    first, second = prompt_templates((), ("Who is it?", "who=Is {label} seen? A {{brace}}.", "Who is it?"))
    assert first.text == "Who is it?"
    assert first.id == f"who-is-it-{hashlib.sha256(b'Who is it?').hexdigest()[:8]}"
    assert (second.id, second.fields) == ("who", ("label",))
    assert fill(second, label="HandShake").text == "Is hand shake seen? A {brace}."
    assert second.to_json() == {"template": "Is {label} seen? A {{brace}}."}


def test_order_as_asked_each_once() -> None:
    asked = prompt_templates(("unknown-temporal", "unknown", "unknown-temporal"), ("mine=Why?", "mine=Why?"))
    assert [template.id for template in asked] == ["unknown-temporal", "unknown", "mine"]
    assert prompt_templates(("unknown",), ("unknown=What's the action of the video?",)) == prompt_templates(
        ("unknown",)
    )


@pytest.mark.parametrize(
    ("ids", "texts", "error", "message"),
    [
        (("unknwon",), (), UnknownName, r"There is no prompt 'unknwon'\. Did you mean 'unknown'\?\nKnown: known-query"),
        (
            (),
            ("Is it {lable}?",),
            UnknownName,
            r"no prompt field 'lable'\. Did you mean 'label'\?\nKnown: label, options",
        ),
        ((), ("Is it {label?",), BadInput, "cannot be read"),
        ((), ("a=  ",), BadInput, "The prompt 'a=  ' is empty"),
        ((), ("unknown=Who?",), BadInput, "The prompt 'unknown' is already \"What's the action"),
        ((), ("a=Who?", "a=What?"), BadInput, "The prompt 'a' is already 'Who\\?'.\nGive your text another name"),
    ],
)
def test_invalid_prompts(ids: tuple[str, ...], texts: tuple[str, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prompt_templates(ids, texts)


def test_a_field_without_a_value_fails_only_that_video() -> None:
    support, query = prompt_templates(("known-support", "known-query"))
    with pytest.raises(RecordRejected, match=r"'known-support' names \{label\}, and the video has no label"):
        fill(support)
    with pytest.raises(RecordRejected, match=r"'known-query' names \{options\}, and no options were given"):
        fill(query, label="hug")


def test_prompts_are_known_without_torch() -> None:
    code = "import sys, vfc.extract.prompting.prompts; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
