"""The frozen upper blocks of ViCLIP: torch layers with the published tensor names, loaded from a tail file."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput, MissingPath

VISION, TEXT = "vision_encoder", "text_encoder"
_BLOCK: Final = re.compile(rf"({VISION}|{TEXT})\.transformer\.resblocks\.(\d+)\.(.+)")
_HEAD_WIDTH: Final = 64
"""Width of an attention head in every released ViCLIP; a tail file records it, a checkpoint does not."""
_LEAST_TEMPERATURE: Final = 0.01


class QuickGelu(nn.Module):
    """`x sigmoid(1.702 x)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: Final[Mapping[str, type[nn.Module]]] = {"quick_gelu": QuickGelu, "gelu": nn.GELU}


class Block(nn.Module):
    """One pre-norm block: `h = x + attn(ln_1 x)`, then `h + mlp(ln_2 h)`."""

    def __init__(self, width: int, wide: int, heads: int, activation: str = "quick_gelu", eps: float = 1e-5) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            c_fc=nn.Linear(width, wide), act=_ACTIVATIONS[activation](), c_proj=nn.Linear(wide, width)
        )
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """`[M, S, D]` to `[M, rows, D]`: only the first `rows` (which attend to all), or all."""
        hidden = self.attend(x, mask, rows)
        return hidden + self.feed_forward(hidden)

    def attend(
        self, x: Tensor, mask: Tensor | None = None, rows: int | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """`x + attn(ln_1 x)`; `mask [S, S]` is True where attention is blocked, `weight` replaces `in_proj_weight`."""
        normed = self.ln_1(x)
        replaced = {} if weight is None else {"in_proj_weight": weight}
        options = {"need_weights": False, "attn_mask": None if mask is None else mask[:rows]}
        added, _ = torch.func.functional_call(self.attn, replaced, (normed[:, :rows], normed, normed), options)
        attended: Tensor = x[:, :rows] + added
        return attended

    def feed_forward(self, hidden: Tensor) -> Tensor:
        """`mlp(ln_2 h)`, without the residual."""
        added: Tensor = self.mlp(self.ln_2(hidden))
        return added


class Tower(nn.Module):
    """Blocks `first` .. `last` of a tower (counted from 1), the final norm and the projection; all frozen."""

    def __init__(self, first: int, blocks: list[Block], norm: nn.LayerNorm, projection: Tensor) -> None:
        super().__init__()
        self.first, self.last = first, first + len(blocks) - 1
        self.blocks, self.norm = nn.ModuleList(blocks), norm
        self.projection = nn.Parameter(projection)
        self.requires_grad_(False)

    @property
    def width(self) -> int:
        """Width D of its tokens."""
        return int(self.projection.shape[0])

    def block(self, number: int) -> Block:
        """Block `number`, counted from 1."""
        block = self.blocks[number - self.first]
        assert isinstance(block, Block)
        return block

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens `[M, D]` after the last block to embeddings `[M, E]`, not normalised."""
        embedding: Tensor = self.norm(tokens) @ self.projection
        return embedding


@dataclass(frozen=True)
class Tail:
    """The upper blocks of both towers, the temperature, `frames` T, and `patches` N per frame."""

    vision: Tower
    text: Tower
    temperature: float
    frames: int
    patches: int


def read_tail(path: Path, first: int) -> Tail:
    """Blocks `first` and above of both towers, from the `tail/` of a store or from a ViCLIP checkpoint.

    Args:
        path: A safetensors file, a `.pth` file as published (opened without running code from it), or a folder with
            model.safetensors.
        first: The lowest block wanted, counted from 1.

    Raises:
        MissingPath: there is no such file.
        BadInput: it does not hold these blocks, or is no ViCLIP.
    """
    tensors, metadata = _load(path)
    lowest = _lowest(tensors)
    if not lowest or max(lowest.values()) > first - 1 or len(lowest) < 2:
        blocks = ", ".join(f"{tower} from block {at + 1}" for tower, at in lowest.items()) or "no block of a ViCLIP"
        raise BadInput(
            f"{path} holds {blocks}; blocks {first} and above of both towers are needed.",
            f"Write it with `vfc extract --model viclip --tail {first}`, or give a whole checkpoint.",
        )
    heads = {tower: int(metadata.get(f"{name}.heads", 0)) for tower, name in ((VISION, "vision"), (TEXT, "text"))}
    activation, eps = metadata.get("activation", "quick_gelu"), float(metadata.get("eps", 1e-5))
    vision, text = (_tower(tensors, tower, first, heads[tower], activation, eps) for tower in (VISION, TEXT))
    frames, patches = _layout(path, tensors, metadata)
    temperature = max(float(tensors["temp"]), _LEAST_TEMPERATURE)
    return Tail(vision, text, temperature, frames, patches)


def _load(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors and their metadata: from the file, or from the config.json of a checkpoint's folder."""
    if path.is_dir():
        config = path / "config.json"
        settings = json.loads(config.read_text("utf-8")) if config.is_file() else {}
        heads = {f"{name}.heads": str(settings[name]["heads"]) for name in ("vision", "text") if name in settings}
        return _load(path / "model.safetensors")[0], heads
    if not path.is_file():
        raise MissingPath(
            f"There is no file {path} of frozen blocks.",
            "Give --tail a ViCLIP checkpoint or a file that `vfc extract --tail` wrote.",
        )
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    return dict(loaded.get("model", loaded)), {}


def _lowest(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The lowest block (counted from 0) of each tower."""
    lowest: dict[str, int] = {}
    for match in filter(None, map(_BLOCK.fullmatch, tensors)):
        lowest[match[1]] = min(int(match[2]), lowest.get(match[1], 1 << 30))
    return lowest


def _tower(tensors: Mapping[str, Tensor], tower: str, first: int, heads: int, activation: str, eps: float) -> Tower:
    stacks: dict[int, dict[str, Tensor]] = {}
    for match in filter(None, map(_BLOCK.fullmatch, tensors)):
        if match[1] == tower and int(match[2]) >= first - 1:
            stacks.setdefault(int(match[2]), {})[match[3]] = tensors[match[0]].float()
    blocks = []
    for number in sorted(stacks):
        wide, width = stacks[number]["mlp.c_fc.weight"].shape
        with torch.device("meta"):
            block = Block(width, wide, heads or max(1, width // _HEAD_WIDTH), activation, eps)
        block.load_state_dict(stacks[number], assign=True)
        blocks.append(block)
    norm_name, projection = ("ln_post", "proj") if tower == VISION else ("ln_final", "text_projection")
    norm = nn.LayerNorm(blocks[0].ln_1.normalized_shape[0], eps)
    norm.load_state_dict({part: tensors[f"{tower}.{norm_name}.{part}"].float() for part in ("weight", "bias")})
    return Tower(first, blocks, norm, tensors[f"{tower}.{projection}"].float())


def _layout(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[int, int]:
    """T (0: that of the clips) and N: from a tail's metadata, else from the position tables of a checkpoint."""
    if "grid" in metadata:
        rows, columns = metadata["grid"].split("x")
        return int(metadata.get("frames") or 0), int(rows) * int(columns)
    try:
        return (
            tensors[f"{VISION}.temporal_positional_embedding"].shape[1],
            tensors[f"{VISION}.positional_embedding"].shape[0] - 1,
        )
    except KeyError as error:
        raise BadInput(
            f"{path} does not say how its patch tokens are laid out: {error} is missing.",
            "Give a file that `vfc extract --tail` wrote, or a whole checkpoint.",
        ) from None
