"""The settings of `vfc train-head msta`: the presets of the paper and its logs; every ablation is a flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.ranges import AT_LEAST_ONE, BELOW_ONE, NOT_NEGATIVE, check_range

from .adapter import ClassToken, Reads

Kind = Literal["msta", "lora", "adaptformer"]
Part = Literal["both", "spatial", "temporal"]


@dataclass(frozen=True)
class Preset:
    """A setting of the paper. `sentences`: descriptions per class N; `batch`, `lr`, `epochs`: how it is trained.

    `test_views`: the views that are averaged in the test.
    """

    first: int
    dim: int
    strength: float
    sentences: tuple[int, ...]
    batch: int
    lr: float
    epochs: int
    test_views: str

    @property
    def training(self) -> str:
        """The training settings as flags."""
        return f"--batch {self.batch} --lr {self.lr:g} --epochs {self.epochs}"


_CROPS: Final = "--test-views 10x3 on HMDB51, 5x3 on UCF101, 2x3 on SSv2, 4x3 on Kinetics-400"
PRESETS: Final[Mapping[str, Preset]] = {
    "fewshot": Preset(8, 128, 0.005, (2, 8), 32, 1e-3, 50, _CROPS),
    "b2n": Preset(1, 256, 0.005, (2,), 32, 1e-3, 11, _CROPS),
    "b2n-cached": Preset(8, 128, 0.005, (2,), 32, 1e-3, 50, _CROPS),
    "zero-shot": Preset(1, 128, 0.001, (2,), 256, 8e-3, 100, "the clean view alone (--test-views 0)"),
    "supervised": Preset(1, 256, 0.001, (2,), 256, 8e-3, 100, "--test-views 4x3"),
}
"""`b2n`: the paper's table; `b2n-cached`: the public logs. `supervised`: 256, which gives the 8.7 M of its Table 5."""

_RIVAL_DIM: Final[Mapping[Kind, int]] = {"lora": 16, "adaptformer": 64}


@dataclass(frozen=True)
class Config:
    """The adapters. Settings that are None take the preset's value."""

    preset: Literal["fewshot", "b2n", "b2n-cached", "zero-shot", "supervised"] = setting(
        "fewshot",
        "Blocks, widths, lambda and training of a setting of the paper: b2n is trained for 11 epochs, zero-shot and "
        "supervised with --batch 256 --lr 8e-3 --epochs 100; the notes of the result name the paper's test views.",
        "Model",
        choices=tuple(PRESETS),
    )
    adapter: Kind = setting("msta", "Adapter type: the paper's, LoRA or AdaptFormer.", "Model")
    from_block: int | None = setting(
        None, "Lowest adapted block k, counted from 1; default 8 or 1. Needs layer k-1 (and uses layer k).", "Model"
    )
    to_block: int | None = setting(None, "Highest adapted block; default the last.", "Model")
    dim: int | None = setting(
        None, "Middle width, or the rank of lora; default 128 or 256 (lora 16, adaptformer 64).", "Model"
    )
    strength: float | None = setting(
        None, "Factor of the adapter output; default 0.005 or 0.001; 0: the frozen model.", "Model", flag="lambda"
    )
    alpha: float = setting(1.0, "Weight of the consistency loss with the class descriptions; 0: off.", "Model")
    towers: Literal["both", "video", "text"] = setting(
        "both", "Towers to adapt; with text alone the stored video `embedding` is used.", "Model"
    )
    shared: bool = setting(True, "Share one adapter layer between the towers in every block.", "Model")
    adapter_input: Reads = setting("ln_1", "Adapter input: the block's input after its LayerNorm, or before.", "Model")
    class_token: ClassToken = setting(
        "spatial", "Adapter output for the class token: the spatial part, or none.", "Model"
    )
    gradient_scaling: bool = setting(
        True, "Scale adapter gradients as if lambda were 1; has little effect with adamw.", "Model"
    )
    adapter_dropout: float = setting(0.1, "Dropout after the down-projection.", "Model")
    descriptions: tuple[Path, ...] = setting(
        (),
        "Files with class descriptions for the consistency loss: what one sees, and the steps in time.",
        "Input",
        metavar="SPATIAL.json TEMPORAL.json",
        values=2,
    )
    described_by: Part = setting("both", "Which of the description files to use.", "Input")
    tail: Path | None = setting(
        None, "Frozen blocks: a ViCLIP checkpoint or a tail file; default the store's tail/.", "Input"
    )

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "dim")
        check_range(self, NOT_NEGATIVE, "strength", "alpha")
        check_range(self, BELOW_ONE, "adapter_dropout")

    @property
    def published(self) -> Preset:
        """The preset's values."""
        return PRESETS[self.preset]

    @property
    def first(self) -> int:
        """The lowest adapted block.

        Raises:
            BadInput: below 1.
        """
        first = self.published.first if self.from_block is None else self.from_block
        if first < 1:
            raise BadInput(f"--from-block {first}: blocks are counted from 1.", "Give 1 or more; 8 is the default.")
        return first

    @property
    def middle(self) -> int:
        """The middle width, or the rank."""
        return self.dim if self.dim is not None else _RIVAL_DIM.get(self.adapter, self.published.dim)

    @property
    def factor(self) -> float:
        """Lambda."""
        return self.published.strength if self.strength is None else self.strength


def adapter_settings(config: Config) -> dict[str, Any]:
    """Constructor arguments of a branch of the paper's adapter."""
    return {
        "strength": config.factor,
        "dropout": config.adapter_dropout,
        "reads": config.adapter_input,
        "scale_gradients": config.gradient_scaling,
    }
