"""ActionLLM: a frozen LLaMA with small adapters; input: observed features and class names, output: segments.

"Multimodal Large Models Are Effective Action Anticipators" (arXiv 2501.00795), checked against its public code. Where
the two differ, the defaults follow the one that explains the printed parameter counts, and the class heads are trained;
`--parity` is the released configuration: class heads frozen at their initial weights, an unused second expert and
router in the adapters, no positions within CMIB. Gradients go through the whole LLM, so caching saves the cost of the
features, not of the LLM. FUTR is the head of this task without a language model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from vfc.cache_schema.protocol.prompts import spoken
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import AT_LEAST_ONE, BELOW_ONE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.tasks.anticipation import AnticipationHead, Prediction, Sampling, WindowBatch, future_losses, past_loss

from . import checkpoint
from .cmib import Cmib, FeatureAdapter
from .names import name_table
from .trunk import Trunk

TASK = "anticipation"
EXAMPLE = "vfc train-head actionllm --llm ./llama-7b --cache ./store"
TRAIN = TrainConfig(
    epochs=20,
    warmup_epochs=2,
    batch=1,
    accumulate=2,
    lr=1e-3,
    weight_decay=0.02,
    betas=(0.9, 0.95),
    clip=0.0,
    validate_every=400,
    select="last",
)
"""For the preset 50salads (the released script: --epochs 25); for breakfast add --lr 1e-4."""

_QUERIES: Final = {"50salads": 20, "breakfast": 8}
_SAMPLING: Final = {
    "50salads": Sampling(8, (0.1, 0.2, 0.3, 0.4, 0.5), 8),
    "breakfast": Sampling(6, (0.2, 0.3, 0.5), 1),
}


@dataclass(frozen=True)
class Config:
    """The model. Settings that are None take the preset's value, which `--parity` changes."""

    llm: str = setting("", "The LLaMA: a transformers checkpoint folder, or a hub id (owner/name).", "Model")
    llm_dtype: Literal["fp32", "fp16", "bf16"] | None = setting(
        None, "Dtype of the frozen weights; default the checkpoint's (fp16 becomes fp32 without a GPU).", "Model"
    )
    quantize: Literal["8bit", "4bit"] | None = setting(
        None, "Quantise the frozen weights with bitsandbytes; needs a CUDA device and vfc[quant].", "Model"
    )
    checkpointing: bool = setting(False, "Gradient checkpointing: less memory, each layer is computed twice.", "Model")
    beyond: bool | None = setting(
        None, "Allow sequences longer than the LLM's max_position_embeddings; default only with --parity.", "Model"
    )
    preset: Literal["50salads", "breakfast"] = setting(
        "50salads", "Published number of queries, stride and training windows for this data set.", "Model"
    )
    queries: int | None = setting(None, "Number of predicted segments N; default 20 or 8.", "Model")
    adapter_width: int = setting(128, "Hidden width of the feature adapter.", "Model")
    cmib_width: int = setting(128, "Bottleneck width D of CMIB.", "Model")
    tuning_width: int = setting(4, "Hidden channels H of action tuning (an even number).", "Model")
    dropout: float = setting(0.1, "Dropout of CMIB's attention and of action tuning.", "Model")
    class_names: Literal["raw", "spoken"] = setting(
        "raw", "Class names as in the data set, or as words (cut tomato).", "Model"
    )
    parity: bool = setting(
        False, "The released configuration: frozen class heads, unused expert and router, no CMIB positions.", "Model"
    )
    class_heads: Literal["trained", "frozen"] | None = setting(
        None, "Train the class heads, or freeze them at their initial weights.", "Model"
    )
    spare_expert: bool | None = setting(None, "Add the released adapters' second expert and router (unused).", "Model")
    cmib_time: bool | None = setting(
        None, "Position encoding over time in CMIB; off: every step gets that of step 0.", "Model"
    )
    cmib: Literal["both", "self", "cross", "none"] = setting(
        "both", "CMIB attention of a stream: to itself, to the other streams, both, or no CMIB.", "Ablations"
    )
    modalities: Literal["both", "text", "visual"] = setting("both", "Inputs of the LLM.", "Ablations")
    loss_text: bool = setting(True, "Loss L_T: classify the past at the text rows.", "Ablations")
    loss_visual: bool = setting(True, "Loss L_V: classify the past at the visual rows.", "Ablations")
    duration_loss: Literal["sum", "mean"] = setting(
        "sum", "Loss L_D over the segments of a window: sum (ActionLLM) or mean (FUTR).", "Ablations"
    )
    query_init: Literal["ones", "zeros", "randn", "learned"] = setting(
        "ones", "Queries: constants, or learned (initialised with ones).", "Ablations"
    )
    causal: bool = setting(False, "Use the LLM's causal mask; default no mask.", "Ablations")

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "queries", "adapter_width", "cmib_width")
        check_range(self, BELOW_ONE, "dropout")

    def resolved(self) -> Config:
        """These settings with the preset's values instead of None."""
        parity = {"beyond": True, "class_heads": "frozen", "spare_expert": True, "cmib_time": False}
        usual = {"beyond": False, "class_heads": "trained", "spare_expert": False, "cmib_time": True}
        preset: dict[str, Any] = {**(parity if self.parity else usual), "queries": _QUERIES[self.preset]}
        return replace(self, **{name: value for name, value in preset.items() if getattr(self, name) is None})


class Head(AnticipationHead):
    """`visual [B, S, D]` and `observed_labels [B, S]` to N segments, through `[text | visual | queries]` in the LLM."""

    query: Tensor
    table: Tensor

    @classmethod
    def sampling(cls, settings: Config) -> Sampling:
        """Stride and training windows of the paper and its code."""
        return _SAMPLING[settings.preset]

    @classmethod
    def reads_observed_labels(cls, settings: Config) -> bool:
        """Only if the LLM gets text."""
        return settings.modalities != "visual"

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec], model: Any = None) -> None:
        super().__init__(config, specs)
        self.config = config = config.resolved()
        features = int(require(specs, "visual", "actionllm").shape[-1] or 0)
        classes = int(require(specs, "classes", "actionllm").shape[0] or 0)
        if model is None:
            model = checkpoint.load(config.llm, config.llm_dtype, config.quantize)
        self.queries = config.queries or 0
        self.past = tuple(name for name in ("text", "visual") if config.modalities in ("both", name))
        self.trunk = trunk = Trunk(
            model,
            hidden=config.tuning_width,
            dropout=config.dropout,
            spare=bool(config.spare_expert),
            checkpointing=config.checkpointing,
        )
        self.adapter = FeatureAdapter(features, config.adapter_width, trunk.width)
        self.query = _queries(config, features)
        self.cmib = _cmib(config, (*self.past, "query"), trunk)
        frozen = config.class_heads == "frozen"
        with_loss = {"text": config.loss_text, "visual": config.loss_visual}
        self.name_past = nn.ModuleDict(
            {name: ClassHead(trunk.width, classes, frozen) for name in self.past if with_loss[name]}
        )
        self.name_future = ClassHead(trunk.width, classes + 1, frozen)
        self.last = nn.Linear(trunk.width, 1, bias=False)
        self.register_buffer("table", torch.zeros(classes, trunk.width), persistent=False)
        self.notes = _notes(config, self)

    def name_classes(self, names: Sequence[str]) -> None:
        """Embed the names, given once in the order of the class ids."""
        super().name_classes(names)
        if len(names) != len(self.table):
            raise BadInput(
                f"{len(names)} class names were given for {len(self.table)} classes.",
                "Import the sequences again, with the mapping.txt that belongs to their labels.",
            )
        if "text" in self.past:
            words = [spoken(name) for name in names] if self.config.class_names == "spoken" else names
            with torch.no_grad():
                table = name_table(words, checkpoint.tokenizer(self.config.llm), self.trunk.embeddings())
                self.table.copy_(table)

    def loss(self, batch: WindowBatch) -> Mapping[str, Tensor]:
        """`past text`, `past visual`, `action`, `duration`, unweighted."""
        states = self._states(batch)
        steps = batch.valid.shape[1]
        past = {
            f"past {name}": past_loss(self.name_past[name](states[:, i * steps : (i + 1) * steps]), batch)
            for i, name in enumerate(self.past)
            if name in self.name_past
        }
        return {**past, **future_losses(self._decode(states), batch, durations=self.config.duration_loss)}

    def predict(self, batch: WindowBatch) -> Prediction:
        """Segments of the following window."""
        return self._decode(self._states(batch))

    def _decode(self, states: Tensor) -> Prediction:
        queries = states[:, -self.queries :]
        return Prediction(self.name_future(queries), self.last(queries)[..., 0])

    def _states(self, batch: WindowBatch) -> Tensor:
        """The LLM's output `[B, (1 or 2) S + N, E]`; padded steps are masked in every attention."""
        count, steps = batch.valid.shape
        rows = {"query": self.adapter(self.query).expand(count, -1, -1)}
        if "visual" in self.past:
            # Attention gives padding the weight 0, and 0 times a number that is none is none.
            rows["visual"] = self.adapter(torch.where(batch.valid[..., None], batch.visual, 0))
        if "text" in self.past:
            rows["text"] = self._text(batch)
        order = (*self.past, "query")
        all_queries = torch.ones(count, self.queries, dtype=torch.bool, device=batch.valid.device)
        valid = {name: batch.valid if name != "query" else all_queries for name in order}
        streams = {name: rows[name] for name in order}
        if self.cmib is not None:
            streams = self.cmib(streams, valid)
        observed = batch.valid.sum(dim=1, keepdim=True)
        if self._exceeds(steps):  # the longest may be shorter; only here does the host wait for its length
            self._refuse_length(int(observed.max()))
        lengths = [*[steps] * len(self.past), self.queries]
        # Rotary positions as without padding: each part starts after the valid rows of the parts before it.
        positions = [i * observed + torch.arange(n, device=observed.device) for i, n in enumerate(lengths)]
        states: Tensor = self.trunk(
            torch.cat(list(streams.values()), dim=1),
            torch.cat(list(valid.values()), dim=1),
            torch.cat(positions, dim=1),
            causal=self.config.causal,
        )
        return states

    def _text(self, batch: WindowBatch) -> Tensor:
        if batch.observed_labels is None or not self.names_of_classes:
            raise BadInput(
                "ActionLLM's text needs a class id per observed step and the names of the classes.",
                "Give the task labels with their class list, or use --modalities visual.",
            )
        return self.table[batch.observed_labels.clamp(min=0)]

    def _exceeds(self, observed: int) -> bool:
        """Whether so many observed steps make a sequence that is too long for the LLM."""
        limit = self.trunk.limit
        return bool(limit) and not self.config.beyond and len(self.past) * observed + self.queries > limit

    def _refuse_length(self, observed: int) -> None:
        if self._exceeds(observed):
            length = len(self.past) * observed + self.queries
            raise BadInput(
                f"{observed} observed steps make a sequence of {length} rows; the LLM was trained for "
                f"{self.trunk.limit}.",
                "Give a larger --stride, an LLM with a longer context, or --beyond to exceed that length.",
            )


class ClassHead(nn.Module):
    """A linear layer without bias; if `frozen`, its initial weights are kept and still saved."""

    weight: Tensor

    def __init__(self, width: int, classes: int, frozen: bool) -> None:
        super().__init__()
        weight = nn.Linear(width, classes, bias=False).weight
        if frozen:
            self.register_buffer("weight", weight.detach())
        else:
            self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """`[..., E]` to logits."""
        logits: Tensor = nn.functional.linear(x, self.weight)
        return logits


def _queries(config: Config, features: int) -> Tensor | nn.Parameter:
    shape = (config.queries or 0, features)
    if config.query_init == "learned":
        return nn.Parameter(torch.ones(shape))
    makers = {"ones": torch.ones, "zeros": torch.zeros, "randn": torch.randn}
    return nn.Buffer(makers[config.query_init](shape), persistent=config.query_init == "randn")


def _cmib(config: Config, streams: tuple[str, ...], trunk: Trunk) -> Cmib | None:
    if config.cmib == "none":
        return None
    return Cmib(
        streams,
        trunk.width,
        width=config.cmib_width,
        heads=trunk.heads,
        eps=trunk.eps,
        reads=config.cmib,
        dropout=config.dropout,
        timed=bool(config.cmib_time),
    )


def _notes(config: Config, head: Head) -> tuple[str, ...]:
    trunk = head.trunk
    kind = config.quantize or str(trunk.dtype).removeprefix("torch.")
    notes = [
        f"The LLM is {config.llm or 'given'}: {len(trunk.model.layers)} layers, {trunk.width} wide, {kind}, frozen."
    ]
    unused = sum(p.numel() for name, p in head.named_parameters() if ".spare_" in name)
    if unused:
        notes.append(f"{unused:,} of the trained parameters are the unused expert and router, which get no gradient.")
    if config.class_heads == "frozen":
        notes.append("The class heads are frozen at their initial weights.")
    return tuple(notes)
