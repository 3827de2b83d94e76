"""The tables of `vfc bench efficiency`: the four papers at true size, and the heads on small stores of this machine.

    python tests/benchmarks/efficiency.py [--rounds 20] [--table tests/benchmarks/efficiency.md]

The stores are extracted on the spot by tiny models, so the milliseconds say what the overhead of each part is, and the
ratio of online and offline is that of tiny models; give `vfc bench efficiency` your own stores for yours.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from suites.family_stores import ADAPTED, extract_family, write_videos
from suites.sequence_store import write_made_up

from docs.places import CHECKPOINTS
from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cli.app import run

HEAD = """# What heads cost

The output of `vfc bench efficiency`, written by `efficiency.py`. First heads on small stores of tiny models, offline
and online on this machine; then the tables of the papers with the heads at true size, counted without weights.

"""


def bench(*words: object) -> str:
    """The Markdown tables of one call."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run(["bench", "efficiency", *map(str, words), "--table", "markdown"])
    assert code == 0, out.getvalue()
    return out.getvalue()


def main() -> None:
    """Write the stores, measure, print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        with contextlib.chdir(root):
            videos = write_videos(Path("videos"))
            for family, settings in (
                ("clip", {"num_frames": 8}),
                ("video-llava", {"num_frames": 8}),
                ("viclip", ADAPTED),
            ):
                extract_family(family, videos, Path(), **settings)
            write_made_up(Path("store-sequences"))
            CHECKPOINTS["huggyllama/llama-7b"](Path("tiny-llama"))
            common = ("--no-papers", "--rounds", given.rounds)
            text = "\n".join(
                [
                    bench("--head", "fsar", "--cache", "store-video-llava", "--set", "way=2", *common),
                    bench("--head", "vidprism", "--cache", "store-clip", *common),
                    bench("--head", "msta", "--cache", "store-viclip", "--set", "dim=12", *common),
                    bench(
                        *("--head", "actionllm", "--cache", "store-sequences", "--set", "llm=tiny-llama"),
                        *("--set", "observed_labels=truth", *common),
                    ),
                    bench(),
                ]
            )
    print(text)
    if given.table:
        replace_file(given.table, (HEAD + text).encode())


if __name__ == "__main__":
    main()
