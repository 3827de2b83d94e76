"""What was asked of a language model, against what its checkpoint is: architecture, streams, depth."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.extract.backbone import BackboneOptions, family_names
from vfc.extract.models.checkpoint import Checkpoint

STREAMS: Final = ("visual", "text")


def checked_config(checkpoint: Checkpoint, *, family: str, model_type: str) -> Any:
    """The configuration of a checkpoint. Raises BadInput for another architecture."""
    from transformers import AutoConfig

    found = checkpoint.model_type
    if found != model_type:
        other = found.replace("_", "-")
        hint = f"try --model {other} with this one" if other in family_names() else "see vfc models list"
        raise BadInput(
            f"The checkpoint {checkpoint.id} is a {found} model; {family} needs a {model_type} one.",
            f"Give another --checkpoint, or {hint}.",
        )
    return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)


def check_prompt_batching(prompt_batching: str, config: Any, checkpoint: Checkpoint) -> None:
    """Raises BadInput where prompts cannot share a prefix, because blocks do not see all of it."""
    kinds = set(getattr(config.text_config, "layer_types", None) or ()) - {"full_attention"}
    if kinds and prompt_batching != "single":
        raise BadInput(
            f"{checkpoint.id} has blocks of {', '.join(sorted(kinds))}; --prompt-batching {prompt_batching} needs them "
            "to see all tokens.",
            "Give --prompt-batching single.",
        )


def kept_of(options: BackboneOptions, family: str) -> frozenset[str]:
    """The streams to keep; text only where prompts are asked for.

    Raises:
        UnknownName: a stream that there is not.
        BadInput: nothing, no text in spite of prompts, or what only a text tower has.
    """
    if options.texts or options.text_layers:
        raise BadInput(f"{family} has no text tower.", "Leave out --texts and --text-layer; give --prompt instead.")
    for name in options.keep:
        if name not in STREAMS:
            raise unknown_name("stream", name, STREAMS)
    kept = frozenset(options.keep or STREAMS)
    if options.prompts and "text" not in kept:
        raise BadInput("Prompts were asked for, but text is not kept.", "Add text to --keep, or leave out --prompt.")
    if not options.prompts:
        kept -= {"text"}
    if not kept:
        raise BadInput("Nothing would be kept: text needs a prompt.", "Give --prompt unknown, or add visual to --keep.")
    return kept


def cut_config(config: Any, layers: Sequence[str]) -> Any:
    """The same configuration without the blocks above the highest of these layers."""
    cut = copy.deepcopy(config)
    text = cut.text_config
    if "norm" not in layers:
        text.num_hidden_layers = max(1, *(int(layer) for layer in layers))
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    return cut
