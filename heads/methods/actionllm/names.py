"""Embeddings of class names for ActionLLM: the mean of the LLM's word embeddings over the tokens of a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput


def name_table(names: Sequence[str], tokenizer: Any, embeddings: Tensor) -> Tensor:
    """One row per name, `[K, E]` in float32: the mean of rows of `embeddings [V, E]`, without special tokens.

    Raises:
        BadInput: a name has no tokens.
    """
    rows = []
    for name in names:
        ids = tokenizer(name, add_special_tokens=False)["input_ids"]
        if not ids:
            raise BadInput(
                f"The class name {name!r} has no token in the language model's vocabulary.",
                "Give the class a name with letters, in mapping.txt or the class list.",
            )
        rows.append(embeddings[torch.tensor(ids, device=embeddings.device)].float().mean(dim=0))
    return torch.stack(rows)
