"""How much memory a long video takes on its way through the model: the peak above the loaded weights, by length.

    python tests/benchmarks/stream_memory.py [--folder DIR] [--table FILE] [--only NAME,...]

Makes synthetic videos of 1 and 10 minutes (320 x 240, 25 frames per second, H.264) and extracts every frame of each in
a process of its own. That process notes its memory when the weights are loaded, sets its high-water mark back
(`/proc/self/clear_refs`, so Linux alone) and reports how far above that the mark stood at the end; the largest decoder
process is reported beside it. "Whole" is what the uint8 frames alone would take. I3D has random weights, "full" at its
published width (12.3 million parameters), "eighth" with an eighth of the channels, whose 15,000 windows a CPU can do.
Results are kept in the folder as they come, and not measured again. About 10 minutes on a core of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

HEIGHT, WIDTH, RATE = 240, 320, 25
MINUTES = (1, 10)


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    about: str
    edge: int
    narrow: int = 1
    minutes: tuple[int, ...] = MINUTES
    settings: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("i3d-full-224", "i3d", "I3D full, 224 px, window 64 stride 64", 224, minutes=(1,)),
    Case("i3d-full-32", "i3d", "I3D full, 32 px, window 64 stride 64", 32),
    Case(
        "i3d-dense",
        "i3d",
        "I3D eighth, 32 px, window 21 stride 1 repeat: around every frame",
        32,
        narrow=8,
        settings={"window": 21, "stride": 1, "border": "repeat"},
    ),
    Case("image", "image", "tiny ViT on every frame, 32 px", 32),
    *(
        Case(
            f"{model}-windows",
            model,
            f"tiny {model}, 32 px, window {frames} stride {frames // 2} repeat",
            32,
            settings={"window": frames, "stride": frames // 2, "border": "repeat"},
        )
        for model, frames in (("clip", 16), ("image", 16), ("videomae", 4), ("viclip", 8))
    ),
)


def checkpoint(folder: Path, case: Case) -> Path:
    """The checkpoint of a case, made once."""
    import torch
    from suites.checkpoints import clip_checkpoint, image_checkpoint, randomise, videomae_checkpoint

    from vfc.extract.backbones.i3d.network import InceptionI3d
    from vfc.extract.backbones.viclip.tiny import write_tiny_viclip

    target = folder / f"{case.model}-{case.narrow}-{case.edge}"
    if target.exists():
        return target
    tiny: dict[str, Callable[[Path], Path]] = {
        "clip": clip_checkpoint,
        "videomae": videomae_checkpoint,
        "viclip": write_tiny_viclip,
    }
    if case.model in tiny:
        return tiny[case.model](target)
    if case.model == "image":
        return image_checkpoint(target, "vit")
    target.mkdir(parents=True)
    pixels = {
        "video_processor_type": "VideoMAEVideoProcessor",
        "size": {"shortest_edge": case.edge * 8 // 7},
        "crop_size": {"height": case.edge, "width": case.edge},
    }
    (target / "preprocessor_config.json").write_text(json.dumps(pixels))
    for name, channels in (("rgb", 3), ("flow", 2)):
        torch.save(randomise(InceptionI3d(channels, case.narrow)).state_dict(), target / f"{name}.pt")
    return target


def film(folder: Path, minutes: int) -> Path:
    """A folder with the one video of that length."""
    from suites.film import encode

    target = folder / f"{minutes}-minutes"
    if not target.exists():
        part = folder / f"{minutes}-minutes.part"
        part.mkdir(parents=True, exist_ok=True)
        encode(part / "film.mp4", count=minutes * 60 * RATE, rate=RATE, size=(WIDTH, HEIGHT), preset="ultrafast")
        part.rename(target)
    return target


def status(name: str, process: str = "self") -> int:
    """A line of /proc/<process>/status in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


class Decoders(threading.Thread):
    """Looks at the decoder processes now and then; `most` is the highest mark of any of them, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.over = threading.Event()

    def run(self) -> None:
        children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
        while not self.over.wait(0.2):
            for child in children.read_text().split():
                with contextlib.suppress(OSError, LookupError):
                    # Before it begins its own program, a child shows the memory of this process.
                    if b"decode.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                        self.most = max(self.most, status("VmHWM", child))


def measure(folder: Path, case: Case, minutes: int) -> dict[str, Any]:
    """Extract in this process and say what it took."""
    import torch

    from vfc.extract.backbone import find_family
    from vfc.extract.pipeline.run import ExtractConfig, extract

    torch.set_num_threads(1)
    family: Any = find_family(case.model)
    cls = getattr(family, f"{case.model.capitalize()}Backbone")
    load, loaded = cls.load, {}

    def noted(self: Any) -> None:
        load(self)
        Path("/proc/self/clear_refs").write_text("5")
        loaded["rss"] = status("VmRSS")

    cls.load = noted
    given: dict[str, Any] = {"window": 64, "stride": 64} if case.model == "i3d" else {}
    decoders = Decoders()
    decoders.start()
    began = time.perf_counter()
    done = extract(
        ExtractConfig(
            videos=film(folder, minutes),
            out=folder / f"store-{case.name}-{minutes}",
            model=case.model,
            checkpoint=str(checkpoint(folder, case)),
            frames="stride:1",
            threads=1,
            decode_workers=2,
            **{**given, **case.settings},
        )
    )
    assert done.done == 1, done
    decoders.over.set()
    return {
        "loaded": loaded["rss"],
        "above": status("VmHWM") - loaded["rss"],
        "decoder": decoders.most,
        "written": done.bytes,
        "seconds": time.perf_counter() - began,
    }


def measured(folder: Path, case: Case, minutes: int) -> dict[str, Any]:
    """What a process of its own measured, now or in an earlier run."""
    kept = folder / f"{case.name}-{minutes}.json"
    if not kept.exists():
        checkpoint(folder, case)
        film(folder, minutes)
        command = [sys.executable, __file__, "--folder", str(folder), "--measure", f"{case.name}:{minutes}"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise SystemExit(done.stderr)
        kept.write_text(done.stdout.splitlines()[-1])
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def rows(folder: Path, names: list[str]) -> Iterator[str]:
    """The table, a line at a time."""
    yield "| model, frames | minutes | peak above the weights | largest decoder process | whole | record | seconds |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for case in CASES:
        for minutes in case.minutes:
            if names and case.name not in names:
                continue
            found = measured(folder, case, minutes)
            whole = minutes * 60 * RATE * HEIGHT * WIDTH * 3
            yield (
                f"| {case.about} | {minutes} | {found['above'] / 1e6:.0f} MB | {found['decoder'] / 1e6:.0f} MB | "
                f"{whole / 1e6:.0f} MB | {found['written'] / 1e6:.2f} MB | {found['seconds']:.0f} |"
            )


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("stream-memory"))
    parser.add_argument("--table", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        name, _, minutes = asked.measure.partition(":")
        case = next(case for case in CASES if case.name == name)
        print(json.dumps(measure(asked.folder, case, int(minutes))))
        return
    lines = []
    for line in rows(asked.folder, [name for name in asked.only.split(",") if name]):
        print(line, flush=True)
        lines.append(line)
    versions = f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}"
    machine = f"{os.cpu_count()} cores of an {platform.machine()} machine, one thread; {versions}; no GPU."
    text = (
        f"# Memory of a long video\n\nBy `tests/benchmarks/stream_memory.py`, which explains the columns; {machine}\n\n"
    )
    if asked.table:
        asked.table.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
