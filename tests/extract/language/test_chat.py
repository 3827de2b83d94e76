"""Prompts as ids: against the text tokenised whole with the video written out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.language import llama_tokenizer, qwen_tokenizer

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.language import chat as module
from vfc.extract.language.chat import ChatPrompt

LLAMA, QWEN = llama_tokenizer(), qwen_tokenizer(None)
VIDEO, PAD = LLAMA.convert_tokens_to_ids("<video>"), QWEN.convert_tokens_to_ids("<|video_pad|>")


def vicuna(text: str) -> str:
    return f"USER: <video>\n{text} ASSISTANT:"


def qwen(text: str) -> str:
    return f"<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>{text}<|im_end|>\n"


CASES = ((LLAMA, vicuna, VIDEO, "<video>"), (QWEN, qwen, PAD, "<|video_pad|>"))
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(
    lambda text: text.strip() != "" and "<" not in text
)


@pytest.mark.parametrize(("tokenizer", "render", "token", "placeholder"), CASES)
@settings(deadline=None, max_examples=40)
@given(text=TEXTS, count=st.integers(1, 9))
def test_ids_are_those_of_the_expanded_text(
    tokenizer: Any, render: Any, token: int, placeholder: str, text: str, count: int
) -> None:
    chat = ChatPrompt(tokenizer, render, token, "tiny")
    written_out = tokenizer(render(text).replace(placeholder, placeholder * count))["input_ids"]
    assert [*chat.head, *[token] * count, *chat.tail(text)] == written_out


def test_a_text_between_special_tokens_is_tokenised_as_there() -> None:
    chat = ChatPrompt(QWEN, qwen, PAD, "tiny")
    whole = QWEN("<|vision_start|><0.6 seconds><|vision_end|>")["input_ids"]
    assert list(chat.plain("<0.6 seconds>")) == whole[1:-1]


def test_ids_are_kept_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_TEXTS", 3)
    chat = ChatPrompt(LLAMA, vicuna, VIDEO, "tiny")
    first = chat.tail("Who 0?")
    assert chat.tail("Who 0?") is first
    for i in range(1, 5):
        chat.tail(f"Who {i}?")
    assert len(chat._cache) == 3
    assert chat.tail("Who 0?") == first


def test_two_places_for_the_video_are_refused() -> None:
    with pytest.raises(BadInput, match=r"The chat template of tiny has 2 places for a video \(token \d+\)"):
        ChatPrompt(LLAMA, lambda text: f"<video><video>{text}", VIDEO, "tiny")


def test_the_form_shows_where_the_prompt_goes() -> None:
    assert ChatPrompt(LLAMA, vicuna, VIDEO, "tiny").form == "USER: <video>\n{prompt} ASSISTANT:"
