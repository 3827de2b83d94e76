"""The forward: what is ready goes through the model, a batch at a time, and comes out as records.

Whatever a video does to the model costs that video, and whatever a prompt does that prompt, save for errors after
which nothing else can succeed: memory that is not there, a device that has given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from vfc.cache_schema.values.errors import RecordRejected, Refused, VfcError
from vfc.cache_schema.values.record import Json, Key, Record
from vfc.extract.backbone import Backbone, Encoded, PromptedBackbone, TextBackbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import Undecodable
from vfc.extract.models.determinism import Mode

from .chunked import Streamed
from .device_copy import Carrier, Fetched
from .writer_thread import Lost, Made

FAST_BATCH: Final = 8
SORTED_OVER: Final = 2
"""So many batches are collected and cut by length, that little of a batch is padding."""

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Asked:
    """One prompt of one video: the key of its record, tensors on the CPU, what the record will remember."""

    key: Key
    tensors: Tensors
    metadata: Mapping[str, Json]


@dataclass(frozen=True)
class Ready:
    """What a forward takes: tensors on the CPU, and what the record will remember.

    `own`: whether the record `key` is wanted, and not only those of the prompts. `asked`: the prompts. `leading`: all
    prompts, wanted or not, where the plan takes the video's own record from the first of them that fits.
    `stream`: where the video comes piece by piece; there are no tensors then, and it is the stream that remembers.
    """

    key: Key
    tensors: Tensors
    metadata: Mapping[str, Json]
    source: Path | None = None
    own: bool = True
    asked: tuple[Asked, ...] = ()
    leading: tuple[Tensors, ...] = ()
    stream: Streamed | None = None

    @property
    def remembered(self) -> Mapping[str, Json]:
        """What the record keeps beside its arrays."""
        return self.metadata if self.stream is None else {**self.stream.metadata(), **self.metadata}

    @property
    def keys(self) -> tuple[Key, ...]:
        """Of the records that are wanted."""
        return (*((self.key,) if self.own else ()), *(one.key for one in self.asked))

    @property
    def in_front(self) -> tuple[Tensors, ...]:
        """The first of `leading`, where it is not what is asked first anyway."""
        same = bool(self.leading and self.asked) and self.asked[0].tensors is self.leading[0]
        return () if same else self.leading[:1]

    @property
    def length(self) -> int:
        """Tokens of its row; 0 where all rows are of one length."""
        return len(self.tensors["ids"]) if "ids" in self.tensors else 0


Encode = Callable[[Sequence[Ready]], list[Encoded]]


def of_texts(backbone: TextBackbone) -> Encode:
    """The forward of texts."""
    return lambda batch: [Encoded(made, ()) for made in backbone.encode_texts([item.tensors for item in batch])]


def of_videos(backbone: Backbone) -> Encode:
    """The forward of videos, and of their prompts where the model takes any."""
    if isinstance(backbone, PromptedBackbone):
        return lambda batch: _prompted(backbone, batch)
    return lambda batch: _encoded(backbone, batch)


def _encoded(backbone: Backbone, batch: Sequence[Ready]) -> list[Encoded]:
    if len(batch) == 1 and batch[0].stream is not None:
        return [Encoded(batch[0].stream.encode(), ())]
    return [Encoded(made, ()) for made in backbone.encode_videos([item.tensors for item in batch])]


def _prompted(backbone: PromptedBackbone, batch: Sequence[Ready]) -> list[Encoded]:
    extra = [item.in_front for item in batch]
    prompts = [(*first, *(one.tensors for one in item.asked)) for first, item in zip(extra, batch, strict=True)]
    made = backbone.encode_prompted([item.tensors for item in batch], prompts, visual=[item.own for item in batch])
    return [replace(one, prompted=one.prompted[len(first) :]) for first, one in zip(extra, made, strict=True)]


def batch_size(config: ExtractConfig, mode: Mode) -> int:
    """How many videos are forwarded at once; in deterministic mode each is alone."""
    return 1 if mode == "deterministic" else config.batch or FAST_BATCH


def batches(items: Iterable[Ready | Lost], size: int) -> Iterator[list[Ready] | Lost]:
    """Batches of videos of like length; alone what comes piece by piece; and what is lost as it comes."""
    waiting: list[Ready] = []
    for item in items:
        if isinstance(item, Lost):
            yield item
            continue
        if item.stream is not None:
            yield [item]
            continue
        waiting.append(item)
        if len(waiting) == (size if size == 1 else SORTED_OVER * size):
            yield from _cut(waiting, size)
            waiting = []
    yield from _cut(waiting, size)


def _cut(items: Sequence[Ready], size: int) -> Iterator[list[Ready]]:
    in_order = sorted(items, key=lambda item: item.length)
    for start in range(0, len(in_order), size):
        yield in_order[start : start + size]


def forward(encode: Encode, batch: Sequence[Ready], carrier: Carrier | None = None) -> list[Made | Lost]:
    """The records of a batch, in its order, each video's own before those of its prompts.

    A batch that fails is tried again one by one; a video that is refused with its prompts, prompt by prompt.

    Raises:
        Refused: out of memory.
        torch.AcceleratorError: the device has given up.
    """
    carrier = carrier or Carrier(torch.device("cpu"))
    try:
        return _records(batch, carrier.run(encode, batch))
    except Exception as error:
        if len(batch) > 1 and not _fatal(error):
            return [made for item in batch for made in forward(encode, [item], carrier)]
        several = len(batch) == 1 and (len(batch[0].keys) > 1 or batch[0].leading)
        if several and isinstance(error, RecordRejected):
            return _prompt_by_prompt(encode, batch[0], carrier)
        return [lost(key, error, item.source) for item in batch for key in item.keys]


def _records(batch: Sequence[Ready], outputs: Sequence[Fetched]) -> list[Made | Lost]:
    found: list[Made | Lost] = []
    for item, output in zip(batch, outputs, strict=True):
        if item.own:
            found.append(Made(Record(item.key, output.video, item.remembered), item.source, output.wait))
        for one, arrays in zip(item.asked, output.prompted, strict=True):
            found.append(Made(Record(one.key, arrays, one.metadata), item.source, output.wait))
    return found


def _prompt_by_prompt(encode: Encode, item: Ready, carrier: Carrier) -> list[Made | Lost]:
    """Each prompt alone; the video's own record comes with the first that succeeds, else without any."""
    own = item.own
    found: list[Made | Lost] = []
    for leading in item.leading:
        alone = replace(item, asked=(), leading=(leading,))
        try:
            found += _records([alone], carrier.run(encode, [alone]))
            own = False
            break
        except Exception as error:
            lost(item.key, error, item.source)  # raises what ends the run
    for one in item.asked:
        alone = replace(item, own=own, asked=(one,), leading=())
        try:
            found += _records([alone], carrier.run(encode, [alone]))
            own = False
        except Exception as error:
            found.append(lost(one.key, error, item.source))
    return [*found, *(forward(encode, [replace(item, asked=(), leading=())], carrier) if own else ())]


def lost(key: Key, error: Exception, source: Path | None) -> Lost:
    """The loss of one record to `error`, unless that error is the end of the run.

    Raises:
        Refused: out of memory.
        torch.AcceleratorError: the device has given up.
    """
    if isinstance(error, torch.AcceleratorError):
        raise error
    if _out_of_memory(error):
        raise Refused(
            f"Out of memory at the {key.kind} record of {key.name!r}: {str(error).splitlines()[0]}",
            "What was made before is kept. Give a smaller --batch, fewer --decode-workers or --num-frames, or "
            "--compute-dtype bf16, and run the same command again.",
        ) from error
    if isinstance(error, Undecodable):
        return Lost(key, str(error), source)
    reason = str(error).replace("\n", " ") if isinstance(error, VfcError) else f"{type(error).__name__}: {error}"
    return Lost(key, reason, source, error)


def _fatal(error: Exception) -> bool:
    return isinstance(error, torch.AcceleratorError) or _out_of_memory(error)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
