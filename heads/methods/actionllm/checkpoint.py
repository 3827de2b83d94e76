"""Loading the frozen LLM of ActionLLM from a folder or the hub."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import torch

from vfc.cache_schema.values.errors import BadInput, Damaged, MissingExtra, MissingPath, first_line

from .trunk import check_shapes

DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")


def locate(llm: str) -> tuple[str, str | None]:
    """The folder or hub id of `--llm`, and a revision (`owner/name@revision`).

    Raises:
        BadInput: `llm` is empty.
        MissingPath: neither a checkpoint folder nor a hub id.
    """
    if not llm:
        raise BadInput(
            "ActionLLM needs a language model.",
            "Give --llm FOLDER|HUB-ID of a LLaMA checkpoint for transformers, such as huggyllama/llama-7b.",
        )
    folder = Path(llm).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise MissingPath(
                f"The folder {folder} is not a checkpoint: it has no config.json.",
                "Give the folder with config.json, the weights and the tokenizer.",
            )
        return str(folder), None
    if not _HUB_ID.fullmatch(llm):
        raise MissingPath(
            f"There is no checkpoint folder {llm}.",
            "Give --llm a folder with config.json, or a hub id (owner/name).",
        )
    name, _, revision = llm.partition("@")
    return name, revision or None


def load(llm: str, dtype: str | None, quantize: Literal["8bit", "4bit"] | None) -> Any:
    """The transformers model without its language-model head, on the CPU (quantised: on the GPU).

    `dtype` None: the checkpoint's; fp16 becomes fp32 on a machine without a GPU.

    Raises:
        BadInput: not built like LLaMA (checked before the weights are read); quantisation without a GPU.
        MissingPath: no such checkpoint, or no weights in it.
        MissingExtra: quantisation without bitsandbytes.
        Damaged: weights of the model are missing.
    """
    name, revision = locate(llm)
    config = _read(llm, _config, name, revision)
    _check(config, llm)
    target = DTYPES[dtype] if dtype else getattr(config, "dtype", None) or torch.float32
    if dtype is None and target == torch.float16 and not torch.cuda.is_available():
        target = torch.float32
    if hasattr(config, "attention_dropout"):
        config.attention_dropout = 0.0
    model, report = _read(llm, _weights, name, revision, config, target, quantization(quantize))
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise Damaged(
            f"The checkpoint {llm} lacks {len(report['missing_keys'])} weights of the model: {some}.",
            "Copy the checkpoint again.",
        )
    return model


def llama_7b() -> Any:
    """The first LLaMA of 7 billion parameters, with weights that say nothing."""
    from transformers import AutoModel, LlamaConfig

    # The defaults of the library are the sizes of LLaMA-7B.
    return AutoModel.from_config(LlamaConfig())


def tokenizer(llm: str) -> Any:
    """The checkpoint's tokenizer; raises MissingPath if there is none."""
    name, revision = locate(llm)

    def read() -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(name, revision=revision)

    return _read(llm, read)


def quantization(kind: Literal["8bit", "4bit"] | None) -> dict[str, Any]:
    """Arguments of `from_pretrained`; raises MissingExtra, or BadInput without a GPU."""
    if kind is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtra(
            f"--quantize {kind} needs bitsandbytes, which is not installed.", 'Install it: pip install "vfc[quant]"'
        )
    if not torch.cuda.is_available():
        raise BadInput(f"--quantize {kind} needs a CUDA device; there is none.", "Omit it, or use a GPU.")
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_8bit=kind == "8bit", load_in_4bit=kind == "4bit")
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}


def _config(name: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(name, revision=revision)


def _weights(name: str, revision: str | None, config: Any, dtype: torch.dtype, more: dict[str, Any]) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(
        name,
        revision=revision,
        config=config,
        dtype=dtype,
        attn_implementation="sdpa",
        output_loading_info=True,
        **more,
    )


def _check(config: Any, llm: str) -> None:
    """Check the architecture on the meta device, before the weights are read."""
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config)
    except ValueError as error:
        raise BadInput(
            f"The checkpoint {llm} ({config.model_type}) cannot be built: {first_line(error)}",
            "Give --llm a LLaMA, or a decoder built like it (Mistral, Qwen2).",
        ) from error
    check_shapes(model)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and load reports of transformers; their contents are checked and raised here."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _read(llm: str, function: Any, *arguments: Any) -> Any:
    try:
        with _quiet():
            return function(*arguments)
    except (ImportError, OSError, ValueError) as error:
        raise MissingPath(
            f"The language model {llm} could not be read: {first_line(error)}",
            "Give --llm a folder with config.json, weights and tokenizer; or fetch it with `hf download`.",
        ) from error
