"""A prompt around a video as token ids: what stands before the video, and what follows it.

Built from the tokenizer alone. The filled template is tokenised whole, with one placeholder where the video goes; the
placeholder's place divides it. That gives the ids that expanding the text first would give, because tokenizers cut a
text at its special tokens before anything else.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, MissingPath, RecordRejected
from vfc.extract.models.checkpoint import TOKENIZER, Checkpoint

REMEMBERED: Final = 4096
"""Texts whose ids are kept: one for every video of a long run would be too many."""

_PLAIN: Final = "What is seen?"


class Question:
    """How a checkpoint is asked about a video; `head` holds the ids before the video.

    Args:
        tokenizer: The checkpoint's.
        render: A prompt to the whole text, with the placeholder in it once.
        placeholder: The id of the video's placeholder.
        where: The checkpoint's name, for errors.

    Raises:
        BadInput: the template or the tokenizer does not know the placeholder, or the prompt comes before the video.
    """

    def __init__(self, tokenizer: Any, render: Callable[[str], str], placeholder: int, where: str) -> None:
        self._tokenizer, self._render, self._placeholder = tokenizer, render, placeholder
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = special | set(tokenizer.all_special_ids)
        self._known: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._lock = threading.Lock()
        ids, others = self._ids(_PLAIN), self._ids("How many people are there?")
        if ids.count(placeholder) != 1:
            raise BadInput(
                f"The chat template of {where} has {ids.count(placeholder)} places for a video (token {placeholder}).",
                "Put the tokenizer's files and the chat template of one checkpoint together.",
            )
        self.head = tuple(ids[: ids.index(placeholder)])
        if tuple(others[: len(self.head) + 1]) != (*self.head, placeholder):
            raise BadInput(
                f"The chat template of {where} puts the prompt before the video.",
                "Visual tokens would then depend on the prompt; pick a checkpoint that shows the video first.",
            )
        self._specials = self._count(ids)

    @property
    def form(self) -> str:
        """The whole text with `{prompt}` where the prompt goes, for the recipe."""
        return self._render("{prompt}")

    def tail(self, text: str) -> tuple[int, ...]:
        """The ids that follow the video where `text` is asked. Any thread may call.

        Raises:
            RecordRejected: an empty text, or one that holds special tokens.
        """
        with self._lock:
            if text in self._known:
                self._known.move_to_end(text)
                return self._known[text]
        if not text.strip():
            raise RecordRejected("The prompt is empty.", "Give it a text.")
        ids = self._ids(text)
        if self._count(ids) != self._specials:
            raise RecordRejected(
                f"The prompt {text[:60]!r} holds a special token of this model.", "Take it out of the prompt."
            )
        found = tuple(ids[len(self.head) + 1 :])
        with self._lock:
            self._known[text] = found
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def plain(self, text: str) -> tuple[int, ...]:
        """A piece of text between two special tokens, as ids."""
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(self._render(text), verbose=False)["input_ids"]
        return ids

    def _count(self, ids: list[int]) -> int:
        return sum(i in self._special for i in ids)


def read_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer of a checkpoint. Raises MissingPath where its files are not there."""
    from transformers import AutoTokenizer

    # Without files the library hands out an empty tokenizer instead of an error.
    if not any((checkpoint.folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise MissingPath(
            f"The checkpoint {checkpoint.id} has no tokenizer.",
            f"Put its files beside config.json ({', '.join(TOKENIZER[:4])}).",
        )
    return AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)


def chat_template(checkpoint: Checkpoint, tokenizer: Any) -> str:
    """The template of a checkpoint's conversations: of its processor, else of its tokenizer.

    Raises:
        MissingPath: it has none.
    """
    jinja, legacy = (checkpoint.folder / name for name in ("chat_template.jinja", "chat_template.json"))
    found: Any = None
    if jinja.is_file():
        found = jinja.read_text(encoding="utf-8")
    elif legacy.is_file():
        found = json.loads(legacy.read_text(encoding="utf-8")).get("chat_template")
    found = found or tokenizer.chat_template
    if not isinstance(found, str):
        raise MissingPath(
            f"The checkpoint {checkpoint.id} has no chat template.",
            "Copy chat_template.jinja (or chat_template.json) from the checkpoint's page into the folder.",
        )
    return found
