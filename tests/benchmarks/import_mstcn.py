"""Import of the 1,500 videos of 50 Salads and Breakfast whose labels are there, out to each format and back.

    python tests/benchmarks/import_mstcn.py --width 64

Features are drawn by `suites/mstcn.py`, labels are real. Prints what was done, what `compare` says, and the most memory
that a process of import or export held, beside the largest record.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from suites.mstcn import write_mstcn  # noqa: E402

PEAK = (
    "import resource, sys; from vfc.cli.app import run; code = run(sys.argv[1:]); "
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
)


def vfc(*words: object) -> tuple[dict[str, object], int, float]:
    """The document of a command in a process of its own, its exit code, and its peak memory in MB."""
    begun = time.monotonic()
    command = [sys.executable, "-c", PEAK, *map(str, words), "--json", "--progress", "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    peak = int(done.stderr.split()[-1]) / 1024
    print(f"    {time.monotonic() - begun:6.1f} s, peak {peak:5.0f} MB: vfc {' '.join(map(str, words))}")
    return json.loads(done.stdout), done.returncode, peak


def break_three(folder: Path) -> list[str]:
    """Cut one file short, take one ground truth away, make one sequence three steps too long; the names."""
    files = sorted((folder / "features").iterdir())[2::11][:3]
    files[0].write_bytes(files[0].read_bytes()[:-1000])
    (folder / "groundTruth" / f"{files[1].stem}.txt").unlink()
    truth = folder / "groundTruth" / f"{files[2].stem}.txt"
    truth.write_text("".join(truth.read_text().splitlines(keepends=True)[:-3]))
    return [path.stem for path in files]


def main() -> None:
    """Both data sets, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--labels", type=Path, default=TESTS.parents[1] / "shared" / "data" / "labels")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--stride", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        total = 0
        for data, fps in (("50salads", 30), ("breakfast", 15)):
            work = Path(name) / data
            folder = write_mstcn(work / "in", given.labels / data, width=given.width, stride=given.stride)
            largest = max(path.stat().st_size for path in (folder / "features").iterdir()) / 1e6
            print(f"{data}: largest file of features {largest:.1f} MB")
            whole, code, _ = vfc("store", "import", folder, "--fps", fps, "--out", work / "store")
            print(f"  {whole['added']} added, {len(whole['failed'])} failed, exit {code}")  # type: ignore[arg-type]
            total += int(str(whole["added"]))
            for form in ("hdf5", "npy", "safetensors"):
                out = work / f"out-{form}{'.h5' if form == 'hdf5' else ''}"
                vfc("store", "export", work / "store", "--format", form, "--out", out)
                vfc("store", "import", out, "--out", work / f"back-{form}")
                same, code, _ = vfc("store", "compare", work / "store", work / f"back-{form}")
                print(f"  {form}: identical {same['identical']}, recipe {same['same_recipe']}, exit {code}")
                again, _, _ = vfc("store", "export", work / "store", "--format", form, "--out", out)
                print(f"  {form} again: {again['present']} there already, {again['checked']} checked")
                shutil.rmtree(work / f"back-{form}")
                shutil.rmtree(out) if out.is_dir() else out.unlink()
            broken = break_three(folder)
            found, code, _ = vfc("store", "import", folder, "--out", work / "broken")
            print(f"  broken {broken}: {found['added']} added, trimmed {found['trimmed']}, exit {code}")
            print(f"  failed {found['failed']}")
            shutil.rmtree(work)
        print(f"{total} videos")


if __name__ == "__main__":
    main()
