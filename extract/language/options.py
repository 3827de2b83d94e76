"""Options of a language model checked against its checkpoint: streams, depth, prompt batching."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.extract.backbone import BackboneOptions
from vfc.extract.models.checkpoint import Checkpoint
from vfc.extract.models.layers import NORM

STREAMS: Final = ("visual", "text")
MASKED: Final = ("sdpa", "eager")
"""Attention implementations that take a mask of any shape."""


def check_prompt_batching(prompt_batching: str, config: Any, checkpoint: Checkpoint) -> None:
    """Raise BadInput where prompts cannot share a prefix, because some blocks do not attend to all of it."""
    kinds = set(getattr(config.text_config, "layer_types", None) or ()) - {"full_attention"}
    if kinds and prompt_batching != "single":
        raise BadInput(
            f"{checkpoint.id} has blocks of {', '.join(sorted(kinds))}; --prompt-batching {prompt_batching} needs them "
            "to see all tokens.",
            "Give --prompt-batching single.",
        )


def effective_prompt_batching(prompt_batching: str, attention: str | None) -> str:
    """`batched` in place of `packed` where the attention implementation takes no mask."""
    return "batched" if prompt_batching == "packed" and attention not in MASKED else prompt_batching


def streams_to_keep(options: BackboneOptions, family: str) -> frozenset[str]:
    """The streams to keep; text only where prompts are asked for.

    Raises:
        UnknownName: a stream that does not exist.
        BadInput: nothing to keep, no text in spite of prompts, or options of a text tower.
    """
    if options.texts or options.text_layers:
        raise BadInput(f"{family} has no text tower.", "Leave out --texts and --text-layer; give --prompt instead.")
    for name in options.keep:
        if name not in STREAMS:
            raise unknown_name("stream", name, STREAMS)
    streams = frozenset(options.keep or STREAMS)
    if options.prompts and "text" not in streams:
        raise BadInput("Prompts were asked for, but text is not kept.", "Add text to --keep, or leave out --prompt.")
    if not options.prompts:
        streams -= {"text"}
    if not streams:
        raise BadInput("Nothing would be kept: text needs a prompt.", "Give --prompt unknown, or add visual to --keep.")
    return streams


def cut_config(config: Any, layers: Sequence[str]) -> Any:
    """The same configuration without the blocks above the highest of these layers."""
    cut = copy.deepcopy(config)
    text = cut.text_config
    if NORM not in layers:
        text.num_hidden_layers = max(1, *(int(layer) for layer in layers))
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    return cut
