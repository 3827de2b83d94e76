"""The models of the papers at true size, counted, beside arithmetic by hand and published counts."""

from __future__ import annotations

import pytest

from vfc.cache_schema.values.errors import UnknownName
from vfc.extract.cost.true_size import TrueSize, true_size
from vfc.heads.efficiency.flops import count_flops, without_memory


def counted(name: str) -> tuple[TrueSize, int]:
    with without_memory():
        model = true_size(name)
        return model, count_flops(model.forward)


def blocks(rows: int, width: int, count: int) -> int:
    """Multiply-adds of pre-norm blocks: 12 D^2 per row, and attention."""
    return count * (12 * rows * width**2 + 2 * rows**2 * width)


def test_clip_by_hand() -> None:
    model, flops = counted("clip-b-16-8")
    embed, projection = 196 * 3 * 16 * 16 * 768, 768 * 512
    assert flops == 2 * 8 * (embed + blocks(197, 768, 12) + projection)
    assert model.parameters == 86_192_640  # that of openai/clip-vit-base-patch16's image tower


def test_large_clip_by_hand() -> None:
    _, flops = counted("clip-l-14-32")
    assert flops == 2 * 32 * (256 * 3 * 14 * 14 * 1024 + blocks(257, 1024, 24) + 1024 * 768)


def test_viclip_has_joint_attention_over_all_frames() -> None:
    _, flops = counted("viclip-b-16-8")
    assert flops == 2 * (1568 * 3 * 16 * 16 * 768 + blocks(1569, 768, 12) + 768 * 512)


def test_video_llava_by_hand() -> None:
    model, flops = counted("video-llava-7b")
    rows = 8 * 257 + 60
    vision = 8 * (256 * 3 * 14 * 14 * 1024 + blocks(257, 1024, 23))
    projector = 8 * 257 * (1024 * 4096 + 4096 * 4096)
    language = 32 * (rows * (4 * 4096**2 + 3 * 4096 * 11008) + 2 * rows**2 * 4096)
    assert flops == 2 * (vision + projector + language)
    assert 6.9e9 < model.parameters < 7e9


def test_another_model_is_refused() -> None:
    with pytest.raises(UnknownName, match="clip-b-16-9"):
        true_size("clip-b-16-9")
