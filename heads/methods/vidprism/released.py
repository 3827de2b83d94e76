"""The released VidPrism's weights under our names."""

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
"""Beginnings of released names, and what stands for them here. Streams, experts and pairs are numbered by rate."""


def our_name(released: str) -> str | None:
    """Our name of a released tensor; None where there is none. A leading `module.` of a distributed run is dropped."""
    name = released.removeprefix("module.")
    for theirs, ours in _NAMES:
        if re.match(theirs, name):
            return re.sub(f"^{theirs}", ours, name)
    return None


def pour_released(head: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a released state dict (`pooling_layers.0.metric_proj.weight` ...) into a VidPrism head.

    A released projection head is left out where the head has none (preset `paper`); all else must fit.

    Raises:
        BadInput: names or shapes that do not fit this head, listed.
    """
    wanted = {name: tensor.shape for name, tensor in head.state_dict().items()}
    found = {our_name(name): tensor for name, tensor in state.items()}
    strange = sorted(name for name in state if our_name(name) is None)
    if "projection.0.weight" not in wanted:
        found = {name: tensor for name, tensor in found.items() if not (name or "").startswith("projection.")}
    named = {name: tensor for name, tensor in found.items() if name is not None}
    wrong = [f"{name}: not a name of the released code" for name in strange]
    wrong += [f"{name}: missing" for name in sorted(wanted.keys() - named.keys())]
    wrong += [f"{name}: this head has none" for name in sorted(named.keys() - wanted.keys())]
    wrong += [
        f"{name}: {list(named[name].shape)} there, {list(wanted[name])} here"
        for name in sorted(named.keys() & wanted.keys())
        if named[name].shape != wanted[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise BadInput(
            f"The released weights do not fit this head: {'; '.join(wrong[:5])}{more}.",
            "Give the head the rates, the width and the number of classes the weights were trained with; "
            "a projection head comes with --preset code.",
        )
    head.load_state_dict(named)
