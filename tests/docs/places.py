"""Where the pages are run: folders with small videos, stores and archives, and tiny checkpoints under the names used.

`CHECKPOINTS` is the mapping from the hub ids of the pages to tiny checkpoints of the same architecture. They are put
into a cache folder laid out as the hub's own, so ids are found as on a machine that has fetched them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from suites.checkpoints import clip_checkpoint, image_checkpoint, image_pixels, randomise, save
from suites.i3d import i3d_checkpoint
from suites.language import llama_tokenizer, qwen2_checkpoint, qwen3_checkpoint, video_llava_checkpoint
from suites.sequence_store import made_up
from suites.toy import write_clip

from vfc.cli import app
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.models.checkpoint import BPE

BLOCKS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 12, "num_attention_heads": 2}
REVISION = "0" * 40
SPLITS = ("train", "train", "train", "val", "test", "test")


def _video_llava(folder: Path) -> Path:
    return video_llava_checkpoint(folder, num_hidden_layers=32)


def _vit(folder: Path) -> Path:
    return image_checkpoint(folder, "vit")


def _dinov2(folder: Path) -> Path:
    tower: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 12,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    return save(randomise(transformers.Dinov2Model(transformers.Dinov2Config(**tower))), folder, image_pixels())


def _clip(folder: Path) -> Path:
    return clip_checkpoint(folder, vision={"num_hidden_layers": 12})


def _viclip(folder: Path) -> Path:
    return write_tiny_viclip(folder, layers=12, width=48, text_width=16)


def _videomae(folder: Path) -> Path:
    sizes: dict[str, Any] = {
        "hidden_size": 24,
        "num_hidden_layers": 12,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = transformers.VideoMAEConfig(**sizes, image_size=32, patch_size=8, num_frames=16)
    pixels = {"image_processor_type": "VideoMAEImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 32}
    return save(randomise(transformers.VideoMAEModel(config)), folder, pixels)


def _llama(folder: Path) -> Path:
    tokenizer = llama_tokenizer()
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = transformers.LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=2048)
    save(randomise(transformers.LlamaForCausalLM(config)), folder)
    tokenizer.save_pretrained(folder)
    return folder


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "google/vit-base-patch16-224": _vit,
    "facebook/dinov2-base": _dinov2,
    "openai/clip-vit-base-patch16": _clip,
    "OpenGVLab/ViCLIP-B-16-hf": _viclip,
    "MCG-NJU/videomae-base": _videomae,
    "LanguageBind/Video-LLaVA-7B-hf": _video_llava,
    "Qwen/Qwen2-VL-7B-Instruct": lambda folder: qwen2_checkpoint(folder, num_hidden_layers=28),
    "Qwen/Qwen3-VL-8B-Instruct": lambda folder: qwen3_checkpoint(folder, num_hidden_layers=36),
    "huggyllama/llama-7b": _llama,
}


def write_hub(cache: Path) -> Path:
    """A cache folder of the hub that holds every checkpoint of the mapping; made once."""
    for hub_id, write in CHECKPOINTS.items():
        folder = cache / f"models--{hub_id.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(REVISION)
        (folder / "snapshots").mkdir()
        write(folder / "snapshots" / REVISION)
    return cache


def videos(folder: Path, *, classes: int = 10, clips: int = 6) -> None:
    """`./videos` with one folder per class, and `videos.csv` with a split."""
    rows = ["path,label,split"]
    for number in range(classes):
        for clip in range(clips):
            name = f"action-{number}/{clip}.mp4"
            write_clip(folder / "videos" / name, 100 * number + clip, frames=24)
            rows.append(f"videos/{name},action-{number},{SPLITS[clip % len(SPLITS)]}")
    (folder / "videos.csv").write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("".join(f"action-{number}\n" for number in range(classes)))


def few_videos(folder: Path) -> None:
    """The same with four classes, five training videos in each."""
    videos(folder, classes=4, clips=8)


def mstcn(folder: Path) -> None:
    """`./50salads`: an MS-TCN folder of made-up sequences with one split, and `./labels` without the features."""
    source = folder / "50salads"
    for part in ("features", "groundTruth", "splits"):
        (source / part).mkdir(parents=True)
    names = ["cut_tomato", "peel_cucumber", "add_oil", "mix_dressing"]
    generator = np.random.default_rng(0)
    labels = made_up(12)
    for video, ids in labels.items():
        np.save(source / "features" / f"{video}.npy", generator.standard_normal((8, len(ids)), np.float32))
        (source / "groundTruth" / f"{video}.txt").write_text("".join(f"{names[i]}\n" for i in ids))
    (source / "mapping.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names)))
    parts = {"train": list(labels)[3:], "test": list(labels)[:3]}
    for part, members in parts.items():
        (source / "splits" / f"{part}.split1.bundle").write_text("".join(f"{name}.txt\n" for name in members))


def run(line: str) -> None:
    """One `vfc` line that must succeed."""
    assert app.run([*line.split(), "--progress", "none"]) == 0, line


SMALL_RUN = "--device cpu --decode-workers 1 --threads 1"


def image_store(folder: Path) -> None:
    """Videos of ten classes and `./store`: one vector per frame of an image encoder."""
    videos(folder)
    run(f"extract --model image --checkpoint google/vit-base-patch16-224 {SMALL_RUN}")


def clip_store(folder: Path) -> None:
    """Videos of four classes and `./store`: CLIP's frames in several views, and class texts."""
    few_videos(folder)
    line = [
        "extract",
        "--model",
        "clip",
        "--videos",
        "videos.csv",
        "--texts",
        "classes",
        "--views",
        "augment:1,test:1x3",
    ]
    assert app.run([*line, "--template", "a video of {label}", *SMALL_RUN.split(), "--progress", "none"]) == 0


def sequence_store(folder: Path) -> None:
    """`./50salads` and `./store` imported from it."""
    mstcn(folder)
    run("store import 50salads --fps 30 --out store")


def frame_labels(folder: Path) -> None:
    """The same with predicted labels of the past."""
    sequence_store(folder)
    run("train-head frame-classifier --cache store --fold 1 --steps 10 --device cpu")


def viclip_videos(folder: Path) -> None:
    """Videos of four classes, and files of sentences about them in the form of `vfc describe`."""
    few_videos(folder)
    (folder / "descriptions").mkdir()
    for part in "st":
        sentences = {str(i): [f"a video of action {i} {word}" for word in (part, "again")] for i in range(4)}
        (folder / "descriptions" / f"2_{part}_description_mine.json").write_text(json.dumps(sentences))


def model_files(folder: Path) -> None:
    """Videos of two classes, an I3D and a published file of ViCLIP in the working folder."""
    videos(folder, classes=2, clips=2)
    i3d_checkpoint(folder / "i3d")
    weights = write_tiny_viclip(folder / "viclip-made", layers=12, width=48, text_width=16)
    torch.save(load_file(weights / "model.safetensors"), folder / "ViCLIP-B_InternVid-FLT-10M.pth")
    for name in ("config.json", BPE):
        shutil.copy(weights / name, folder)


def readme(folder: Path) -> None:
    """What README works with: videos of ten classes."""
    videos(folder)


def videos_and_examples(folder: Path) -> None:
    """Videos of ten classes, a few labelled clips of two classes, and one new clip."""
    videos(folder)
    for number in (8, 9):
        shutil.copytree(folder / "videos" / f"action-{number}", folder / "examples" / f"action-{number}")
        for clip in range(1, 6):
            (folder / "examples" / f"action-{number}" / f"{clip}.mp4").unlink()
    shutil.copy(folder / "videos" / "action-9" / "5.mp4", folder / "new.mp4")


def archive_and_videos(folder: Path) -> None:
    """`./50salads`, and twelve videos with labels for their frames, to be extracted by an I3D."""
    mstcn(folder)
    i3d_checkpoint(folder / "i3d")
    labels = folder / "labels"
    (labels / "groundTruth").mkdir(parents=True)
    (labels / "splits").mkdir()
    shutil.copy(folder / "50salads" / "mapping.txt", labels)
    names = ["cut_tomato", "peel_cucumber", "add_oil", "mix_dressing"]
    for i in range(4):
        write_clip(folder / "videos" / f"v{i}.mp4", i, frames=60)
        frames = "".join(f"{names[step // 15]}\n" for step in range(60))
        (labels / "groundTruth" / f"v{i}.txt").write_text(frames)
    (labels / "splits" / "train.split1.bundle").write_text("v0.txt\nv1.txt\nv2.txt\n")
    (labels / "splits" / "test.split1.bundle").write_text("v3.txt\n")


def archives(folder: Path) -> None:
    """`./50salads`, `./features.h5` with `labels.csv`, and a store."""
    import h5py

    image_store(folder)
    mstcn(folder)
    rows = ["name,label"]
    with h5py.File(folder / "features.h5", "w") as file:
        for i in range(4):
            file[f"video{i}"] = np.random.default_rng(i).standard_normal((8, 16)).astype(np.float32)
            rows.append(f"video{i},{'wave' if i % 2 else 'clap'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def finished_run(folder: Path) -> None:
    """A store and one finished training on it."""
    image_store(folder)
    run("train-head prototype --way 2 --classes seeded --steps 2 --batch 2 --tasks 20 --val-tasks 5 --device cpu")


def token_store(folder: Path) -> None:
    """`./store` with one vector per frame, and `./tokens` with all tokens of a layer."""
    image_store(folder)
    line = "extract --model image --checkpoint google/vit-base-patch16-224 --layer 2 --keep visual --out tokens"
    run(f"{line} --include action-0 {SMALL_RUN}")
