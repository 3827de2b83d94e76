"""VideoMAE v2 as its authors publish it: configuration and names of weights, put into the library's.

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
from vfc.extract.models.taps import COMPUTE, refuse_lacking, require_device

_PARTS: Final = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_BIASES: Final = {"attn.q_bias": "query", "attn.v_bias": "value"}
_HEADS: Final = ("head.", "fc_norm.")
"""Of the classifier, which pools all of a clip before its norm."""
_LIMITS: Final[Mapping[str, Any]] = {"cos_attn": False, "use_learnable_pos_emb": False, "init_values": 0.0}


def is_original(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is in the authors' form."""
    return isinstance(checkpoint.config.get("model_config"), dict)


def original_config(checkpoint: Checkpoint) -> Any:
    """The library's configuration for it. Raises BadInput for variants of the network that the library lacks."""
    from transformers import VideoMAEConfig

    said: dict[str, Any] = checkpoint.config["model_config"]
    for name, supported in _LIMITS.items():
        if said.get(name) not in (None, supported):
            raise BadInput(
                f"The checkpoint {checkpoint.id} has {name} {said[name]!r}, which transformers' VideoMAE lacks.",
                "Pick another checkpoint.",
            )
    try:
        fields: dict[str, Any] = {
            "image_size": said["img_size"],
            "patch_size": said["patch_size"],
            "num_frames": said.get("num_frames", said.get("all_frames", 16)),
            "tubelet_size": said["tubelet_size"],
            "hidden_size": said["embed_dim"],
            "num_hidden_layers": said["depth"],
            "num_attention_heads": said["num_heads"],
            "intermediate_size": int(said["embed_dim"] * said["mlp_ratio"]),
            "qkv_bias": bool(said.get("qkv_bias", True)),
            "use_mean_pooling": bool(said.get("use_mean_pooling", True)),
            "layer_norm_eps": 1e-6,
        }
    except KeyError as error:
        raise BadInput(
            f"model_config in the config.json of {checkpoint.id} does not say {error}.", "Copy the file again."
        ) from error
    return VideoMAEConfig(**fields)


def load_original(
    cls: Any,
    checkpoint: Checkpoint,
    config: Any,
    *,
    dtype: str,
    attention: str | None,
    device: str,
    may_lack: Sequence[str] = (),
) -> Any:
    """See `taps.load`.

    Raises BadInput where weights are lacking, or there are others that the network has no use for.
    """
    require_device(device)
    model = cls._from_config(copy.deepcopy(config), attn_implementation=attention)
    state = library_names(_read(checkpoint), checkpoint.id)
    found = model.load_state_dict(state, strict=False)
    remedy = "Its config.json and its weights do not belong together; fetch both again."
    refuse_lacking(checkpoint, cls, found.missing_keys, may_lack, remedy)
    if extra := [name for name in found.unexpected_keys if not _in_a_block_of(config, name)]:
        raise BadInput(
            f"The checkpoint {checkpoint.id} holds {extra[0]}, for which its model_config has no place.", remedy
        )
    return model.eval().to(device, COMPUTE[dtype])


def _in_a_block_of(config: Any, name: str) -> bool:
    """Whether a weight belongs to one of the network's blocks, be it one that was not asked for."""
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
    found: dict[str, Tensor] = {}
    for full, tensor in state.items():
        name = full.removeprefix("model.").removeprefix("encoder.")
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if name.startswith(_HEADS):
            continue
        if name.startswith("patch_embed.proj."):
            found[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = tensor
        elif name.startswith("norm."):
            found[f"layernorm.{name.removeprefix('norm.')}"] = tensor
        elif block and block[2] == "attn.qkv.weight":
            for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"encoder.layer.{block[1]}.attention.attention.{part}.weight"] = rows.clone()
        elif block and block[2] in _BIASES:
            found[f"encoder.layer.{block[1]}.attention.attention.{_BIASES[block[2]]}.bias"] = tensor
        elif block and block[2].rpartition(".")[0] in _PARTS:
            part, _, kind = block[2].rpartition(".")
            found[f"encoder.layer.{block[1]}.{_PARTS[part]}.{kind}"] = tensor
        else:
            raise BadInput(
                f"The checkpoint {where} holds {full}, for which transformers' VideoMAE has no place.",
                "Pick another checkpoint.",
            )
    return found
