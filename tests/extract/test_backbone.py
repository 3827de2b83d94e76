"""Finding families and checking options; and that none of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.backbone import (
    BackboneOptions,
    TextBackbone,
    family_names,
    find_family,
    open_backbone,
    versions,
)


def test_families_are_the_files() -> None:
    assert {"clip", "image"} <= set(family_names())
    assert family_names() == sorted(family_names())
    assert not any("_" in name for name in family_names())
    for name in family_names():
        family = find_family(name)
        assert callable(family.build)
        assert family.DEFAULT_CHECKPOINT is None or "/" in family.DEFAULT_CHECKPOINT


def test_a_misspelt_model_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match=r"There is no model 'clipp'. Did you mean 'clip'?.*\nKnown: clip, "):
        open_backbone("clipp", BackboneOptions())
    with pytest.raises(UnknownName, match=r"There is no model '../clip'"):
        find_family("../clip")


def test_the_contract_is_read_without_torch() -> None:
    program = (
        "import sys; from vfc.extract.backbone import BackboneOptions, family_names; family_names(); BackboneOptions();"
        "import vfc.extract.models.checkpoint, vfc.extract.models.layers;"
        "sys.exit(', '.join({'torch', 'transformers', 'av', 'huggingface_hub'} & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
