"""Small stores with visual tokens and texts under plain and known prompts; classes differ in how the frames move."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from suites.motion_store import FRAMES, SPLIT, WIDTH, motion

from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.protocol import EpisodeList, EpisodeSpec, fill_prompt, option_list, prompt_id, spoken
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.cache_schema.writer import StoreWriter

TEMPLATES = {
    "unknown": "What is it?",
    "known-support": "Is '{label}' there?",
    "known-query": "Which of {options}?",
}
VISUAL = ArraySpec("layer3.visual", "fp32", (FRAMES, 3, WIDTH))
TEXT = ArraySpec("layer3.text", "fp32", (None, WIDTH))


def labelled(classes: int = 15, clips: int = 8) -> Annotations:
    rows = [
        Annotation(f"class{label:02}/{clip}.mp4", f"Class{label:02}", SPLIT[label])
        for label in range(classes)
        for clip in range(clips)
    ]
    return Annotations(tuple(rows))


def episode_prompts(specs: Sequence[tuple[EpisodeSpec, int]], rows: Annotations) -> list[tuple[str, str]]:
    """(name, prompt) of every record that these lists need under known prompts."""
    found: dict[tuple[str, str], None] = {}
    for spec, count in specs:
        for episode in EpisodeList.draw(rows, spec, count).episodes:
            asked = prompt_id(
                "known-query", fill_prompt(TEMPLATES["known-query"], {"options": option_list(episode.classes)})
            )
            for label, support, query in zip(episode.classes, episode.support, episode.query, strict=True):
                own = prompt_id("known-support", fill_prompt(TEMPLATES["known-support"], {"label": spoken(label)}))
                found.update(dict.fromkeys((name, own) for name in support))
                found.update(dict.fromkeys((name, asked) for name in query))
    return list(found)


def told_store(
    root: Path,
    *,
    prompts: Sequence[str] = ("unknown",),
    known: Sequence[tuple[EpisodeSpec, int]] = (),
    leave_out: int = 0,
    views: int = 1,
    noise: float = 0.5,
) -> Path:
    """A store with `layer3.visual` `[4, 3, 12]` and `layer3.text` of 2 to 6 rows; `leave_out` texts are missing."""
    generator = np.random.default_rng(0)
    rows = labelled()
    with StoreWriter(root, Recipe({"made": "up"})) as writer:
        writer.declare("video", [VISUAL])
        writer.declare("prompted", [TEXT])
        for name in {*prompts, *(("known-support", "known-query") if known else ())}:
            writer.bind("prompt", name, {"template": TEMPLATES.get(name, name)})
        for row in rows.rows:
            for view in range(views):
                values = motion(int(row.label[-2:]), generator, noise)[:, None]
                values = values + generator.normal(size=(1, 3, 1)).astype(np.float32)
                writer.add(Record(Key("video", row.name, view), {VISUAL.name: values}))
        wanted = [(row.name, view, prompt) for row in rows.rows for view in range(views) for prompt in prompts]
        wanted += [(name, view, prompt) for name, prompt in episode_prompts(known, rows) for view in range(views)]
        for name, view, prompt in wanted[: len(wanted) - leave_out]:
            text = generator.normal(size=(int(generator.integers(2, 7)), WIDTH)).astype(np.float32)
            writer.add(Record(Key("prompted", name, view, prompt), {TEXT.name: text}))
    write_annotations(root, "default", rows)
    return root
