"""The forward: what is ready goes through the model, a batch at a time, and comes out as records.

An error of the model fails only that video, and an error of a prompt only that prompt, save for errors after which
nothing else can succeed: no memory left, a device that has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from vfc.cache_schema.values.devices import release_unused
from vfc.cache_schema.values.errors import RecordRejected, Refused, VfcError, first_line, is_out_of_memory
from vfc.cache_schema.values.record import Json, Key, Record
from vfc.extract.backbone import Backbone, Encoded, PromptedBackbone, TextBackbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import Undecodable
from vfc.extract.models.determinism import Mode

from .chunked import ChunkedVideo
from .device_copy import DeviceToHost, Wait, host
from .writer_thread import FailedRecord, FinishedRecord

FAST_BATCH: Final = 8
SORTED_OVER: Final = 2
"""Number of batches that are collected and then cut by length, so that little of a batch is padding."""

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Ready:
    """What a forward takes: tensors on the CPU, and the metadata of the record.

    `own`: whether the record `key` is to be made, and not only those of the prompts. `prompts`: key, tensors and
    metadata of each prompt of the video. `leading`: all prompts, to be made or not, where the video's own record comes
    from the first of them that fits. `chunks`: the video, where it comes in chunks; there are no tensors then, and part
    of the metadata comes from the chunks.
    """

    key: Key
    tensors: Tensors
    metadata: Mapping[str, Json]
    source: Path | None = None
    own: bool = True
    prompts: tuple[Ready, ...] = ()
    leading: tuple[Tensors, ...] = ()
    chunks: ChunkedVideo | None = None

    @property
    def keys(self) -> tuple[Key, ...]:
        """Of the records that are to be made."""
        return (*((self.key,) if self.own else ()), *(prompt.key for prompt in self.prompts))

    @property
    def in_front(self) -> tuple[Tensors, ...]:
        """The first of `leading`, where it is not the first of `prompts` anyway."""
        same = bool(self.leading and self.prompts) and self.prompts[0].tensors is self.leading[0]
        return () if same else self.leading[:1]

    @property
    def length(self) -> int:
        """Tokens of its row; 0 where all rows are of one length."""
        return len(self.tensors["ids"]) if "ids" in self.tensors else 0

    def record(self, arrays: Tensors) -> Record:
        """The record `key` with arrays on the CPU."""
        metadata = self.metadata if self.chunks is None else {**self.chunks.metadata(), **self.metadata}
        return Record(self.key, {name: host(tensor) for name, tensor in arrays.items()}, metadata)


Encode = Callable[[Sequence[Ready]], list[Encoded]]


def of_texts(backbone: TextBackbone) -> Encode:
    """The forward of texts."""
    return lambda batch: [Encoded(arrays, ()) for arrays in backbone.encode_texts([item.tensors for item in batch])]


def of_videos(backbone: Backbone) -> Encode:
    """The forward of videos, and of their prompts where the model takes any."""
    if isinstance(backbone, PromptedBackbone):
        return lambda batch: _encode_prompted(backbone, batch)
    return lambda batch: _encode(backbone, batch)


def _encode(backbone: Backbone, batch: Sequence[Ready]) -> list[Encoded]:
    if len(batch) == 1 and batch[0].chunks is not None:
        return [Encoded(batch[0].chunks.encode(), ())]
    return [Encoded(arrays, ()) for arrays in backbone.encode_videos([item.tensors for item in batch])]


def _encode_prompted(backbone: PromptedBackbone, batch: Sequence[Ready]) -> list[Encoded]:
    front = [item.in_front for item in batch]
    prompts = [(*first, *(one.tensors for one in item.prompts)) for first, item in zip(front, batch, strict=True)]
    encoded = backbone.encode_prompted([item.tensors for item in batch], prompts, visual=[item.own for item in batch])
    return [replace(one, prompted=one.prompted[len(first) :]) for first, one in zip(front, encoded, strict=True)]


class BatchSize:
    """How many videos are forwarded at once: `now`. It halves where memory runs out, and stays so for the run."""

    def __init__(self, size: int, say: Callable[[str], None] = lambda text: None) -> None:
        self.now = size
        self._say: Callable[[str], None] | None = say

    def lower(self, size: int) -> None:
        """No more than `size` (at least 1) from now on; this is said the first time."""
        if size < self.now:
            before, self.now = self.now, size
            if self._say is not None:
                self._say(
                    f"Out of memory with {before} videos at once: the batch halves, to {size} now, and again where "
                    f"that is too much. --batch {size} begins there."
                )
                self._say = None


def batch_size(config: ExtractConfig, mode: Mode) -> int:
    """How many videos are forwarded at once; in deterministic mode each is alone."""
    return 1 if mode == "deterministic" else config.batch or FAST_BATCH


def batches(items: Iterable[Ready | FailedRecord], batch: BatchSize) -> Iterator[list[Ready] | FailedRecord]:
    """Batches of videos of similar length; chunked videos alone; failed records as they come."""
    waiting: list[Ready] = []
    for item in items:
        if isinstance(item, FailedRecord):
            yield item
            continue
        if item.chunks is not None:
            yield [item]
            continue
        waiting.append(item)
        if len(waiting) >= (batch.now if batch.now == 1 else SORTED_OVER * batch.now):
            yield from _cut(waiting, batch)
            waiting = []
    yield from _cut(waiting, batch)


def _cut(items: Sequence[Ready], batch: BatchSize) -> Iterator[list[Ready]]:
    in_order = sorted(items, key=lambda item: item.length)
    while in_order:
        size = batch.now
        yield in_order[:size]
        in_order = in_order[size:]


def forward(
    encode: Encode,
    batch: Sequence[Ready],
    device_to_host: DeviceToHost | None = None,
    size: BatchSize | None = None,
) -> list[FinishedRecord | FailedRecord]:
    """The records of a batch, in its order, each video's own before those of its prompts.

    A batch that fails is tried again one by one; one that memory cannot hold, in halves, and `size` is lowered; a video
    that is refused with its prompts, prompt by prompt.

    Raises:
        Refused: out of memory with one video.
        torch.AcceleratorError: the device has failed.
    """
    device_to_host = device_to_host or DeviceToHost(torch.device("cpu"))
    if (records := _tried(encode, batch, device_to_host)) is not None:
        return records
    # The error is gone here, and with it the tensors of the failed forward that its traceback held.
    device_to_host.wait()
    release_unused(device_to_host.device)
    half = len(batch) // 2
    if size is not None:
        size.lower(half)
    parts = (batch[start : start + half] for start in range(0, len(batch), half))
    return [record for part in parts for record in forward(encode, part, device_to_host, size)]


def _tried(
    encode: Encode, batch: Sequence[Ready], device_to_host: DeviceToHost
) -> list[FinishedRecord | FailedRecord] | None:
    """As `forward`, but None where memory cannot hold several videos at once."""
    try:
        return _records(batch, *device_to_host.run(encode, batch))
    except Exception as error:
        if len(batch) > 1 and is_out_of_memory(error):
            return None
        if len(batch) > 1 and not isinstance(error, torch.AcceleratorError):
            return [record for item in batch for record in forward(encode, [item], device_to_host)]
        several = len(batch) == 1 and (len(batch[0].keys) > 1 or batch[0].leading)
        if several and isinstance(error, RecordRejected):
            return _prompt_by_prompt(encode, batch[0], device_to_host)
        return [failed(key, error, item.source) for item in batch for key in item.keys]


def _records(
    batch: Sequence[Ready], outputs: Sequence[Encoded], wait: Wait | None
) -> list[FinishedRecord | FailedRecord]:
    records: list[FinishedRecord | FailedRecord] = []
    for item, output in zip(batch, outputs, strict=True):
        if item.own:
            records.append(FinishedRecord(item.record(output.video), item.source, wait))
        for prompt, arrays in zip(item.prompts, output.prompted, strict=True):
            records.append(FinishedRecord(prompt.record(arrays), item.source, wait))
    return records


def _prompt_by_prompt(encode: Encode, item: Ready, device_to_host: DeviceToHost) -> list[FinishedRecord | FailedRecord]:
    """Each prompt alone; the video's own record comes with the first that succeeds, else without any."""
    own = item.own
    records: list[FinishedRecord | FailedRecord] = []
    for leading in item.leading:
        alone = replace(item, prompts=(), leading=(leading,))
        try:
            records += _records([alone], *device_to_host.run(encode, [alone]))
            own = False
            break
        except Exception as error:
            failed(item.key, error, item.source)  # raises what ends the run
    for prompt in item.prompts:
        alone = replace(item, own=own, prompts=(prompt,), leading=())
        try:
            records += _records([alone], *device_to_host.run(encode, [alone]))
            own = False
        except Exception as error:
            records.append(failed(prompt.key, error, item.source))
    return [*records, *(forward(encode, [replace(item, prompts=(), leading=())], device_to_host) if own else ())]


def failed(key: Key, error: Exception, source: Path | None) -> FailedRecord:
    """The failure of one record by `error`, unless that error ends the run.

    Raises:
        Refused: out of memory.
        torch.AcceleratorError: the device has failed.
    """
    if is_out_of_memory(error):
        raise Refused(
            f"Out of memory at the {key.kind} record of {key.name!r}: {first_line(error)}",
            "The records made before are kept. A smaller --batch and fewer --decode-workers continue this store; fewer "
            "--num-frames, --max-pixels (qwen), --compute-dtype bf16 or a lower --layer need less memory and another "
            "--out.",
        ) from error
    if isinstance(error, torch.AcceleratorError):
        raise error
    if isinstance(error, Undecodable):
        return FailedRecord(key, str(error), source)
    reason = str(error).replace("\n", " ") if isinstance(error, VfcError) else f"{type(error).__name__}: {error}"
    return FailedRecord(key, reason, source, error)
