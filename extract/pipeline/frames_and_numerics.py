"""The share of a store's recipe that is no model's: which frames, by which decoder, in which numeric mode."""

from __future__ import annotations

from importlib.metadata import version

from vfc.cache_schema.values.record import Json
from vfc.extract.config import ExtractConfig
from vfc.extract.decode.sampling import fixed_count
from vfc.extract.models.determinism import THREADS, Mode


def frames_and_numerics(config: ExtractConfig, mode: Mode) -> dict[str, Json]:
    """Fields `frames`, `decoder`, `numerics` of the recipe."""
    frames: dict[str, Json] = {"rule": config.frames, "stream": config.stream}
    if fixed_count(config.frames):
        frames |= {"count": config.frames_per_clip, "short": "repeat last"}
    if config.frames == "tsn-random":
        frames["seed"] = config.seed
    numerics: dict[str, Json] = {"mode": mode}
    if mode == "deterministic":
        numerics["threads"] = config.threads or THREADS
    return {
        "frames": frames,
        "decoder": {"name": "pyav", "version": version("av").partition("+")[0]},
        "numerics": numerics,
    }
