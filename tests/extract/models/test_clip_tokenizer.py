"""CLIP's tokens: cut as the library cuts, read where the library reads, refused where that would be elsewhere."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from suites.checkpoints import byte_symbols, clip_checkpoint

from vfc.cache_schema.values.errors import BadInput, MissingPath, RecordRejected
from vfc.extract.backbone import BackboneOptions, open_backbone
from vfc.extract.models.checkpoint import locate
from vfc.extract.models.clip_tokenizer import ClipTokens, end_of_text

CONTEXT = 16
LONG = "a video of someone waving the hand of someone kicking a ball of someone waving"


def opened(folder: Path, cut: bool = False) -> ClipTokens:
    config: Any = transformers.CLIPConfig.from_pretrained(folder)
    return ClipTokens.of(locate(str(folder), default=None, family="clip"), config.text_config, cut)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_checkpoint(tmp_path_factory.mktemp("clip") / "tiny-clip")


def test_end_of_text_by_hand() -> None:
    ids = torch.tensor([7, 3, 9, 9, 9])
    assert end_of_text(ids, 9) == 2
    assert end_of_text(ids, 2) == 2
    assert end_of_text(torch.tensor([3, 8, 2, 5]), 2) == 1


def test_a_tokenizer_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint = clip_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"ends texts with id \d+; its config.json says 5"):
        opened(checkpoint)


def test_special_tokens_within_a_text_are_refused(tiny: Path) -> None:
    with pytest.raises(RecordRejected, match=r"would be read at token 2 of 5, which is not its end"):
        opened(tiny)("a<|endoftext|>ball")


def test_a_text_beyond_the_context_is_refused_or_cut_as_the_library_cuts(tiny: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    whole = len(tokenizer(LONG, verbose=False)["input_ids"])
    with pytest.raises(RecordRejected, match=f"has {whole} tokens; the text tower takes 16.\nShorten it"):
        opened(tiny)(LONG)
    prepared = opened(tiny, cut=True)(LONG)
    assert prepared.metadata == {"tokens": 16, "cut_tokens": whole - 16}
    expected = tokenizer(LONG, truncation=True, max_length=CONTEXT)["input_ids"]
    assert prepared.tensors["ids"].tolist() == expected
    assert opened(tiny)("a ball").metadata == {"tokens": 4, "cut_tokens": 0}


def test_texts_without_a_tokenizer_are_refused_and_clips_are_not(tiny: Path, tmp_path: Path) -> None:
    bare = Path(
        shutil.copytree(tiny, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "vocab*", "merges*"))
    )
    open_backbone("clip", BackboneOptions(str(bare)))
    with pytest.raises(MissingPath, match="The checkpoint bare has no tokenizer, and texts were asked for"):
        opened(bare)


def test_real_vocabulary_gives_the_published_ids(shared_data: Path) -> None:
    """Ids of CLIP's own tokenizer for two texts, as the fact sheet of ViCLIP gives them."""
    with gzip.open(shared_data / "weights/clip_bpe/bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1:48895]]
    symbols = byte_symbols()
    assert len(symbols) == 256
    pieces = [
        *symbols,
        *(f"{s}</w>" for s in symbols),
        *("".join(m) for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    tokenizer = transformers.CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges)
    for eos in (2, 49407):
        tokens = ClipTokens(tokenizer, context=77, eos_token_id=eos)
        made = tokens("A video  of brush hair.").tensors
        assert made["ids"].tolist() == [49406, 320, 1455, 539, 8594, 2225, 269, *[49407] * 70]
        assert made["mask"].tolist() == [1] * 8 + [0] * 69
        assert made["eot"].tolist() == [7]
        assert tokens("hello world").tensors["ids"].tolist()[1:3] == [3306, 1002]
