"""The inverse of a recipe: the settings of `vfc extract` that make features as a store's recipe and axes say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfc.cache_schema.reduction.reduce import stored_fit
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Json

Axes = Mapping[str, Mapping[str, Json]]


def recipe_settings(recipe: Mapping[str, Any], axes: Axes, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `ExtractConfig`, by name. What no recipe holds keeps its default: videos, store, speed, texts.

    Args:
        recipe: Fields of a store's recipe.
        axes: Axis -> id -> meaning, as `StoreReader.axes` gives them: prompts become `prompt_text`, views `views`.
        changes: Fields that the caller sets; some cannot be known without (a folder of flow).

    Raises:
        BadInput: features that were not made from videos, flow files that are not given, views of several pipelines.
    """
    if "backbone" not in recipe:
        raise BadInput(
            f"These features were not made from videos: their recipe holds {', '.join(sorted(recipe)) or 'nothing'}.",
            "Use a store that vfc extract made.",
        )
    prompts = axes.get("prompt", {})
    has_prompts = bool(prompts or changes.get("prompt") or changes.get("prompt_text"))
    numerics = recipe["numerics"]
    settings = {
        "model": recipe["backbone"],
        "checkpoint": _checkpoint(recipe.get("checkpoint")),
        "prompt_batching": recipe.get("plan"),
        "dtype": recipe.get("storage"),
        "compute_dtype": recipe.get("compute", {}).get("dtype"),
        "attention": recipe.get("compute", {}).get("attention"),
        "mode": numerics["mode"],
        "threads": numerics.get("threads"),
        "prompt_text": tuple(f"{name}={_template(meaning)}" for name, meaning in prompts.items()),
        **_streams(recipe, has_prompts),
        **_frames(recipe["frames"]),
        **_pixels(recipe.get("pixels", {})),
        **_windows(recipe, changes),
        **_views(axes.get("view", {})),
        **_reduction(recipe.get("shrink", {})),
    }
    if "seed" in recipe["frames"]:
        settings["seed"] = recipe["frames"]["seed"]
    return settings


def _reduction(fields: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: fields[name] for name in ("pool", "project", "fit_records", "seed") if name in fields}
    if "project" in fields:
        settings["project_fit"] = stored_fit(fields)
        settings["project_mean"] = fields.get("mean") == "subtracted"
    return settings


def _checkpoint(about: Mapping[str, Any] | None) -> str | None:
    if not about:
        return None
    return str(about["id"]) + (f"@{about['revision']}" if about.get("revision") else "")


def _streams(recipe: Mapping[str, Any], has_prompts: bool) -> dict[str, Any]:
    """`layer` and `keep`. A language model's taps are a list: any of its two streams may be kept."""
    taps = recipe.get("taps", {})
    if isinstance(taps, list):
        return {"layer": tuple(taps), "keep": ("visual", "text") if has_prompts else ("visual",)}
    streams = recipe.get("streams") or [stream for stream, tap in taps.items() if tap]
    return {"layer": tuple(taps.get("visual") or ()), "keep": tuple(streams)}


def _frames(frames: Mapping[str, Any]) -> dict[str, Any]:
    count = {"num_frames": frames["count"]} if "count" in frames else {}
    return {"frames": frames["rule"], "stream": frames.get("stream"), **count}


def _pixels(rule: Mapping[str, Any]) -> dict[str, Any]:
    maker, _, way = str(rule.get("processor", "")).partition(" ")
    return {"max_pixels": rule.get("max_pixels"), "pixels": way if maker == "ViCLIP" else None}


def _windows(recipe: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    windows, flow = recipe.get("windows") or {}, recipe.get("flow") or {}
    if flow.get("source") == "files" and not changes.get("flow"):
        raise BadInput(
            "These features were made with optical flow read from files, and no recipe says where the files are.",
            "Give the folder of flow files: --flow FOLDER.",
        )
    return {
        "window": windows.get("frames"),
        "stride": windows.get("stride"),
        "border": windows.get("border"),
        "flow": flow.get("source"),
    }


def _template(meaning: Json) -> Json:
    return meaning["template"] if isinstance(meaning, dict) else meaning


def _views(meanings: Mapping[str, Any]) -> dict[str, Any]:
    """`views`, `pipeline`, and `seed` and `flip` where the views depend on them; see `frames.views` for the numbers."""
    views: dict[str, None] = {}
    copies = 0
    drawn: dict[str, Any] = {}
    for number, meaning in sorted(meanings.items(), key=lambda item: int(item[0])):
        if "copy" in meaning:
            copies = max(copies, meaning["copy"])
            pipeline = meaning.get("pipeline", "plain")
            if drawn.setdefault("pipeline", pipeline) != pipeline:
                raise BadInput(
                    f"The store holds augmented copies of two pipelines: {drawn['pipeline']} and {pipeline}.",
                    "Give --views and --pipeline for one of them.",
                )
            drawn |= {"seed": meaning["seed"], "flip": bool(meaning.get("flip", True))}
        elif "pipeline" in meaning:
            views[f"test:{meaning['of']}x{meaning['crops']}"] = None
            if meaning["pipeline"] == "msta":
                drawn["pipeline"] = "msta"
            if "seed" in meaning:
                drawn["seed"] = meaning["seed"] - int(number) // 10 * 10
        else:
            views["three-crops" if "crop" in meaning else f"clips:{meaning['of']}"] = None
    return {"views": (*views, *((f"augment:{copies}",) if copies else ())), **drawn}
