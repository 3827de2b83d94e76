"""Table III of ActionLLM: LLaMA-7B over 423 rows."""

from __future__ import annotations

from typing import Final

import torch

from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import Head
from vfc.heads.contract.published import PublishedCost
from vfc.heads.tasks.anticipation import WindowBatch

from . import checkpoint

_STEPS: Final = 201
_QUERIES: Final = 21
_CLASSES: Final = 19


def window() -> tuple[Head, WindowBatch]:
    """The released configuration and one window: 201 steps of text, 201 of I3D features, 21 queries: 423 rows."""
    from . import Config
    from . import Head as ActionLlm

    specs = {"visual": ArraySpec("frames", "fp16", (None, 2048)), "classes": ArraySpec("c", "int64", (_CLASSES,))}
    head = ActionLlm(Config(llm="LLaMA-7B", parity=True, queries=_QUERIES), specs, checkpoint.llama_7b())
    head.names_of_classes = tuple(map(str, range(_CLASSES)))
    steps = torch.zeros(1, _STEPS, dtype=torch.int64)
    none = torch.zeros(1, 0)
    return head, WindowBatch(torch.zeros(1, _STEPS, 2048), steps == 0, steps, steps, none.long(), none)


PUBLISHED: Final = (
    PublishedCost(
        "ActionLLM, Table III",
        "window (423 rows)",
        window,
        parameters=4_210_000,
        flops=5575.18e9,
        differs="The paper counts a multiply-add as two, as torch does. 655,424 of the parameters are an expert and a "
        "router that are never used. FUTR, the head of this task without a language model, is in its table with "
        "17.38 M and 7.07 G.",
    ),
)
