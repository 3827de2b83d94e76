"""A model in the loop: clips decoded, resized and forwarded one by one, as a method without a store does."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

from vfc.cache_schema.values.devices import functions, has_streams
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import read_job
from vfc.extract.models.determinism import determinism
from vfc.extract.models.memory import load_model
from vfc.extract.pipeline.chunked import in_chunks
from vfc.extract.pipeline.forward import Ready, of_videos
from vfc.extract.pipeline.prefetch import jobs_of, prompting_of
from vfc.extract.pipeline.ranks import Rank
from vfc.extract.pipeline.work_item import WorkItem
from vfc.extract.pipeline.worklist import build_work_list


class OnlineModel:
    """The model of an extraction with its weights loaded. `config.out` must be a folder that does not exist."""

    def __init__(self, config: ExtractConfig, progress: Progress) -> None:
        """Load the model.

        Raises:
            BadInput: long videos, which go through in chunks, not in clips.
            VfcError: what `vfc extract` with these settings would refuse.
        """
        self._config, self._work = config, build_work_list(config, Rank(), progress)
        if in_chunks(config, self._work.backbone, self._work.items):
            raise BadInput("Long videos go through the model in chunks, not in clips.", "Measure `vfc extract` itself.")
        load_model(self._work.backbone, self._work.device)
        self._encode = of_videos(self._work.backbone)
        self._prompting = prompting_of(self._work.backbone)
        self._items = itertools.cycle(self._work.items)

    def features(self, clips: int) -> None:
        """Decode so many clips and make their features; nothing is kept."""
        with determinism(self._work.mode, self._config.threads), torch.inference_mode():
            for item in itertools.islice(self._items, clips):
                self._encode([self._ready(item)])
            if has_streams(self._work.device):
                functions(self._work.device).synchronize(self._work.device)

    def forward(self) -> Callable[[], object]:
        """The forward of one clip whose pixels are made, for counting operations."""
        ready = self._ready(next(self._items))
        return lambda: self._encode([ready])

    @property
    def parameters(self) -> int:
        """Weights that are loaded."""
        modules: list[Any] = []
        _find_modules(self._work.backbone, modules, depth=2)
        own = {id(parameter): parameter for module in modules for parameter in module.parameters()}
        return sum(parameter.numel() for parameter in own.values())

    def _ready(self, item: WorkItem) -> Ready:
        ((job, _),) = jobs_of(self._config, [item])
        clip = item.view.change(read_job(job), item.video.name)
        prompting = self._prompting
        prompts = tuple(
            Ready(item.prompt_key(prompt), prompting(prompt.text).tensors, {})
            for prompt in item.prompts
            if prompting is not None
        )
        return Ready(item.key, self._work.backbone.pixels(clip).tensors, {}, None, item.own, prompts)


def _find_modules(value: object, modules: list[Any], depth: int) -> None:
    """The torch modules that an object holds, in its attributes and theirs."""
    if isinstance(value, torch.nn.Module):
        modules.append(value)
    elif depth and hasattr(value, "__dict__"):
        for part in vars(value).values():
            _find_modules(part, modules, depth - 1)
