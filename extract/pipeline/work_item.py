"""Visit: one view of one video that goes through the model once, and the records that are still wanted of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from vfc.cache_schema.values.record import Key
from vfc.extract.collection import Video
from vfc.extract.frames.views import View
from vfc.extract.prompting.prompt_assignment import PromptAssignment
from vfc.extract.prompting.prompts import Prompt

from .writer_thread import Lost


@dataclass(frozen=True)
class Visit:
    """`own`: whether the video's own record is wanted. `prompts`: those whose records are.

    `leading`: texts of all prompts of the video under `--prompt-batching single`, where its own record comes with the
    first that fits; else empty.
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

    def asked(self, prompt: Prompt) -> Key:
        """Of the record under a prompt."""
        return Key("prompted", self.video.name, self.view.number, prompt.id)

    @property
    def keys(self) -> tuple[Key, ...]:
        """Of all records that are wanted."""
        return (*((self.key,) if self.own else ()), *map(self.asked, self.prompts))

    def without(self, settled: Callable[[Key], bool]) -> Visit:
        """The same, with what is settled no longer wanted."""
        left = tuple(prompt for prompt in self.prompts if not settled(self.asked(prompt)))
        return replace(self, own=self.own and not settled(self.key), prompts=left)


def visits(
    videos: Iterable[Video], views: Iterable[View], assignment: PromptAssignment, *, own: bool, leading: bool
) -> Iterator[Visit | Lost]:
    """Every view of every video with its prompts; and the prompted records that cannot be, for want of a label.

    Args:
        videos: In the order of the visits.
        views: Of each.
        assignment: Which prompts each video is asked.
        own: Whether videos have records of their own.
        leading: Whether these come with the first prompt that fits.
    """
    views = tuple(views)
    for video in videos:
        prompts, lacking = assignment.prompts_for(video)
        for view in views:
            texts = tuple(prompt.text for prompt in prompts) if leading else ()
            if own or prompts:
                yield Visit(video, view, own, prompts, texts)
            for template, reason in lacking:
                yield Lost(Key("prompted", video.name, view.number, template), reason, video.path)
