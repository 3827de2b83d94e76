"""What a backbone with a text tower owes beyond BackboneSuite."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import torch
from suites.backbone import BackboneSuite, equal
from torch import Tensor

from vfc.extract.backbone import Backbone, TextBackbone


class TextBackboneSuite(BackboneSuite):
    """For a backbone with a text tower: set `texts` (at least two, of differing length), give `library_text_states`."""

    texts: ClassVar[tuple[str, ...]]

    def library_text_states(self, checkpoint: Path, text: str) -> dict[str, Tensor]:
        """Arrays by name as the library itself gives them, for one text padded to the context length."""
        raise NotImplementedError

    def text_backbone(self, backbone: Backbone) -> TextBackbone:
        assert isinstance(backbone, TextBackbone)
        return backbone

    def test_texts_match_their_specs_and_the_library(self, checkpoint: Path, backbone: Backbone) -> None:
        tower = self.text_backbone(backbone)
        for text in self.texts:
            (arrays,) = tower.encode_texts([tower.tokens(text).tensors])
            self.matches(tower.specs()["text"], arrays)
            expected = self.library_text_states(checkpoint, text)
            assert expected.keys() <= arrays.keys()
            for name, states in expected.items():
                assert self.agree(arrays[name], states), (text, name)

    def test_the_arrays_of_a_shared_space_are_of_one_width(self, backbone: Backbone) -> None:
        tower = self.text_backbone(backbone)
        arrays = {kind: {spec.name: spec.shape[-1] for spec in specs} for kind, specs in tower.specs().items()}
        assert tower.shared_space
        for names in tower.shared_space:
            assert all(names & arrays[kind].keys() for kind in ("video", "text"))
            assert len({arrays[kind][name] for kind in arrays for name in names & arrays[kind].keys()}) == 1

    def test_texts_do_not_depend_on_their_neighbours(self, backbone: Backbone) -> None:
        tower = self.text_backbone(backbone)
        prepared = [tower.tokens(text).tensors for text in self.texts]
        alone = [tower.encode_texts([one])[0] for one in prepared]
        for one, arrays in zip(alone, tower.encode_texts(prepared), strict=True):
            for name, states in one.items():
                wide = states.to(torch.float64)
                assert torch.linalg.vector_norm(arrays[name] - wide) <= 1e-5 * torch.linalg.vector_norm(wide)
        assert all(equal(one, tower.encode_texts([p])[0]) for one, p in zip(alone, prepared, strict=True))

    def test_texts_are_tokenised_in_any_thread(self, backbone: Backbone) -> None:
        tower = self.text_backbone(backbone)
        wanted = list(self.texts) * 8
        expected = [tower.tokens(text).tensors for text in wanted]
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda text: tower.tokens(text).tensors, wanted))
        assert all(equal(one, other) for one, other in zip(expected, made, strict=True))
