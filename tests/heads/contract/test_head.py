"""How a head is found by its file name, and what it may ask of a store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vfc.cache_schema.values.errors import UnknownName
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads import methods, tasks
from vfc.heads.contract.head import Head, require
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import configs, find, names, task_of


def test_the_file_name_is_the_public_name() -> None:
    folder = Path(methods.__path__[0])
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    files |= {file.parent.name for file in folder.glob("*/__init__.py")}
    assert set(names()) == {name.replace("_", "-") for name in files}
    assert find("prototype").__name__ == "vfc.heads.methods.prototype"  # type: ignore[attr-defined]


def test_every_method_has_what_the_command_line_asks_for() -> None:
    for name in names():
        method, settings = find(name), configs(name)
        of_task = [kind for name_, kind in vars(task_of(method)).items() if name_.endswith("Head") and kind is not Head]
        assert any(issubclass(method.Head, kind) for kind in of_task), name
        assert isinstance(settings["train"], TrainConfig)
        fields = [field for part in settings.values() for field in part.__dataclass_fields__]
        assert len(set(fields)) == len(fields), f"{name}: two settings of one name"


def test_names_are_listed_without_torch() -> None:
    code = "import sys, vfc.heads.methods as m; m.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_misspelt_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownName, match=r"no head 'protoype'. Did you mean 'prototype'\?"):
        find("protoype")
    with pytest.raises(UnknownName, match=r"no task 'few-shot'. Did you mean 'fewshot'\?"):
        tasks.find("few-shot")


def test_a_missing_stream_is_named_with_what_there_is() -> None:
    specs = {"visual": ArraySpec("layer31.visual", "bf16", (8, 257, 4096))}
    assert require(specs, "visual", "fsar") is specs["visual"]
    with pytest.raises(
        UnknownName, match="The head 'fsar' needs a stream 'text', which this store does not give"
    ) as told:
        require(specs, "text", "fsar")
    assert "visual (layer31.visual [8, 257, 4096])" in told.value.remedy
    with pytest.raises(UnknownName, match="It gives: nothing"):
        require({}, "text", "fsar")
