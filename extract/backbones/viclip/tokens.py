"""ViCLIP's tokens: CLIP's byte pairs from the published vocabulary file, padded with id 0."""

from __future__ import annotations

import gzip
import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.extract.backbone import Prepared
from vfc.extract.models.checkpoint import BPE, Checkpoint
from vfc.extract.models.clip_tokenizer import ClipTokens

from .architecture import Architecture

MERGES: Final = 49152 - 256 - 2
"""Number of lines of the published vocabulary file that are used, after its first."""
PAD: Final = 0


@dataclass(frozen=True)
class Texts:
    """Texts as ViCLIP reads them: HTML entities unescaped twice, as in its training, then `ClipTokens`.

    Its training also repaired broken encodings by ftfy; this does not.
    """

    tokens: ClipTokens

    @classmethod
    def of(cls, checkpoint: Checkpoint, architecture: Architecture, cut: bool) -> Texts:
        """The tokenizer that lies beside a checkpoint's weights.

        Raises MissingPath where there is none, BadInput where it has more or fewer ids than the text tower.
        """
        tokenizer = _tokenizer(checkpoint)
        if len(tokenizer) != architecture.vocabulary:
            raise BadInput(
                f"The tokenizer of {checkpoint.id} has {len(tokenizer)} ids; its text tower {architecture.vocabulary}.",
                "Put the files of one checkpoint together.",
            )
        return cls(ClipTokens(tokenizer, architecture.context, int(tokenizer.eos_token_id), cut, PAD))

    def __call__(self, text: str) -> Prepared:
        """See `ClipTokens`."""
        return self.tokens(html.unescape(html.unescape(text)))


def _tokenizer(checkpoint: Checkpoint) -> Any:
    folder = checkpoint.folder
    if (folder / BPE).is_file():
        return read_bpe(folder / BPE)
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    raise MissingPath(
        f"The checkpoint {checkpoint.id} has no tokenizer, and texts were asked for.",
        f"Put CLIP's {BPE} beside its weights, or leave out --texts.",
    )


def read_bpe(file: Path) -> Any:
    """CLIP's tokenizer from its vocabulary file: bytes, bytes that end a word, merges, start and end of text."""
    from transformers import CLIPTokenizer

    tokenizer_class: Any = CLIPTokenizer  # its annotations allow merges as lines only
    try:
        with gzip.open(file, "rt", encoding="utf-8") as opened:
            lines = opened.read().split("\n")[1 : MERGES + 1]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {error}.", "Copy it again from CLIP's or ViCLIP's page.") from error
    merges = [(pair[0], pair[1]) for line in lines if len(pair := line.split()) == 2]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    # Printable bytes are their own symbol; the symbols of all others are the letters from U+0100 on.
    symbols = [chr(code) for code in (*printable, *range(0x100, 0x200 - len(printable)))]
    pieces = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(first + second for first, second in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return tokenizer_class(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
