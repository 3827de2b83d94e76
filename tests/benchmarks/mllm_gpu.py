"""How fast Video-LLaVA-7B and Qwen2-VL-7B run on a GPU: the forward alone, and the whole of `vfc extract`.

    python tests/benchmarks/mllm_gpu.py [--model video-llava|qwen2-vl] [--batch N] [--clips N] [--table FILE]
    python tests/benchmarks/mllm_gpu.py --smoke        tiny models on the CPU, to try the script itself

The networks have their true size and random bf16 weights, drawn on the device: nothing is fetched. Clips are H.264 of
320x240, six seconds, made here. Measured are clips and visual tokens per second, the share of the device's peak
arithmetic that the blocks and towers use (MFU; causal attention counts half), the share of time in which no kernel
runs, and the peak of allocated memory. "Forward alone" starts with pixels on the CPU and ends with states on the
device; "vfc extract" decodes, forwards and writes. Goals: extract >= 0.9 of the forward alone, MFU >= 43 %.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import av
import numpy as np
import torch
from suites.language import qwen2_checkpoint, video_llava_checkpoint

from vfc.extract.backbone import BackboneOptions, PromptedBackbone, open_backbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import read_clip
from vfc.extract.language import model as language
from vfc.extract.models.checkpoint import Checkpoint
from vfc.extract.models.loading import Compute
from vfc.extract.pipeline import run as running
from vfc.extract.prompting.prompts import TEMPLATES

MAKERS = {"video-llava": video_llava_checkpoint, "qwen2-vl": qwen2_checkpoint}
TRUE_SIZE: dict[str, dict[str, dict[str, Any]]] = {
    "video-llava": {
        "text_config": {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "vocab_size": 32064,
        },
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
        },
    },
    "qwen2-vl": {
        "text_config": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "vocab_size": 152064,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "layer_types": ["full_attention"] * 28,
        },
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "hidden_size": 3584,
            "num_heads": 16,
            "mlp_ratio": 4,
            "patch_size": 14,
        },
    },
}
PROCESSORS = {
    "video-llava": ("processor_config.json", {"video_processor": {"size": {"shortest_edge": 224}, "crop_size": 224}}),
    "qwen2-vl": ("preprocessor_config.json", {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14}),
}
PEAKS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "4090": 165, "A10": 125}
"""Dense bf16 TFLOP/s by a part of the device's name."""


@dataclass(frozen=True)
class Measured:
    """One way of running one model."""

    model: str
    way: str
    clips: float
    tokens: float
    mfu: float
    idle: float
    memory: float


def checkpoint_folder(family: str, root: Path, smoke: bool) -> Path:
    """Configuration, tokenizer and processor files; weights only of the tiny one."""
    folder = MAKERS[family](root / f"{family}-{'tiny' if smoke else '7b'}")
    if not smoke:
        (folder / "model.safetensors").unlink()
        config = json.loads((folder / "config.json").read_text())
        for part, values in TRUE_SIZE[family].items():
            config[part] |= values
        (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
        name, section = PROCESSORS[family]
        (folder / name).write_text(json.dumps(section))
    return folder


@contextmanager
def random_weights() -> Iterator[None]:
    """Networks are drawn on their device instead of read."""

    def drawn(cls: Any, _: Checkpoint, config: Any, compute: Compute) -> Any:
        with torch.device(compute.device):
            return cls._from_config(
                copy.deepcopy(config), dtype=compute.torch_dtype, attn_implementation=compute.attention
            ).eval()

    before = language.load, Checkpoint.digest
    language.load, Checkpoint.digest = drawn, lambda _: "random weights"  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        language.load, Checkpoint.digest = before  # type: ignore[method-assign]


def write_clip(job: tuple[Path, int]) -> None:
    """Six seconds of a moving pattern under noise."""
    path, seed = job
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 40, (8, 240, 320, 3))
    y, x = np.mgrid[:240, :320]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for t in range(150):
            pattern = 100 + 60 * np.sin((x + (seed % 5 + 1) * t) / 17)[..., None] + 40 * np.cos((y - t) / 23)[..., None]
            image = np.clip(pattern + noise[t % 8], 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_clips(folder: Path, count: int, distinct: int = 32) -> Path:
    """`count` files in two class folders, copies of `distinct` ones."""
    paths = [folder / ("hug", "kick")[i % 2] / f"{i:04}.mp4" for i in range(count)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(write_clip, [(path, i) for i, path in enumerate(paths[:distinct])]))
    for i, path in enumerate(paths[distinct:]):
        shutil.copyfile(paths[i % distinct], path)
    return folder


def arithmetic(backbone: Any, prefix: int, visual: int, suffixes: list[int], frames: int) -> float:
    """Floating-point operations for one clip: two for every weight a token meets, and attention."""
    model = backbone._model
    text = backbone._config.text_config
    heads = text.num_attention_heads * getattr(text, "head_dim", text.hidden_size // text.num_attention_heads)
    blocks = len(model.language_model.layers)
    weights = sum(p.numel() for p in model.language_model.layers.parameters() if p.ndim > 1)
    tokens = prefix + sum(suffixes)
    met = prefix**2 / 2 + sum(n * (prefix + n / 2) for n in suffixes)
    total: float = 2.0 * weights * tokens + 4.0 * heads * met * blocks
    vision = backbone._config.vision_config
    if hasattr(model, "video_tower"):
        tower, per_frame = model.video_tower, visual // frames
        towers = 2.0 * visual * _matrices(tower) + 2.0 * visual * _matrices(model.multi_modal_projector)
        attention: float = 4.0 * vision.hidden_size * per_frame**2 * frames * (vision.num_hidden_layers - 1)
        return total + towers + attention
    patches = 4 * visual
    per_pair = patches / math.ceil(frames / 2)
    merger = 2.0 * visual * _matrices(model.visual.merger)
    blocks_of_tower = 2.0 * patches * (_matrices(model.visual.blocks) + _matrices(model.visual.patch_embed))
    attention = 4.0 * vision.embed_dim * per_pair * patches * vision.depth
    return total + merger + blocks_of_tower + attention


def _matrices(module: torch.nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if p.ndim > 1 and "embedding.w" not in name)


def idle_share(work: Callable[[], object]) -> float:
    """Share of the time between the first and the last kernel of `work` in which none runs; NaN without a GPU."""
    if not torch.cuda.is_available():
        work()
        return math.nan
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    spans: list[tuple[float, float]] = sorted(
        (float(event.time_range.start), float(event.time_range.end))
        for event in profiler.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return 1 - busy / (end - spans[0][0])


class Case:
    """One model with one prompt, in batches."""

    def __init__(self, family: str, root: Path, given: argparse.Namespace) -> None:
        self.family, self.given, self.root = family, given, root
        self.folder = checkpoint_folder(family, root, given.smoke)
        self.device = "cpu" if given.smoke else "cuda"
        self.videos = write_clips(root / f"clips-{family}", given.clips)
        options = BackboneOptions(str(self.folder), prompts=True, prompt_batching="packed", device=self.device)
        self.backbone: Any = open_backbone(family, options)
        assert isinstance(self.backbone, PromptedBackbone)
        self.layers = self.backbone.layers

    def forward(self) -> Measured:
        """Clips that are pixels already."""
        backbone, given = self.backbone, self.given
        backbone.load()
        paths = sorted(self.videos.rglob("*.mp4"))[: given.batch]
        items = [backbone.pixels(read_clip(path, "tsn-centre", 8)).tensors for path in paths]
        prompt = backbone.prompt(TEMPLATES["unknown"]).tensors
        asked = [[prompt]] * len(items)

        def batches(count: int) -> float:
            start = time.perf_counter()
            for _ in range(count):
                backbone.encode_prompted(items, asked)
            self._wait()
            return time.perf_counter() - start

        batches(2)
        self._forget_peak()
        took = statistics.median(batches(given.rounds) / given.rounds for _ in range(3))
        memory = self._peak()
        idle = idle_share(lambda: batches(3))
        visual = sum(int((item["ids"] == backbone.video_token).sum()) for item in items)
        flops = sum(
            arithmetic(backbone, len(i["ids"]), int((i["ids"] == backbone.video_token).sum()), [len(prompt["ids"])], 8)
            for i in items
        )
        self.tokens_per_clip, self.flops_per_clip = visual / len(items), flops / len(items)
        self.backbone._model = None
        return self._measured("forward alone", len(items) / took, idle, memory)

    def extract(self) -> Measured:
        """The whole of `vfc extract`, into a store that is thrown away."""
        self._forget_peak()
        speed, out = 0.0, self.root / "store"

        def work() -> None:
            nonlocal speed
            shutil.rmtree(out, ignore_errors=True)
            summary = running.extract(
                ExtractConfig(
                    videos=self.videos,
                    out=out,
                    model=self.family,
                    checkpoint=str(self.folder),
                    prompt=("unknown",),
                    device=self.device,
                    mode="fast",
                    batch=self.given.batch,
                )
            )
            assert summary.done == 2 * self.given.clips, summary.failed
            speed = self.given.clips / summary.seconds
            print(json.dumps(summary.to_json(), default=str)[:600], file=sys.stderr)

        work()
        found, memory = speed, self._peak()
        idle = idle_share(work)
        shutil.rmtree(out, ignore_errors=True)
        return self._measured("vfc extract", found, idle, memory)

    def _measured(self, way: str, clips: float, idle: float, memory: float) -> Measured:
        peak = self.given.peak_tflops * 1e12
        return Measured(
            self.family, way, clips, clips * self.tokens_per_clip, clips * self.flops_per_clip / peak, idle, memory
        )

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _forget_peak(self) -> None:
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> float:
        return torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else math.nan


def table(rows: list[Measured], machine: str) -> str:
    """Markdown; the last column is the ratio to the forward alone."""
    lines = [machine, "", "| model | way | clips/s | visual tokens/s | MFU | device idle | peak memory | of forward |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    alone = {row.model: row.clips for row in rows if row.way == "forward alone"}
    for row in rows:
        lines.append(
            f"| {row.model} | {row.way} | {row.clips:.2f} | {row.tokens:.0f} | {row.mfu:.1%} | {row.idle:.1%} "
            f"| {row.memory:.1f} GiB | {row.clips / alone[row.model]:.2f} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MAKERS), action="append", help="default: both")
    parser.add_argument("--batch", type=int, default=8, help="clips per forward")
    parser.add_argument("--clips", type=int, default=256, help="clips of `vfc extract`")
    parser.add_argument("--rounds", type=int, default=10, help="batches per timing")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="dense bf16, where the device is not known here")
    parser.add_argument("--folder", type=Path, default=None, help="where clips and stores go")
    parser.add_argument("--table", type=Path, default=None, help="append the table to this file")
    parser.add_argument("--smoke", action="store_true", help="tiny models, CPU, four clips")
    given = parser.parse_args()
    if given.smoke:
        given.batch, given.clips, given.rounds, given.peak_tflops = 2, 4, 1, given.peak_tflops or 1.0
    elif not torch.cuda.is_available():
        print("This needs a GPU, and torch sees none here. Try the script with --smoke.", file=sys.stderr)
        return 2
    name = platform.processor() or platform.machine() if given.smoke else torch.cuda.get_device_name()
    if not given.peak_tflops:
        given.peak_tflops = next((peak for part, peak in PEAKS.items() if part in name), 0.0)
        if not given.peak_tflops:
            print(f"The peak of {name} is not known here: give --peak-tflops.", file=sys.stderr)
            return 2
    told = [
        f"{given.peak_tflops:g} TFLOP/s bf16 at its peak",
        f"{os.cpu_count()} CPU cores",
        f"torch {torch.__version__}",
    ]
    machine = ", ".join([name, *told, f"sdpa, batches of {given.batch}"])
    rows: list[Measured] = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder, random_weights():
        for family in given.model or MAKERS:
            case = Case(family, Path(folder), given)
            rows += [case.forward(), case.extract()]
    said = table(rows, machine)
    print(said)
    if given.table:
        with given.table.open("a", encoding="utf-8") as file:
            file.write(said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
