"""ViCLIP once more, from its weights by published names and layers of torch and transformers: one clip, one text."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

Weights = Mapping[str, Tensor]


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)


def _torch_block(weights: Weights, start: str, width: int, heads: int) -> nn.Module:
    """torch's own encoder layer, norm first; in training mode without dropout, for its plain path."""

    def quick(x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)

    block = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, quick, norm_first=True, batch_first=True)
    pairs = {"self_attn.in_proj_": "attn.in_proj_", "self_attn.out_proj.": "attn.out_proj."}
    pairs |= {"linear1.": "mlp.c_fc.", "linear2.": "mlp.c_proj.", "norm1.": "ln_1.", "norm2.": "ln_2."}
    given = {f"{ours}{part}": weights[f"{start}{theirs}{part}"] for ours, theirs in pairs.items() for part in PARTS}
    block.load_state_dict(given)
    return block.train()


PARTS = ("weight", "bias")


def vision_states(weights: Weights, frames: Tensor, heads: int) -> tuple[list[Tensor], Tensor]:
    """Of one clip `[T, 3, h, w]`: states by layer, the normed last one at the end; and the projected class token."""
    start = "vision_encoder."
    kernel = weights[f"{start}conv1.weight"][:, :, 0]
    width, edge = kernel.shape[0], kernel.shape[-1]
    count = len(frames)
    table = weights[f"{start}temporal_positional_embedding"][0]
    if count == 1:
        time = table.mean(0, keepdim=True)
    elif count > len(table):
        time = torch.stack([_between(table, (i + 0.5) * len(table) / count - 0.5) for i in range(count)])
    else:
        time = table[:count]
    places = weights[f"{start}positional_embedding"]
    rows = [weights[f"{start}class_embedding"] + places[0]]
    cuts = frames.unfold(2, edge, edge).unfold(3, edge, edge).permute(0, 2, 3, 1, 4, 5).reshape(count, -1, 3 * edge**2)
    for patch in range(cuts.shape[1]):
        for frame in range(count):
            rows.append(kernel.reshape(width, -1) @ cuts[frame, patch] + places[1 + patch] + time[frame])
    x = _norm(torch.stack(rows), weights, f"{start}ln_pre")
    states = [x]
    with torch.no_grad():
        for number in range(_depth(weights, start)):
            x = _torch_block(weights, f"{start}transformer.resblocks.{number}.", width, heads)(x[None])[0]
            states.append(x)
    normed = _norm(x, weights, f"{start}ln_post")
    return [*states, normed], normed[0] @ weights[f"{start}proj"]


def text_states(weights: Weights, ids: Tensor, heads: int) -> tuple[list[Tensor], Tensor]:
    """Of one text's ids `[L]`, start to end of text: states by layer, the normed last one; and the projected end."""
    start = "text_encoder."
    x = weights[f"{start}token_embedding.weight"][ids] + weights[f"{start}positional_embedding"][: len(ids)]
    width = x.shape[-1]
    states = [x]
    config = CLIPTextConfig(hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads)
    config._attn_implementation = "eager"
    mask = torch.full((1, 1, len(ids), len(ids)), float("-inf")).triu(1)
    for number in range(_depth(weights, start)):
        block = CLIPEncoderLayer(config)
        block.load_state_dict(_as_transformers(weights, f"{start}transformer.resblocks.{number}."))
        with torch.no_grad():
            made = block.eval()(x[None], attention_mask=mask)
        x = (made if isinstance(made, Tensor) else made[0])[0]
        states.append(x)
    normed = _norm(x, weights, f"{start}ln_final")
    return [*states, normed], normed[-1] @ weights[f"{start}text_projection"]


def _as_transformers(weights: Weights, start: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for part in PARTS:
        thirds = weights[f"{start}attn.in_proj_{part}"].chunk(3)
        found |= {f"self_attn.{name}_proj.{part}": third for name, third in zip("qkv", thirds, strict=True)}
        pairs = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
        pairs |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
        found |= {f"{theirs}.{part}": weights[f"{start}{ours}.{part}"] for theirs, ours in pairs.items()}
    return found


def _between(table: Tensor, place: float) -> Tensor:
    """A row between two, held at the ends."""
    place = min(max(place, 0.0), len(table) - 1.0)
    low = min(int(place), len(table) - 2)
    return table[low] + (place - low) * (table[low + 1] - table[low])


def _depth(weights: Weights, start: str) -> int:
    return sum(name.startswith(start) and name.endswith("ln_1.weight") for name in weights)
