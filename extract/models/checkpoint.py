"""Checkpoints: a folder or a hub id, its configuration, its weight files and their digest.

Configuration and small files come first; weights are fetched only when they are hashed or read, so that plans and
`vfc models show` cost nothing. Remote code is never run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, MissingPath, first_line
from vfc.cache_schema.values.record import Json
from vfc.extract.backbone import family_names

HUB_ID: Final = re.compile(r"[\w.-]+(/[\w.-]+)?")
SMALL: Final = ("*.json", "*.txt", "*.txt.gz", "*.model", "*.jinja")
SAFETENSORS: Final = ("model.safetensors", "model-*.safetensors")
PICKLED: Final = ("pytorch_model.bin", "pytorch_model-*.bin")
BARE: Final = (".safetensors", ".pth", ".pt", ".bin")
"""Suffixes of a weight file that may be given without config.json, where a family reads sizes from the weights."""
BPE: Final = "bpe_simple_vocab_16e6.txt.gz"
TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    BPE,
)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on this machine. `id`: hub id, or name of the folder or file; `revision`: the hub's commit.

    `file`: the weights, where they are one file of any name; config.json then need not be beside it.
    """

    id: str
    folder: Path
    revision: str | None = None
    file: Path | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json; empty where none is needed. Raises BadInput where it is no JSON object."""
        if self.file is not None and not (self.folder / "config.json").is_file():
            return {}
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(f"{self.folder / 'config.json'} is not JSON: {error}.", "Copy the file again.") from error
        if not isinstance(config, dict):
            raise BadInput(f"{self.folder / 'config.json'} is not a JSON object.", "Copy the file again.")
        return config

    @property
    def model_type(self) -> str:
        """The architecture, as transformers names it."""
        return str(self.config.get("model_type", "unnamed"))

    def weights(self) -> list[Path]:
        """The weight files, safetensors before pickled ones; fetched from the hub where need be.

        Raises MissingPath where there are none.
        """
        if self.file is not None:
            return [self.file]
        for patterns in (SAFETENSORS, PICKLED):
            if self.revision is not None:
                _fetch(self.id, self.revision, (*patterns, "*.index.json"))
            single, sharded = (sorted(self.folder.glob(pattern)) for pattern in patterns)
            if single or sharded:
                return single or sharded
        raise MissingPath(
            f"The checkpoint {self.folder} holds no weights.",
            f"Put {SAFETENSORS[0]}, or its shards and their index, beside config.json.",
        )

    def tensor_names(self) -> frozenset[str]:
        """Names of all weights in the files, from their headers."""
        names: set[str] = set()
        for file in self.weights():
            if file.suffix == ".safetensors":
                from safetensors import safe_open

                with safe_open(file, framework="pt") as opened:
                    names.update(opened.keys())
            else:
                import torch

                names.update(torch.load(file, map_location="meta", mmap=True, weights_only=True))
        return frozenset(names)

    def digest(self) -> str:
        """SHA-256 over the names and contents of the weight files and config.json; files are read once per process."""
        config = self.folder / "config.json"
        return files_digest([*self.weights(), *((config,) if self.file is None or config.is_file() else ())])

    def tokenizer_digest(self) -> str:
        """The same over the tokenizer's files."""
        return files_digest(self.folder / name for name in TOKENIZER if (self.folder / name).is_file())

    def recipe(self, architecture: str, *, tokenizer: bool = False) -> dict[str, Json]:
        """Identity and digests for the recipe of a store; `architecture`: the class of the network."""
        return {
            "id": self.id,
            "revision": self.revision,
            "digest": self.digest(),
            **({"tokenizer": self.tokenizer_digest()} if tokenizer else {}),
            "architecture": architecture,
        }

    def require(self, model_type: str, family: str) -> None:
        """Raise BadInput, with the family to use instead, where this is a checkpoint of another architecture."""
        if self.model_type != model_type:
            other = self.model_type.replace("_", "-")
            hint = f"try --model {other} with this one" if other in family_names() else "see vfc models list"
            raise BadInput(
                f"The checkpoint {self.id} is a {self.model_type} model; {family} needs a {model_type} one.",
                f"Give another --checkpoint, or {hint}.",
            )


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 over `name, SHA-256 of the content` of each file, by name; in hex."""
    hasher = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        stat = file.stat()
        hasher.update(f"{file.name}\0{_file_digest(file.resolve(), stat.st_size, stat.st_mtime_ns)}\n".encode())
    return hasher.hexdigest()


@lru_cache(maxsize=4096)
def _file_digest(file: Path, size: int, modified_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def locate(name: str | None, *, default: str | None, family: str, bare: bool = False) -> Checkpoint:
    """The checkpoint of that name: a folder if there is one, else a hub id, else `default`.

    `bare`: for families that need no config.json; then also a weight file, or a folder with one of any name.

    Raises BadInput where no name is given and the family has no default, or the weight file is of another kind;
    MissingPath where there is none.
    """
    name = name or default
    if name is None:
        raise BadInput(
            f"{family} has no checkpoint of its own.",
            "Give --checkpoint FOLDER|HUB-ID, for instance facebook/dinov2-base.",
        )
    folder = Path(name).expanduser()
    if bare and (file := _bare_file(folder)):
        return Checkpoint(folder.resolve().name, file.parent, file=file)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise MissingPath(
                f"The folder {folder} is no checkpoint: it holds no config.json.",
                "Give the folder that holds config.json and the weights.",
            )
        return Checkpoint(folder.resolve().name, folder)
    hub_id, _, revision = name.partition("@")
    if not HUB_ID.fullmatch(hub_id):
        raise MissingPath(
            f"There is no checkpoint folder {name}.", "Give a folder that holds config.json, or a hub id (owner/name)."
        )
    folder = _fetch(hub_id, revision or None, SMALL)
    if not (folder / "config.json").is_file():
        raise MissingPath(_absent(hub_id), _how_to_get(hub_id))
    return Checkpoint(hub_id, folder, folder.name)


def _bare_file(path: Path) -> Path | None:
    """This weight file, or the only one of a folder that lacks config.json or weights of the usual names."""
    if path.is_file():
        if path.suffix not in BARE:
            raise BadInput(f"{path} is not a weight file.", f"Known suffixes: {', '.join(BARE)}; or give its folder.")
        return path
    has_usual_names = (path / "config.json").is_file() and any(
        any(path.glob(each)) for each in (*SAFETENSORS, *PICKLED)
    )
    if has_usual_names or not path.is_dir():
        return None
    files = sorted(file for file in path.iterdir() if file.suffix in BARE)
    if len(files) > 1:
        raise BadInput(
            f"The folder {path} holds several weight files: {', '.join(file.name for file in files)}.",
            "Give one of them: --checkpoint FILE.",
        )
    return files[0] if files else None


def _fetch(hub_id: str, revision: str | None, patterns: Iterable[str]) -> Path:
    """The hub's local folder of one revision, with the files of these patterns fetched where they exist."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise MissingPath(f"{_absent(hub_id)} ({first_line(error)})", _how_to_get(hub_id)) from error


def _absent(hub_id: str) -> str:
    return f"The checkpoint {hub_id} is neither a folder here nor in the local hub cache, and the hub did not give it."


def _how_to_get(hub_id: str) -> str:
    return f"Where there is a network, run `hf download {hub_id}` without HF_HUB_OFFLINE; or give --checkpoint FOLDER."
