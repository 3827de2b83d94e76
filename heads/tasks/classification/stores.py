"""The stores of a run: the one that is trained on and the one that is tested, which is mostly the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json
from vfc.heads.data.class_texts import ClassTexts
from vfc.heads.data.dataset import VideoDataset
from vfc.heads.data.facts import identical_videos, set_facts, videos_digest, view_facts
from vfc.heads.data.store_view import StoreView
from vfc.heads.data.views import complete_views, test_views, training_views, view_meanings

from .config import Config
from .lists import Lists


@dataclass(frozen=True)
class Side:
    """One store of a run: the arrays that are read, and the texts of its classes."""

    view: StoreView
    texts: ClassTexts


def with_every_view(listed: Lists, reader: StoreReader, config: Config, progress: Progress) -> tuple[Lists, list[int]]:
    """The lists with test videos that have every view that is averaged, and these views.

    Raises:
        MissingRecord: see `complete_views`.
        BadInput: no video is left to test.
    """
    every = [name for part in listed.tests.values() for name in part.videos]
    videos = VideoDataset(reader, every, test_views(reader, config.test_views))
    views, complete = complete_views(videos, progress, leave_out=bool(config.leave_out_incomplete))
    crops = {view for view in views if "crops" in view_meanings(reader).get(view, {})}
    if config.test_views == "all" and crops and crops != set(views):
        progress.say(
            f"--test-views all averages {len(views)} views: {len(crops)} clips and crops made for tests, and others "
            f"({', '.join(str(view) for view in views if view not in crops)}); name clips x crops to leave these out."
        )
    usable = set(complete)
    tests = {
        name: replace(part, rows=tuple(row for row in part.rows if row.name in usable))
        for name, part in listed.tests.items()
    }
    for name, part in tests.items():
        if listed.tests[name].rows and not part.rows:
            raise BadInput(
                f"No {name} video has all of the {len(views)} views that are averaged, so none is left to test.",
                "Name views that the videos have with --test-views, or extract the missing views.",
            )
    return replace(listed, tests=tests), views


def sides_of(view: StoreView, other: StoreReader | None, listed: Lists, config: Config) -> tuple[Side, Side]:
    """The store that is trained on and the one that is tested, with the texts of their classes."""
    tested_names = {name for part in listed.tests.values() for name in part.names}
    names = {*listed.train.names, *(tested_names if other is None else ())}
    trained = Side(view, ClassTexts.read(view.reader, view.classes, config.template, names))
    if other is None:
        return trained, trained
    chosen = [*trained.texts.templates] or config.template
    return trained, Side(replace(view, reader=other), ClassTexts.read(other, view.classes, chosen, tested_names))


def facts_of(
    config: Config, listed: Lists, trained: Side, tested: Side, tested_views: list[int], progress: Progress
) -> dict[str, Json]:
    """See `data.facts`."""
    reader = trained.view.reader
    tests = [row for part in listed.tests.values() for row in part.rows]
    in_use, videos = training_views(reader, config.train_views), set(listed.train.videos)
    drawn = {key.view for key in reader.keys("video") if key.name in videos and in_use(key.view)}
    other = tested is not trained
    return {
        **set_facts(trained.view),
        **({"test_videos_digest": videos_digest(Annotations(tuple(tests)))} if other else {}),
        "classes_digest": digest([*listed.class_names]),
        **view_facts(tested.view.reader, train=drawn, test=tested_views),
        **trained.texts.identity,
        "centring": "none",
        **identical_videos(
            reader,
            listed.train.videos,
            [row.name for row in tests],
            progress,
            tested=tested.view.reader if other else None,
        ),
    }


def of_one_recipe(reader: StoreReader, config: Config) -> StoreReader:
    """The store to test on.

    Raises:
        RecipeMismatch: its features were made in another way.
    """
    assert config.test_cache is not None
    other = open_store(config.test_cache)
    changed = reader.recipe.difference(other.recipe)
    if changed:
        listed = "; ".join(f"{name}: {a!r} in {config.cache}, {b!r} there" for name, a, b in changed)
        raise RecipeMismatch(
            f"The features in {config.test_cache} were made in another way: {listed}.",
            "Extract both stores with one model, checkpoint and frame rule.",
        )
    return other
