"""Loading published weights of the probe: V-JEPA 2's own files, and transformers' `VJEPA2ForVideoClassification`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput

_NAMES: Final = (
    (r"pooler\.self_attention_layers\.(\d+)\.", r"pooler.blocks.\1."),
    (r"pooler\.cross_attention_layer\.", "pooler.cross_attention_block."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.cross_attn\.q_proj\.", ".xattn.q."),
    (r"^classifier\.", "linear."),
)
_PACKED: Final = (
    (r"(.*)\.self_attn\.q_proj\.(.*)", r"\1.attn.qkv.\2", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    (r"(.*)\.cross_attn\.k_proj\.(.*)", r"\1.xattn.kv.\2", ("cross_attn.k_proj", "cross_attn.v_proj")),
)


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under our names, which are those of V-JEPA 2's own files.

    A leading `module.` (distributed training) is dropped, as are the weights of the model itself (`vjepa2.`). Queries,
    keys and values that stand apart in transformers' files are packed. Names that are unknown are kept.
    """
    state = {name.removeprefix("module."): value for name, value in state.items() if not name.startswith("vjepa2.")}
    for pattern, packed, parts in _PACKED:
        for name in [name for name in state if re.fullmatch(pattern, name)]:
            names = [name.replace(parts[0], part) for part in parts]
            if all(other in state for other in names):
                joined = torch.cat([state.pop(other) for other in names])
                state[re.sub(pattern, packed, name)] = joined
    renamed = {}
    for name, value in state.items():
        for theirs, ours in _NAMES:
            name = re.sub(theirs, ours, name)
        renamed[name] = value
    return renamed


def load_released(head: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a published state dict into an attentive probe: one entry of `classifiers` of V-JEPA 2's files, or
    transformers' model. All published probes have 16 attention heads, also that of ViT-g, which transformers gives 22.

    Raises:
        BadInput: names or shapes do not match this head; they are listed.
    """
    named, shapes = our_names(state), {name: value.shape for name, value in head.state_dict().items()}
    wrong = [f"{name}: missing" for name in sorted(shapes.keys() - named.keys())]
    wrong += [f"{name}: not in this head" for name in sorted(named.keys() - shapes.keys())]
    wrong += [
        f"{name}: {list(named[name].shape)} in the file, {list(shapes[name])} in this head"
        for name in sorted(named.keys() & shapes.keys())
        if named[name].shape != shapes[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise BadInput(
            f"The published weights do not match this probe: {'; '.join(wrong[:5])}{more}.",
            "Use the depth (published: 4), the width and the number of classes that the weights were trained with.",
        )
    head.load_state_dict(named)
