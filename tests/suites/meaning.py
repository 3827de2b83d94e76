"""What the numbers of a store mean: the arrays of real clips against the library, from the video file on.

The oracle shares no code with the project: it decodes, samples and makes pixels by hand (`suites.by_hand`) and runs the
library's own network. On a CPU the project claims equality to the last bit, so equality is what is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from suites.by_hand import Film, decoded
from suites.library_pixels import library_pixels
from torch import Tensor

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Key
from vfc.extract.config import ExtractConfig
from vfc.extract.pipeline.run import extract

CLIPS = ("surv_fight/fight/fi080.mp4", "ucf101/BaseballPitch/v_BaseballPitch_g01_c01.avi")
"""With times that rise: of others the project counts frames instead (`seconds_from` of a record)."""
TEXTS = ("a video of waving", "kick")
PROMPT = "What is seen here?"


class MeaningSuite:
    """Set `family` and `settings`, give `checkpoint_of`, `pixels` and `expected`."""

    family: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]]
    frames: ClassVar[int | None] = 4
    """Frames per clip; None for all."""
    has_texts: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    """Whether the oracle runs the very same kernels; else numbers agree to 1e-5."""

    @classmethod
    def checkpoint_of(cls, folder: Path) -> Path:
        raise NotImplementedError

    def pixels(self, film: Film) -> Tensor:
        """Pixels `[T, 3, h, w]` by hand."""
        raise NotImplementedError

    def processor_pixels(self, checkpoint: Path, film: Film) -> Tensor:
        """The same by the library's PIL processor."""
        return library_pixels(checkpoint, film.frames)

    def expected(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        """Arrays of the video's own record."""
        raise NotImplementedError

    def expected_prompted(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        """Arrays of the record under PROMPT; none for a family without prompts."""
        return {}

    def expected_text(self, checkpoint: Path, text: str) -> dict[str, Tensor]:
        """Arrays of a text record."""
        return {}

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return cls.checkpoint_of(tmp_path_factory.mktemp("weights") / f"tiny-{cls.family}")

    @pytest.fixture(scope="class")
    @classmethod
    def clips(cls, shared_data: Path) -> Path:
        return shared_data / "clips"

    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, checkpoint: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        place = tmp_path_factory.mktemp("meaning")
        (place / "clips.csv").write_text("path\n" + "".join(f"{name}\n" for name in CLIPS))
        settings: dict[str, Any] = {"frames": "all"} if cls.frames is None else {"num_frames": cls.frames}
        if cls.has_texts:
            (place / "texts.txt").write_text("\n".join(TEXTS))
            settings["texts"] = str(place / "texts.txt")
        config = ExtractConfig(
            videos=place / "clips.csv",
            root=clips,
            out=place / "store",
            model=cls.family,
            checkpoint=str(checkpoint),
            dtype="fp32",
            threads=1,
            decode_workers=1,
            **{**settings, **cls.settings},
        )
        assert extract(config, Silent()).exit_code == 0
        return place / "store"

    def compare(self, store: Path, key: Key, expected: Mapping[str, Tensor]) -> None:
        with open_store(store) as reader:
            features = {spec.name for spec in reader.kinds[key.kind] if spec.dtype == "fp32"}
            assert features <= expected.keys()
            for name, values in expected.items():
                stored = torch.from_numpy(np.array(reader.read(key, name)))
                assert stored.shape == values.shape, (key, name)
                if self.exact or not values.is_floating_point():
                    assert torch.equal(stored, values), (key, name, (stored - values).abs().max(), stored, values)
                else:
                    distance = torch.linalg.vector_norm(stored.double() - values.double())
                    assert distance <= 1e-5 * torch.linalg.vector_norm(values.double()), (
                        key,
                        name,
                        distance,
                        stored,
                        values,
                    )

    @pytest.mark.parametrize("name", CLIPS)
    def test_stored_arrays_are_those_of_the_library(
        self, store: Path, checkpoint: Path, clips: Path, name: str
    ) -> None:
        film = decoded(clips / name, self.frames)
        pixels = self.pixels(film)
        self.compare(store, Key("video", name), self.expected(checkpoint, film, pixels))
        if prompted := self.expected_prompted(checkpoint, film, pixels):
            self.compare(store, Key("prompted", name, prompt="mine"), prompted)

    def test_stored_texts_are_the_library_s(self, store: Path, checkpoint: Path) -> None:
        for text in TEXTS if self.has_texts else ():
            self.compare(store, Key("text", text), self.expected_text(checkpoint, text))

    @pytest.mark.parametrize("name", CLIPS)
    def test_pixels_by_hand_are_those_of_the_library_s_processor(
        self, checkpoint: Path, clips: Path, name: str
    ) -> None:
        film = decoded(clips / name, 4)
        by_hand, processor = self.pixels(film), self.processor_pixels(checkpoint, film)
        assert by_hand.shape == processor.shape
        # The library resizes by Pillow here: one or two of 255 grey levels away, whatever the scale.
        level = float((processor.max() - processor.min()) / 255)
        assert float((by_hand - processor).abs().max()) <= 2.5 * level
