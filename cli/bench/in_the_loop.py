"""The model that made a store, in the loop of a benchmark."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.upkeep.circumstances import last_circumstance
from vfc.cache_schema.values.errors import BadInput, MissingPath, VfcError
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cli.predict.derived import origin_of

if TYPE_CHECKING:
    from vfc.heads.efficiency.measure import InTheLoop, Ready

    from .efficiency import EfficiencyConfig


class Loop:
    """`model`: what makes features of the clips of a store, or None, with the `reason`."""

    def __init__(self, config: EfficiencyConfig, prepared: Ready, progress: Progress) -> None:
        self._config, self._prepared, self._progress = config, prepared, progress
        self._open = ExitStack()
        self.model: InTheLoop | None = None
        self.reason = ""

    def __enter__(self) -> Loop:
        if not self._config.online:
            return self
        try:
            self.model = self._loaded()
        except VfcError as error:
            self.reason = error.problem
            self._progress.say(f"{self._prepared.name} without the model in the loop: {error.problem}")
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def _loaded(self) -> InTheLoop:
        from vfc.extract.config import ExtractConfig
        from vfc.extract.cost.online import OnlineModel
        from vfc.heads.efficiency.cost import Model
        from vfc.heads.efficiency.flops import count_flops
        from vfc.heads.efficiency.measure import InTheLoop

        store = Path(self._prepared.store)
        with open_store(store, verify="never") as reader:
            fields = _extraction(reader)
            prompt = str(self._prepared.identity.get("prompt") or "")
            meanings = reader.axes("prompt") if prompt else {}
            axes = {"prompt": {prompt: meanings[prompt]}} if prompt in meanings else {}
        settings: dict[str, Any] = {
            "videos": self._videos(store),
            "out": Path(self._open.enter_context(tempfile.TemporaryDirectory())) / "none",
            "device": self._config.device,
        }
        weights = self._config.weights or last_circumstance(store, "checkpoint")
        if weights and (self._config.weights or Path(weights).exists()):
            settings["checkpoint"] = weights
        extraction = ExtractConfig.from_recipe(fields, axes=axes, **settings)
        online = OnlineModel(extraction, Silent())
        model = Model(str(fields["backbone"]), online.parameters, count_flops(online.forward()))
        return InTheLoop(online.features, model)

    def _videos(self, store: Path) -> Path:
        if self._config.videos is not None:
            return self._config.videos
        folder = last_circumstance(store, "videos")
        if not folder or not Path(folder).exists():
            raise MissingPath(
                f"The videos of {store} are not at {folder or 'a place that the store knows'}.",
                "Give their place now: --videos FOLDER.",
            )
        return Path(folder)


def _extraction(reader: StoreReader) -> dict[str, Any]:
    """The recipe of the extraction that a store comes from; raises BadInput where no model made its features here."""
    try:
        return dict(origin_of(reader.recipe).fields)
    except BadInput:
        raise BadInput(
            f"The features of {reader.root} were imported, or projected afterwards: no model makes them here.",
            "Measure on a store of vfc extract.",
        ) from None
