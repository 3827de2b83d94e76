"""What a run did, for a person and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vfc.cache_schema.values.record import Key

_SHOWN = 5


@dataclass(frozen=True)
class Summary:
    """The end of a run of one rank; counts are of that rank's share.

    `done`: records made and committed. `refreshed`: how many of them replace a record whose file had changed.
    `skipped`: stored already. `failed`, `failed_before`: (name, reason) of records that this run, or an earlier one,
    could not make. `changed`: stored records whose file is another one now. `gone`: annotations of the store without a
    file in the folder of the collection. `identical`: files with the same bytes, (name, split) of each.
    `single_frame`: records of a clip that is one frame, repeated. `left`: not reached before an interrupt. `seconds`:
    without loading the model. `shares`: stage -> part of the main thread's time. `waited`: part of the time in which
    the device had no forward to do. `bytes`: written. `digest`: of the store as a whole. `signum`: of the signal that
    ended the run early, else 0.
    """

    out: str
    rank: int
    world_size: int
    mode: str
    device: str
    done: int = 0
    skipped: int = 0
    refreshed: int = 0
    failed: tuple[tuple[str, str], ...] = ()
    failed_before: tuple[tuple[str, str], ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    identical: tuple[tuple[tuple[str, str], ...], ...] = ()
    single_frame: tuple[str, ...] = ()
    left: int = 0
    seconds: float = 0.0
    shares: Mapping[str, float] = field(default_factory=dict)
    waited: float = 0.0
    bytes: int = 0
    digest: str = ""
    signum: int = 0

    @property
    def exit_code(self) -> int:
        """0; 3 where records failed, now or before, or their file has changed; 128 + signal after an interrupt."""
        if self.signum:
            return 128 + self.signum
        return 3 if self.failed or self.failed_before or self.changed else 0

    @property
    def records_per_second(self) -> float:
        """Records made per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def bottleneck(self) -> str:
        """The stage that the others waited for most; empty where nothing ran."""
        return max(self.shares, key=lambda stage: self.shares[stage]) if any(self.shares.values()) else ""

    @property
    def _identical_title(self) -> str:
        across = sum(len({split for _, split in group}) > 1 for group in self.identical)
        return "Identical files under several names" + (f", {across} of them in several splits" if across else "")

    def to_json(self) -> dict[str, Any]:
        """As printed with --json."""
        derived = {name: getattr(self, name) for name in ("records_per_second", "bottleneck", "exit_code")}
        lists = {
            name: [{"name": item, "reason": reason} for item, reason in getattr(self, name)]
            for name in ("failed", "failed_before")
        }
        identical = [[{"name": name, "split": split} for name, split in group] for group in self.identical]
        return {**asdict(self), **lists, "identical": identical, **derived}

    def lines(self) -> list[str]:
        """For a person."""
        share = f" of rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        if self.done or self.failed or self.signum:
            again = f" ({self.refreshed} again)" if self.refreshed else ""
            lines = [
                f"{self.done} records made{again}{share}, {self.skipped} were there, {len(self.failed)} failed; "
                f"{self.records_per_second:.3g} per second, {self.bytes / 1e6:.4g} MB written to {self.out}."
            ]
        else:
            every = "" if self.failed_before or self.changed else "all "
            lines = [f"Nothing to do{share}: {every}{self.skipped} records are in {self.out}."]
        if self.bottleneck:
            parts = ", ".join(f"{stage} {100 * part:.0f} %" for stage, part in self.shares.items())
            lines.append(
                f"Bound by {self.bottleneck} ({parts} of the time); the device waited {100 * self.waited:.0f} % of it."
            )
        if self.signum:
            lines.append(
                f"Interrupted with {self.left} records left. Finished records are kept: the same command goes on."
            )
        lines += _listed(f"Failed, listed in {self.out}/failures", self.failed)
        lines += _listed("Failed before, tried again with --retry-failed or when the file changes", self.failed_before)
        lines += _listed("Changed since they were extracted, made again with --refresh", self.changed)
        lines += _listed("Annotated, but without a file in this folder, removed with --prune", self.gone)
        lines += _listed(self._identical_title, [" = ".join(map(_with_split, group)) for group in self.identical])
        lines += _listed("Clips that are one frame, repeated", self.single_frame)
        if self.digest:
            lines.append(f"Store digest {self.digest}.")
        return lines


def record_name(key: Key) -> str:
    """A record's name for people: of the video or text, the view and the prompt where there are any."""
    view = f" (view {key.view})" if key.view else ""
    return f"{key.name}{view}{f' under {key.prompt}' if key.prompt else ''}"


def _with_split(file: tuple[str, str]) -> str:
    name, split = file
    return f"{name} ({split})" if split else name


def _listed(title: str, items: Sequence[str | tuple[str, str]]) -> list[str]:
    if not items:
        return []
    texts = [item if isinstance(item, str) else ": ".join(item) for item in items]
    more = [f"  and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return [f"{title} ({len(items)}):", *(f"  {text}" for text in texts[:_SHOWN]), *more]
