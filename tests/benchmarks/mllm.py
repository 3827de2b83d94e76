"""What a language model's plans save, against calling the library for every prompt: time and memory.

    python tests/benchmarks/mllm.py [--rounds N] [--dtype fp32|bf16] [--folder DIR] [--table FILE]

A Video-LLaVA of middle size with random weights (hidden 1024, 16 blocks, 32,064 words; a tower with the share of the
arithmetic that it has in the 7B), 8 frames, 2,060 tokens up to the last visual one, prompts of 30 to 50 tokens, layer
8 of 16. Compared are

    naive       the library's whole model with `output_hidden_states=True`, once per prompt
    early exit  a model cut above layer 8, once per prompt
    serial, packed, batched   the plans of this project: what `encode_prompted` takes

Time is CPU time of one thread, the variants interleaved in every round; a figure is the median over rounds of the ratio
within one round. For 5 and 25 prompts the repeated ways count as so many times the mean of passes over five of the
prompts: the passes do not know of each other. Memory is the peak of the resident set during a call, above what was
resident with the weights read, in a process of its own that gives freed memory back at once.

Goals: half the depth <= 0.45x the naive time and <= 0.25x its memory; 5 and 25 prompts >= x10 against naive passes;
25 prompts >= x15 against early exits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from suites.backbone import clip_of
from suites.language import video_llava_checkpoint

from vfc.extract.backbone import BackboneOptions, open_backbone

LAYER = 8
PLANS = ("serial", "packed", "batched")
COUNTS = (1, 5, 25)
TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16}
TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 4096,
    "vocab_size": 32064,
}
VISION = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "image_size": 224,
}


class Case:
    """One checkpoint, one clip, 25 prompts; every way of running them as a function of how many."""

    def __init__(self, checkpoint: Path, dtype: str, ways: Sequence[str]) -> None:
        self.checkpoint, self.dtype = checkpoint, dtype
        self.backbones = {way: self._opened("single" if way == "early exit" else way) for way in ways if way != "naive"}
        any_one = next(iter(self.backbones.values()), None) or self._opened("single", load=False)
        self.item = any_one.pixels(clip_of(1, 8, 240, 320)).tensors
        self.prompts = [any_one.prompt(text).tensors for text in texts(any_one)]
        if "naive" in ways:
            self.model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
                checkpoint, dtype=TORCH[dtype]
            ).eval()

    def _opened(self, plan: str, *, load: bool = True) -> Any:
        options = BackboneOptions(
            str(self.checkpoint),
            layers=(str(LAYER),),
            prompts=True,
            prompt_batching=plan,
            dtype=self.dtype,
            storage="bf16",
        )
        backbone: Any = open_backbone("video-llava", options)
        if load:
            backbone.load()
        return backbone

    def run(self, way: str, places: Sequence[int]) -> list[torch.Tensor]:
        """Text states of these prompts at LAYER."""
        if way == "naive":
            return [self._naive(i) for i in places]
        backbone, asked = self.backbones[way], [self.prompts[i] for i in places]
        groups = [[one] for one in asked] if way == "early exit" else [asked]
        encoded = [backbone.encode_prompted([self.item], [group])[0] for group in groups]
        return [answer[f"layer{LAYER}.text"] for one in encoded for answer in one.prompted]

    @torch.inference_mode()
    def _naive(self, i: int) -> torch.Tensor:
        ids = torch.cat([self.item["ids"], self.prompts[i]["ids"]])[None]
        output = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=self.item["pixels"][None].to(TORCH[self.dtype]),
            output_hidden_states=True,
        )
        states: torch.Tensor = output.hidden_states[LAYER][0]
        return states[ids[0] != self.model.config.video_token_id].to(torch.bfloat16)


def texts(backbone: Any) -> list[str]:
    """25 prompts of 30 to 50 tokens."""
    words = (
        "Watch the video and identify the main action category from these options: 'hug', 'kick', 'point', or".split()
    )
    found = []
    for i in range(max(COUNTS)):
        text = f"{i}:"
        while len(backbone.prompt(text).tensors["ids"]) < 30 + i * 20 // 24:
            text = f"{text} {words[len(text.split()) % len(words)]}"
        found.append(text)
    return found


def seconds(work: Callable[[], object]) -> float:
    """CPU time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def timed(case: Case, rounds: int) -> dict[str, float]:
    """Ratios by name, medians over rounds."""
    found: dict[str, list[float]] = {}
    some = (0, 6, 12, 18, 24)
    for way in ("naive", "early exit", *PLANS):
        case.run(way, some[:1])
    for _ in range(rounds):
        naive, early = ([seconds(partial(case.run, way, [i])) for i in some] for way in ("naive", "early exit"))
        passes = {"naive": statistics.mean(naive), "early exit": statistics.mean(early)}
        found.setdefault("seconds of a naive pass", []).append(passes["naive"])
        found.setdefault("early exit / naive", []).append(passes["early exit"] / passes["naive"])
        for plan in PLANS:
            for count in COUNTS:
                places = some[2:3] if count == 1 else [round(i * 24 / (count - 1)) for i in range(count)]
                took = seconds(partial(case.run, plan, places))
                found.setdefault(f"{plan} {count} of naive", []).append(took / (count * passes["naive"]))
                found.setdefault(f"{plan} {count} of early exit", []).append(took / (count * passes["early exit"]))
        print(json.dumps({name: round(values[-1], 4) for name, values in found.items()}), file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in found.items()}


def apart(case: Case) -> dict[str, float]:
    """Relative L2 distance of the text states from the naive ones, the largest of five prompts."""
    found = {}
    some = [0, 6, 12, 18, 24]
    whole = case.run("naive", some)
    for way in ("early exit", *PLANS):
        pairs = zip(case.run(way, some), whole, strict=True)
        found[way] = max(float((a.double() - b.double()).norm() / b.double().norm()) for a, b in pairs)
    return found


def resident() -> dict[str, float]:
    """MB resident now and at the peak."""
    with open("/proc/self/status", encoding="utf-8") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {"now": int(lines["VmRSS"].split()[0]) / 1024, "peak": int(lines["VmHWM"].split()[0]) / 1024}


def memory(checkpoint: Path, dtype: str, way: str, count: int) -> float:
    """MB above the weights: the larger of two calls."""
    case = Case(checkpoint, dtype, [way])
    model = case.model if way == "naive" else case.backbones[way]._model
    for parameter in model.parameters():
        parameter.sum()
    most = 0.0
    for _ in range(2):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = resident()["now"]
        case.run(way, range(count))
        most = max(most, resident()["peak"] - before)
    return most


def memories(checkpoint: Path, dtype: str) -> dict[str, float]:
    """MB by way and number of prompts, each in a process of its own."""
    found = {}
    for way, counts in {"naive": (1,), "early exit": (1,), **dict.fromkeys(PLANS, COUNTS)}.items():
        for count in counts:
            done = subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--memory",
                    way,
                    str(count),
                    "--dtype",
                    dtype,
                    "--folder",
                    str(checkpoint.parent),
                ],
                env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=True,
            )
            found[f"{way} {count}"] = float(done.stdout.splitlines()[-1])
            print(way, count, done.stdout.splitlines()[-1], "MB", file=sys.stderr, flush=True)
    return found


def machine() -> str:
    """What this ran on."""
    said = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.split(":")[1].strip() for line in said if "model name" in line), platform.machine())
    memory_kb = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1])
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{name}, {os.cpu_count()} shared vCPUs, {memory_kb / 2**20:.0f} GB; one thread; {versions}"


def table(dtype: str, times: dict[str, float], peaks: dict[str, float], distances: dict[str, float]) -> str:
    """Markdown."""
    lines = [f"### {dtype}", "", f"A naive pass takes {times['seconds of a naive pass']:.1f} CPU seconds.", ""]
    lines += [
        "| way | prompts | time, of naive passes | time, of early exits | MB over the weights | of naive |",
        "|---|---|---|---|---|---|",
    ]
    naive = peaks["naive 1"]
    lines.append(f"| naive | 1 | 1 | {1 / times['early exit / naive']:.2f} | {naive:.0f} | 1 |")
    lines.append(
        f"| early exit | 1 | {times['early exit / naive']:.3f} | 1 | {peaks['early exit 1']:.0f} "
        f"| {peaks['early exit 1'] / naive:.2f} |"
    )
    for plan in PLANS:
        for count in COUNTS:
            of_naive, of_early = times[f"{plan} {count} of naive"], times[f"{plan} {count} of early exit"]
            peak = peaks[f"{plan} {count}"]
            lines.append(
                f"| {plan} | {count} | {of_naive:.3f} (x{1 / of_naive:.1f}) | {of_early:.3f} (x{1 / of_early:.1f}) "
                f"| {peak:.0f} | {peak / naive:.2f} |"
            )
    said = ", ".join(f"{way} {value:.1e}" for way, value in distances.items())
    return "\n".join(
        [*lines, "", f"Relative L2 distance of the text states, kept as bf16, from the naive ones: {said}.", ""]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=tuple(TORCH), default="fp32")
    parser.add_argument("--folder", type=Path, default=None, help="where the checkpoint is, or goes (1.2 GB)")
    parser.add_argument("--table", type=Path, default=None, help="append the table to this file")
    parser.add_argument("--memory", nargs=2, metavar=("WAY", "PROMPTS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder = given.folder or Path(tempfile.mkdtemp())
    checkpoint = folder / "middle"
    if not checkpoint.exists():
        video_llava_checkpoint(checkpoint, vision=VISION, **TEXT)
    if given.memory:
        print(memory(checkpoint, given.dtype, given.memory[0], int(given.memory[1])))
        return
    peaks = memories(checkpoint, given.dtype)
    case = Case(checkpoint, given.dtype, ("naive", "early exit", *PLANS))
    said = table(given.dtype, timed(case, given.rounds), peaks, apart(case))
    print(machine(), said, sep="\n\n")
    if given.table:
        with given.table.open("a", encoding="utf-8") as file:
            file.write(f"{machine()}\n\n{said}")


if __name__ == "__main__":
    main()
