"""Flags that were typed and would change nothing beside the other flags of the run: refused, not passed over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from typing import Final, NamedTuple

from vfc.cache_schema.values.errors import BadInput

from .config import ExtractConfig
from .decode.sampling import fixed_count
from .prompting.prompt_assignment import keeps_text


class _Need(NamedTuple):
    """When a flag changes something; what to say where it does not, and what else to give."""

    met: Callable[[ExtractConfig], bool]
    reason: Callable[[ExtractConfig], str]
    instead: str


def _views(config: ExtractConfig, *kinds: str) -> bool:
    return any(view.partition(":")[0] in kinds for view in config.views)


def _seeded(config: ExtractConfig) -> bool:
    """Whether anything is drawn."""
    tests = config.pipeline == "msta" and _views(config, "test")
    return config.frames == "tsn-random" or config.project.startswith("random") or tests or _views(config, "augment")


_TEXT_KEPT: Final = _Need(
    lambda config: keeps_text(config.keep),
    lambda config: f"--keep {','.join(config.keep)} leaves out what a model says to a prompt",
    "add text to --keep",
)
_PCA: Final = _Need(
    lambda config: config.project.startswith("pca"),
    lambda config: f"--project {config.project} is not fitted" if config.project else "nothing is projected",
    "give --project pca:256",
)
_NEEDS: Final[Mapping[str, _Need]] = {
    "num_frames": _Need(
        lambda config: fixed_count(config.frames),
        lambda config: f"--frames {config.frames} takes as many frames as a video has",
        "give a rule that takes a number: --frames tsn-centre or linspace",
    ),
    "flip": _Need(lambda c: _views(c, "augment"), lambda _: "no view is drawn at random", "give --views augment:4"),
    "pipeline": _Need(
        lambda config: _views(config, "augment", "test"),
        lambda _: "there are no views that it is for",
        "give --views augment:4 or test:4x3",
    ),
    "seed": _Need(
        _seeded,
        lambda _: "nothing is drawn at random",
        "give --frames tsn-random, --views augment:4 or --project random:256",
    ),
    "cut_texts": _Need(lambda c: c.texts is not None, lambda _: "there are no texts", "give --texts FILE or classes"),
    "fit_records": _Need(
        lambda config: bool(config.project), lambda _: "nothing is projected", "give --project pca:256"
    ),
    "project_fit": _PCA,
    "project_mean": _PCA,
    "prompt": _TEXT_KEPT,
    "prompt_text": _TEXT_KEPT,
    "prompt_batching": _TEXT_KEPT,
}
"""Settings that are of use only beside others. What depends on the model is refused where the model is opened."""


def refuse_unused_flags(config: ExtractConfig, typed: Collection[str]) -> None:
    """Check the settings `typed` on the command line; those of a file, a recipe or at their default are not checked.

    Raises:
        BadInput: one of them changes nothing.
        UnknownName: there is no such frame rule.
    """
    defaults = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    for name, need in _NEEDS.items():
        value = getattr(config, name)
        if name not in typed or value == defaults[name] or need.met(config):
            continue
        flag = name.replace("_", "-")
        shown = f"--{'no-' * (value is False)}{flag}" + ("" if isinstance(value, bool) else f" {_text(value)}")
        raise BadInput(
            f"{shown} is given, but {need.reason(config)}, so it would change nothing.",
            f"Leave {shown.partition(' ')[0]} out, or {need.instead}.",
        )


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
