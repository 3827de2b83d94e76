"""The flags of `vfc train-head NAME`, which sweeps and benchmarks take as well."""

from __future__ import annotations

import dataclasses
from typing import Any

from .command import first_sentence, module_file


def about_head(name: str) -> str:
    """The first line of the docstring of a method."""
    from vfc.heads import methods

    return first_sentence(module_file(methods.__path__[0], name))


def head_settings(name: str, **more: Any) -> type[Any]:
    """The settings of a head, `task`, `head` and `train`, side by side as one dataclass; `more` come last."""
    from vfc.heads import lookup

    parts = {**lookup.configs(name), **more}
    return dataclasses.make_dataclass(
        "TrainHead",
        [(part, type(value), dataclasses.field(default=value)) for part, value in parts.items()],
        frozen=True,
    )
