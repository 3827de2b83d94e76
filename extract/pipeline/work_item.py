"""WorkItem: one view of one video that goes through the model once, and the records that are still missing of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from vfc.cache_schema.values.record import Key
from vfc.extract.collection import Video
from vfc.extract.frames.views import View
from vfc.extract.prompting.prompt_assignment import PromptAssignment
from vfc.extract.prompting.prompts import Prompt

from .writer_thread import FailedRecord


@dataclass(frozen=True)
class WorkItem:
    """`own`: whether the video's own record is to be made. `prompts`: those whose records are.

    `leading`: texts of all prompts of the video under `--prompt-batching single`, where its own record comes with the
    first prompt that fits; else empty.
    """

    video: Video
    view: View
    own: bool
    prompts: tuple[Prompt, ...] = ()
    leading: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """Of the video's own record."""
        return Key("video", self.video.name, self.view.number)

    def prompt_key(self, prompt: Prompt) -> Key:
        """Of the record under a prompt."""
        return Key("prompted", self.video.name, self.view.number, prompt.id)

    @property
    def keys(self) -> tuple[Key, ...]:
        """Of all records that are to be made."""
        return (*((self.key,) if self.own else ()), *map(self.prompt_key, self.prompts))

    def without(self, settled: Callable[[Key], bool]) -> WorkItem:
        """The same, less the records that are settled."""
        prompts = tuple(prompt for prompt in self.prompts if not settled(self.prompt_key(prompt)))
        return replace(self, own=self.own and not settled(self.key), prompts=prompts)


def work_items(
    videos: Iterable[Video], views: Iterable[View], assignment: PromptAssignment, *, own: bool, leading: bool
) -> Iterator[WorkItem | FailedRecord]:
    """Every view of every video with its prompts; and the prompted records that cannot be made for want of a label.

    Args:
        videos: In the order of the items.
        views: Of each.
        assignment: Which prompts each video is asked.
        own: Whether videos have records of their own.
        leading: Whether these come with the first prompt that fits.
    """
    views = tuple(views)
    for video in videos:
        prompts, unfillable = assignment.prompts_for(video)
        for view in views:
            texts = tuple(prompt.text for prompt in prompts) if leading else ()
            if own or prompts:
                yield WorkItem(video, view, own, prompts, texts)
            for template, reason in unfillable:
                yield FailedRecord(Key("prompted", video.name, view.number, template), reason, video.path)
