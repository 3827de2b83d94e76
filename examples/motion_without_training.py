r"""How much of an action lies in how its frames follow each other? Six representations and metrics, nothing trained.

    python examples/motion_without_training.py shared/data/clips/ut_interaction_set1 \
        shared/data/weights/mobilenet_v1_1.0_224_hf /tmp/six-interactions

Takes about two minutes on two cores, the second time (the store is there) about one. For the 60 clips of UT-Interaction
set 1 and an ImageNet MobileNet it prints about

    representation and metric    1-shot           5-shot
    mean-cosine, mean            25.4 ± 0.4 %     29.9 ± 0.4 %
    mean-cosine, ordered         36.3 ± 0.4 %     53.3 ± 0.4 %
    mean-cosine, difference      56.1 ± 0.4 %     71.0 ± 0.3 %

and then the same for otam, bi-mhm and hausdorff: what tells these actions apart is the change between frames.
"""

from __future__ import annotations

import sys
from pathlib import Path

from vfc.cache_schema.values.progress import Silent
from vfc.extract.config import ExtractConfig
from vfc.extract.pipeline.run import extract
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate

ROWS = (
    ("mean-cosine", "mean"),
    ("mean-cosine", "ordered"),
    ("mean-cosine", "difference"),
    ("otam", "ordered"),
    ("bi-mhm", "ordered"),
    ("hausdorff", "ordered"),
)


def main(videos: Path, checkpoint: Path, store: Path) -> None:
    """Extract one vector per frame, then score every row on the same 10,000 frozen tasks."""
    settings = ExtractConfig(
        videos=videos, exclude=("background",), model="image", checkpoint=str(checkpoint), out=store, num_frames=8
    )
    print("\n".join(extract(settings, Silent()).lines()))
    print(f"{'representation and metric':<28} {'1-shot':<16} 5-shot")
    for metric, representation in ROWS:
        shown = []
        for shot in (1, 5):
            found = evaluate(
                EvalConfig(
                    cache=store, metric=metric, representation=representation, centre="all", split="all", shot=shot
                ),
                Silent(),
            ).score
            shown.append(f"{100 * found.accuracy:.1f} ± {100 * found.interval:.1f} %")
        print(f"{metric + ', ' + representation:<28} {shown[0]:<16} {shown[1]}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
