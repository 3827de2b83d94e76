"""Finding blocks: grids worked by hand, and the shapes of networks that need care. Families: see test_image.py."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from suites.checkpoints import TOWER

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.models.block_discovery import discover_blocks, token_grid
from vfc.extract.models.loading import on_meta
from vfc.extract.models.taps import Tap


@pytest.mark.parametrize(
    ("shape", "image", "patch", "grid"),
    [
        ((512, 7, 9), (224, 288), None, (0, 7, 9)),
        ((197, 768), (224, 224), 16, (1, 14, 14)),
        ((196, 768), (224, 224), 16, (0, 14, 14)),
        ((261, 768), (224, 224), 14, (5, 16, 16)),
        ((99, 32), (56, 112), 8, (1, 7, 14)),
        ((3136, 96), (224, 224), 4, (0, 56, 56)),
        ((784, 192), (224, 224), 4, (0, 28, 28)),
        ((50, 512), (224, 224), 4, (1, 7, 7)),
        ((98, 64), (224, 448), None, (0, 7, 14)),
        ((51, 64), (224, 224), None, None),
    ],
)
def test_grids_by_hand(
    shape: tuple[int, ...], image: tuple[int, int], patch: int | None, grid: tuple[int, int, int] | None
) -> None:
    assert token_grid(shape, image, patch) == grid


def taken_apart(config: Any, edge: int = 32) -> Any:
    import copy

    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    return discover_blocks(on_meta(MODEL_MAPPING[type(config)], copy.deepcopy(config), None), (edge, edge))


def test_a_transformer() -> None:
    found = taken_apart(transformers.ViTConfig(**TOWER))
    assert found.taps == {
        "0": Tap("layers.0", "input"),
        "1": Tap("layers.0"),
        "2": Tap("layers.1"),
        "3": Tap("layers.2"),
        "norm": Tap("layernorm"),
    }
    assert found.shapes == dict.fromkeys(found.taps, (17, 32))
    assert (found.pooled, found.last) == (32, (17, 32))


def test_an_activation_inside_a_block_is_not_the_block() -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic")
    found = taken_apart(config)
    assert found.taps == {
        "0": Tap("encoder.stages.0", "input"),
        "1": Tap("encoder.stages.0"),
        "2": Tap("encoder.stages.1"),
    }
    assert found.shapes == {"0": (8, 8, 8), "1": (8, 8, 8), "2": (16, 4, 4)}


def test_an_identity_in_place_of_a_norm_is_no_norm() -> None:
    assert "norm" not in taken_apart(transformers.BeitConfig(**TOWER)).taps
    assert "norm" in taken_apart(transformers.BeitConfig(**TOWER, use_mean_pooling=False)).taps


def test_a_norm_in_the_library_s_list_is_the_norm_and_no_block() -> None:
    found = taken_apart(transformers.PvtConfig(image_size=64), 64)
    assert list(found.taps) == [*(str(i) for i in range(9)), "norm"]
    assert found.taps["8"] == Tap("encoder.block.3.1")


def test_pixels_that_enter_the_first_block_are_no_layer() -> None:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2]
    )
    assert list(taken_apart(config, 64).taps) == ["1", "2", "3", "4"]


def test_the_library_s_tied_last_state_does_not_hide_the_last_block() -> None:
    config = transformers.ViTConfig(**TOWER)
    config.tie_last_hidden_states = True
    assert list(taken_apart(config).taps) == ["0", "1", "2", "3", "norm"]


def test_what_takes_no_images_is_refused() -> None:
    with pytest.raises(BadInput, match=r"VideoMAEModel does not take images of .32, 32. pixels"):
        taken_apart(transformers.VideoMAEConfig(**TOWER, num_frames=2))
    with pytest.raises(BadInput, match=r"ViTModel does not take images of .40, 40. pixels"):
        taken_apart(transformers.ViTConfig(**TOWER), 40)
