"""The conversation around a video as token ids: those before the video, and those of a prompt after it.

Built from the tokenizer alone. The filled chat template is tokenised in one piece, with one placeholder for the video,
and divided at the placeholder. The ids are the same as for the expanded text, because tokenizers first split a text at
its special tokens.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, MissingPath, RecordRejected
from vfc.extract.models.checkpoint import TOKENIZER, Checkpoint

CACHED_TEXTS: Final = 4096
"""Number of texts whose ids are kept; a long run may have one text per video."""

_PLAIN: Final = "What is seen?"


class ChatPrompt:
    """The chat template of a checkpoint around a video; `head` holds the ids before the video.

    Args:
        tokenizer: The tokenizer of the checkpoint.
        render: Returns the whole text of a prompt, with the placeholder in it once.
        placeholder: The id of the video's placeholder.
        where: The name of the checkpoint, for errors.

    Raises:
        BadInput: the template does not have the placeholder once, or the prompt comes before the video.
    """

    def __init__(self, tokenizer: Any, render: Callable[[str], str], placeholder: int, where: str) -> None:
        self._tokenizer, self._render, self._placeholder = tokenizer, render, placeholder
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = special | set(tokenizer.all_special_ids)
        self._cache: OrderedDict[str, tuple[int, ...]] = OrderedDict()
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
        """The whole text with `{prompt}` in place of the prompt, for the recipe."""
        return self._render("{prompt}")

    def tail(self, text: str) -> tuple[int, ...]:
        """The ids after the video for the prompt `text`. Thread-safe.

        Raises:
            RecordRejected: the text is empty, or holds special tokens.
        """
        with self._lock:
            if text in self._cache:
                self._cache.move_to_end(text)
                return self._cache[text]
        if not text.strip():
            raise RecordRejected("The prompt is empty.", "Give it a text.")
        ids = self._ids(text)
        if self._count(ids) != self._specials:
            raise RecordRejected(
                f"The prompt {text[:60]!r} holds a special token of this model.", "Take it out of the prompt."
            )
        tail = tuple(ids[len(self.head) + 1 :])
        with self._lock:
            self._cache[text] = tail
            if len(self._cache) > CACHED_TEXTS:
                self._cache.popitem(last=False)
        return tail

    def plain(self, text: str) -> tuple[int, ...]:
        """The ids of a text that stands between two special tokens."""
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(self._render(text), verbose=False)["input_ids"]
        return ids

    def _count(self, ids: list[int]) -> int:
        return sum(i in self._special for i in ids)


def read_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer of a checkpoint. Raises MissingPath where its files are missing."""
    from transformers import AutoTokenizer

    # Without files the library returns an empty tokenizer instead of an error.
    if not any((checkpoint.folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise MissingPath(
            f"The checkpoint {checkpoint.id} has no tokenizer.",
            f"Put its files beside config.json ({', '.join(TOKENIZER[:4])}).",
        )
    return AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)


def chat_template(checkpoint: Checkpoint, tokenizer: Any) -> str:
    """The chat template of a checkpoint: that of its processor, else of its tokenizer.

    Raises:
        MissingPath: the checkpoint has none.
    """
    jinja, legacy = (checkpoint.folder / name for name in ("chat_template.jinja", "chat_template.json"))
    template: Any = None
    if jinja.is_file():
        template = jinja.read_text(encoding="utf-8")
    elif legacy.is_file():
        template = json.loads(legacy.read_text(encoding="utf-8")).get("chat_template")
    template = template or tokenizer.chat_template
    if not isinstance(template, str):
        raise MissingPath(
            f"The checkpoint {checkpoint.id} has no chat template.",
            "Copy chat_template.jinja (or chat_template.json) from the checkpoint's page into the folder.",
        )
    return template
