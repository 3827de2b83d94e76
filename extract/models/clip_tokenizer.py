"""CLIP's texts: token ids padded to the context length, the row of the embedding, and the arrays of a text record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput, MissingPath, RecordRejected
from vfc.cache_schema.values.layout import array_name
from vfc.cache_schema.values.record import ArraySpec
from vfc.extract.backbone import Prepared

from .checkpoint import TOKENIZER, Checkpoint

TEXTS_PER_FORWARD: Final = 64


@dataclass(frozen=True)
class ClipTokens:
    """A tokenizer and the limits of its text tower.

    `cut`: cut texts beyond the context length, and record it, instead of refusing them. `pad`: the id after the end of
    text; None is the tokenizer's own.
    """

    tokenizer: Any
    context: int
    eos_token_id: int
    cut: bool = False
    pad: int | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, text_config: Any, cut: bool) -> ClipTokens:
        """The tokenizer of a checkpoint for its text tower.

        Raises MissingPath where its files are missing, BadInput where it ends texts with another token than the tower
        looks for.
        """
        from transformers import AutoTokenizer

        # Without files the library returns an empty tokenizer instead of an error.
        if not any((checkpoint.folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise MissingPath(
                f"The checkpoint {checkpoint.id} has no tokenizer, and texts were asked for.",
                f"Put its files beside config.json ({', '.join(TOKENIZER[:4])}), or leave out --texts.",
            )
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        end, expected = tokenizer.eos_token_id, text_config.eos_token_id
        if expected not in (2, end):
            raise BadInput(
                f"The tokenizer of {checkpoint.id} ends texts with id {end}; its config.json says {expected}.",
                "The embedding would be read at the wrong token: put the files of one checkpoint together.",
            )
        return cls(tokenizer, int(text_config.max_position_embeddings), int(expected), cut)

    def __call__(self, text: str) -> Prepared:
        """`ids` and `mask` int64 `[context]`, `eot` int64 `[1]`; metadata holds the numbers of tokens and of cut ones.

        Raises RecordRejected for a text that is too long, or holds an end of text before its end. Thread-safe.
        """
        full = self.tokenizer(text, verbose=False)["input_ids"]
        if len(full) > self.context and not self.cut:
            raise RecordRejected(
                f"The text {text[:60]!r} has {len(full)} tokens; the text tower takes {self.context}.",
                "Shorten it, or allow the cut with --cut-texts.",
            )
        # Cut and padded here: the tokenizer's own way changes its state, which other threads would see.
        row = full if len(full) <= self.context else [*full[: self.context - 1], full[-1]]
        pad = self.tokenizer.pad_token_id if self.pad is None else self.pad
        ids = torch.full((self.context,), pad, dtype=torch.int64)
        ids[: len(row)] = torch.tensor(row)
        mask = (torch.arange(self.context) < len(row)).to(torch.int64)
        eot = end_of_text(ids, self.eos_token_id)
        if eot != len(row) - 1:
            raise RecordRejected(
                f"The text {text[:60]!r} would be read at token {eot} of {len(row)}, which is not its end.",
                "Take special tokens out of the text.",
            )
        tensors = {"ids": ids, "mask": mask, "eot": torch.tensor([eot])}
        return Prepared(tensors, {"tokens": len(row), "cut_tokens": len(full) - len(row)})


def end_of_text(ids: Tensor, eos_token_id: int) -> int:
    """The row that CLIP reads its text embedding from, as the library finds it in ids `[L]`.

    Checkpoints from before 2023 say `eos_token_id` 2, which no text holds; for them it is the largest id.
    """
    scores = ids if eos_token_id == 2 else ids == eos_token_id
    return int(scores.to(torch.int).argmax())


def text_specs(embedding: Sequence[ArraySpec], layers: Sequence[ArraySpec]) -> tuple[ArraySpec, ...]:
    """The arrays of a text record: `text.ids` int64 `[L]`, `text.eot` int64 `[1]`, the embedding if any, the layers.

    `text.ids` go from start to end of text; `text.eot` is the row that the embedding comes from.
    """
    return (ArraySpec("text.ids", "int64", (None,)), ArraySpec("text.eot", "int64", (1,)), *embedding, *layers)


def encode_texts(
    batch: Sequence[Mapping[str, Tensor]],
    run: Callable[[Tensor, Tensor], tuple[Mapping[str, Tensor], Tensor | None]],
    device: str,
) -> list[dict[str, Tensor]]:
    """The arrays of each text of a batch of `ClipTokens`.

    `run`: ids on the device and mask on the CPU, both `[n, context]`, to tokens by layer `[n, context, D]` and
    embeddings `[n, E]` (None where they are not kept), both in transfer dtype.
    """
    encoded: list[dict[str, Tensor]] = []
    for start in range(0, len(batch), TEXTS_PER_FORWARD):
        part = batch[start : start + TEXTS_PER_FORWARD]
        ids, mask = (torch.stack([item[name] for item in part]) for name in ("ids", "mask"))
        layers, embeddings = run(on_device(ids, device), mask)
        for row, item in enumerate(part):
            length = int(item["eot"]) + 1
            arrays = {"text.ids": item["ids"][:length], "text.eot": item["eot"]}
            if embeddings is not None:
                arrays["embedding"] = embeddings[row]
            arrays.update({array_name(layer, "text"): tokens[row, :length] for layer, tokens in layers.items()})
            encoded.append(arrays)
    return encoded
