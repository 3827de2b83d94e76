"""ActionLLM's trunk: a frozen transformers LLaMA with action tuning in every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput
from vfc.heads.layers.gradient_scaling import gradient_times

from .tuning import ActionTuning, TunedNorm, check_width

FP16_BOOST = 1024.0
"""Gradients within fp16 layers are multiplied by this: fp16 rounds values below 6e-8 to 0."""

_BLOCK = frozenset({"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"})


class Trunk(nn.Module):
    """Sequences `[B, L, E]` through all frozen layers and the final frozen norm.

    `model` is a transformers model without a language-model head. Its forward pass is unchanged, except for an adapter
    after each norm before attention. Frozen weights are not part of the state dict.
    """

    def __init__(
        self, model: Any, *, hidden: int, dropout: float, spare: bool = False, checkpointing: bool = False
    ) -> None:
        super().__init__()
        check_shapes(model)
        self.width = int(model.config.hidden_size)
        self.heads = int(model.config.num_attention_heads)
        self.eps = float(model.config.rms_norm_eps)
        self.limit = int(getattr(model.config, "max_position_embeddings", 0) or 0)
        check_width(hidden, self.width)
        model.requires_grad_(requires_grad=False)
        self.dtype = model.layers[0].input_layernorm.weight.dtype
        self._boost = FP16_BOOST if self.dtype == torch.float16 else 1.0
        for layer in model.layers:
            tuning = ActionTuning(self.width, hidden, dropout, spare=spare, boost=self._boost)
            layer.input_layernorm = TunedNorm(layer.input_layernorm, tuning)
        if checkpointing:
            # The second name is that of older versions of transformers.
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        self.model = model
        self.register_state_dict_post_hook(_without_frozen)  # type: ignore[no-untyped-call]

    def embeddings(self) -> Tensor:
        """The table of word embeddings, `[V, E]`."""
        table: Tensor = self.model.get_input_embeddings().weight
        return table

    def forward(self, rows: Tensor, valid: Tensor, positions: Tensor, *, causal: bool = False) -> Tensor:
        """Rows `[B, L, E]` to normed states of the same shape, in float32.

        Every row attends to all rows that are `valid [B, L]`; with `causal` only to those whose `positions [B, L]` (of
        the rotary embedding) are not after its own.
        """
        mask = valid[:, None, None, :].expand(-1, 1, rows.shape[1], -1)
        if causal:
            mask = mask & (positions[:, None, :, None] >= positions[:, None, None, :])
        output = self.model(
            inputs_embeds=gradient_times(rows, 1 / self._boost).to(self.dtype),
            # With four axes the mask is used as it is; transformers makes one with two axes causal.
            attention_mask=torch.zeros(mask.shape, dtype=self.dtype, device=rows.device).masked_fill(
                ~mask, torch.finfo(self.dtype).min
            ),
            position_ids=positions,
            use_cache=False,
        )
        return gradient_times(output.last_hidden_state.float(), self._boost)


def check_shapes(model: Any) -> None:
    """Raises BadInput if a model is not built like LLaMA."""
    kind = type(model).__name__
    layers = getattr(model, "layers", None)
    fits = (
        isinstance(layers, nn.ModuleList)
        and len(layers) > 0
        and all({name for name, _ in layer.named_children()} == _BLOCK for layer in layers)
        and all(hasattr(model.config, name) for name in ("hidden_size", "num_attention_heads", "rms_norm_eps"))
    )
    if not fits:
        raise BadInput(
            f"A {kind} is not usable as the LLM of ActionLLM: its layers are not those of LLaMA "
            "(RMSNorm, attention, RMSNorm, feed-forward).",
            "Give --llm a LLaMA, or a decoder built like it (Mistral, Qwen2).",
        )


def _without_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Remove everything but the adapters from the state dict (frozen weights, scales of quantised layers)."""
    own = {prefix + name for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name in [name for name in state if name.startswith(prefix) and name not in own]:
        del state[name]
