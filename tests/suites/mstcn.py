"""MS-TCN folders made from real label sequences; only the features are drawn, around one mean per class."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt


def real_labels(labels: Path) -> dict[str, list[str]]:
    """Video -> class name of every frame, for the videos whose ground truth is there; sorted by name.

    `labels` is `shared/data/labels/50salads` (40 of 50 videos) or `.../breakfast` (1460 of 1712).
    """
    with tarfile.open(labels / "groundTruth_without_test_split1.tar.xz") as archive:
        found = {
            Path(member.name).stem: archive.extractfile(member).read().decode().split()  # type: ignore[union-attr]
            for member in archive
            if member.name.endswith(".txt")
        }
    return dict(sorted(found.items()))


def class_ids(labels: Path) -> dict[str, int]:
    """Class name -> id, of `mapping.txt`."""
    return {
        name: int(number)
        for number, name in (line.split() for line in (labels / "mapping.txt").read_text().splitlines())
    }


def class_means(classes: int, width: int, seed: int) -> npt.NDArray[np.float32]:
    """`[C, D]`: what the features of each class lie around; the same for all videos of a seed."""
    return np.random.default_rng(seed).standard_normal((classes, width), np.float32)


def drawn(
    name: str, ids: npt.NDArray[np.int64], means: npt.NDArray[np.float32], *, sigma: float, seed: int, smooth: int = 0
) -> npt.NDArray[np.float32]:
    """`[T, D]`: x_i = mean[label_i] + sigma * noise, then averaged over the last `smooth` steps, itself included.

    The noise is a function of (seed, name); no video has a constant of its own, and nothing looks ahead.
    """
    draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
    x = means[ids] + np.float32(sigma) * draw.standard_normal((len(ids), means.shape[1]), np.float32)
    if smooth > 1:
        sums = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0, dtype=np.float64)])
        first = np.maximum(np.arange(1, len(x) + 1) - smooth, 0)
        spans = np.arange(1, len(x) + 1) - first
        x = ((sums[1:] - sums[first]) / spans[:, None]).astype(np.float32)
    return x


def write_mstcn(
    folder: Path,
    labels: Path,
    *,
    width: int = 16,
    sigma: float = 1.0,
    seed: int = 0,
    videos: int | Sequence[str] | None = None,
    stride: int = 1,
    smooth: int = 0,
) -> Path:
    """Write `features/` `[D, T]` float32, `groundTruth/`, `mapping.txt` and `splits/` of a real data set; the folder.

    Args:
        folder: Made, and filled.
        labels: See `real_labels`.
        width: D.
        sigma: Of the noise; the means have one of 1.
        seed: Of means and noise.
        videos: Which; a number takes so many, evenly from the sorted list; None all that are there.
        stride: Keep every so many frames only, of labels and features.
        smooth: Average over so many steps of the past.
    """
    for name, ids, x in sequences(
        labels, width=width, sigma=sigma, seed=seed, videos=videos, stride=stride, smooth=smooth
    ):
        (folder / "features").mkdir(parents=True, exist_ok=True)
        (folder / "groundTruth").mkdir(exist_ok=True)
        np.save(folder / "features" / f"{name}.npy", np.ascontiguousarray(x.T))
        (folder / "groundTruth" / f"{name}.txt").write_text("".join(f"{each}\n" for each in ids))
    shutil.copy(labels / "mapping.txt", folder / "mapping.txt")
    shutil.copytree(labels / "splits", folder / "splits", dirs_exist_ok=True)
    return folder


def sequences(
    labels: Path,
    *,
    width: int = 16,
    sigma: float = 1.0,
    seed: int = 0,
    videos: int | Sequence[str] | None = None,
    stride: int = 1,
    smooth: int = 0,
) -> Iterator[tuple[str, list[str], npt.NDArray[np.float32]]]:
    """Name, class names `[T]` and features `[T, D]` of the same videos, one at a time; see `write_mstcn`."""
    found, numbers = real_labels(labels), class_ids(labels)
    means = class_means(len(numbers), width, seed)
    names = list(found)
    if isinstance(videos, int):
        names = [names[i * len(names) // videos] for i in range(videos)]
    elif videos is not None:
        names = list(videos)
    for name in names:
        spoken = found[name][::stride]
        ids = np.array([numbers[each] for each in spoken], np.int64)
        yield name, spoken, drawn(name, ids, means, sigma=sigma, seed=seed, smooth=smooth)
