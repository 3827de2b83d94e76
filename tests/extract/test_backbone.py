"""Finding families, checking options, parsing layers and streams; and that none of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.backbone import (
    BackboneOptions,
    TextBackbone,
    chosen_layers,
    find,
    kept_streams,
    names,
    open_backbone,
    versions,
)

KNOWN = ("0", "1", "2", "3", "norm")
STREAMS = {"video": ("frames", "visual"), "text": ("embedding", "text")}


def test_families_are_the_files() -> None:
    assert {"clip", "image"} <= set(names())
    assert names() == sorted(names())
    assert not any("_" in name for name in names())
    for name in names():
        family = find(name)
        assert callable(family.build)
        assert family.DEFAULT_CHECKPOINT is None or "/" in family.DEFAULT_CHECKPOINT


def test_a_misspelt_model_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match=r"There is no model 'clipp'. Did you mean 'clip'?.*\nKnown: clip, "):
        open_backbone("clipp", BackboneOptions())
    with pytest.raises(UnknownName, match=r"There is no model '../clip'"):
        find("../clip")


def test_the_contract_is_read_without_torch() -> None:
    program = (
        "import sys; from vfc.extract.backbone import BackboneOptions, names; names(); BackboneOptions();"
        "import vfc.extract.models.checkpoint;"
        "sys.exit(', '.join({'torch', 'transformers', 'av', 'huggingface_hub'} & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_layers_come_once_each_and_from_the_lowest_up() -> None:
    assert chosen_layers(("norm", "3", "0", "3"), KNOWN, "x") == ("0", "3", "norm")
    assert chosen_layers((), KNOWN, "x") == ()


@pytest.mark.parametrize("layer", ["4", "-1", "03", "+1", "Norm", "", "1.0", " 1"])
def test_other_layers_are_refused_with_the_range(layer: str) -> None:
    with pytest.raises(BadInput) as caught:
        chosen_layers((layer,), KNOWN, "the tower of tiny")
    assert caught.value.problem.startswith(f"There is no layer {layer!r} in the tower of tiny")
    assert caught.value.remedy == "Allowed: 0 to 3, or norm."
    assert ("count from the front" in caught.value.problem) == (layer == "-1")


def test_the_range_is_what_there_is() -> None:
    with pytest.raises(BadInput, match=r"Allowed: 1 to 2\.$"):
        chosen_layers(("0",), ("1", "2"), "x")


@given(st.lists(st.sampled_from(KNOWN)))
def test_chosen_layers_are_a_sorted_set(asked: list[str]) -> None:
    assert list(chosen_layers(asked, KNOWN, "x")) == sorted(set(asked))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ((), {"frames", "visual", "embedding", "text"}),
        (("visual",), {"visual", "embedding", "text"}),
        (("frames", "text"), {"frames", "text"}),
        (("embedding",), {"frames", "visual", "embedding"}),
    ],
)
def test_streams_are_limited_in_the_kinds_that_are_named(asked: tuple[str, ...], kept: set[str]) -> None:
    assert kept_streams(asked, STREAMS) == kept


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"There is no stream 'visuals'. Did you mean 'visual'?"):
        kept_streams(("visuals",), STREAMS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "float16"}, UnknownName, "There is no dtype to compute in 'float16'.*\nKnown: bf16, fp16, fp32"),
        ({"storage": "int64"}, UnknownName, "There is no dtype to store 'int64'"),
        (
            {"attention": "flash_attention"},
            UnknownName,
            "There is no attention implementation 'flash_attention'. Did you mean 'flash_attention_2'?",
        ),
        ({"num_frames": 0}, BadInput, "0 frames per clip were asked for"),
        ({"text_layers": ("3",)}, BadInput, "Text layers 3 were asked for, but no texts.\nName the texts with --texts"),
    ],
)
def test_options_are_checked_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BackboneOptions(**options)


def test_versions_drop_the_local_suffix() -> None:
    import torch
    import transformers

    assert versions() == {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    assert "+" not in str(versions())


def test_a_network_without_a_text_tower_is_no_text_backbone(tmp_path: Any) -> None:
    from suites.checkpoints import clip_checkpoint, image_checkpoint

    image = image_checkpoint(tmp_path / "vit", "vit")
    clip = clip_checkpoint(tmp_path / "clip")
    assert not isinstance(open_backbone("image", BackboneOptions(str(image))), TextBackbone)
    assert isinstance(open_backbone("clip", BackboneOptions(str(clip))), TextBackbone)
