"""VideoMAE v2 as its authors publish it: configuration and names of weights, translated to the library's.

There `config.json` describes the network under `model_config`, and a block is `blocks.3.attn.qkv.weight` with biases
`q_bias` and `v_bias` alone. The network is the library's VideoMAE otherwise, with norms of epsilon 1e-6.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.models.checkpoint import Checkpoint
from vfc.extract.models.loading import Compute, refuse_missing_weights, require_device

_PARTS: Final = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_BIASES: Final = {"attn.q_bias": "query", "attn.v_bias": "value"}
_HEADS: Final = ("head.", "fc_norm.")
"""Weights of the classifier, which averages all tokens of a clip before its norm."""
_LIMITS: Final[Mapping[str, Any]] = {"cos_attn": False, "use_learnable_pos_emb": False, "init_values": 0.0}


def is_original(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is in the authors' form."""
    return isinstance(checkpoint.config.get("model_config"), dict)


def original_config(checkpoint: Checkpoint) -> Any:
    """The library's configuration for it. Raises BadInput for variants of the network that the library lacks."""
    from transformers import VideoMAEConfig

    published: dict[str, Any] = checkpoint.config["model_config"]
    for name, supported in _LIMITS.items():
        if published.get(name) not in (None, supported):
            raise BadInput(
                f"The checkpoint {checkpoint.id} has {name} {published[name]!r}, which transformers' VideoMAE lacks.",
                "Pick another checkpoint.",
            )
    try:
        fields: dict[str, Any] = {
            "image_size": published["img_size"],
            "patch_size": published["patch_size"],
            "num_frames": published.get("num_frames", published.get("all_frames", 16)),
            "tubelet_size": published["tubelet_size"],
            "hidden_size": published["embed_dim"],
            "num_hidden_layers": published["depth"],
            "num_attention_heads": published["num_heads"],
            "intermediate_size": int(published["embed_dim"] * published["mlp_ratio"]),
            "qkv_bias": bool(published.get("qkv_bias", True)),
            "use_mean_pooling": bool(published.get("use_mean_pooling", True)),
            "layer_norm_eps": 1e-6,
        }
    except KeyError as error:
        raise BadInput(
            f"model_config in the config.json of {checkpoint.id} lacks {error}.", "Copy the file again."
        ) from error
    return VideoMAEConfig(**fields)


def load_original(cls: Any, checkpoint: Checkpoint, config: Any, compute: Compute, may_lack: Sequence[str] = ()) -> Any:
    """See `loading.load`.

    Raises BadInput where weights are missing, or there are some that the network has no place for.
    """
    require_device(compute.device)
    model = cls._from_config(copy.deepcopy(config), attn_implementation=compute.attention)
    keys = model.load_state_dict(library_names(_read(checkpoint), checkpoint.id), strict=False)
    remedy = "Its config.json and its weights do not belong together; fetch both again."
    missing = (name for name in keys.missing_keys if not name.startswith(tuple(may_lack)))
    refuse_missing_weights(checkpoint, cls, missing, remedy)
    if extra := [name for name in keys.unexpected_keys if not _in_a_block_of(config, name)]:
        raise BadInput(
            f"The checkpoint {checkpoint.id} holds {extra[0]}, for which its model_config has no place.", remedy
        )
    return model.eval().to(compute.device, compute.torch_dtype)


def _in_a_block_of(config: Any, name: str) -> bool:
    """Whether a weight belongs to one of the network's blocks, also to one above the highest tap."""
    block = re.match(r"encoder\.layer\.(\d+)\.", name)
    return block is not None and int(block[1]) < config.num_hidden_layers


def _read(checkpoint: Checkpoint) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in checkpoint.weights():
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state |= load_file(file)
        else:
            state |= torch.load(file, map_location="cpu", weights_only=True)
    return state


def library_names(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The authors' tensors under the library's names, the classifier left out.

    Raises BadInput for a tensor that the library's network has no place for.
    """
    names: dict[str, Tensor] = {}
    for full, tensor in state.items():
        name = full.removeprefix("model.").removeprefix("encoder.")
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if name.startswith(_HEADS):
            continue
        if name.startswith("patch_embed.proj."):
            names[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = tensor
        elif name.startswith("norm."):
            names[f"layernorm.{name.removeprefix('norm.')}"] = tensor
        elif block and (of_block := _block_names(block[2], tensor)):
            names |= {f"encoder.layer.{block[1]}.{part}": rows for part, rows in of_block.items()}
        else:
            raise BadInput(
                f"The checkpoint {where} holds {full}, for which transformers' VideoMAE has no place.",
                "Pick another checkpoint.",
            )
    return names


def _block_names(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of a block under the library's names, empty for an unknown one; `attn.qkv` becomes three."""
    attention = "attention.attention"
    if name == "attn.qkv.weight":
        thirds = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return {f"{attention}.{part}.weight": rows.clone() for part, rows in thirds}
    if name in _BIASES:
        return {f"{attention}.{_BIASES[name]}.bias": tensor}
    part, _, kind = name.rpartition(".")
    return {f"{_PARTS[part]}.{kind}": tensor} if part in _PARTS else {}
