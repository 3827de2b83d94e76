"""`vfc models list|show|matrix`: the families of models, and what one of them gives per clip."""

from __future__ import annotations

import ast
import re
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

from typer.core import TyperGroup

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting

from . import matrix
from .app import Lazy, group
from .command import Command, Outcome, first_sentence, human_bytes, module_file, table


@dataclass(frozen=True)
class ListConfig:
    """`vfc models list` takes no settings."""


@dataclass(frozen=True)
class ShowConfig:
    """Which family, which checkpoint, and what would be kept."""

    model: str = setting(MISSING, "Family: see vfc models list", argument=True)
    checkpoint: str | None = setting(None, "Hub id or folder; default: the family's own", "Model")
    layer: tuple[str, ...] = setting((), "Layers to keep", "Model")
    text_layer: tuple[str, ...] = setting((), "Layers of the text tower", "Model")
    texts: bool = setting(False, "Count texts as well", "Model", one_way=True)
    num_frames: int | None = setting(
        None, "Frames per video; default: what the model takes (videomae: 16), else 8", "Model"
    )
    keep: tuple[str, ...] = setting((), "Streams to keep", "Model")
    max_pixels: int | None = setting(None, "qwen: most pixels of a video after resizing", "Model")
    size: str = setting("360x640", "Height x width of the frames, if the number of tokens depends on it", "Model")
    prompt: str = setting("unknown", "Id of the prompt whose tokens are counted", "Model")
    pool: str = setting("", "Average the visual tokens of each frame onto a grid such as 4x4", "Model")
    dtype: Literal["fp32", "fp16", "bf16", "int8"] | None = setting(
        None, "Storage dtype; default: the family's", "Model"
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", self.size):
            raise BadInput(f"--size {self.size!r} is no size.", "Give height x width in pixels, as in --size 360x640.")


def _file(name: str) -> Path:
    from vfc.extract import backbones

    return module_file(backbones.__path__[0], name)


def _default_checkpoint(file: Path) -> str | None:
    """The family's own weights, read from its file: importing it would load torch and transformers."""
    for node in ast.parse(file.read_text("utf-8")).body:
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == "DEFAULT_CHECKPOINT" and isinstance(node, ast.AnnAssign):
            value = ast.literal_eval(node.value) if node.value else None
            return value if isinstance(value, str) else None
    return None


def list_models(config: ListConfig, progress: Progress) -> Outcome:
    """Every family by its file, with its own checkpoint."""
    from vfc.extract.backbone import family_names

    families = [
        {"model": name, "checkpoint": _default_checkpoint(_file(name)), "about": first_sentence(_file(name))}
        for name in family_names()
    ]
    rows = [(each["model"], each["checkpoint"] or "give --checkpoint", each["about"]) for each in families]
    return Outcome({"models": families}, table(("model", "weights", "about"), rows))


def show(config: ShowConfig, progress: Progress) -> Outcome:
    """Layers, shapes and bytes of one family with one checkpoint; reads its configuration, not its weights.

    Raises:
        VfcError: no such family, checkpoint or layer; see `BackboneOptions`.
    """
    from vfc.extract.backbone import BackboneOptions, default_num_frames
    from vfc.extract.pipeline.model_card import describe

    num_frames = config.num_frames
    if num_frames is None:
        num_frames = default_num_frames(config.model, config.checkpoint)
    options = BackboneOptions(
        checkpoint=config.checkpoint,
        layers=config.layer,
        text_layers=config.text_layer,
        texts=config.texts or bool(config.text_layer),
        keep=config.keep,
        num_frames=num_frames,
        storage=config.dtype,
        max_pixels=config.max_pixels,
    )
    card = describe(config.model, options, size=config.size, prompt=config.prompt, pool=config.pool)

    def row(where: str, each: dict[str, Any]) -> tuple[str, ...]:
        shape = ", ".join("L" if size is None else str(size) for size in each["shape"])
        rows = f" (L = {each['rows']})" if each["rows"] else ""
        size = f"{human_bytes(each['bytes_per_row'])} a row" if each["bytes"] is None else human_bytes(each["bytes"])
        return where, each["name"], f"[{shape}]{rows}", each["dtype"], size, each["layout"]

    columns = ("array", "shape", "dtype", "per record", "layout")
    could = [row(layer, each) for layers in card["layers"].values() for layer, each in layers.items()]
    would = [row(kind, each) for kind, specs in card["record"].items() for each in specs]
    text = (
        f"{config.model}: layers that could be kept (--layer; of a text tower: --text-layer)\n"
        f"{table(('layer', *columns), could)}\n\n"
        f"With these flags a record is\n{table(('kind', *columns), would)}"
    )
    text += "".join(f"\n{name}: {meaning}" for name, meaning in card["meanings"].items())
    totals = [f"{kind}: {human_bytes(size)}" for kind, size in card["bytes"].items() if size]
    if totals:
        text += f"\n\nBytes per record, {card['assumed']}: {', '.join(totals)}"
    return Outcome(card, text)


_LIST = Command("models list", "List the families of models.", ListConfig, list_models, "vfc models list")
_SHOW = Command(
    "models show",
    "Show a model's layers, widths, tokens and bytes per clip.",
    ShowConfig,
    show,
    "vfc models show video-llava --layer 31 --num-frames 8",
    "Reads the configuration of the checkpoint, not its weights.",
)


ALL: tuple[Command[Any], ...] = (_LIST, _SHOW, matrix.COMMAND)


def models() -> TyperGroup:
    """`vfc models`."""
    entries = {each.name.split()[-1]: Lazy(each.name.split()[-1], each.help, None, each.build) for each in ALL}
    return group("models", "The models: layers, sizes, and the heads that read them.", entries)
