"""`vfc describe`: a local language model writes sentences about each class: what it looks like, and its steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

from vfc.cache_schema.annotations import load
from vfc.cache_schema.annotations.ordered import read_class_list
from vfc.cache_schema.protocol import fill_prompt, prompt_fields, spoken
from vfc.cache_schema.protocol.descriptions import read_descriptions, write_descriptions
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch, VfcError, combined, first_line
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.values.settings import DEVICE_HELP, setting

if TYPE_CHECKING:
    import torch

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
_BULLET: Final = re.compile(r"^\s*(?:[-*•\u2013]|\(?\d+[.):])\s*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")

Writer = Callable[[str, int], str]
"""Returns the answer of the model to a prompt; the number is that of the attempt."""


@dataclass(frozen=True)
class DescribeConfig:
    """Which classes, which language model, how many sentences.

    Raises:
        BadInput: a number that is too small, or a prompt with another field than label and count.
    """

    checkpoint: str = setting(MISSING, "Hub id or folder of a causal language model", "Model")
    class_list: Path | None = setting(None, "File with the class names in the order of their ids", "Input")
    cache: Path | None = setting(None, "Store whose class names (sorted) are used if there is no list", "Input")
    count: int = setting(2, "Sentences per class in each file (N)", "Output")
    name: str = setting("classes", "Name of the data set, used in the file names", "Output")
    out: Path = setting(Path("descriptions"), "Folder of the two files", "Output")
    spatial_prompt: str = setting(SPATIAL, "Prompt with {label} and {count}", "Model")
    temporal_prompt: str = setting(TEMPORAL, "Prompt with {label} and {count}", "Model")
    new_tokens: int = setting(256, "Most tokens of one answer", "Model")
    tries: int = setting(3, "Attempts per class if an answer is too short; all but the first are sampled", "Model")
    device: str | None = setting(None, DEVICE_HELP, "Performance")

    def __post_init__(self) -> None:
        errors: list[VfcError] = [
            BadInput(f"--{name.replace('_', '-')} is {getattr(self, name)}.", "Give 1 or more.")
            for name in ("count", "new_tokens", "tries")
            if getattr(self, name) < 1
        ]
        if errors:
            raise combined(errors)
        for prompt in self.prompts().values():
            if set(prompt_fields(prompt)) - {"label", "count"} or "label" not in prompt_fields(prompt):
                raise BadInput(f"The prompt {prompt!r} cannot be filled.", "It takes {label}, and {count} if you like.")

    def prompts(self) -> dict[str, str]:
        """The prompts by the letter of their file: spatial, temporal."""
        return {"s": self.spatial_prompt, "t": self.temporal_prompt}

    def file(self, part: str) -> Path:
        """The file of one of the prompts."""
        return self.out / f"{self.count}_{part}_description_{self.name}.json"


@dataclass(frozen=True)
class Described:
    """The files, the number of classes written in this run and in earlier ones, and the classes that failed."""

    files: tuple[Path, Path]
    written: int
    earlier: int
    failed: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """3 where a class failed."""
        return 3 if self.failed else 0

    def to_json(self) -> dict[str, Json]:
        """As the command line prints it."""
        return {
            "files": [str(path) for path in self.files],
            "written": self.written,
            "there": self.earlier,
            "failed": dict(self.failed),
        }

    def lines(self) -> list[str]:
        """As a person reads it."""
        summary = f"{self.written} lists of sentences written, {self.earlier} existed already."
        if self.failed:
            failures = [f"Too few sentences for {name}: {why}" for name, why in self.failed.items()]
            remedy = "Next: more --tries or --new-tokens, or another --checkpoint, into another --out."
            return [summary, *failures, remedy]
        spatial, temporal = self.files
        return [
            summary,
            "Put their embeddings into a store by running its extract line again, once per file, with:",
            *(f"  --texts {path} --cut-texts" for path in self.files),
            f"Then: vfc train-head msta --descriptions {spatial} {temporal}",
        ]


def describe_classes(config: DescribeConfig, progress: Progress, *, writer: Writer | None = None) -> Described:
    """Write `<N>_s_description_<name>.json` and `<N>_t_...`, a class at a time; continues an interrupted run.

    Args:
        config: The settings.
        progress: Receives every class and file.
        writer: Answers prompts in place of the checkpoint's model.

    Raises:
        BadInput: no such device; no classes; a checkpoint that is no language model.
        RecipeMismatch: another model, prompt or class list made an existing file, with the difference.
    """
    from vfc.extract.models.checkpoint import locate

    names = _classes(config)
    from vfc.cache_schema.values.devices import chosen_device  # torch: only after the cheap checks

    place = chosen_device(config.device)
    checkpoint = locate(config.checkpoint, default=None, family="describe")
    model: Json = {"id": checkpoint.id, "revision": checkpoint.revision, "digest": checkpoint.digest()}
    abouts = {part: _about(config, prompt, names, model) for part, prompt in config.prompts().items()}
    written = {part: _earlier(config.file(part), about) for part, about in abouts.items()}
    earlier = sum(map(len, written.values()))
    progress.begin("Describe", 2 * len(names), "lists")
    progress.advance(earlier)
    to_do = [(i, part) for i in range(len(names)) for part in abouts if i not in written[part]]
    if to_do and writer is None:
        writer = language_model(str(checkpoint.folder), config.new_tokens, place)
    failed: dict[str, str] = {}
    for i, part in to_do:
        assert writer is not None
        prompt = fill_prompt(config.prompts()[part], {"label": spoken(names[i]), "count": str(config.count)})
        answer = _best_answer(writer, prompt, config)
        if len(answer) == config.count:
            written[part][i] = answer
            write_descriptions(config.file(part), written[part], abouts[part])
        else:
            name = f"{names[i]} ({config.file(part).name})"
            failed[name] = f"{len(answer)} sentences after {config.tries} attempts."
        progress.advance(note=names[i])
    return Described((config.file("s"), config.file("t")), len(to_do) - len(failed), earlier, failed)


def _about(config: DescribeConfig, prompt: str, classes: tuple[str, ...], model: Json) -> dict[str, Json]:
    """What makes the sentences of a file, written beside them."""
    return {
        "prompt": prompt,
        "count": config.count,
        "classes": [*classes],
        "model": model,
        "new_tokens": config.new_tokens,
        "tries": config.tries,
    }


def _classes(config: DescribeConfig) -> tuple[str, ...]:
    if config.class_list is not None:
        return read_class_list(config.class_list)
    if config.cache is not None:
        names = tuple(load(config.cache, "default").labels())
        if names:
            return names
        raise BadInput(f"The store {config.cache} has no labels.", "Give the class names: --class-list FILE.")
    raise BadInput("There is no class to describe.", "Give --class-list FILE, or --cache STORE with labels.")


def _earlier(path: Path, about: Mapping[str, Json]) -> dict[int, tuple[str, ...]]:
    """The sentences that an earlier run of the same settings wrote."""
    if not path.exists():
        return {}
    descriptions = read_descriptions(path, whole=False)
    changed = Recipe(dict(descriptions.about)).difference(Recipe(dict(about)))
    if changed:
        listed = ", ".join(name for name, _, _ in changed)
        raise RecipeMismatch(
            f"{path} was written with other settings: {listed} differ.",
            "Give another --name or --out, or the settings of that run to go on with it.",
        )
    return dict(descriptions.sentences)


def _best_answer(writer: Writer, prompt: str, config: DescribeConfig) -> tuple[str, ...]:
    """The sentences of the first attempt with enough of them, else of the one with most."""
    best: tuple[str, ...] = ()
    for attempt in range(config.tries):
        best = max(best, sentences(writer(prompt, attempt), config.count), key=len)
        if len(best) == config.count:
            break
    return best


def sentences(text: str, count: int) -> tuple[str, ...]:
    """The first `count` different sentences of an answer: one per line, or split at full stops where lines are few.

    Numbers, bullets, quotes and thoughts are removed, and lines that only announce others.
    """
    lines = list(_cleaned(_THOUGHT.sub("", text).splitlines()))
    if len(set(lines)) < count:
        lines = list(_cleaned(piece for line in lines for piece in _SENTENCE_END.split(line)))
    return tuple(dict.fromkeys(lines))[:count]


def _cleaned(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        bare = _BULLET.sub("", line.strip()).strip("\"'“”*` \t")
        if len(bare.split()) > 1 and not bare.endswith(":"):
            yield bare


def language_model(folder: str, new_tokens: int, place: torch.device) -> Writer:
    """A causal language model on the device `place`, as a function from prompts to answers.

    Greedy at the first attempt, then sampled, seeded by the prompt and the number of the attempt alone.

    Raises:
        BadInput: the folder holds no causal language model, or none with a tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from vfc.extract.models.loading import silenced_transformers

    placed = {} if place.type == "cpu" else {"device_map": {"": place}}  # a CPU needs no map
    try:
        with silenced_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto", **placed)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder} cannot be opened as a causal language model: {first_line(error)}",
            "Give --checkpoint a folder or hub id of one, with its tokenizer, for instance Qwen/Qwen3-4B.",
        ) from error
    model.to(place).eval()

    @torch.inference_mode()
    def write(prompt: str, attempt: int) -> str:
        inputs = _inputs(tokenizer, prompt).to(place)
        sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.95} if attempt else {"do_sample": False}
        torch.manual_seed(crc32(f"{attempt} {prompt}".encode()))
        ids = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        output = model.generate(**ids, max_new_tokens=new_tokens, pad_token_id=tokenizer.eos_token_id, **sampling)
        return str(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))

    return write


def _inputs(tokenizer: Any, prompt: str) -> Any:
    """A prompt as tokens: in the chat template, or, for a model without one, before the start of a list."""
    if not getattr(tokenizer, "chat_template", None):
        return tokenizer(f"{prompt}\n1. ", return_tensors="pt")
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, return_tensors="pt", add_special_tokens=False)
