"""`vfc describe`: a local language model writes sentences about each class, of what one sees and step by step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from vfc.cache_schema.annotations import load
from vfc.cache_schema.annotations.ordered import read_class_list
from vfc.cache_schema.protocol import fill_prompt, prompt_fields, spoken
from vfc.cache_schema.protocol.descriptions import read_descriptions, write_descriptions
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import Json

SPATIAL: Final = (
    'Think of videos of the action "{label}": who and what is seen in them, in which place, in which posture. '
    "Write {count} different short sentences about what is seen, each on a line of its own and each beginning with "
    '"A video about". Say nothing of what comes first or later, and write nothing else.'
)
TEMPORAL: Final = (
    'The action "{label}" is made of steps that follow each other. Write its {count} most important steps in the order '
    'in which they happen, each on a line of its own and in this form: "A video of {label} generally involves the '
    'following step: what is done, which is a sub-step." Write nothing else.'
)
_THOUGHT: Final = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_MARK: Final = re.compile(r"^\s*(?:[-*•\u2013]|\(?\d+[.):])\s*")
_ENDS: Final = re.compile(r"(?<=[.!?])\s+")

Writer = Callable[[str, int], str]
"""Of a prompt and the number of the attempt: what the model says."""


def _shown(panel: str, text: str, **more: Any) -> dict[str, Any]:
    return {"panel": panel, "help": text, **more}


@dataclass(frozen=True)
class DescribeConfig:
    """Which classes, which language model, how many sentences.

    Raises:
        BadInput: a number that is too small, or a prompt with another field than label and count.
    """

    checkpoint: str = field(metadata=_shown("Model", "Hub id or folder of a causal language model"))
    class_list: Path | None = field(
        default=None, metadata=_shown("Input", "File with the class names in the order of their ids")
    )
    cache: Path | None = field(
        default=None, metadata=_shown("Input", "Store whose class names (sorted) are used if there is no list")
    )
    count: int = field(default=2, metadata=_shown("Output", "Sentences per class in each file (N)"))
    name: str = field(default="classes", metadata=_shown("Output", "Name of the data set, used in the file names"))
    out: Path = field(default=Path("descriptions"), metadata=_shown("Output", "Folder of the two files"))
    spatial_prompt: str = field(default=SPATIAL, metadata=_shown("Model", "Prompt with {label} and {count}"))
    temporal_prompt: str = field(default=TEMPORAL, metadata=_shown("Model", "Prompt with {label} and {count}"))
    new_tokens: int = field(default=256, metadata=_shown("Model", "Most tokens of one answer"))
    tries: int = field(
        default=3,
        metadata=_shown("Model", "Attempts per class if an answer is too short; all but the first are sampled"),
    )
    device: str | None = field(
        default=None, metadata=_shown("Performance", "cpu, cuda or cuda:1; default: a GPU where there is one")
    )

    def __post_init__(self) -> None:
        for name in ("count", "new_tokens", "tries"):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name.replace('_', '-')} is {getattr(self, name)}.", "Give 1 or more.")
        for prompt in (self.spatial_prompt, self.temporal_prompt):
            if set(prompt_fields(prompt)) - {"label", "count"} or "label" not in prompt_fields(prompt):
                raise BadInput(f"The prompt {prompt!r} cannot be filled.", "It takes {label}, and {count} if you like.")


@dataclass(frozen=True)
class Described:
    """Both files, how many classes were written now and before, and those of which too little was said."""

    files: tuple[Path, Path]
    written: int
    there: int
    failed: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """3 where something is missing."""
        return 3 if self.failed else 0

    def to_json(self) -> dict[str, Json]:
        """As the command line prints it."""
        return {
            "files": [str(path) for path in self.files],
            "written": self.written,
            "there": self.there,
            "failed": dict(self.failed),
        }

    def lines(self) -> list[str]:
        """As a person reads it."""
        told = [f"{self.written} lists of sentences written, {self.there} were there."]
        told += [f"Too little was said of {name}: {why}" for name, why in self.failed.items()]
        if self.failed:
            return [
                *told,
                "Next: more --tries or --new-tokens, or another --checkpoint, into another --out.",
            ]
        spatial, temporal = self.files
        told += [
            "Put their embeddings into a store by running its extract line again, once per file, with:",
            *(f"  --texts {path} --cut-texts" for path in self.files),
            f"Then: vfc train-head msta --descriptions {spatial} {temporal}",
        ]
        return told


def describe_classes(config: DescribeConfig, progress: Progress, *, writer: Writer | None = None) -> Described:
    """Write `<N>_s_description_<name>.json` and `<N>_t_...`, a class at a time; go on where an earlier run stopped.

    Args:
        config: The settings.
        progress: Told of every class and file.
        writer: What answers prompts in place of the checkpoint's model.

    Raises:
        BadInput: no classes; a checkpoint that is no language model.
        RecipeMismatch: a file is there that another model, prompt or class list made, with the difference.
    """
    from vfc.extract.models.checkpoint import locate

    names = _classes(config)
    checkpoint = locate(config.checkpoint, default=None, family="describe")
    model: Json = {"id": checkpoint.id, "revision": checkpoint.revision, "digest": checkpoint.digest()}
    prompts = {"s": config.spatial_prompt, "t": config.temporal_prompt}
    files = {part: config.out / f"{config.count}_{part}_description_{config.name}.json" for part in prompts}
    abouts: dict[str, dict[str, Json]] = {
        part: {
            "prompt": prompt,
            "count": config.count,
            "classes": [*names],
            "model": model,
            "new_tokens": config.new_tokens,
            "tries": config.tries,
        }
        for part, prompt in prompts.items()
    }
    found = {part: _there(files[part], abouts[part]) for part in prompts}
    there = sum(map(len, found.values()))
    progress.begin("Describe", 2 * len(names), "lists")
    progress.advance(there)
    failed: dict[str, str] = {}
    todo = [(i, part) for i in range(len(names)) for part in prompts if i not in found[part]]
    if todo and writer is None:
        writer = language_model(str(checkpoint.folder), config.new_tokens, config.device)
    for i, part in todo:
        assert writer is not None
        filled = fill_prompt(prompts[part], {"label": spoken(names[i]), "count": str(config.count)})
        said = _tried(writer, filled, config)
        if len(said) == config.count:
            found[part][i] = said
            write_descriptions(files[part], found[part], abouts[part])
        else:
            failed[f"{names[i]} ({files[part].name})"] = f"{len(said)} sentences after {config.tries} attempts."
        progress.advance(note=names[i])
    return Described((files["s"], files["t"]), len(todo) - len(failed), there, failed)


def _classes(config: DescribeConfig) -> tuple[str, ...]:
    if config.class_list is not None:
        return read_class_list(config.class_list)
    if config.cache is not None:
        names = tuple(load(config.cache, "default").labels())
        if names:
            return names
        raise BadInput(f"The store {config.cache} has no labels.", "Give the class names: --class-list FILE.")
    raise BadInput("There is no class to describe.", "Give --class-list FILE, or --cache STORE with labels.")


def _there(path: Path, about: Mapping[str, Json]) -> dict[int, tuple[str, ...]]:
    """What an earlier run of the same settings wrote."""
    if not path.exists():
        return {}
    found = read_descriptions(path, whole=False)
    changed = Recipe(dict(found.about)).difference(Recipe(dict(about)))
    if changed:
        listed = ", ".join(name for name, _, _ in changed)
        raise RecipeMismatch(
            f"{path} was written with other settings: {listed} differ.",
            "Give another --name or --out, or the settings of that run to go on with it.",
        )
    return dict(found.sentences)


def _tried(writer: Writer, prompt: str, config: DescribeConfig) -> tuple[str, ...]:
    """The sentences of the first attempt that says enough, else of the one that says most."""
    best: tuple[str, ...] = ()
    for attempt in range(config.tries):
        said = sentences(writer(prompt, attempt), config.count)
        best = max(best, said, key=len)
        if len(best) == config.count:
            break
    return best


def sentences(text: str, count: int) -> tuple[str, ...]:
    """The first `count` different sentences of what a model said: one per line, or as full stops part them.

    Numbers, bullets, quotes and thoughts are taken off, lines that only announce others are left out.
    """
    lines = list(_cleaned(_THOUGHT.sub("", text).splitlines()))
    if len(set(lines)) < count:
        lines = list(_cleaned(piece for line in lines for piece in _ENDS.split(line)))
    return tuple(dict.fromkeys(lines))[:count]


def _cleaned(lines: Iterator[str] | list[str]) -> Iterator[str]:
    for line in lines:
        bare = _MARK.sub("", line.strip()).strip("\"'“”*` \t")
        if len(bare.split()) > 1 and not bare.endswith(":"):
            yield bare


def language_model(folder: str, new_tokens: int, device: str | None) -> Writer:
    """A causal language model as a function from prompts to answers: the likeliest words at the first attempt, then
    drawn ones, by the prompt and the number of the attempt alone.

    Raises:
        BadInput: the folder holds no causal language model, or none with a tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vfc.extract.models.determinism import chosen_device
    from vfc.extract.models.taps import silenced_transformers

    place = chosen_device(device)
    try:
        with silenced_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder} cannot be opened as a causal language model: {str(error).splitlines()[0]}",
            "Give --checkpoint a folder or hub id of one, with its tokenizer, for instance Qwen/Qwen3-4B.",
        ) from error
    model.to(place).eval()
    chats = bool(getattr(tokenizer, "chat_template", None))

    @torch.inference_mode()
    def write(prompt: str, attempt: int) -> str:
        if chats:
            asked = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
            given = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(place)
        else:
            # A model that was never taught to answer goes on with a list that has begun.
            given = tokenizer(f"{prompt}\n1. ", return_tensors="pt").to(place)
        how: dict[str, Any] = (
            {"do_sample": True, "temperature": 0.8, "top_p": 0.95} if attempt else {"do_sample": False}
        )
        torch.manual_seed(crc32(f"{attempt} {prompt}".encode()))
        ids = {name: given[name] for name in ("input_ids", "attention_mask")}
        made = model.generate(**ids, max_new_tokens=new_tokens, pad_token_id=tokenizer.eos_token_id, **how)
        said = tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        return str(said)

    return write
