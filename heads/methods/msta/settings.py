"""The settings of `vfc train-head msta`: presets as the paper and its logs have them, every ablation a flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from vfc.cache_schema.values.errors import BadInput
from vfc.heads.contract.ranges import AT_LEAST_ONE, BELOW_ONE, NOT_NEGATIVE, check_range
from vfc.heads.contract.settings import setting

from .adapter import ClassToken, Reads

Kind = Literal["msta", "lora", "adaptformer"]
Part = Literal["both", "spatial", "temporal"]


@dataclass(frozen=True)
class Preset:
    """A row of the paper's settings. `sentences`: the N of the descriptions; the rest is what to train with."""

    first: int
    dim: int
    strength: float
    sentences: tuple[int, ...]
    batch: int
    lr: float
    epochs: int

    @property
    def training(self) -> str:
        """As flags."""
        return f"--batch {self.batch} --lr {self.lr:g} --epochs {self.epochs}"


PRESETS: Final[Mapping[str, Preset]] = {
    "fewshot": Preset(8, 128, 0.005, (2, 8), 32, 1e-3, 50),
    "b2n": Preset(1, 256, 0.005, (2,), 32, 1e-3, 11),
    "b2n-cached": Preset(8, 128, 0.005, (2,), 32, 1e-3, 50),
    "zero-shot": Preset(1, 128, 0.001, (2,), 256, 8e-3, 100),
    "supervised": Preset(1, 256, 0.001, (2,), 256, 8e-3, 100),
}
"""`b2n`: the paper's table; `b2n-cached`: the public logs. `supervised`: 256, which gives the 8.7 M of its Table 5."""

_RIVAL_DIM: Final[Mapping[Kind, int]] = {"lora": 16, "adaptformer": 64}


@dataclass(frozen=True)
class Config:
    """The adapters; what is None is the preset's."""

    preset: Literal["fewshot", "b2n", "b2n-cached", "zero-shot", "supervised"] = setting(
        "fewshot",
        "Blocks, widths and lambda of the paper's settings. Train b2n with --epochs 11, zero-shot and supervised "
        "with --batch 256 --lr 8e-3 --epochs 100.",
        choices=tuple(PRESETS),
    )
    adapter: Kind = setting("msta", "What is trained in the blocks: the paper's adapter, or a rival of it.")
    from_block: int | None = setting(
        None, "Lowest adapted block k, from 1; layer k-1 is read, and layer k if it is there. 8 or 1."
    )
    to_block: int | None = setting(None, "Highest adapted block; default: the last.")
    dim: int | None = setting(None, "Middle width; 128 or 256, the rank of lora (16), 64 for adaptformer.")
    strength: float | None = setting(
        None, "Factor of an adapter's output; 0: the frozen model. 0.005 or 0.001.", flag="lambda"
    )
    alpha: float = setting(1.0, "Weight of the consistency with the descriptions; 0: none of it.")
    towers: Literal["both", "video", "text"] = setting(
        "both", "Which towers are adapted; text alone reads `embedding` of the videos."
    )
    shared: bool = setting(True, "The layer that the towers share in every block.")
    adapter_input: Reads = setting("ln_1", "What an adapter reads: the block's normed input, or the raw one.")
    class_token: ClassToken = setting("spatial", "What the class token gets: the part without time, or nothing.")
    gradient_scaling: bool = setting(True, "Gradients of adapters as if lambda were 1; hardly matters with adamw.")
    adapter_dropout: float = setting(0.1, "Dropout behind the down-projection.")
    descriptions: tuple[Path, ...] = setting(
        (),
        "Sentences about each class that its text must stay near: what one sees, then its steps in time.",
        panel="Input",
        metavar="SPATIAL.json TEMPORAL.json",
        values=2,
    )
    described_by: Part = setting("both", "Which of the descriptions count.", panel="Input")
    tail: Path | None = setting(
        None, "Frozen blocks: a ViCLIP checkpoint; default: the store's own tail/.", panel="Input"
    )

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "dim")
        check_range(self, NOT_NEGATIVE, "strength", "alpha")
        check_range(self, BELOW_ONE, "adapter_dropout")

    @property
    def known(self) -> Preset:
        """The preset."""
        return PRESETS[self.preset]

    @property
    def first(self) -> int:
        """The lowest adapted block.

        Raises:
            BadInput: below 1.
        """
        first = self.known.first if self.from_block is None else self.from_block
        if first < 1:
            raise BadInput(f"--from-block {first}: blocks are counted from 1.", "Give 1 or more; 8 is the default.")
        return first

    @property
    def middle(self) -> int:
        """The middle width, or the rank."""
        return self.dim if self.dim is not None else _RIVAL_DIM.get(self.adapter, self.known.dim)

    @property
    def factor(self) -> float:
        """Lambda."""
        return self.known.strength if self.strength is None else self.strength


def adapter_settings(config: Config) -> dict[str, Any]:
    """What a branch of the paper's adapter is made with."""
    return {
        "strength": config.factor,
        "dropout": config.adapter_dropout,
        "reads": config.adapter_input,
        "scale_gradients": config.gradient_scaling,
    }
