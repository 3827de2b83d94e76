"""Names of new videos among the classes of a training, from a trained classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.devices import chosen_device
from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.data.class_texts import ClassTexts
from vfc.heads.data.dataset import VideoDataset
from vfc.heads.data.store_view import StoreView, Wants
from vfc.heads.data.views import complete_views, test_views
from vfc.heads.lookup import find
from vfc.heads.tasks.classification import ClassifierHead, Config
from vfc.heads.tasks.classification.dataset import ClipDataset
from vfc.heads.tasks.classification.scoring import Scoring, average_scores

from .result import Prediction
from .run import Run, restored


def predict_classes(
    run: Run,
    query: Path,
    videos: Mapping[str, str],
    training_store: Path | None,
    progress: Progress,
    *,
    device: str | None = None,
    top: int | None = None,
) -> Prediction:
    """Probabilities of the classes for videos of the store `query`, in the views that the run tested.

    Args:
        run: The trained classifier.
        query: Store of the videos to name.
        videos: Their names in the store, and as they are shown.
        training_store: The store of the training, for the texts of its classes; None where it is not needed.
        progress: Shows how many videos are done.
        device: Where the head runs; None: a GPU if there is one.
        top: How many classes are shown per video; None: all.

    Raises:
        RecipeMismatch: features were not made as those the head was trained on.
        MissingPath: class texts of a store that is gone.
        BadInput: a run that does not say its classes.
    """
    config: Config = restored(Config, run.settings["task"])
    with open_store(query) as reader, torch.no_grad():
        run.require_recipe(reader)
        trained, scored = class_names(run)
        head_type = cast("type[ClassifierHead]", find(run.head).Head)
        settings = run.head_settings
        if training_store is not None:
            settings = head_type.trained_config(settings, training_store)
        wants = replace(head_type.wants(run.head_settings), tokens=head_type.tokens, masks=head_type.masks)
        arrays = {role: reader.spec("video", run.data["arrays"][role]) for role in _roles(run, wants.clips)}
        view = StoreView(reader, Annotations(()), arrays, None, {}, wants, config)
        texts = _class_texts(run, config, wants, training_store, reader, scored)
        specs = {
            **view.specs,
            "classes": ArraySpec("classes", "int64", (max(1, len(trained)),)),
            **{f"class.{role}": spec for role, spec in texts.specs.items()},
        }
        head = head_type(settings, specs)
        run.load(head)
        place = chosen_device(device)
        head.to(place)
        in_use = test_views(reader, config.test_views)
        dataset = VideoDataset(reader, [*videos], in_use)
        _, complete = complete_views(dataset, progress, leave_out=bool(config.leave_out_incomplete))
        if not complete:
            raise BadInput(f"The store {query} has no video to name.", "Give a store with videos, or other --query.")
        clips = ClipDataset(view, complete, in_use, device=place, resident="off")
        train = run.settings["train"]
        seed = train["seed"] if config.shuffle_frames else None
        scoring = Scoring(train["batch"], place, config.view_sum, seed)
        progress.begin("Predict", len(complete), "videos")
        with torch.autocast(place.type, torch.bfloat16, enabled=train["precision"] == "bf16"):
            classes = texts.of(scored, place)
            ((scores, _),) = average_scores([head], clips, scored, [0] * len(complete), classes, scoring, progress)
    averaged = torch.from_numpy(np.asarray(scores))
    shares = averaged if config.view_sum == "probabilities" else averaged.softmax(dim=-1)
    return Prediction(
        scored,
        tuple(videos[name] for name in complete),
        tuple(map(tuple, shares.tolist())),
        head.notes,
        run.result,
        top,
    )


def class_names(run: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes of the training in the order of the head's weights, and the classes among which videos are named.

    A head that goes by class texts names videos among the classes that its run tested.

    Raises:
        BadInput: a run of version 0.1 that trained and tested on different classes.
    """
    row, protocol = run.result, run.settings["task"]["protocol"]
    tested = tuple(row.get("per_class", ()))
    if "class_names" in row:
        trained = tuple(row["class_names"])
    elif protocol == "zero-shot":
        raise BadInput(
            f"The run {run.folder} does not say which classes it was trained on: it is of version 0.1, which did not "
            "write them with --protocol zero-shot.",
            "Train the head again with the same settings and another --out.",
        )
    else:
        trained = tested if protocol == "all" else tested[: len(row["confusion"])]
    head = cast("type[ClassifierHead]", find(run.head).Head)
    return trained, (tested if head.open_classes else trained)


def _roles(run: Run, roles: Mapping[str, object]) -> list[str]:
    """Those of the roles that the run read."""
    return [role for role in roles if role in run.data["arrays"]]


def _class_texts(
    run: Run,
    config: Config,
    wants: Wants,
    training_store: Path | None,
    query: StoreReader,
    names: tuple[str, ...],
) -> ClassTexts:
    """The texts of the classes, from the store where the run was tested."""
    roles = _roles(run, wants.classes)
    if not roles:
        return ClassTexts.read(query, {}, (), ())
    path = config.test_cache or training_store
    if path is None or not path.exists():
        raise MissingPath(
            f"The head reads the class texts of the store {path or config.cache}, which is not there.",
            "Put it back, or give the place of the training store with --cache STORE.",
        )
    reader = open_store(path)
    run.require_recipe(reader)
    arrays = {role: reader.spec("text", run.data["arrays"][role]) for role in roles}
    return ClassTexts.read(reader, arrays, run.data.get("templates") or config.template, names)
