"""Class names as ActionLLM's text: the mean of the LLM's own word embeddings over the pieces of a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput


def name_table(names: Sequence[str], tokenizer: Any, embeddings: Tensor) -> Tensor:
    """One row per name, `[K, E]` in float32: names without begin and end marks, rows of `embeddings [V, E]` averaged.

    Raises:
        BadInput: a name that the tokenizer makes nothing of.
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
