"""Prompt assignment: which prompts a language model is asked about which video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vfc.cache_schema.protocol import EpisodeList, fill_prompt
from vfc.cache_schema.values.errors import BadInput, RecordRejected
from vfc.extract.backbone import Backbone, PromptedBackbone
from vfc.extract.collection import Video
from vfc.extract.config import ExtractConfig

from .prompts import Prompt, PromptTemplate, fill, prompt_templates

DEFAULT = ("unknown",)


@dataclass(frozen=True)
class PromptAssignment:
    """The templates of a run; `options`: query video -> the different class lists of the episodes that it is in."""

    templates: tuple[PromptTemplate, ...] = ()
    options: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)

    def prompts_for(self, video: Video) -> tuple[tuple[Prompt, ...], tuple[tuple[str, str], ...]]:
        """The prompts of a video, each once; and (template id, reason) of those that cannot be filled for it."""
        prompts: dict[str, Prompt] = {}
        unfilled: list[tuple[str, str]] = []
        for template in self.templates:
            option_lists = self.options.get(video.name, ()) if "options" in template.fields else ((),)
            for options in option_lists:
                try:
                    prompt = fill(template, label=video.label, options=options)
                except RecordRejected as error:
                    unfilled.append((template.id, str(error).replace("\n", " ")))
                    break
                prompts.setdefault(prompt.id, prompt)
        return tuple(prompts.values()), tuple(unfilled)


def keeps_text(keep: Sequence[str]) -> bool:
    """Whether `--keep` stores text streams."""
    return not keep or "text" in keep


def assign_prompts(config: ExtractConfig, backbone: Backbone, videos: Sequence[Video]) -> PromptAssignment:
    """The prompts that the settings ask about these videos; none for a model that takes no prompts.

    Raises:
        BadInput: prompts for such a model, `{options}` without an episode list or the other way round, a list that
            names other videos.
        UnknownName: no such prompt, or no such field.
        RecordRejected: a prompt that this model cannot be asked.
        MissingPath, Damaged: see `EpisodeList.read`.
    """
    if not isinstance(backbone, PromptedBackbone):
        _refuse_prompt_flags(config)
        return PromptAssignment()
    if not keeps_text(config.keep):
        if config.episodes is not None:
            raise BadInput("--episodes is given, but text is not kept.", "Add text to --keep, or leave --episodes out.")
        return PromptAssignment()
    templates = prompt_templates(config.prompt or (() if config.prompt_text else DEFAULT), config.prompt_text)
    for template in templates:
        # A template that the model refuses with any values is refused before the run.
        backbone.prompt(fill_prompt(template.text, {"label": "a", "options": "'a', 'b'"}))
    with_options = [template.id for template in templates if "options" in template.fields]
    if with_options and config.episodes is None:
        raise BadInput(
            f"The prompt {with_options[0]!r} names the classes of an episode, and no episodes are given.",
            "Write a list with vfc episodes --out FILE, and give it with --episodes FILE.",
        )
    if config.episodes is not None and not with_options:
        raise BadInput(
            "--episodes is given, but no prompt names the classes of an episode.",
            "Give --prompt known-query as well, or leave --episodes out.",
        )
    return PromptAssignment(templates, _options(config.episodes, videos) if config.episodes else {})


def _refuse_prompt_flags(config: ExtractConfig) -> None:
    for flag in ("prompt", "prompt_text", "episodes", "prompt_batching", "max_pixels"):
        if getattr(config, flag) not in (None, ()):
            raise BadInput(
                f"--{flag.replace('_', '-')} is given, but --model {config.model} takes no prompts.",
                "Leave it out, or give --model video-llava, qwen2-vl or qwen3-vl.",
            )


def _options(path: Path, videos: Sequence[Video]) -> dict[str, tuple[tuple[str, ...], ...]]:
    collected = {video.name for video in videos}
    class_lists: dict[str, dict[tuple[str, ...], None]] = {}
    listed: set[str] = set()
    for episode in EpisodeList.read(path).episodes:
        listed.update(name for names in (*episode.support, *episode.query) for name in names)
        for names in episode.query:
            for name in names:
                class_lists.setdefault(name, {})[episode.classes] = None
    if absent := sorted(listed - collected):
        raise BadInput(
            f"{len(absent)} of the {len(listed)} videos that {path} names are not among the {len(collected)} given, "
            f"first {absent[0]!r}.",
            "Give the --videos (and --include, --exclude) that the episodes were drawn from, or write a new list.",
        )
    return {name: tuple(lists) for name, lists in class_lists.items()}
