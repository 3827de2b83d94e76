"""Building a library model from a checkpoint: without memory to look at it, or with its weights on the device."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.values.devices import chosen_device, has_streams, on_device
from vfc.cache_schema.values.errors import BadInput, first_line
from vfc.extract.backbone import BackboneOptions
from vfc.extract.frames.pixels import PixelRule

from .checkpoint import Checkpoint

COMPUTE: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Compute:
    """How a forward pass runs: dtype (a name in COMPUTE), device, attention implementation (None: the library's)."""

    dtype: str
    device: str
    attention: str | None = None

    @classmethod
    def of(cls, options: BackboneOptions, config: Any = None) -> Compute:
        """As the options say; without a dtype the one of the checkpoint's configuration, else fp32.

        fp16 becomes fp32 on a CPU unless the options name it: its convolutions take ten times as long there.
        """
        dtype = options.dtype
        if dtype is None:
            names = {dtype: name for name, dtype in COMPUTE.items()}
            dtype = names.get(getattr(config, "dtype", None) or torch.float32, "fp32")
            if dtype == "fp16" and torch.device(options.device).type == "cpu":
                dtype = "fp32"
        return cls(dtype, options.device, options.attention)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype in torch's terms."""
        return COMPUTE[self.dtype]

    def pixels(self, rule: PixelRule, frames: npt.NDArray[Any] | Tensor) -> Tensor:
        """Pixels `[T, 3, h, w]` of frames `[T, H, W, 3]`: float32, for a GPU uint8, which `moved` normalises there."""
        on_cpu = torch.device(self.device).type == "cpu" or rule.rescale_first
        return rule(frames) if on_cpu else rule.resized(frames)

    def moved(self, tensor: Tensor, rule: PixelRule | None = None) -> Tensor:
        """The tensor on the device in the dtype of the forward pass; uint8 pixels are normalised there by `rule`."""
        # Cast on the device: a cast on the way there makes a copy that is not pinned.
        moved = on_device(tensor, self.device)
        if rule is not None and tensor.dtype == torch.uint8:
            moved = rule.normalise(moved)
        return moved.to(self.torch_dtype)


def end_to_end(tensors: Sequence[Tensor], device: str) -> Tensor:
    """`tensors` `[n, ...]` along their first axis, in pinned memory where the device is a GPU; one alone as it is."""
    if len(tensors) == 1:
        return tensors[0]
    if not has_streams(device):
        return torch.cat(list(tensors))
    shape = (sum(map(len, tensors)), *tensors[0].shape[1:])
    return torch.cat(list(tensors), out=torch.empty(shape, dtype=tensors[0].dtype, pin_memory=True))


def on_meta(cls: Any, config: Any, attention: str | None) -> Any:
    """The model of a configuration without memory: shapes, paths and the attention implementation it would use.

    Raises BadInput where the library cannot build it, or not with this attention implementation.
    """
    try:
        with silenced_transformers(), torch.device("meta"):
            return cls._from_config(copy.deepcopy(config), attn_implementation=attention).eval()
    except (ValueError, ImportError, TypeError, RuntimeError, AttributeError) as error:
        suffix = f" with attention {attention!r}" if attention else ""
        raise BadInput(
            f"transformers cannot build {cls.__name__}{suffix}: {first_line(error)}",
            "Leave out --attention, or pick another checkpoint.",
        ) from error


def attention_of(model: Any) -> str | None:
    """The attention implementation in use, None for a network without attention."""
    if not any("Attention" in type(module).__name__ for module in model.modules()):
        return None
    return cast("str | None", model.config._attn_implementation)


def load(cls: Any, checkpoint: Checkpoint, config: Any, compute: Compute, may_lack: Sequence[str] = ()) -> Any:
    """The model with its weights, in the dtype and on the device of `compute`.

    `may_lack`: prefixes of weights that are not needed.

    Raises BadInput where the checkpoint lacks a needed weight (the library would initialise it at random), or the
    device is missing; MissingPath where there are no weights.
    """
    require_device(compute.device)
    # A CPU needs no map; to a GPU the weights go one by one, so that this machine never holds the whole model.
    placed = {} if compute.device == "cpu" else {"device_map": {"": torch.device(compute.device)}}
    with silenced_transformers():
        model, info = cls.from_pretrained(
            checkpoint.folder,
            config=copy.deepcopy(config),
            dtype=compute.torch_dtype,
            attn_implementation=compute.attention,
            use_safetensors=checkpoint.weights()[0].suffix == ".safetensors",
            local_files_only=True,
            output_loading_info=True,
            **placed,
        )
    refuse_missing_weights(
        checkpoint,
        cls,
        (name for name in info["missing_keys"] if not name.startswith(tuple(may_lack))),
        f"Its config.json names the architecture {checkpoint.model_type}; give a checkpoint of that architecture.",
    )
    # Parameters keep requires_grad: without it torch's attention module takes another kernel, and other last bits.
    return model.eval().to(compute.device)


def refuse_missing_weights(checkpoint: Checkpoint, cls: Any, missing: Iterable[str], remedy: str) -> None:
    """Raise BadInput, with the first names, where there are any `missing` weights."""
    if names := sorted(missing):
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise BadInput(f"The checkpoint {checkpoint.id} lacks weights that {cls.__name__} needs: {listed}.", remedy)


def require_device(device: str) -> None:
    """Raise BadInput where there is no such device."""
    try:
        if torch.device(device).type != "meta":
            chosen_device(device)
    except BadInput as error:
        raise BadInput(
            f"The device {device} was asked for, and there is none here.", "Leave out --device, or ask for cpu."
        ) from error


@contextmanager
def silenced_transformers() -> Iterator[None]:
    """Transformers without progress bars and load reports: `load` checks what they report, and raises."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
