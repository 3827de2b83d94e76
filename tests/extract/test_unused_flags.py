"""Flags that change nothing beside the others: refused where they were typed, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vfc.cache_schema.values.errors import BadInput
from vfc.cli import app
from vfc.extract.config import ExtractConfig
from vfc.extract.unused_flags import refuse_unused_flags

CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # what is typed, beside what it changes nothing, beside what it does
    ({"num_frames": 4}, {"frames": "all"}, {"frames": "linspace"}),
    ({"num_frames": 4}, {"frames": "fps:2"}, {"frames": "shifted:1/2"}),
    ({"num_frames": 4}, {"frames": "stride:2"}, {}),
    ({"flip": False}, {"views": ("three-crops",)}, {"views": ("augment:1",)}),
    ({"pipeline": "msta"}, {"views": ("three-crops",)}, {"views": ("test:1x1",)}),
    ({"seed": 3}, {}, {"frames": "tsn-random"}),
    ({"seed": 3}, {"project": "pca:4"}, {"project": "random:4"}),
    ({"seed": 3}, {"views": ("test:4x3",)}, {"views": ("test:4x3",), "pipeline": "msta"}),
    ({"cut_texts": True}, {}, {"texts": "classes"}),
    ({"fit_records": 9}, {"pool": "mean"}, {"project": "random:4"}),
    ({"project_fit": "all"}, {"project": "random:4"}, {"project": "pca:4"}),
    ({"project_mean": True}, {}, {"project": "pca:4"}),
    ({"prompt": ("unknown",)}, {"keep": ("visual",)}, {"keep": ("visual", "text")}),
    ({"prompt_text": ("What?",)}, {"keep": ("visual",)}, {}),
    ({"prompt_batching": "single"}, {"keep": ("visual",)}, {}),
]


@pytest.mark.parametrize(("typed", "useless", "useful"), CASES, ids=lambda fields: "+".join(fields) or "alone")
def test_a_typed_flag_that_changes_nothing_is_refused(
    typed: dict[str, Any], useless: dict[str, Any], useful: dict[str, Any]
) -> None:
    (name,) = typed
    with pytest.raises(BadInput, match=rf"^--(no-)?{name.replace('_', '-')} .* change nothing\.\nLeave --.* out, or "):
        refuse_unused_flags(ExtractConfig(**typed, **useless), typed)
    refuse_unused_flags(ExtractConfig(**typed, **useful), typed)
    refuse_unused_flags(ExtractConfig(**typed, **useless), useless)  # as a recipe or a config file has it
    refuse_unused_flags(ExtractConfig(**useless), {*typed, *useless})  # typed, with the default value


def test_the_flag_of_a_config_file_is_not_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"num_frames": 4, "frames": "all"}')
    line = f"plan --config {tmp_path}/config.json --videos {tmp_path}"
    assert app.run(line.split()) == 2
    assert "There is no video in" in capsys.readouterr().err
    assert app.run([*line.split(), "--num-frames", "4"]) == 2
    assert "--frames all takes as many frames" in capsys.readouterr().err
