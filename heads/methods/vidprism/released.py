"""Loading the released VidPrism weights: their tensor names to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput

_NAMES: Final = (
    (r"pooling_layers\.(\d+)\.metric_proj\.", r"streams.\1.metric."),
    (r"pooling_layers\.(\d+)\.score_head\.", r"streams.\1.score."),
    (r"dynamic_interaction\.score_mlps\.", "interaction.gates."),
    (r"dynamic_interaction\.slow2fast\.proj\.", "interaction.up."),
    (r"dynamic_interaction\.fast2slow_ops\.(\d+)->(\d+)\.tconv\.", r"interaction.down.\1-\2."),
    (r"mote\.experts\.(\d+)\.attn\.", r"experts.\1.attention."),
    (r"mote\.experts\.(\d+)\.ln_1\.", r"experts.\1.attention_norm."),
    (r"mote\.experts\.(\d+)\.ln_2\.", r"experts.\1.feed_norm."),
    (r"mote\.experts\.(\d+)\.ffn\.0\.", r"experts.\1.wide."),
    (r"mote\.experts\.(\d+)\.ffn\.2\.", r"experts.\1.narrow."),
    (r"mote\.readout_gate\.global_query$", "combination.query"),
    (r"mote\.readout_gate\.attn\.", "combination.attention."),
    (r"mote\.readout_gate\.ln\.", "combination.norm."),
    (r"head\.", "classifier."),
    (r"projection_head\.", "projection."),
)
"""Prefixes of released names and their replacements. Streams, experts and pairs are numbered by rate."""


def our_name(released: str) -> str | None:
    """Our name of a released tensor, or None. A leading `module.` (distributed training) is dropped."""
    name = released.removeprefix("module.")
    for theirs, ours in _NAMES:
        if re.match(theirs, name):
            return re.sub(f"^{theirs}", ours, name)
    return None


def load_released(head: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a released state dict (`pooling_layers.0.metric_proj.weight` ...) into a VidPrism head.

    A released projection head is ignored if not in this head (preset `paper`); all else must match.

    Raises:
        BadInput: names or shapes do not match this head; they are listed.
    """
    shapes = {name: tensor.shape for name, tensor in head.state_dict().items()}
    renamed = {our_name(name): tensor for name, tensor in state.items()}
    unknown = sorted(name for name in state if our_name(name) is None)
    if "projection.0.weight" not in shapes:
        renamed = {name: tensor for name, tensor in renamed.items() if not (name or "").startswith("projection.")}
    named = {name: tensor for name, tensor in renamed.items() if name is not None}
    wrong = [f"{name}: not a name of the released code" for name in unknown]
    wrong += [f"{name}: missing" for name in sorted(shapes.keys() - named.keys())]
    wrong += [f"{name}: not in this head" for name in sorted(named.keys() - shapes.keys())]
    wrong += [
        f"{name}: {list(named[name].shape)} in the file, {list(shapes[name])} in this head"
        for name in sorted(named.keys() & shapes.keys())
        if named[name].shape != shapes[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise BadInput(
            f"The released weights do not match this head: {'; '.join(wrong[:5])}{more}.",
            "Use the rates, the width and the number of classes that the weights were trained with; "
            "a projection head comes with --preset code.",
        )
    head.load_state_dict(named)
